#!/usr/bin/env python3
"""Our policies, kernel MPTCP and one TCP stream over the same rails, in turn; run it by run.sh, which see.

Every contender has two hosts of its own, built alike (tests/rails/net.py), so that settings and what the kernel
remembers of one do not reach another. Only one of them moves bytes at any time.
"""
import argparse
import contextlib
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "rails"))

from bound import iperf  # noqa: E402
from mover import BUILD, MIB, Gone, Late, Mover, Pair, Series  # noqa: E402
from net import KINDS, Rails, address, device, end_by_exception, run  # noqa: E402

BULK = 64 * MIB
SIZES = ((64, 4), (4, 20))  # MiB, how many of them
OPS = ("write", "read")
RTT_S = 0.00005
PORT = "5300"
# The best that we found for MPTCP on such hosts; `run.sh --tune` shows what each setting brings.
TUNING = {
    "net.ipv4.tcp_rmem": "4096 131072 33554432",
    "net.ipv4.tcp_wmem": "4096 65536 33554432",
    "net.mptcp.stale_loss_cnt": "1",
}
SOCKET = ["cc=reno", "lowat=131072"]


class Tent:
    """The library with one of its policies."""

    def __init__(self, kind, policy, directory):
        self.rails = Rails(KINDS[kind])
        try:
            self.pair = Pair(self.rails, directory, {"TENT_SPRAY": policy}, size=160 * MIB)
        except BaseException:
            self.rails.close()
            raise

    def refresh(self):
        self.pair.warm_up()

    def say(self, command, **keys):
        self.pair.initiator.say(command, **keys)

    def line(self, seconds):
        return self.pair.initiator.line(seconds)

    def result(self, seconds):
        return self.pair.result(seconds)

    def cpu_us(self):
        return sum(fact["cpu_us"] for fact in self.pair.facts())

    def close(self):
        try:
            self.pair.close()
        finally:
            self.rails.close()


class Kernel:
    """mptcp.c: MPTCP over all rails, or one TCP stream over the largest."""

    def __init__(self, kind, protocol, tuning=None, options=None):
        self.protocol = protocol
        self.rails = Rails(KINDS[kind])
        self.work = tempfile.TemporaryDirectory(prefix="tent-rails-")
        self.movers = []
        try:
            self._configure(TUNING if tuning is None else tuning)
            words = [str(BUILD / "mptcp")]
            options = SOCKET if options is None else options
            largest = len(self.rails.rates)
            for side, role in ((1, ["serve"]), (0, ["move", address(1, largest)])):
                command = self.rails.exec(side, *words, *role, PORT, protocol, *options)
                self.movers.append(Mover(command, os.environ.copy(), f"{self.work.name}/{role[0]}.err"))
        except BaseException:
            self.close()
            raise

    def _configure(self, tuning):
        count = len(self.rails.rates)
        for side in range(2):
            for key, value in tuning.items():
                run(*self.rails.exec(side, "sysctl", "-qw", f"{key}={value}"))
            run(*self.rails.exec(side, "ip", "mptcp", "limits", "set", "subflow", "8", "add_addr_accepted", "8"))
        # the first subflow goes to the largest rail; the server announces its other addresses
        for rail in range(1, count):
            run(*self.rails.exec(1, "ip", "mptcp", "endpoint", "add", address(1, rail), "dev", device(1, rail), "signal"))

    def refresh(self):
        """A new connection, with all its subflows, that has found its pace."""
        initiator = self.movers[1]
        initiator.ask("reconnect")
        paths = len(self.rails.rates) if self.protocol == "mptcp" else 1
        until = time.monotonic() + 10
        while True:
            for op in OPS:
                initiator.ask("one", seconds=60, op=op, size=BULK, count=1)
            if initiator.ask("paths")["paths"] == paths:
                return
            if time.monotonic() > until:
                raise Late(f"MPTCP does not get its {paths} subflows")

    def say(self, command, **keys):
        self.movers[1].say(command, **keys)

    def line(self, seconds):
        return self.movers[1].line(seconds)

    def result(self, seconds):
        return self.movers[1].result(seconds)

    def cpu_us(self):
        return sum(mover.ask("facts")["cpu_us"] for mover in self.movers)

    def close(self):
        try:
            for mover in reversed(self.movers):
                mover.end()
        finally:
            self.rails.close()
            self.work.cleanup()


