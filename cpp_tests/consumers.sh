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

step "the link lines of Mooncake's users"
# Go's p2p-store. The distribution's libraries are on the line for upstream's sake: empty here, and not needed.
mkdir "$work/distribution"
for name in numa glog ibverbs mlx5 jsoncpp gflags curl; do ar rcs "$work/distribution/lib$name.a"; done
link() { # link NAME ARGS...: a program of the C API, run
  local name=$1
  shift
  gcc -std=c11 -D_GNU_SOURCE $warnings "$examples/ping.c" -I"$prefix/include" -L"$lib" -L"$work/distribution" "$@" -o "$work/link_$name"
  LD_LIBRARY_PATH=$lib "$work/link_$name" > "$work/link_$name.log" || { cat "$work/link_$name.log"; fail "link line $name"; }
}
needed() { readelf -d "$work/link_$1" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p'; }
for stub in libbase.a libasio.so libmooncake_common.so libmooncake_common.a; do
  [ -f "$lib/$stub" ] || fail "no $stub, though stubs were asked for"
  [ -z "$(nm --defined-only "$lib/$stub" 2> /dev/null | awk '$2 == "T" && $3 !~ /^_(init|fini)$/')" ] || fail "$stub is not empty"
done
link go -ltransfer_engine -lbase -lasio -lstdc++ -lnuma -lglog -libverbs -lmlx5 -ljsoncpp -lmooncake_common -lm
needed go | grep -x > /dev/null libtransfer_engine.so || fail "the Go line does not link the shared library"
# The Rust crate: static, in the order of its build.rs; and its link group with TENT, which resolves to the shared one.
link rust_static -Wl,-Bstatic -ltransfer_engine -lbase -lmooncake_common -Wl,-Bdynamic -lasio -lstdc++ -libverbs -lglog \
  -lgflags -lpthread -ljsoncpp -lnuma -lcurl -lm
needed rust_static | grep > /dev/null transfer_engine && fail "the static line needs the shared library"
link rust_group -Wl,--start-group -ltransfer_engine -lbase -ltent -lmooncake_common -Wl,--end-group
[ "$(needed rust_group | grep -c -e transfer_engine -e libtent)" = 1 ] || fail "the group loads the library twice: $(needed rust_group)"

step "the archive"
globals=$(nm --extern-only --defined-only "$lib/libtransfer_engine.a" | awk 'NF == 3 {print $3}' | sort)
diff <(cat "$here"/../compat/exports/*.txt | sed 's/#.*//; s/[[:space:]]//g; /^$/d' | sort) <(echo "$globals") ||
  fail "global symbols of the archive (>) are not those that are listed (<)"
rustc --edition 2024 -D warnings "$here/consumer/static.rs" -L "$lib" -l static=transfer_engine -l static=base -o "$work/static_rs"
"$work/static_rs" 2> "$work/static_rs.log" || { cat "$work/static_rs.log"; fail "a Rust program with the archive"; }
gcc -static -std=c11 -D_GNU_SOURCE $warnings "$examples/ping.c" -I"$prefix/include" -L"$lib" -ltransfer_engine -lm -o "$work/all_static" 2> "$work/static.log" ||
  { cat "$work/static.log"; fail "a wholly static program"; }
"$work/all_static"

step "packages under upstream's names"
for name in transfer_engine TransferEngine; do
  cmake -S "$here/consumer" -B "$work/cmake_$name" -DCMAKE_PREFIX_PATH="$prefix" -DPACKAGE=$name > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
  cmake --build "$work/cmake_$name" --target ping_mooncake > "$work/build.log" || { cat "$work/build.log"; exit 1; }
  "$work/cmake_$name/ping_mooncake"
done

step "programs that were built for somebody else's library"
mkdir "$work/preload"
"$here/preload/preload.sh" "$prefix" "$work/preload"

step "valgrind"
valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect,possible \
  --errors-for-leak-kinds=definite,indirect,possible --suppressions="$here/valgrind.supp" --trace-children=yes "$work/cmake/ping"
echo "valgrind: no error, no leak"
echo "PASS consumers"
