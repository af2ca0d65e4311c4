"""One peer under measurement: two processes, an initiator and the target that it spawns.

The initiator takes commands as JSON lines on stdin and answers on stdout (`sweep.py` is the other end);
the target does the same for the initiator. No measured byte uses these channels. An adapter gives a
`Side` with start, hello, connect, make and post, and calls `main`.

Offsets are the same on both sides: block i lies at i * block, modulo the size of the buffer.
"""
import argparse
import ctypes
import gc
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
FACTOR = np.uint64(0x9E3779B97F4A7C15)
# at most so many different batches are cycled: small blocks stay in the cache, on every peer alike
MAX_JOBS = 64
# untimed transfers before each repetition: the pair was frozen, so TCP's window and the caches are cold
WARM_S = 0.05
# above this a check samples; below it every byte is compared
CHECK_ALL = 64 * MB
HOL_SMALL = 64 * KB
HOL_BIG = 64 * MB
HOL_PACE_S = 0.0005
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Side:
    """One process's end: an engine and a registered buffer of `size` bytes at `addr`."""

    mutual = False  # whether the target must connect to the initiator, too

    def __init__(self, args):
        self.args, self.size = args, args.size

    def take_anonymous(self):
        """Private pages, touched: memory as an application has it."""
        pages = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = np.frombuffer(pages, dtype=np.uint8)
        self.view[::4096] = 1
        self.addr = self.view.ctypes.data

    def take_address(self, addr):
        """Memory that the engine gave."""
        self.addr = addr
        self.view = np.ctypeslib.as_array(ctypes.cast(addr, ctypes.POINTER(ctypes.c_uint8)), (self.size,))
        self.view[::4096] = 1

    def offsets(self, block, batch, start):
        count = self.size // block
        return [(start + k) % count * block for k in range(batch)]

    def carried(self):
        """What really carried the bytes, if the peer can tell."""
        return None

    def fill(self, seed, ranges, inverted):
        """The pattern that is to be moved, or what no byte of it equals: for the destination, before."""
        for at, n in chunks(ranges):
            self.view[at:at + n] = ~pattern(seed, at, n) if inverted else pattern(seed, at, n)

    def wrong_bytes(self, seed, ranges):
        return sum(int(np.count_nonzero(self.view[at:at + n] != pattern(seed, at, n))) for at, n in chunks(ranges))


def pattern(seed, at, n):
    index = np.arange(at // 8, (at + n) // 8, dtype=np.uint64)
    return (index * FACTOR + np.uint64(seed)).view(np.uint8)


def chunks(ranges):
    for at, n in ranges:
        for k in range(at, at + n, 8 * MB):
            yield k, min(8 * MB, at + n - k)


def die_with_parent():
    """For a child, before it becomes another program: a frozen process would not see its channel end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def busy_s():
    """What all cores have been busy, and what the hypervisor took away: how lonely a repetition was."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def percentile_us(seconds, q):
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1e6, 1)


class Channel:
    """JSON lines over two files."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, value):
        self.writer.write(json.dumps(value) + "\n")
        self.writer.flush()

    def receive(self):
        line = self.reader.readline()
        return json.loads(line) if line else None


class TargetDied(Exception):
    pass


class Target:
    """The initiator's handle of its target."""

    def __init__(self, args):
        script = os.path.abspath(sys.argv[0])
        if args.target:  # the other end is another peer's
            script = os.path.join(os.path.dirname(script), args.target)
        command = [sys.executable, script, "--role", "target"] + sys.argv[1:]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=die_with_parent)
        self.channel = Channel(self.process.stdout, self.process.stdin)
        self.started = self.answer()

    def answer(self):
        value = self.channel.receive()
        if value is None:
            raise TargetDied("the target died: status %s" % self.process.wait())
        return value

    def ask(self, command, **more):
        try:
            self.channel.send(dict(more, c=command))
        except BrokenPipeError:
            pass  # the answer is missing, too
        return self.answer()


