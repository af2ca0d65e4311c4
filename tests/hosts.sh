#!/usr/bin/env bash
# hosts.sh DIR: with the `tent` and libtransfer_engine.so of DIR, over real networks that only this script
# sees. As root (network name spaces; another user). Prints what it saw; ends with 0 if all was right.
#
#   two hosts      two name spaces, joined by two IPv4 links and one that has IPv6 only: one rail per link,
#                  each carries bytes, every byte right
#   no permission  a peer on this host whom the kernel does not let copy: one loud line, then TCP
set -euo pipefail
readonly BIN=$(cd "$1" && pwd) A=tent-a-$$ B=tent-b-$$
work=$(mktemp -d)
target=

cleanup() {
  [[ -n $target ]] && kill "$target" 2> /dev/null && wait "$target" 2> /dev/null
  ip netns del "$A" 2> /dev/null
  ip netns del "$B" 2> /dev/null
  rm -rf "$work"
  return 0
}
trap cleanup EXIT
die() { echo "hosts.sh: $*" >&2; exit 1; }
[[ $(id -u) -eq 0 ]] || die "network name spaces need root"

# Another user has to read them.
install -m 755 "$BIN/tent" "$BIN/libtransfer_engine.so" "$work"
chmod 755 "$work"
readonly TENT=$work/tent

# start_target COMMAND...: starts a target and waits for its name.
start_target() {
  "$@" > "$work/target.out" 2> "$work/target.err" &
  target=$!
  local deadline=$((SECONDS + 20))
  until grep -qs '^target ready: ' "$work/target.out"; do
    kill -0 "$target" 2> /dev/null || die "the target ended: $(cat "$work/target.err")"
    [[ $SECONDS -lt $deadline ]] || die "no target within 20 s"
    read -rt 0.05 < <(:) || true
  done
  name=$(awk '/^target ready: /{print $3; exit}' "$work/target.out")
  address=$(awk '/^target ready: /{print $5; exit}' "$work/target.out")
}

stop_target() {
  kill "$target"
  wait "$target" 2> /dev/null || true
  target=
}

# What the lines of `tent bench --json` must say: TRANSPORT, how many rails carried bytes.
judge() {
  python3 - "$work/bench.json" "$@" << 'PY'
import json, sys
path, transport, rails = sys.argv[1], sys.argv[2], int(sys.argv[3])
points = [json.loads(line) for line in open(path) if line.startswith("{")]
points = [p for p in points if "rails" in p]
assert points, "no points"
assert all(p["wrong_bytes"] == 0 for p in points), "wrong bytes"
last = [r for r in points[-1]["rails"] if r["read_bytes"] + r["write_bytes"] > 0]
for r in last:
    print(f"  {r['rail']}: {r['read_bytes'] >> 20} MiB read, {r['write_bytes'] >> 20} MiB written")
assert {r["transport"] for r in last} == {transport}, last
assert len(last) == rails, f"{len(last)} rails carried bytes, not {rails}"
PY
}

bench() { # bench COMMAND...: READs and WRITEs of one size, every byte checked
  "$@" "$TENT" bench --target_seg_name "$name" --target_addr "$address" --total_buffer_size 64MiB \
    --op_type mix --check --start_block_size 8MiB --max_block_size 8MiB --duration 0.5 --warmup 0.1 \
    --json "${extra[@]}" > "$work/bench.json" 2> "$work/bench.err" || die "bench: $(cat "$work/bench.err")"
}

two_hosts() {
  ip netns add "$A"
  ip netns add "$B"
  local n
  for n in 1 2 3; do
    ip -n "$A" link add "va$n" type veth peer name "vb$n" netns "$B"
    if [[ $n -lt 3 ]]; then
      ip -n "$A" addr add "10.88.$n.1/24" dev "va$n"
      ip -n "$B" addr add "10.88.$n.2/24" dev "vb$n"
    else
      ip -n "$A" addr add "fd88:$n::1/64" dev "va$n" nodad
      ip -n "$B" addr add "fd88:$n::2/64" dev "vb$n" nodad
    fi
    ip -n "$A" link set "va$n" up
    ip -n "$B" link set "vb$n" up
  done
  # a link counts when the kernel says that it is running, which takes it a moment
  local deadline=$((SECONDS + 20))
  until [[ $(ip -n "$A" -br link | grep -c ' UP ') -eq 3 && $(ip -n "$B" -br link | grep -c ' UP ') -eq 3 ]]; do
    [[ $SECONDS -lt $deadline ]] || die "the links do not come up"
    read -rt 0.05 < <(:) || true
  done
  ip -n "$A" link set lo up
  ip -n "$B" link set lo up
  start_target ip netns exec "$B" "$TENT" target --transport tcp --seg_name 10.88.1.2 --total_buffer_size 64MiB
  extra=(--transport tcp --seg_name 10.88.1.1)
  bench ip netns exec "$A"
  echo "two hosts, three links:"
  judge tcp 3
  stop_target
}

no_permission() {
  start_target "$TENT" target --seg_name 127.0.0.1 --total_buffer_size 64MiB
  extra=(--seg_name 127.0.0.1)
  bench setpriv --reuid 65534 --regid 65534 --clear-groups
  echo "a peer that may not be copied from:"
  judge tcp 1
  local warned
  warned=$(grep -c 'falling back to tcp' "$work/bench.err" || true)
  [[ $warned -eq 1 ]] || die "warned $warned times, not once: $(cat "$work/bench.err")"
  sed -n 's/^.*tent warn: /  /p' "$work/bench.err" | grep 'falling back'
  stop_target
}

two_hosts
no_permission
echo "hosts.sh: all right"
