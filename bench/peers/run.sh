#!/usr/bin/env bash
# Measures this library beside Mooncake's Transfer Engine and NIXL, in one run on this machine.
#
#   bench/peers/run.sh [--quick]     few points, about a minute
#   bench/peers/run.sh --full        every point and head of line, about half an hour
#   bench/peers/run.sh --full --mixed   our pair, Mooncake's, and each towards the other, over TCP
#   bench/peers/run.sh --limits      the machine's own bounds (memcpy, process_vm_*, loopback), a few minutes
#   bench/peers/run.sh ARGS          anything sweep.py knows: --peers --points --ops --threads --hol ...
#
# TENT_LIB: the library, default target/release/libtransfer_engine.so. PYTHON: 3.10 or newer, default python3.
# REF: a reference file for table.py, default the figures of upstream TENT beside this script; empty: none.
# Installs what is missing: Debian packages with apt-get, the peers' wheels into build/peers/venv.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/build/peers
readonly here root work
readonly WHEELS=(mooncake-transfer-engine-non-cuda==0.3.13.post1 nixl==1.5.1 nixl-cu12==1.5.1 numpy)

die() { echo "run.sh: $*" >&2; exit 1; }

need_packages() {
  local pair missing=()
  for pair in libibverbs.so.1:libibverbs1 libnuma.so.1:libnuma1 libcurl.so.4:libcurl4; do
    /sbin/ldconfig -p | grep -qF "${pair%%:*} " || missing+=("${pair#*:}")
  done
  command -v gcc > /dev/null || missing+=(gcc libc6-dev)
  "$PYTHON" -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
  [[ ${#missing[@]} -eq 0 ]] && return
  command -v apt-get > /dev/null || die "missing, and no apt-get to install them: ${missing[*]}"
  local as_root=()
  [[ $(id -u) -eq 0 ]] || as_root=(sudo)
  echo "run.sh: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

need_venv() {
  # --no-deps: the wheels name torch and CUDA, which nothing here uses
  [[ -f $work/venv/ready && $(< "$work/venv/ready") == "${WHEELS[*]}" ]] && return
  echo "run.sh: making $work/venv"
  rm -rf "$work/venv"
  "$PYTHON" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q --disable-pip-version-check --no-deps "${WHEELS[@]}"
  echo "${WHEELS[*]}" > "$work/venv/ready"
}

limits() {
  gcc -O3 -march=native -pthread "$here/limits.c" -o "$work/limits"
  "$work/limits" | tee "$work/limits.jsonl"
}

sweep() {
  local library=${TENT_LIB:-$root/target/release/libtransfer_engine.so}
  [[ -f $library ]] || die "no $library: cargo build --release -p tent-capi, or set TENT_LIB"
  # two runs would measure each other
  exec 9> "$work/lock"
  flock -n 9 || die "another run is under way"
  local name
  name=$(date +%Y%m%d-%H%M%S)
  local out=$work/$name.jsonl log=$work/$name.log status=0
  # a copy: a build that goes on beside the run must not change what is measured half-way
  mkdir -p "$log"
  cp "$library" "$log/libtransfer_engine.so"
  local note="tent $(git -C "$root" describe --always --dirty 2> /dev/null || echo "?"), library $(sha256sum "$library" | cut -c1-12); ${WHEELS[*]:0:3}"
  echo "run.sh: load $(cut -d' ' -f1 /proc/loadavg); what runs beside this spoils it"
  TENT_LIB=$log/libtransfer_engine.so TENT_SYNC=$log/tent_sync.so \
    "$work/venv/bin/python" "$here/sweep.py" --out "$out" --log "$log" --note "$note" "$@" || status=$?
  rm -f "$log"/*.so
  [[ -s $out ]] || return $status
  local ref=${REF-$here/tent_shm_reference.json}
  "$work/venv/bin/python" "$here/table.py" "$out" ${ref:+--ref "$ref"} > "$work/$name.md"
  echo
  cat "$work/$name.md"
  echo "run.sh: $work/$name.md"
  return $status
}

PYTHON=${PYTHON:-python3}
mkdir -p "$work"
need_packages
if [[ ${1-} == --limits ]]; then
  limits
else
  need_venv
  if [[ ${1-} == --help ]]; then exec "$work/venv/bin/python" "$here/sweep.py" --help; fi
  sweep "${@:---quick}"
fi
