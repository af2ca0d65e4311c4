#!/usr/bin/env bash
# Measures this library's policies beside kernel MPTCP, one TCP stream and iperf3, over rails that this script makes
# of network name spaces and breaks (tests/rails/net.py). See README.md. Needs root.
#
#   bench/rails/run.sh                 everything, 7 repetitions: about three quarters of an hour
#   bench/rails/run.sh --reps 2        a first look
#   bench/rails/run.sh --policies pull,static
#   bench/rails/run.sh --tune          instead: what each setting brings to MPTCP
#
# TENT_LIB: the library, default target/release/libtransfer_engine.so. PYTHON: 3.9 or newer, default python3.
# Installs what is missing of gcc, iproute2 and iperf3 with apt-get.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/build/rails
readonly here root work

die() { echo "run.sh: $*" >&2; exit 1; }

need_packages() {
  local pair missing=()
  for pair in gcc:gcc ip:iproute2 tc:iproute2 ss:iproute2 iperf3:iperf3 sysctl:procps; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
  done
  [[ -e /usr/include/linux/mptcp.h ]] || missing+=(linux-libc-dev libc6-dev)
  [[ ${#missing[@]} -eq 0 ]] && return
  command -v apt-get > /dev/null || die "missing, and no apt-get to install them: ${missing[*]}"
  echo "run.sh: installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

[[ $(id -u) -eq 0 ]] || die "network name spaces need root"
PYTHON=${PYTHON:-python3}
library=${TENT_LIB:-$root/target/release/libtransfer_engine.so}
[[ -f $library ]] || die "no $library: cargo build --release -p tent-capi, or set TENT_LIB"
need_packages
[[ $(sysctl -n net.mptcp.enabled 2> /dev/null) == 1 ]] || die "this kernel has no MPTCP, or it is switched off"
mkdir -p "$work"
# two runs would measure each other
exec 9> "$work/lock"
flock -n 9 || die "another run is under way"
name=$(date +%Y%m%d-%H%M%S)
# a copy: a build that goes on beside the run must not change what is measured half-way
copy=$work/$name.lib
mkdir "$copy"
trap 'rm -rf "$copy"' EXIT
cp "$library" "$copy/libtransfer_engine.so"
echo "run.sh: tent $(git -C "$root" describe --always --dirty 2> /dev/null || echo "?")," \
  "library $(sha256sum "$library" | cut -c1-12), kernel $(uname -r), load $(cut -d' ' -f1 /proc/loadavg);" \
  "what runs beside this spoils it"
"$PYTHON" "$here/compare.py" "$copy" --out "$work/$name.md" "$@"
echo "run.sh: $work/$name.md"
