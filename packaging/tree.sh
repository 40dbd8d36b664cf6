#!/bin/sh
# Copies the tree's own files, and nothing that was built, into a new folder.
# usage: tree.sh FOLDER
set -eu
cd "$(dirname "$0")/.."
mkdir -p "$1"
if git ls-files --error-unmatch dev >/dev/null 2>&1; then
  git ls-files -co --exclude-standard
else
  find . -type f ! -path './build*' ! -path './obj-*' ! -path './.git/*' | sed 's,^\./,,'
fi | while read -r file; do
  [ ! -f "$file" ] || printf '%s\n' "$file"
done | tar -cf - -T - | tar -xf - --no-same-owner -C "$1"
