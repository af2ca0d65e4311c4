"""Measures all peers in one run, repetition by repetition in turn: A B C A B C. Whatever else this machine
does then hits all of them alike, and ratios hold where absolute figures do not.

Every peer's two processes live through the whole run; those whose turn it is not are frozen (SIGSTOP), for
some spin when they have nothing to do. Writes one JSON line per point, peer and run fact; `table.py` reads
them. Ends with status 1 if a byte was wrong, a call failed or a process died.
"""
import argparse
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import time

import pair

HERE = os.path.dirname(os.path.abspath(__file__))
KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
NIXL_SHM = {"NIXL_UCX_EH": "none", "UCX_TLS": "posix,sysv,cma,self", "NIXL_PTHR_DELAY_US": "100000"}
# name: script, arguments, environment
PEERS = {
    "mooncake-tcp": ("mooncake_pair.py", [], {}),
    "nixl-tcp": ("nixl_pair.py", [], {"UCX_TLS": "tcp", "NIXL_IPROG": "0"}),
    "nixl-shm": ("nixl_pair.py", [], {**NIXL_SHM, "NIXL_IPROG": "0"}),
    "nixl-tcp-defaults": ("nixl_pair.py", [], {"UCX_TLS": "tcp"}),
    "nixl-shm-defaults": ("nixl_pair.py", [], {**NIXL_SHM, "NIXL_PTHR_DELAY_US": "0"}),
}
# mixed pairs: who asks, then who serves
PEERS["tent-tcp-to-mooncake"] = ("tent_pair.py", ["--xport", "tcp", "--target", "mooncake_pair.py"], {})
PEERS["mooncake-tcp-to-tent"] = ("mooncake_pair.py", ["--xport", "tcp", "--target", "tent_pair.py"], {})
for transport in ("tcp", "cma", "shm"):
    PEERS["tent-" + transport] = ("tent_pair.py", ["--xport", transport], {})
    PEERS["tent-%s-block" % transport] = ("tent_pair.py", ["--xport", transport, "--wait", "block"], {})
USUAL = ["mooncake-tcp", "nixl-tcp", "nixl-shm", "tent-tcp", "tent-cma", "tent-shm"]
MIXED = ["mooncake-tcp", "tent-tcp", "tent-tcp-to-mooncake", "mooncake-tcp-to-tent"]
HOL = [*MIXED, "tent-cma", "tent-shm"]
FULL = [(block, batch) for batch in (1, 8, 64) for block in (4 * KB, 64 * KB, MB, 16 * MB, 64 * MB)]
QUICK = [(4 * KB, 1), (64 * KB, 1), (MB, 1), (64 * MB, 1), (MB, 8), (4 * KB, 64)]
# beyond the time that a command is meant to take; the largest batches take seconds
PATIENCE_S = 90
# a repetition beside which others used more of the cores than this is made again, while patience lasts
CROWDED = 0.3
QUIET_LOOK_S = 0.2
SIZES = {"K": KB, "M": MB, "G": GB}


class Dead(Exception):
    pass


