#!/bin/sh
# The manual pages of a build: groff has nothing to say about them, and moonfork(3) has every
# function of the headers.
build=${1:-build}
command -v groff >/dev/null || { echo "groff is not installed"; exit 77; }
[ -f "$build/doc/moonfork.3" ] || { echo "no lua was there to make them"; exit 77; }
status=0
for page in "$build"/src/program/*.1 "$build"/doc/*.3; do
  said=$(groff -man -ww -z -Tutf8 "$page" 2>&1)
  [ -z "$said" ] || { echo "$page: $said"; status=1; }
done
names=$(cat include/moonfork.h include/moonfork/template.h | tr '\n' ' ' |
  grep -o 'MF_API [^;(]*\<mf_[a-z_0-9]* *(' | grep -o 'mf_[a-z_0-9]* *($' | tr -d ' (' | sort -u)
[ -n "$names" ] || { echo "no functions in the headers"; exit 1; }
for name in $names; do
  grep -q "$name\([^a-z_0-9]\|$\)" "$build/doc/moonfork.3" || {
    echo "moonfork.3 lacks $name"
    status=1
  }
done
exit $status
