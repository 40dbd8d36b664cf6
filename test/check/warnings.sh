#!/bin/sh
# Compiles everything with every warning an error.
# usage: warnings.sh COMPILER
set -u
compiler=$1
command -v "$compiler" >/dev/null || { echo "$compiler is not installed"; exit 77; }
folder=build-warnings-$compiler
if [ ! -f "$folder/build.ninja" ]; then
  rm -rf "$folder"
  CC=$compiler meson setup "$folder" -Dwerror=true -Dtests=enabled --buildtype=debugoptimized ||
    exit 1
fi
ninja -C "$folder" -k 0 >"$folder/log" 2>&1 && exit 0
awk '/^\[/ { next } /^FAILED/ { seen = 1 } seen' "$folder/log" # what failed, and why
exit 1