class Pair:
    """A peer's initiator, which spawned its target, both in one process group."""

    def __init__(self, name, options):
        script, arguments, env = PEERS[name]
        self.name, self.spare = name, b""
        command = [sys.executable, os.path.join(HERE, script), "--size", str(options.size),
                   "--threads", str(max(options.threads)), *arguments]
        log = open(os.path.join(options.log, name + ".log"), "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                        env={**os.environ, **env}, start_new_session=True,
                                        preexec_fn=pair.die_with_parent)
        log.close()
        try:
            self.started = self.answer(PATIENCE_S)
        except Dead:
            self.kill()
            raise
        self.freeze()

    def freeze(self):
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def answer(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.spare:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Dead("no answer within %d s" % seconds)
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                raise Dead("died: status %d" % self.process.wait())
            self.spare += part
        line, self.spare = self.spare.split(b"\n", 1)
        return json.loads(line)

    def ask(self, command, seconds=0.0, **more):
        """Thaws the pair for one command."""
        self.thaw()
        try:
            self.process.stdin.write(json.dumps(dict(more, c=command, seconds=seconds)).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.answer(seconds + PATIENCE_S)
        except BrokenPipeError:
            raise Dead("died: status %d" % self.process.wait()) from None
        self.freeze()
        return answer

    def end(self):
        """Orderly if it can."""
        try:
            self.thaw()
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Run:
    def __init__(self, options):
        self.options, self.pairs, self.failures = options, {}, 0
        self.out = open(options.out, "w")
        self.patience = options.patience

    def emit(self, **line):
        self.failures += bool(line.get("error") or line.get("wrong_bytes"))
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()
        if line.get("error") or line.get("wrong_bytes"):
            print("!!", json.dumps(line), flush=True)

    def pair(self, name):
        """The pair of that name, started if there is none (any more)."""
        if name not in self.pairs:
            self.pairs[name] = Pair(name, self.options)
            self.emit(kind="started", peer=name, **self.pairs[name].started)
        return self.pairs[name]

    def in_turn(self, names, kind, of, seconds):
        """One point on all peers; gives each one's repetitions, then what it says in the end."""
        reps, broken, final = {n: [] for n in names}, {}, {}

        def step(name, command, **more):
            if name in broken:
                return None
            try:
                answer = self.pair(name).ask(command, **more)
            except Dead as e:
                answer = {"error": str(e), "dead": True}
            if "dead" in answer and name in self.pairs:
                self.pairs.pop(name).kill()  # the next point starts it anew
            if "error" in answer:
                broken[name] = answer["error"]
            return answer

        for name in names:
            step(name, kind, of=of)
        for _ in range(self.options.reps):
            again = False
            while True:
                self.wait_for_quiet()
                begin = time.monotonic()
                turn = {name: step(name, "repeat", seconds=seconds, again=again) for name in names if name not in broken}
                again = any(a.get("foreign_cores", 0) > CROWDED for a in turn.values())
                if not again or self.patience <= 0:
                    break
                self.patience -= time.monotonic() - begin
            for name in set(turn) - set(broken):
                reps[name].append(turn[name])
        for name in names:
            final[name] = step(name, "finish")
        for name in names:
            if name in broken:
                self.emit(kind=kind, peer=name, **of, error=broken[name])
            else:
                yield name, reps[name], final[name]

    def wait_for_quiet(self):
        """Waits, while patience lasts, until nobody else uses the cores; all pairs are frozen."""
        while self.patience > 0:
            before = pair.busy_s()
            time.sleep(QUIET_LOOK_S)
            if pair.busy_s() - before <= CROWDED * QUIET_LOOK_S:
                return
            self.patience -= QUIET_LOOK_S

    def point(self, op, block, batch, threads):
        of = {"op": op, "block": block, "batch": batch, "threads": threads}
        shown = []
        for name, reps, final in self.in_turn(self.options.peers, "point", of, self.options.seconds):
            columns = {key: [r[key] for r in reps] for key in ("GBps", "cpu_init", "cpu_target", "foreign_cores")}
            self.emit(kind="point", peer=name, **of, **columns, **final)
            shown.append("%s %.3g" % (name, statistics.median(columns["GBps"])))
        print("%-5s %4s x %-2d%s  GB/s: %s" % (op, short(block), batch, " %d threads" % threads if threads > 1 else "",
                                             ", ".join(shown)), flush=True)

    def head_of_line(self, mode, background):
        names = [n for n in self.options.peers if n in HOL or self.options.hol == "all"]
        of = {"mode": mode, "background": background}
        shown = []
        for name, reps, final in self.in_turn(names, "hol", of, 4 * self.options.seconds):
            p50s, big = [r["p50_us"] for r in reps], [r["background_GBps"] for r in reps]
            self.emit(kind="hol", peer=name, **of, p50s_us=p50s, background_GBps=big, **final)
            shown.append("%s %.0f/%.0f us, %.2f GB/s" % (name, final["p50_us"], final["p99_us"], statistics.median(big)))
        print("64K READ beside %s (%s), p50/p99: %s" % (background or "nothing", mode, "; ".join(shown)), flush=True)

    def carried(self):
        """What our engine says went over which transport; anything but the one asked for is a failure."""
        for name in [n for n in self.pairs if n.startswith("tent-")]:
            try:
                sums = self.pairs[name].ask("carried")["carried"]
            except Dead as e:
                self.emit(kind="carried", peer=name, error=str(e))
                continue
            others = [t for t, n in sums.items() if n and t != name.split("-")[1]]
            wrong = {"error": "bytes went by another transport"} if others else {}
            self.emit(kind="carried", peer=name, bytes=sums, **wrong)

    def everything(self):
        o = self.options
        for name in o.peers:
            try:
                self.pair(name)
            except Dead as e:
                self.emit(kind="started", peer=name, error="%s; see %s" % (e, o.log))
        for threads in o.threads:
            for block, batch in o.points:
                if block * batch * threads <= o.size:
                    for op in o.ops:
                        self.point(op, block, batch, threads)
        for mode in ("async", "threads") if o.hol else ():
            for background in (None, "READ", "WRITE"):
                self.head_of_line(mode, background)
        self.carried()

    def close(self):
        for each in self.pairs.values():
            each.end()


def short(n):
    for unit in ("G", "M", "K"):
        if n % SIZES[unit] == 0:
            return "%d%s" % (n // SIZES[unit], unit)
    return str(n)


def size_of(text):
    return int(text[:-1]) * SIZES[text[-1]] if text[-1] in SIZES else int(text)


def facts(options):
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "?")
    return {"when": time.strftime("%Y-%m-%d %H:%M:%S %z"), "cpus": os.cpu_count(), "cpu": model,
            "kernel": platform.release(), "load": os.getloadavg(), "size": options.size, "reps": options.reps,
            "seconds": options.seconds, "peers": options.peers, "note": options.note}


def room_for(peers):
    """The largest buffer, 1 GiB at most, of which all processes together leave a quarter of the memory."""
    with open("/proc/meminfo") as f:
        free = next(int(line.split()[1]) * KB for line in f if line.startswith("MemAvailable"))
    size = GB
    while size > 128 * MB and 2 * peers * (size + 64 * MB) > free * 3 // 4:
        size //= 2
    return size


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few points, 2 repetitions of 0.2 s, small buffers")
    parser.add_argument("--full", action="store_true", help="every point, 5 repetitions of 0.5 s, head of line")
    parser.add_argument("--mixed", action="store_true", help="our pair, Mooncake's, and each towards the other, over TCP")
    parser.add_argument("--peers", help="of: " + ", ".join(PEERS))
    parser.add_argument("--points", help="such as 4K:1,1M:8 (block:batch)")
    parser.add_argument("--ops", default="READ,WRITE")
    parser.add_argument("--threads", default="1", help="calling threads, such as 1,2")
    parser.add_argument("--reps", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--size", help="buffer per process; default what fits")
    parser.add_argument("--hol", nargs="?", const="usual", choices=["usual", "all", "no"],
                        help="head of line: 64 KiB READs beside 64 MiB transfers")
    parser.add_argument("--patience", type=float, help="seconds in all to wait for a quiet machine and to make again "
                        "what was crowded; default 60, with --full 900")
    parser.add_argument("--out", required=True)
    parser.add_argument("--log", required=True, help="folder for what the processes print")
    parser.add_argument("--note", default="", help="kept in the results: versions, for one")
    o = parser.parse_args()
    o.peers = o.peers.split(",") if o.peers else MIXED if o.mixed else USUAL
    o.ops = o.ops.split(",")
    unknown = set(o.peers) - set(PEERS)
    if unknown:
        parser.error("no such peer: " + ", ".join(unknown))
    o.threads = [int(t) for t in o.threads.split(",")]
    o.reps = o.reps or (5 if o.full else 2)
    o.patience = o.patience if o.patience is not None else 900 if o.full else 60
    o.seconds = o.seconds or (.5 if o.full else .2)
    o.size = size_of(o.size) if o.size else min(room_for(len(o.peers)), GB if o.full else 256 * MB)
    chosen = [p.split(":") for p in o.points.split(",")] if o.points else []
    o.points = [(size_of(b), int(n)) for b, n in chosen] or ([] if o.points == "" else FULL if o.full else QUICK)
    o.hol = None if o.hol == "no" else o.hol or ("usual" if o.full else None)
    return o


def main():
    o = options()
    os.makedirs(o.log, exist_ok=True)
    run = Run(o)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run.emit(kind="run", **facts(o))
    try:
        run.everything()
    finally:
        run.close()
    print("%d failures; results: %s" % (run.failures, o.out))
    return run.failures > 0


if __name__ == "__main__":
    sys.exit(main())
