# What ./dev prints about itself. Sourced by it.

usage() {
  cat <<'TXT'
usage: ./dev COMMAND

  demo              compile what is needed, then show a pre-forked server and a parallel
                    word count
  build             compile everything, tests and examples too, into build/
  run COMMAND...    run a command against build/ (its modules, its template program)
  install [PREFIX]  compile for PREFIX (default /usr/local) and install there
  uninstall [PREFIX]
                    remove what install has put there
  deb               build the Debian packages into build-deb/, and try them in a copy of this
                    system
  dist              make the archive of a release in build-dist/, and try it
  container         carry out the Containerfile without a container engine, and try the image
  version [NEW]     print the version; with NEW: write it wherever it stands
  test              everything: unit tests, stories, faults, checks, examples, fuzzing,
                    sanitizers; the last line counts them
  check             the checks alone: layers, symbols, documents, form, analysis, warnings, install
  configurations [NAME...]
                    compile with every warning an error, and run the unit tests: gcc, clang,
                    link-time optimisation, -O0, without asserts, warning level 3, 32 bits,
                    other Lua versions, musl, without /proc, without huge pages
  fuzz [SECONDS]    replay the fuzz corpora, then fuzz (default 60 seconds in all)
  random [SECONDS]  drive the C API and the Lua module at random, by seeds (default 60
                    seconds in all)
  planted [NAME...] plant known defects one at a time and see that the tests notice each
                    (--list: names; --check: can all still be planted?)
  asan              unit tests and stories under AddressSanitizer and UBSan
  tsan [COUNT]      clones in threads under ThreadSanitizer (default 2,000 of them)
  coverage [STORY...]
                    count the lines that unit tests and stories execute, per folder
  bench [NAME...]   measure against raw C and others, as `moonfork bench` does; without names
                    writes bench/results/. --quick: a look, nothing written
  site [--check]    the documentation as a static site with search, into build-site/html;
                    --check: and look at it in Chromium
  help [COMMAND]    this text, or what a command does

./dev COMMAND --help says more about one of them.
TXT
}

# The names of `moonfork bench`, from its list.
measurements() {
  sed -n '/^local cases/,/^}/s/^  {"\([a-z]*\)", .*/\1/p' lua/moonfork/cli/bench.lua | tr '\n' ' ' |
    sed 's/ $//'
}

# describe COMMAND: its help; fails for what is no command.
describe() {
  case $1 in
  demo) cat <<'TXT'
usage: ./dev demo

Compiles the Lua module and the template program into build/, and neither tests nor fuzzers,
and runs example/demo.lua: a pre-forked server and a parallel word count. Ends with 1 when an
answer was wrong.
TXT
    ;;
  build) cat <<'TXT'
usage: ./dev build

Compiles everything into build/: the libraries, the Lua module, the template program, the
tests and the examples.
TXT
    ;;
  run) cat <<'TXT'
usage: ./dev run COMMAND [ARGUMENT...]

Runs the command, in the folder that you are in, with the modules and the template program of
build/, which is made when it is not there. For example:

  ./dev run lua5.4 example/single_file.lua
TXT
    ;;
  install) cat <<'TXT'
usage: ./dev install [PREFIX]

Compiles for PREFIX (default /usr/local) and installs there:

  PREFIX/share/lua/5.4      the Lua module
  PREFIX/lib/lua/5.4        its C part
  PREFIX/libexec/moonfork   the template program
  PREFIX/include            headers for C programs
  PREFIX/lib                libraries, and what pkg-config reads about them

PREFIX need not exist, but you must be allowed to write there. At the end it prints the
environment variables that have to be set, where any have to.
TXT
    ;;
  deb) cat <<'TXT'
usage: ./dev deb

Builds the Debian packages as an ordinary user, with their unit tests, into build-deb/, and asks
lintian about them. Then installs them in a copy of this system that is thrown away (an overlay,
for which one has to be root or be allowed to make namespaces), uses them, and removes them again.

  DEB_BUILD_OPTIONS=nocheck ./dev deb     without the unit tests
TXT
    ;;
  dist) cat <<'TXT'
usage: ./dev dist

Makes moonfork-VERSION.tar.xz and its checksum in build-dist/ from what is committed (meson dist),
then compiles what the archive has in a folder of its own, without git, and tries it.
TXT
    ;;
  container) cat <<'TXT'
usage: ./dev container

Carries out the Containerfile as root, without a container engine: a minimal Debian is its base
image, which needs some 200 MB in build-container/ and the network; each instruction is one step.
Then runs what the image has, moonfork as process 1 included.
TXT
    ;;
  version) cat <<'TXT'
usage: ./dev version [NEW]