# ---- cases: each gives {column: value} ----

def sleep_until(us):
    time.sleep(max(0.0, us / 1e6 - time.monotonic()))


def begin(contender, command, **keys):
    contender.say(command, **keys)
    return contender.line(20)["begin"]


def checked(result):
    if result["failures"]:
        raise AssertionError(f"a transfer failed: {result['failure']}")
    return result


def streams(contender):
    """A stream of 64 MiB transfers, and what it costs."""
    found, cost, moved = {}, contender.cpu_us(), 0
    for op in OPS:
        contender.say("stream", op=op, ms=3000)
        result = checked(contender.result(60))
        series = Series(result["series"])
        found[f"{op} stream"] = series.rate(result["begin"] + 500_000, result["end"]) / contender.rails.goodput()
        moved += series.bytes[-1]
    found["cpu s/GB"] = (contender.cpu_us() - cost) / 1e6 / (moved / 1e9)
    return found


def singles(contender):
    found = {}
    for op in OPS:
        for size, count in SIZES:
            contender.say("one", op=op, size=size * MIB, count=count)
            times = [line["end"] - line["begin"] for line in checked(contender.result(60))["lines"] if "end" in line]
            least = (size * MIB - contender.rails.tokens()) / contender.rails.goodput() + RTT_S
            found[f"{op} {size} MiB"] = least * len(times) / (sum(times) / 1e6)
    return found


def hole(contender):
    """The largest rail swallows everything in the middle of a transfer of 64 MiB."""
    found, largest = {}, len(contender.rails.rates)
    for op in OPS:
        contender.refresh()
        started = begin(contender, "one", op=op, size=BULK, series=1)
        sleep_until(started + random.uniform(60_000, 200_000))
        died = contender.rails.hole(largest)
        oracle = contender.rails.goodput()
        try:
            result = checked(contender.result(20))
        finally:
            contender.rails.heal()
        series, end = Series(result["series"]), result["lines"][-1]["end"]
        if died > end - 20_000:
            continue
        found[f"{op} hole, ms more"] = (end - died) / 1000 - (BULK - series.at(died)) / oracle * 1000
        found[f"{op} hole, gap ms"] = series.gap(died, end)
    return found


def tenth(contender):
    """One of four equal rails falls to a tenth in the middle of a stream; not the one that a single stream uses."""
    found = {}
    for op in OPS:
        contender.refresh()
        started = begin(contender, "stream", op=op, ms=3000)
        sleep_until(started + 1e6)
        fell = contender.rails.rate(2, 0.1)
        oracle = contender.rails.goodput()
        try:
            result = checked(contender.result(60))
        finally:
            contender.rails.heal()
        tokens = contender.rails.tokens([2]) / (result["end"] - fell) * 1e6
        found[f"{op} tenth"] = Series(result["series"]).rate(fell, result["end"]) / (oracle + tokens)
    return found


CASES = {"unequal": (streams, singles, hole), "equal": (tenth,)}
POLICIES = ("pull", "predict2", "predict3", "round_robin", "static")


def contenders(kind, options):
    """Makers by name; iperf3 is no contender but the bound."""
    made = {f"tent {policy}": lambda policy=policy: Tent(kind, policy, options.directory) for policy in options.policies}
    made["kernel MPTCP"] = lambda: Kernel(kind, "mptcp")
    made["one TCP stream"] = lambda: Kernel(kind, "tcp")
    return made


def play(name, contender, case, values):
    """One case of one contender; what it cannot do is noted, and the others go on."""
    if case in (hole, tenth) and name == "one TCP stream":
        return True  # its only rail would be gone, or not touched
    try:
        if case in (streams, singles):
            contender.refresh()
        for column, value in case(contender).items():
            values.setdefault((name, column), []).append(value)
        return True
    except (Late, Gone, AssertionError) as why:
        print(f"  {name}, {case.__name__}: {why}", file=sys.stderr, flush=True)
        for column in COLUMNS[case]:
            values.setdefault((name, column), []).append(math.nan)
        return not isinstance(why, (Late, Gone))


COLUMNS = {
    streams: [*(f"{op} stream" for op in OPS), "cpu s/GB"],
    singles: [f"{op} {size} MiB" for op in OPS for size, _ in SIZES],
    hole: [f"{op} hole, {what}" for op in OPS for what in ("ms more", "gap ms")],
    tenth: [f"{op} tenth" for op in OPS],
}


