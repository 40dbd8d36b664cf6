#!/bin/sh
# What ./dev install has put into a prefix, so that ./dev uninstall removes that and no more.
#
#   installed.sh made PREFIX STAGED       which of the folders are not there yet, before it is done
#   installed.sh record PREFIX STAGED MADE   writes the list, when it is done
#   installed.sh remove PREFIX            removes what the list has, and the list
#
# STAGED is a copy of what is installed, made by DESTDIR; MADE the file with what `made` printed.
# The list is PREFIX/share/moonfork/installed, with paths relative to PREFIX, so that a tree that
# was moved can be removed, too:
#
#   f SHA256 PATH    a file        l TARGET PATH    a link, TARGET without blanks
#   d - PATH         a folder that was not there; .. stands for one above PREFIX
set -eu
die() { printf 'dev: %s\n' "$*" >&2; exit 1; }
LIST=share/moonfork/installed

made() {
  prefix=$1
  above=..
  place=$(dirname "$prefix")
  while [ ! -e "$place" ]; do
    printf 'd - %s\n' "$above"
    above=$above/..
    place=$(dirname "$place")
  done
  (cd "$2$prefix" && find . -type d && printf './share/moonfork\n./share\n') | LC_ALL=C sort -u |
    while read -r folder; do
      [ -e "$prefix/$folder" ] || printf 'd - %s\n' "$folder"
    done
}

# The entries of an earlier list stay, unless the same path has a new one; new folders do not
# replace old ones. What an earlier version had is removed with the later one.
record() {
  prefix=$1 staged=$2$1 made=$3
  mkdir -p "$prefix/${LIST%/*}"
  {
    [ ! -f "$prefix/$LIST" ] || cat "$prefix/$LIST"
    cat "$made"
    (cd "$staged" && find . -type f -o -type l) | while read -r path; do
      if [ -L "$staged/$path" ]; then
        printf 'l %s %s\n' "$(readlink "$staged/$path")" "$path"
      else # as it is now: what is installed is not always what was staged
        printf 'f %s %s\n' "$(sha256sum <"$prefix/$path" | cut -d' ' -f1)" "$path"
      fi
    done
  } | awk '{
      path = $0
      sub(/^[^ ]* [^ ]* /, "", path)
      if (!(path in entry)) order[++n] = path
      entry[path] = $0
    }
    END { for (i = 1; i <= n; i++) print entry[order[i]] }' >"$prefix/$LIST.new"
  mv "$prefix/$LIST.new" "$prefix/$LIST"
}

# as_installed KIND WHAT FILE: whether it is still what was put there.
as_installed() {
  case $1 in
  f) [ -f "$3" ] && [ ! -L "$3" ] && [ "$(sha256sum <"$3" | cut -d' ' -f1)" = "$2" ] ;;
  l) [ -L "$3" ] && [ "$(readlink "$3")" = "$2" ] ;;
  esac
}

remove() {
  prefix=$1
  [ -f "$prefix/$LIST" ] || die "./dev install has put nothing into $prefix" \
    "(there is no $prefix/$LIST); nothing is removed"
  # Nothing is removed unless all of it can be.
  while read -r kind what path; do
    case $kind:/$path/ in
    f:*/../* | l:*/../*) die "$prefix/$LIST names $path, which is not inside; nothing is removed" ;;
    d:*) ;;
    f:* | l:*)
      folder=$(dirname "$prefix/$path")
      [ ! -d "$folder" ] || [ -w "$folder" ] ||
        die "can't uninstall from $prefix: $(id -un) may not write in $folder"
      ;;
    *) die "$prefix/$LIST has a line that begins with '$kind'; nothing is removed" ;;
    esac
  done <"$prefix/$LIST"
  [ -w "$prefix/${LIST%/*}" ] || die "can't uninstall from $prefix: $(id -un) may not write in" \
    "$prefix/${LIST%/*}"
  left=0 removed=0 list=$(cat "$prefix/$LIST")
  while read -r kind what path; do
    [ "$kind" != d ] || continue
    file=$prefix/${path#./}
    [ -e "$file" ] || [ -L "$file" ] || continue
    if as_installed "$kind" "$what" "$file"; then
      rm -f "$file"
      removed=$((removed + 1))
    else
      printf 'left: %s was changed since it was installed\n' "$file"
      left=$((left + 1))
    fi
  done <<LINES
$list
LINES
  rm -f "$prefix/$LIST"
  printf '%s\n' "$list" | sed -n 's/^d - //p' | grep '^\./' | LC_ALL=C sort -r |
    while read -r folder; do
      rmdir "$prefix/${folder#./}" 2>/dev/null || :
    done
  if printf '%s\n' "$list" | grep -qx 'd - \.'; then rmdir "$prefix" 2>/dev/null || :; fi
  place=$prefix
  printf '%s\n' "$list" | sed -n 's/^d - //p' | grep '^\.\.' | LC_ALL=C sort |
    while read -r _; do
      place=$(dirname "$place")
      rmdir "$place" 2>/dev/null || break
    done
  printf 'removed %d files from %s\n' "$removed" "$prefix"
  [ "$left" = 0 ]
}

case ${1:-} in
made | record | remove) "$@" ;;
*) die 'usage: installed.sh made|record|remove PREFIX ...' ;;
esac
