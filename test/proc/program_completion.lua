-- Completion of the program `moonfork` by the shells themselves: bash, and zsh and fish where they are
-- installed.
local story = require "story"
story.census = false

local FOLDER = os.getenv "MOONFORK_BUILD" .. "/src/program"

-- What is typed, and what is offered. A shell offers nothing where any word may follow.
local OFFERS = {
  {"moonfork ma", {"map"}},
  {"moonfork serve --log ", {"json", "text"}},
  {"moonfork serve --log j", {"json"}},
  {"moonfork map --re", {"--resume", "--retry"}},
  {"moonfork bench ra", {"rate"}},
  {"moonfork map -j ", {}},
  {"moonfork map --joblog /etc/passw", {"/etc/passwd"}},
  {"moonfork map f /etc/passw", {"/etc/passwd"}},
}

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  return text
end

local function is_there(shell)
  return output_of("command -v " .. shell) ~= ""
end

local function sorted_words(text)
  local words, seen = {}, {}
  for word in text:gmatch "[^\n]+" do
    word = word:match "^[^\t]+"
    if not seen[word] and word ~= "/etc/passwd-" then
      words[#words + 1], seen[word] = word, true
    end
  end
  table.sort(words)
  return words
end

story.test("bash offers commands, options, values and files", function(t)
  if not t.read(FOLDER .. "/moonfork.bash") then t.skip "built without completion" end
  local script = t:file("complete.bash", ([[
    source '%s/moonfork.bash'
    read -r -a COMP_WORDS <<<"$1"
    case $1 in *" ") COMP_WORDS+=("") ;; esac
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _moonfork
    [ ${#COMPREPLY[@]} = 0 ] || printf '%%s\n' "${COMPREPLY[@]}"]]):format(FOLDER))
  for _, offer in ipairs(OFFERS) do
    t.eq(sorted_words(output_of(("bash %s '%s' 2>&1"):format(script, offer[1]))), offer[2], offer[1])
  end
  local all = output_of(("bash %s 'moonfork '"):format(script))
  for _, command in ipairs(require "moonfork.cli".commands) do t.ok(all:find(command, 1, true), command) end
end)

story.test("fish offers the same", function(t)
  if not is_there "fish" then t.skip "fish is not installed" end
  for _, offer in ipairs(OFFERS) do
    local said = output_of(("HOME='%s' fish --no-config -c \"source '%s/moonfork.fish'; complete -C '%s'\" 2>&1")
      :format(t:tmp(), FOLDER, offer[1]))
    t.eq(sorted_words(said), offer[2], offer[1])
  end
end)

-- Types LINE and a tab in a terminal, and prints what is there when MARK has come.
local ZSH = [==[
  zmodload zsh/zpty zsh/datetime
  zpty -b z zsh -f -i
  said=
  read_until() {
    local end=$((EPOCHREALTIME + 20)) part
    while [[ $said != *$1* && $EPOCHREALTIME -lt $end ]]; do
      if zpty -r -t z part; then said+=$part; else read -t 0.05 < /dev/null || sleep 0.05; fi
    done
  }
  zpty -w z "TERM=dumb; PS1='READY'\$((1))' '; fpath=($1 \$fpath); LISTMAX=1000; stty -echo columns 200"
  zpty -w z "autoload -U compinit; compinit -u -D"
  zpty -w z "print LOAD''ED"
  read_until LOADED
  said=
  zpty -w -n z "$2"$'\t'
  read_until "$3"
  print -r -- "$said"
  zpty -d z
]==]

story.test("zsh offers the same", {deadline = 60}, function(t)
  if not is_there "zsh" then t.skip "zsh is not installed" end
  local script = t:file("complete.zsh", ZSH)
  for _, case in ipairs{{"moonfork ma", "moonfork map "}, {"moonfork serve --log ", "json  text"},
    {"moonfork bench ra", "moonfork bench rate "}, {"moonfork map f /etc/passw", "/etc/passwd"}} do
    local said = output_of(("HOME='%s' zsh -f %s %s '%s' '%s' </dev/null 2>&1"):format(t:tmp(), script, FOLDER,
      case[1], case[2]))
    t.ok(said:find(case[2], 1, true), case[1] .. ": " .. said)
  end
end)

story.done()
