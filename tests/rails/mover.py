"""Two movers (mover.c) on the hosts of net.py, and what can be read from what they say."""
import bisect
import json
import math
import os
import pathlib
import queue
import subprocess
import tempfile
import threading
import time

from net import NAMES, address, addresses

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "rails"
MIB = 1 << 20
DEADLINE_MS = 20_000  # of a task: longer than any fault here, shorter than a scenario


class Late(Exception):
    """A mover did not answer in time."""


class Gone(Exception):
    """A mover ended."""


def build():
    """The program, compiled if its sources are newer."""
    program = BUILD / "mover"
    sources = sorted(HERE.glob("*.c"))
    needs = [*sources, *HERE.glob("*.h"), ROOT / "include" / "tent.h", ROOT / "compat" / "include" / "transfer_engine_c.h"]
    if not program.exists() or any(path.stat().st_mtime > program.stat().st_mtime for path in needs):
        BUILD.mkdir(parents=True, exist_ok=True)
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/include", f"-I{ROOT}/compat/include"]
        subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(program), "-pthread", "-ldl", "-lm"], check=True)
    return program


def clean_environment(**more):
    """The caller's, without what it may have set for engines of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TENT_", "MC_"))}
    return {**kept, **{key: str(value) for key, value in more.items()}}


class Mover:
    """One process of mover.c."""

    def __init__(self, words, environment, log):
        self.log = log
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "w"),
                                        env=environment, text=True)
        self.until = math.inf  # no answer is waited for beyond this moment (time.monotonic)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.name = self.line(20)["ready"]

    def _read(self):
        for text in self.process.stdout:
            self.lines.put(json.loads(text))
        self.lines.put(None)

    def line(self, seconds):
        """The next line that it says."""
        left = max(0.0, self.until - time.monotonic())
        try:
            line = self.lines.get(timeout=min(seconds, left))
        except queue.Empty:
            why = f"no answer within {seconds:.0f} s" if seconds < left else "the time is over"
            raise Late(why) from None
        if line is None:
            raise Gone(pathlib.Path(self.log).read_text().strip()[-600:] or f"ended with {self.process.wait()}")
        return line

    def say(self, command, **keys):
        self.process.stdin.write(" ".join([command, *(f"{key}={value}" for key, value in keys.items())]) + "\n")
        self.process.stdin.flush()

    def result(self, seconds):
        """The last line of a command's answer; those before it are under "lines"."""
        until, before = time.monotonic() + seconds, []
        while True:
            line = self.line(max(0.0, until - time.monotonic()))
            if "done" in line:
                line["lines"] = before
                return line
            before.append(line)

    def ask(self, command, seconds=30, **keys):
        self.say(command, **keys)
        return self.result(seconds)

    def end(self):
        try:
            self.say("quit")
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, ValueError, subprocess.TimeoutExpired):  # it is gone, or does not listen
            self.process.kill()
            self.process.wait()


class Pair:
    """A target on host b and an initiator on host a of `rails`, with the library of `directory`."""

    def __init__(self, rails, directory, environment=None, size=256 * MIB, names=NAMES, until=math.inf):
        self.rails, self.movers = rails, []
        self.work = tempfile.TemporaryDirectory(prefix="tent-rails-")
        library = str(pathlib.Path(directory).resolve() / "libtransfer_engine.so")
        program, control = str(build()), f"{self.work.name}/control"
        try:
            for side, role in ((1, "target"), (0, "initiator")):
                settings = {"MC_FORCE_TCP": 1, "TENT_COMPAT_STATUS": "native", "TENT_TASK_TIMEOUT_MS": DEADLINE_MS,
                            "TENT_RAIL_ADDRS": ",".join(addresses(side, len(rails.rates))), **(environment or {})}
                words = [program, library, role, names[side], control, str(size)]
                words += [self.movers[0].name] if self.movers else []
                log = f"{self.work.name}/{role}.err"
                self.movers.append(Mover(rails.exec(side, *words), clean_environment(**settings), log))
        except BaseException:
            self.close()
            raise
        for mover in self.movers:
            mover.until = until
        self.target, self.initiator = self.movers

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.close()

    def close(self):
        for mover in reversed(self.movers):
            mover.end()
        self.work.cleanup()

    def ask(self, command, seconds=30, **keys):
        return self.initiator.ask(command, seconds, **keys)

    def begin(self, command, seconds=10, **keys):
        """Starts a command that takes its time; the moment at which it began. Its result is still to be read."""
        self.initiator.say(command, **keys)
        return self.initiator.line(seconds)["begin"]

    def result(self, seconds):
        return self.initiator.result(seconds)

    def states(self):
        """The rails of the initiator, in the order of their numbers; None where a rail is not known."""
        told = self.ask("rails")["rails"] or []
        return [rail_of(told, number) for number in range(1, len(self.rails.rates) + 1)]

    def events(self, since=0):
        """What the initiator's library says of its rails' lives; None if it says nothing of the kind."""
        return self.ask("events", since=since)["events"]

    def facts(self):
        """What both ends hold: file descriptors, threads, time on the processor."""
        return [mover.ask("facts") for mover in self.movers]

    def warm_up(self, seconds=10):
        """Moves bytes until every rail is up and has carried some; whether it came to that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            before = self.states()
            for op in ("write", "read"):
                self.ask("one", seconds=60, op=op, size=16 * MIB, count=2, gap_ms=0)
            after = self.states()
            carried = [a and is_up(a) and carried_bytes(a) > carried_bytes(b) for a, b in zip(after, before)]
            if all(carried):
                return True
        return False


def rail_of(told, number):
    """The entry of tent_rails_json about a rail; it is known by the peer's address."""
    for entry in told:
        if address(1, number) in entry["rail"]:
            return entry
    return None


def is_up(entry):
    return entry.get("state", "up") == "up" and entry["up"]


def carried_bytes(entry):
    return entry["read_bytes"] + entry["write_bytes"] if entry else 0


class Series:
    """Bytes that had landed over time, as mover.c prints it: a step for each sample at which something had moved."""

    def __init__(self, samples):
        self.times = [us for us, _ in samples]
        self.bytes = [count for _, count in samples]

    def at(self, us):
        index = bisect.bisect_right(self.times, us) - 1
        return self.bytes[index] if index >= 0 else 0

    def rate(self, begin, end):
        """Bytes per second between two moments."""
        return (self.at(end) - self.at(begin)) / (end - begin) * 1e6

    def gap(self, begin, end):
        """The longest time in milliseconds in which nothing moved."""
        moves = [us for (us, now), before in zip(zip(self.times, self.bytes), [0, *self.bytes]) if now > before]
        inner = [us for us in moves if begin < us < end]
        marks = [begin, *inner, end]
        return max(b - a for a, b in zip(marks, marks[1:])) / 1000

    def settled(self, begin, end, rate, window_us=50_000, steady_us=300_000):
        """Milliseconds from `begin` until the next 50 ms bring `rate`, and the next 300 ms too; None if that does not
        come before `end`. (The 50 ms alone would not do: a stall that is still to come would not show.)"""
        moment = begin
        while moment + steady_us <= end:
            if min(self.rate(moment, moment + window_us), self.rate(moment, moment + steady_us)) >= rate:
                return (moment - begin) / 1000
            moment += 1000
        return None
