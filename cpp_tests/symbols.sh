#!/usr/bin/env bash
# symbols.sh LIBRARY EXPORTS_DIR: what the library shows and needs is what D1 says (ARCHITECTURE.md): exactly
# the listed symbols, four system libraries, one soname, never unloaded.
set -euo pipefail
library=$1 exports=$2
fail() { echo "FAIL: $*"; exit 1; }

listed=$(cat "$exports"/*.txt | sed 's/#.*//; s/[[:space:]]//g; /^$/d' | sort)
exported=$(nm -D --defined-only "$library" | awk '{print $NF}' | sed 's/@.*//' | sort)
[ -n "$listed" ] || fail "no symbols listed in $exports"
[ "$listed" = "$(echo "$listed" | uniq)" ] || fail "a symbol is listed twice: $(echo "$listed" | uniq -d)"
diff <(echo "$listed") <(echo "$exported") || fail "exported symbols (>) differ from the lists (<)"
echo "fact: $(echo "$exported" | wc -l) exported symbols, as listed"

dynamic=$(readelf -dW "$library")
needed=$(echo "$dynamic" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort)
for name in $needed; do
  case $name in
    libc.so.6 | libm.so.6 | libgcc_s.so.1 | ld-linux-x86-64.so.2 | ld-linux-aarch64.so.1) ;;
    *) fail "needs $name" ;;
  esac
done
echo "fact: needs only" $needed

soname=$(echo "$dynamic" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[ "$soname" = libtransfer_engine.so ] || fail "soname is '$soname'"
echo "$dynamic" | grep > /dev/null 'FLAGS_1.*NODELETE' || fail "not -z nodelete: a thread that ends after dlclose would crash"
echo "$dynamic" | grep -E > /dev/null 'RPATH|RUNPATH' && fail "has an rpath"
# FLAGS with STATIC_TLS would make dlopen fail in a process with many libraries.
echo "$dynamic" | grep > /dev/null STATIC_TLS && fail "uses static TLS"
readelf -lW "$library" | grep > /dev/null 'GNU_STACK.*RWE' && fail "wants an executable stack"
echo "fact: soname $soname, nodelete, no rpath, no static TLS, no executable stack"

# Undefined symbols must all come from those libraries, in versions that Debian 12 has.
newest=$(nm -D --undefined-only "$library" | sed -n 's/.*@GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -1)
echo "fact: newest glibc version used: $newest"
[ "$(printf '%s\n2.36\n' "$newest" | sort -V | tail -1)" = 2.36 ] || fail "needs glibc $newest"

# The other names lead to the same file, by relative links that survive a move.
dir=$(dirname "$library")
for name in libtent.so libtent_shared.so; do
  [ -L "$dir/$name" ] || fail "$dir/$name is not a link"
  [ "$(readlink "$dir/$name")" = libtransfer_engine.so ] || fail "$name leads to $(readlink "$dir/$name")"
done
echo "PASS symbols"
