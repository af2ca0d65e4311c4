#!/bin/sh
# archive.sh IN.a OUT.a EXPORTS.txt...: one object that shows only the listed symbols. The archive as rustc makes it
# carries a whole Rust runtime with global names: linked into a Rust program, as Mooncake's own crate does by
# default, those would clash with the program's.
set -eu
in=$1 out=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$@" > "$work/keep"
# Groups are dissolved, or the linker would throw one away for the program's group of the same name. What no listed
# symbol leads to is left out.
# shellcheck disable=SC2046 # one argument for each symbol
ld -r --force-group-allocation --gc-sections $(sed 's/^/--undefined=/' "$work/keep") --whole-archive "$in" -o "$work/all.o"
# The bitcode is of no use after the link, and merged it confuses tools that look for it.
objcopy --strip-debug --remove-section .llvmbc --remove-section .llvmcmd --keep-global-symbols="$work/keep" \
  "$work/all.o" "$work/tent.o"
rm -f "$work/out.a"
ar rcs "$work/out.a" "$work/tent.o"
mv "$work/out.a" "$out"