Prints the version, which stands in meson.build. With NEW, writes that wherever a file has to
repeat it: test/check/version.lua lists these files, and ./dev check compares them.
TXT
    ;;
  uninstall) cat <<'TXT'
usage: ./dev uninstall [PREFIX]

Removes what ./dev install has put into PREFIX (default /usr/local), which is what
PREFIX/share/moonfork/installed lists: files, and the folders that are then empty. What was
changed or put there since stays: a file that is not as it was installed is named and left.
TXT
    ;;
  test) cat <<'TXT'
usage: ./dev test

Runs everything: unit tests, stories, faults, checks, fuzzing, sanitizers. The last line
counts them; the exit status is 0 when none failed.
TXT
    ;;
  check) cat <<'TXT'
usage: ./dev check

Runs the checks of the tree itself: layers, exported symbols, documents, form, static analysis
(clang-tidy, cppcheck), warnings of gcc and clang, an installation.
TXT
    ;;
  configurations) cat <<TXT
usage: ./dev configurations [NAME...]

Compiles the tree in each way in which somebody may compile it, with every warning an error,
runs the unit tests of each, and a script with the Lua of it. Without names it does all of them. At
the end is a table of the results; the exit status is 0 when none failed. What needs something that
is not there is skipped, and the table says what. Sources of other Lua versions, and of what musl
needs, are looked for in \$MOONFORK_SOURCES and /usr/src, then fetched by apt into build-sources/
(MOONFORK_SOURCES=none: not at all).

$(configuration_table | sed 's/^\([^|]*\)|\([^|]*\)|\([^|]*\)|.*/  \1 \3/')
TXT
    ;;
  fuzz) cat <<'TXT'
usage: ./dev fuzz [SECONDS]

Replays the corpora of test/fuzz/corpus, then fuzzes for SECONDS (default 60), which the
targets share; as many of them run at the same time as there are processors. Inputs that fail
are kept in build-fuzz/found.
TXT
    ;;
  random) cat <<'TXT'
usage: ./dev random [SECONDS]

Drives the C API, the C API against a template program that lies, templates whose clones run in
threads, and the Lua module with any values at any moment: all four at the same time, each for
half of SECONDS (default 60; hours are meant). Each round has a seed; what fails is printed with
the command that plays it again (test/random/run says more).
TXT
    ;;
  planted) cat <<'TXT'
usage: ./dev planted [--list | --check] [--all] [--again] [NAME...]

Plants known defects, one at a time, into a copy of the tree, and sees that the tests notice
each. NAME: those whose names contain it. --list says what there is; --check only looks
whether each can still be planted; --all runs the whole suite for each; --again does not
first see that the tests pass without a defect.
TXT
    ;;
  asan) cat <<'TXT'
usage: ./dev asan

Compiles with AddressSanitizer and UndefinedBehaviorSanitizer into build-asan/, and runs the
unit tests and the stories there.
TXT
    ;;
  tsan) cat <<'TXT'
usage: ./dev tsan [COUNT]

Compiles the template program with ThreadSanitizer into build-tsan/, and makes COUNT clones in
threads of it (default 2,000), and calls in a pool of such. The exit status is 1 when something was
reported. test/data/tsan.suppressions says what is not.
TXT
    ;;
  coverage) cat <<'TXT'
usage: ./dev coverage [STORY...]

Compiles with counters into build-coverage/, runs the unit tests, the stories and the refusals of
the system there, and prints how many lines of each folder of src/ were executed. STORY: a file of
stories, instead of all. Writes into build-coverage/:

  coverage/index.html   each file, line by line
  coverage.csv          the same as a table of files
  coverage.txt          what is printed

The exit status is 1 when a test failed: the lines are counted all the same. doc/coverage.md
says what is not counted, and why.
TXT
    ;;
  bench) cat <<TXT
usage: ./dev bench [--quick] [NAME...]

Builds a release and runs \`moonfork bench\` of it, which measures moonfork against others by turns.
Without names it writes the tables and figures of bench/results/. With names, or with --quick,
nothing is written.
NAME: $(measurements).
TXT
    ;;
  site) cat <<'TXT'
usage: ./dev site [--check]

Makes a static site with search of README.md, doc/ and the measurements, by mkdocs, into
build-site/html; its navigation is what doc/README.md lists. It needs no network, and can be served
by any web server.

With --check the site is looked at in headless Chromium, light and dark, at 400 and 1,200 pixels: no
broken link, nothing wider than the page, pictures load, no error on the console, enough contrast,
and the search finds something. The exit status is 1 when something is wrong.
TXT
    ;;
  help) cat <<'TXT'
usage: ./dev help [COMMAND]

Prints the list of the commands, or what one of them does.
TXT
    ;;
  *) return 1 ;;
  esac
}