def rounds(makers, cases, options, values, after=lambda case, present: None):
    """Every case of every contender in turn, `reps` times. A contender that is stuck is made anew."""
    with contextlib.ExitStack() as all_made:
        def make(name):
            made = makers[name]()
            all_made.callback(made.close)
            return made

        present = {name: make(name) for name in makers}
        for turn in range(options.reps):
            for case in cases:
                for name in makers:
                    if not play(name, present[name], case, values):
                        present[name].close()
                        present[name] = make(name)
                after(case, present)
            print(f"  {turn + 1}/{options.reps}", file=sys.stderr, flush=True)


def compare(options):
    values = {}

    def measure_bound(case, present):
        if case is streams:
            bound(present["kernel MPTCP"].rails, values)

    for kind in KINDS:
        rounds(contenders(kind, options), CASES[kind], options, values, measure_bound)
    return values


def bound(rails, values):
    costs = []
    for op in OPS:
        rate, cost = iperf(rails, op == "read", seconds=3)
        values.setdefault(("iperf3 on each rail", f"{op} stream"), []).append(rate / rails.goodput())
        costs.append(cost)
    values.setdefault(("iperf3 on each rail", "cpu s/GB"), []).append(statistics.mean(costs))


def cell(values):
    good = [value for value in values if not math.isnan(value)]
    failed = f" {len(values) - len(good)} failed" if len(good) < len(values) else ""
    if not good:
        return failed.strip() or "-"
    digits = 0 if max(good) >= 20 else 3 if max(good) < 1.5 else 2
    return f"{statistics.median(good):.{digits}f} ({min(good):.{digits}f}-{max(good):.{digits}f}){failed}"


def markdown(values, options):
    names = [*(f"tent {policy}" for policy in options.policies), "kernel MPTCP", "one TCP stream", "iperf3 on each rail"]
    columns = [column for case in (streams, singles, tenth, hole) for column in COLUMNS[case]]
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {column} | " + " | ".join(cell(values.get((name, column), [])) for name in names) + " |" for column in columns]
    return "\n".join(lines)


# ---- what tuning brings to MPTCP ----

def tune(options):
    buffers = {key: TUNING[key] for key in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")}
    stale, rto = {"net.mptcp.stale_loss_cnt": "1"}, {"net.ipv4.tcp_rto_min_us": "10000"}
    trials = {
        "as installed (cubic)": ({}, []),
        "buffers up to 32 MiB": (buffers, []),
        "buffers, bbr": (buffers, ["cc=bbr"]),
        "reno": ({}, ["cc=reno"]),
        "buffers, reno": (buffers, ["cc=reno"]),
        "buffers of 16 MiB, reno": (buffers, ["cc=reno", "sndbuf=16777216", "rcvbuf=16777216"]),
        "buffers, reno, lowat 128 KiB": (buffers, ["cc=reno", "lowat=131072"]),
        "buffers, reno, stale after 1": ({**buffers, **stale}, ["cc=reno"]),
        "buffers, reno, RTO from 10 ms": ({**buffers, **rto}, ["cc=reno"]),
        "buffers, reno, lowat, stale after 1": (TUNING, SOCKET),
        "the same, RTO from 10 ms": ({**TUNING, **rto}, SOCKET),
    }
    values = {}
    makers = {name: lambda t=t, o=o: Kernel("unequal", "mptcp", t, o) for name, (t, o) in trials.items()}
    rounds(makers, (streams, singles, hole), options, values)
    columns = [column for case in (streams, singles, hole) for column in COLUMNS[case]]
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {name} | " + " | ".join(cell(values.get((name, column), [])) for column in columns) + " |" for name in trials]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", help="holds libtransfer_engine.so")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--policies", type=lambda text: text.split(","), default=list(POLICIES), help="separated by commas")
    parser.add_argument("--tune", action="store_true", help="instead: MPTCP with one setting after the other")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the table, as Markdown")
    options = parser.parse_args()
    end_by_exception()
    BUILD.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, str(HERE / "mptcp.c"), "-o", str(BUILD / "mptcp")], check=True)
    text = tune(options) if options.tune else markdown(compare(options), options)
    options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
