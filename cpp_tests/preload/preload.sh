#!/usr/bin/env bash
# preload.sh PREFIX WORK_DIR: programs that were built for somebody else's libtransfer_engine.so, and get ours: by the
# loader's path, by LD_PRELOAD, by dlopen, in a plug-in. And programs that want neither, which must not notice.
set -euo pipefail
prefix=$(cd "$1" && pwd) work=$2
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "FAIL: $*"; exit 1; }
ours=$(find "$prefix" -name libtransfer_engine.so -type f)
mkdir -p "$work/foreign"
foreign=$work/foreign/libtransfer_engine.so
build() { gcc -std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -I"$prefix/include" "$@"; }

build -shared -fPIC -Wl,-soname,libtransfer_engine.so "$here/foreign.c" -o "$foreign"
functions=$(nm -D --defined-only "$foreign" | awk '{print $NF}' | sort)
diff <(sort "$here/../../compat/exports/mooncake.txt") <(echo "$functions") || fail "the foreign library lacks functions (<)"
build "$here/user.c" -L"$work/foreign" -ltransfer_engine -o "$work/linked"
build -DUSER_DLOPEN "$here/user.c" -o "$work/loading"
build -DUSER_PLUGIN -shared -fPIC "$here/user.c" -L"$work/foreign" -ltransfer_engine -Wl,-rpath,"$work/foreign" -o "$work/plugin.so"
build "$here/host.c" -o "$work/host"
build "$here/bystander.c" -o "$work/bystander"
build -static "$here/bystander.c" -o "$work/bystander_static"

# expect WHOSE TITLE COMMAND...
expect() {
  local whose=$1 title=$2 said
  shift 2
  said=$("$@" 2>&1) || fail "$title: $said"
  [[ $said == "27 functions are $whose"* ]] || fail "$title: $said"
  echo "ok: $title: $said"
}
path=(env "LD_LIBRARY_PATH=$work/foreign") preload=(env "LD_LIBRARY_PATH=$work/foreign" "LD_PRELOAD=$ours")

expect foreign "linked, as it is" "${path[@]}" "$work/linked" "$foreign"
expect ours "linked, ours first in the loader's path" env "LD_LIBRARY_PATH=$(dirname "$ours"):$work/foreign" "$work/linked" "$ours"
expect ours "linked, ours preloaded" "${preload[@]}" "$work/linked" "$ours"
expect foreign "dlopen by name, as it is" "${path[@]}" "$work/loading" "$foreign" libtransfer_engine.so
expect ours "dlopen by name, ours preloaded" "${preload[@]}" "$work/loading" "$ours" libtransfer_engine.so
# Who opens a certain file, and asks that handle, gets that file: no preload changes it.
expect foreign "dlopen by path, ours preloaded" "${preload[@]}" "$work/loading" "$foreign" "$foreign"
expect foreign "a plug-in with an rpath, as it is" "$work/host" "$work/plugin.so" "$foreign"
expect ours "a plug-in with an rpath, ours preloaded" env "LD_PRELOAD=$ours" "$work/host" "$work/plugin.so" "$ours"

for program in bystander bystander_static; do
  alone=$("$work/$program" 2>&1) beside=$(LD_PRELOAD=$ours TENT_LOG=trace "$work/$program" 2>&1)
  [[ $alone == "threads 1, "* && $alone == "$beside" ]] || fail "$program is not left alone: $alone; under preload: $beside"
  echo "ok: $program under preload: $beside"
done