def serve(side, channel):
    started = side.start(side.args.thost)
    channel.send(dict(started, hello=side.hello()))
    while (q := channel.receive()) is not None:
        answer = {}
        match q["c"]:
            case "cpu":
                answer = {"cpu": cpu_s()}
            case "fill":
                side.fill(q["seed"], q["ranges"], q["inverted"])
            case "check":
                answer = {"wrong": side.wrong_bytes(q["seed"], q["ranges"])}
            case "connect":
                side.connect(q["hello"])
        channel.send(answer)


class Point:
    """One block size, batch and operation: repetitions of back-to-back batches."""

    seed = 1000

    def __init__(self, side, target, op, block, batch, threads=1):
        self.side, self.target, self.op, self.block, self.batch = side, target, op, block, batch
        per_thread = min(MAX_JOBS, side.size // (block * batch)) // threads
        if per_thread == 0:
            raise ValueError("does not fit the buffer")
        self.jobs = [[side.make(op, block, batch, (t * per_thread + k) * batch) for k in range(per_thread)]
                     for t in range(threads)]
        self.repetitions = []
        self.wrong = self.verify()

    def verify(self):
        """Moves one batch and counts the bytes that are not as they were sent."""
        Point.seed += 1
        seed, span = Point.seed, self.block * self.batch
        ranges = [(0, span)]
        if span > CHECK_ALL:
            ranges = [(k * (span // 16), MB) for k in range(16)] + [(span - MB, MB)]
        self.side.fill(seed, ranges, inverted=self.op == "READ")
        self.target.ask("fill", seed=seed, ranges=ranges, inverted=self.op == "WRITE")
        self.jobs[0][0]()
        if self.op == "READ":
            return self.side.wrong_bytes(seed, ranges)
        return self.target.ask("check", seed=seed, ranges=ranges)["wrong"]

    def loop(self, thread, seconds, into):
        jobs, now, k = self.jobs[thread], time.perf_counter, 0
        end = now() + seconds
        while True:
            begin = now()
            jobs[k]()
            done = now()
            into.append(done - begin)
            k = (k + 1) % len(jobs)
            if done >= end:
                return

    def all_threads(self, seconds):
        lists = [[] for _ in self.jobs]
        if len(lists) == 1:
            self.loop(0, seconds, lists[0])
            return lists[0]
        failed = []

        def guarded(t):
            try:
                self.loop(t, seconds, lists[t])
            except Exception as e:
                failed.append(e)

        threads = [threading.Thread(target=guarded, args=(t,)) for t in range(len(lists))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failed:
            raise failed[0]
        return sum(lists, [])

    def repeat(self, seconds):
        self.all_threads(WARM_S)
        mine, theirs, busy, begin = cpu_s(), self.target.ask("cpu")["cpu"], busy_s(), time.perf_counter()
        taken = self.all_threads(seconds)
        wall = time.perf_counter() - begin
        mine, theirs, busy = cpu_s() - mine, self.target.ask("cpu")["cpu"] - theirs, busy_s() - busy
        self.repetitions.append(taken)
        gb = len(taken) * self.block * self.batch / 1e9
        return {"GBps": gb / wall, "cpu_init": mine / gb, "cpu_target": theirs / gb, "n": len(taken),
                "foreign_cores": max(0.0, busy - mine - theirs) / wall}

    def finish(self):
        self.wrong += self.verify()
        s = sum(self.repetitions, [])
        return {"p50_us": percentile_us(s, .5), "p99_us": percentile_us(s, .99), "p999_us": percentile_us(s, .999),
                "n": len(s), "wrong_bytes": self.wrong}


class HeadOfLine:
    """64 KiB READs, paced, alone or beside 64 MiB transfers: two kept under way through the asynchronous
    interface by the same thread ("async"), or made one after the other by a second one ("threads")."""

    def __init__(self, side, target, mode, background):
        self.target, half = target, side.size // 2 // HOL_BIG
        self.small = [side.make("READ", HOL_SMALL, 1, k) for k in range(min(512, side.size // 2 // HOL_SMALL))]
        self.posts, self.bigs = [], []
        if background and mode == "async":
            self.posts = [side.post(background, HOL_BIG, half + k) for k in range(half)]
        elif background:
            self.bigs = [side.make(background, HOL_BIG, 1, half + k) for k in range(half)]
        self.repetitions = []

    def repeat(self, seconds):
        stop, failed = threading.Event(), []
        self.done, self.live, self.posted = 0, [], 0

        def beside():
            try:
                while not stop.is_set():
                    self.bigs[self.done % len(self.bigs)]()
                    self.done += 1
            except Exception as e:
                failed.append(e)

        thread = threading.Thread(target=beside) if self.bigs else None
        if thread:
            thread.start()
            time.sleep(.2)
        mine, theirs, busy = cpu_s(), self.target.ask("cpu")["cpu"], busy_s()
        try:
            taken, wall, big = self.measure(seconds)
        finally:
            stop.set()
            if thread:
                thread.join()
        if failed:
            raise failed[0]
        mine, theirs, busy = cpu_s() - mine, self.target.ask("cpu")["cpu"] - theirs, busy_s() - busy
        self.repetitions.append(taken)
        return {"p50_us": percentile_us(taken, .5), "n": len(taken), "background_GBps": big * HOL_BIG / 1e9 / wall,
                "foreign_cores": max(0.0, busy - mine - theirs) / wall}

    def measure(self, seconds):
        taken, before, begin = [], self.done, time.perf_counter()
        while time.perf_counter() < begin + seconds:
            self.keep_two()
            start = time.perf_counter()
            self.small[len(taken) % len(self.small)]()
            taken.append(time.perf_counter() - start)
            time.sleep(HOL_PACE_S)
        wall, big = time.perf_counter() - begin, self.done - before
        while self.live:
            self.live = [poll for poll in self.live if not poll()]
        return taken, wall, big

    def keep_two(self):
        if not self.posts:
            return
        live = [poll for poll in self.live if not poll()]
        self.done += len(self.live) - len(live)
        while len(live) < 2:
            live.append(self.posts[self.posted % len(self.posts)]())
            self.posted += 1
        self.live = live

    def finish(self):
        s = sum(self.repetitions, [])
        return {"p50_us": percentile_us(s, .5), "p99_us": percentile_us(s, .99), "max_us": percentile_us(s, 1),
                "n": len(s)}


def lead(side, channel):
    args = side.args
    target = Target(args)
    started = side.start(args.ihost)
    begin = time.perf_counter()
    side.connect(target.started["hello"])
    if side.mutual:
        target.ask("connect", hello=side.hello())
    side.make("WRITE", 4 * KB, 1, 0)()
    channel.send(dict(started, first_4k_ms=round((time.perf_counter() - begin) * 1e3, 2)))
    now = None
    while (q := channel.receive()) is not None:
        answer = {}
        try:
            match q["c"]:
                case "point":
                    now = Point(side, target, **q["of"])
                case "hol":
                    now = HeadOfLine(side, target, **q["of"])
                case "repeat":
                    if q["again"]:
                        now.repetitions.pop()
                    answer = now.repeat(q["seconds"])
                case "finish":
                    answer, now = now.finish(), None
                case "carried":
                    answer = {"carried": side.carried()}
        except TargetDied as e:
            channel.send({"error": str(e), "dead": True})
            return
        except Exception as e:
            answer = {"error": "%s: %s" % (type(e).__name__, e)}
        channel.send(answer)


def main(side_of):
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", default="initiator")
    parser.add_argument("--ihost", default="127.0.0.1")
    parser.add_argument("--thost", default="127.0.0.1")
    parser.add_argument("--size", type=int, default=GB)
    parser.add_argument("--target", help="script of the target, if it is of another kind that speaks the same")
    parser.add_argument("--xport", default="tcp", help="transport, where the peer is told by an argument")
    parser.add_argument("--wait", default="spin", help="spin or block, where the peer can do both")
    parser.add_argument("--threads", type=int, default=1, help="most threads that will call at a time")
    args, rest = parser.parse_known_args()
    if rest:
        parser.error("unknown: " + " ".join(rest))
    # the libraries print to stdout; that goes to stderr, and the answers to a copy of the real one
    channel = Channel(sys.stdin, os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    gc.disable()
    (serve if args.role == "target" else lead)(side_of(args), channel)
    # no orderly end: libraries bundled with NIXL crash in their exit handlers
    os._exit(0)
