#!/bin/sh
# Compiles everything with every warning an error.
# usage: warnings.sh NAME COMPILER MESON_OPTION...
set -u
name=$1 compiler=$2
shift 2
command -v "$compiler" >/dev/null || { echo "$compiler is not installed"; exit 77; }
folder=build-warnings-$name
if [ ! -f "$folder/build.ninja" ]; then
  rm -rf "$folder"
  CC=$compiler meson setup "$folder" -Dwerror=true -Dtests=enabled -Dwarning_level=3 "$@" ||
    exit 1
fi
ninja -C "$folder" -k 0 >"$folder/log" 2>&1 && exit 0
awk '/^\[/ { next } /^FAILED/ { seen = 1 } seen' "$folder/log" # what failed, and why
exit 1
