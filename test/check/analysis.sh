#!/bin/sh
# Static analysis of src/ as the build compiled it: clang-tidy with the checks of .clang-tidy,
# or cppcheck. usage: analysis.sh clang-tidy|cppcheck BUILD
#
# The analyzer inside clang-tidy gives up on a function after 40,000 steps instead of its own
# 225,000: that takes a third of the time and finds what the long search found here.
set -u
tool=$1 build=$2
command -v "$tool" >/dev/null || { echo "$tool is not installed"; exit 77; }
[ -f "$build/compile_commands.json" ] ||
  { echo "there is no $build/compile_commands.json"; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-analysis.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Each file once, although it is compiled for several libraries; meson brings Python.
python3 - "$build" "$work" <<'PY' || exit 1
import json, os, sys
build, work = sys.argv[1:]
GCC_ONLY = "-fno-tree-"
src = os.path.realpath("src") + os.sep
once = {}
for entry in json.load(open(os.path.join(build, "compile_commands.json"))):
    path = os.path.realpath(os.path.join(entry["directory"], entry["file"]))
    if path.startswith(src):
        command = " ".join(w for w in entry["command"].split() if not w.startswith(GCC_ONLY))
        once.setdefault(path, dict(entry, file=path, command=command))
json.dump(list(once.values()), open(os.path.join(work, "compile_commands.json"), "w"))
open(os.path.join(work, "files"), "w").write("".join(path + "\n" for path in sorted(once)))
PY
[ -s "$work/files" ] || { echo "no file of src/ is in $build/compile_commands.json"; exit 1; }

case $tool in
clang-tidy)
  xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$work" \
    --extra-arg=-Xclang --extra-arg=-analyzer-config \
    --extra-arg=-Xclang --extra-arg=max-nodes=40000 \
    <"$work/files" >"$work/told" 2>"$work/trouble" && exit 0
  cat "$work/told" # what it tells, without its count of warnings
  [ -s "$work/told" ] || cat "$work/trouble"
  exit 1
  ;;
cppcheck)
  cppcheck -j "$(nproc)" --quiet --enable=warning,portability --std=c11 --inline-suppr \
    --suppress=preprocessorErrorDirective --error-exitcode=1 \
    --project="$work/compile_commands.json"
  ;;
*)
  echo "there is no analysis by '$tool'"
  exit 2
  ;;
esac
