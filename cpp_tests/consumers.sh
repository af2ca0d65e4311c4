#!/usr/bin/env bash
# consumers.sh PREFIX WORK_DIR: hosts of every kind build against an installed tent and run: find_package,
# pkg-config, plain -ltransfer_engine, -ltent; C and C++; from a moved prefix; valgrind looks for leaks.
set -euo pipefail
prefix=$(cd "$1" && pwd) work=$2
here=$(cd "$(dirname "$0")" && pwd)
examples=$here/../examples
warnings="-Wall -Wextra -Werror"
lib=$(dirname "$(find "$prefix" -name libtransfer_engine.so -type f)")
fail() { echo "FAIL: $*"; exit 1; }
step() { echo "-- $*"; }
rm -rf "$work" && mkdir -p "$work"

step "find_package"
cmake -S "$here/consumer" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
cmake --build "$work/cmake" -j 2 > "$work/build.log" || { cat "$work/build.log"; exit 1; }
for ping in ping ping_mooncake ping_cpp; do "$work/cmake/$ping"; done

step "plain -ltransfer_engine, and the other names"
for name in transfer_engine tent tent_shared; do
  gcc -std=c11 -D_GNU_SOURCE $warnings "$examples/ping.c" -I"$prefix/include" -L"$lib" "-l$name" -o "$work/ping_$name"
  readelf -d "$work/ping_$name" | grep > /dev/null 'NEEDED.*\[libtransfer_engine.so\]' || fail "-l$name records another name"
  LD_LIBRARY_PATH=$lib "$work/ping_$name"
done

step "the example of TENT's C API"
gcc -std=c11 $warnings "$examples/tent.c" -I"$prefix/include" -L"$lib" -ltent -o "$work/tent_example"
LD_LIBRARY_PATH=$lib "$work/tent_example"

step "pkg-config"
export PKG_CONFIG_PATH=$lib/pkgconfig
for name in tent transfer_engine; do
  pkg-config --exists "$name" || fail "pkg-config does not find $name"
  g++ -std=c++17 $warnings "$examples/ping.cpp" $(pkg-config --cflags --libs "$name") -o "$work/ping_pc_$name"
  LD_LIBRARY_PATH=$lib "$work/ping_pc_$name"
done
[ "$(pkg-config --modversion tent)" = "$(sed -n 's/^version *= *"\(.*\)"/\1/p' "$here/../Cargo.toml" | head -1)" ] || fail "version of tent.pc"

step "a moved prefix"
cp -a "$prefix" "$work/moved"
moved_lib=$work/moved/${lib#"$prefix"/}
PKG_CONFIG_PATH=$moved_lib/pkgconfig pkg-config --variable=libdir tent | xargs realpath | grep -x > /dev/null "$(realpath "$moved_lib")" || fail "tent.pc does not move"
cmake -S "$here/consumer" -B "$work/cmake_moved" -DCMAKE_PREFIX_PATH="$work/moved" > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
grep -q "$work/moved" "$work/cmake_moved/CMakeCache.txt" || fail "the moved package was not found"

step "a program linked with another library of that name, by LD_PRELOAD of ours"
mkdir "$work/other"
nm -D --defined-only "$lib/libtransfer_engine.so" | awk '{print "void " $NF "(void); void " $NF "(void) { abort(); }"}' |
  cat <(echo '#include <stdlib.h>') - > "$work/other/other.c"
gcc -shared -fPIC -Wl,-soname,libtransfer_engine.so "$work/other/other.c" -o "$work/other/libtransfer_engine.so"
gcc -std=c11 -D_GNU_SOURCE $warnings "$examples/ping.c" -I"$prefix/include" -L"$work/other" -ltransfer_engine -o "$work/ping_other"
LD_LIBRARY_PATH=$work/other LD_PRELOAD=$lib/libtransfer_engine.so "$work/ping_other"

step "valgrind"
valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect,possible \
  --errors-for-leak-kinds=definite,indirect,possible --suppressions="$here/valgrind.supp" --trace-children=yes "$work/cmake/ping"
echo "valgrind: no error, no leak"
echo "PASS consumers"
