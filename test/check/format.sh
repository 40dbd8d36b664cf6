#!/bin/sh
# Are the C files as clang-format writes them (.clang-format)? Prints each file that is not,
# with how many places differ.
set -u
command -v clang-format >/dev/null || { echo "clang-format is not installed"; exit 77; }

differing=$( (git ls-files -- '*.c' '*.h' 2>/dev/null || find src include test bench example \
  -name '*.[ch]') | xargs clang-format --dry-run 2>&1 |
  sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: warning: code should be clang-formatted.*/\1/p' |
  sort | uniq -c)
[ -n "$differing" ] || exit 0
echo "run clang-format -i on:"
echo "$differing"
exit 1
