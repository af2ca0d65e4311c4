"""The targets M1 to M9 and M18, each beside its bound, in one table; and the watch for false alarms.

The bound is computed from what the token buckets let through (Rails.goodput: the payload part of their rates), and for
M1 measured as well. Times are those of the initiator's C API; series are sampled every millisecond.
"""
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

from bound import iperf
from mover import MIB, Gone, Late, Pair, Series, rail_of
from net import KINDS, Rails
from storm import Storm

OPS = ("write", "read")
BULK = 64 * MIB


@dataclass
class Row:
    """One line of the table. `better`: high or low; `stat`: which figure of the values counts."""
    target: str
    what: str
    values: list
    hold: float
    aim: float
    better: str = "high"
    stat: str = "median"
    unit: str = ""
    note: str = ""
    failed: str = ""

    def value(self):
        if self.stat == "p99":
            return sorted(self.values)[math.ceil(len(self.values) * 0.99) - 1]
        return statistics.median(self.values) if self.stat == "median" else sum(self.values)

    def ok(self):
        """The figure holds, and so does the worst repetition but for 5 % of the hold."""
        if self.failed or not self.values:
            return False
        if self.better == "high":
            return self.value() >= self.hold and min(self.values) >= self.hold * 0.95
        return self.value() <= self.hold and (self.stat == "p99" or max(self.values) <= self.hold * 1.05)

    def aimed(self):
        return self.ok() and (self.value() >= self.aim if self.better == "high" else self.value() <= self.aim)

    def cells(self):
        digits = 3 if self.better == "high" or not self.unit else 1
        if self.values:
            spread = f"({min(self.values):.{digits}f}-{max(self.values):.{digits}f}, n={len(self.values)})"
            shown = f"{self.value():.{digits}f}{self.unit} {spread}"
        else:
            shown = "-"
        sign = ">=" if self.better == "high" else "<="
        goal = f"{sign} {self.hold:g} / {self.aim:g}"
        verdict = "aim" if self.aimed() else "yes" if self.ok() else "NO"
        return [self.target, self.what, shown, goal, verdict, self.failed or self.note]


def table(rows):
    lines = [["", "what", "median (min-max)", "hold / aim", "ok", ""], *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths)), line[5]]).rstrip()
                     for line in lines)


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def stream(pair, op, ms, **keys):
    """A stream that nothing happens to: (its result, its series)."""
    result = pair.ask("stream", seconds=ms / 1000 + 40, op=op, ms=ms, **keys)
    return result, Series(result["series"])


def steady(result, series, skip_ms=500):
    """Bytes per second when the stream has found its pace."""
    return series.rate(result["begin"] + skip_ms * 1000, result["end"])


def failures_of(results):
    count = sum(result["failures"] for result in results)
    first = next((result["failure"] for result in results if result["failures"]), "")
    return f"{count} transfers failed: {first}" if count else ""


# ---- M1, M2: the sum of the rails ----

def m1(pair, options):
    """A long stream over four unequal rails; the same by iperf3, one process per rail, in turn with it."""
    rows = []
    shares, costs, theirs, their_costs, results = ({op: [] for op in OPS} for _ in range(5))
    for turn in range(options.reps):
        for op in OPS:
            before = pair.facts()
            result, series = stream(pair, op, options.stream_ms)
            after = pair.facts()
            cpu = sum(b["cpu_us"] - a["cpu_us"] for a, b in zip(before, after)) / 1e6
            shares[op].append(steady(result, series) / pair.rails.goodput())
            costs[op].append(cpu / (series.bytes[-1] / 1e9))
            results[op].append(result)
            rate, cost = iperf(pair.rails, op == "read")
            theirs[op].append(rate / pair.rails.goodput())
            their_costs[op].append(cost)
        say(f"M1 {turn + 1}/{options.reps}: " + ", ".join(f"{op} {shares[op][-1]:.3f}" for op in OPS))
    for op in OPS:
        note = (f"iperf3 {statistics.median(theirs[op]):.3f}; processor s/GB {statistics.median(costs[op]):.2f}, "
                f"iperf3 {statistics.median(their_costs[op]):.2f}")
        rows.append(Row("M1", f"100/200/400/800 {op.upper()} / payload limit", shares[op], 0.985, 0.995, note=note,
                        failed=failures_of(results[op])))
    return rows


SIZES = ((64, 0.97, 0.99, 6), (16, 0.95, 0.98, 12), (4, 0.88, 0.95, 30), (1, 0.70, 0.90, 60))


def m2(pair, options):
    """Single requests: the least time they can take (what full buckets let through at once taken off) / the time."""
    values, results = {}, []
    for turn in range(options.reps):
        for op in OPS:
            for size, *_, count in SIZES:
                result = pair.ask("one", seconds=60, op=op, size=size * MIB, count=count)
                times = [line["end"] - line["begin"] for line in result["lines"] if "end" in line]
                least = (size * MIB - pair.rails.tokens()) / pair.rails.goodput() + RTT_S
                values.setdefault((op, size), []).append(least * len(times) / (sum(times) / 1e6) if times else 0.0)
                results.append(result)
        say(f"M2 {turn + 1}/{options.reps}: " + ", ".join(f"{values['write', size][-1]:.3f}" for size, *_ in SIZES))
    failed = failures_of(results)
    return [Row("M2", f"single {size} MiB {op.upper()}: bound / time", values[op, size], hold, aim, failed=failed)
            for op in OPS for size, hold, aim, _ in SIZES]


# ---- M3, M4: rates that change ----

def m3(pair, options):
    """One of four equal rails falls to a tenth in the middle of a stream."""
    shares, settled, results = [], [], []
    for turn in range(options.reps * 2):
        op, rail = OPS[turn % 2], 1 + turn % 4
        begin = pair.begin("stream", op=op, ms=2500)
        sleep_until(begin + 1e6)
        fell = pair.rails.rate(rail, 0.1)
        result = pair.result(60)
        series, oracle = Series(result["series"]), pair.rails.goodput()
        tokens = pair.rails.tokens([rail]) / (result["end"] - fell) * 1e6
        shares.append(series.rate(fell, result["end"]) / (oracle + tokens))
        settled.append(or_never(series.settled(fell, result["end"], 0.9 * oracle)))
        results.append(result)
        pair.rails.heal()
        pair.warm_up(5)
        say(f"M3 {turn + 1}/{options.reps * 2}: {shares[-1]:.3f}, settled in {settled[-1]:.0f} ms")
    failed = failures_of(results)
    return [Row("M3", "400x4, one to a tenth: goodput after it / oracle", shares, 0.95, 0.98, failed=failed),
            Row("M3", "settled at 0.9 of the oracle", settled, 100, 50, "low", unit=" ms", failed=failed)]


def m4(pair, options):
    """Every 200 ms each rail gets a new rate between all and a tenth of what it had at first."""
    shares, results = [], []
    for turn in range(options.reps):
        chance = random.Random(turn)
        begin = pair.begin("stream", op=OPS[turn % 2], ms=int(options.weather_s * 1000))
        sleep_until(begin + 500_000)
        first, could, moment = None, 0.0, begin + 500_000
        while moment < begin + options.weather_s * 1e6 - 200_000:
            for rail in range(1, len(pair.rails.rates) + 1):
                last_rate, last = pair.rails.goodput([rail]), pair.rails.rate(rail, chance.uniform(0.1, 1.0))
                if first is None:
                    first, since = last, [last] * len(pair.rails.rates)
                could += last_rate * (last - since[rail - 1]) / 1e6 + pair.rails.tokens([rail])
                since[rail - 1] = last
            moment += 200_000
            sleep_until(moment)
        last = time.monotonic_ns() / 1000
        could += sum(pair.rails.goodput([rail]) * (last - since[rail - 1]) / 1e6 for rail in range(1, len(since) + 1))
        result = pair.result(60)
        series = Series(result["series"])
        shares.append((series.at(last) - series.at(first)) / could)
        results.append(result)
        pair.rails.heal()
        say(f"M4 {turn + 1}/{options.reps}: {shares[-1]:.3f}")
    return [Row("M4", f"random weather, {options.weather_s:g} s: goodput / integral of the limits", shares, 0.93, 0.97,
                failed=failures_of(results))]


# ---- M5, M6, M8: rails that die ----

@dataclass
class Deaths:
    """What became of transfers of 64 MiB during which a rail died."""
    extra_ms: list = field(default_factory=list)
    gap_ms: list = field(default_factory=list)
    resent: list = field(default_factory=list)  # bytes sent twice / bytes that were in flight on the rail
    healthy_ms: list = field(default_factory=list)  # what a transfer without a fault takes beyond the same bound
    late: int = 0  # rails that did not come back within 10 s
    failed: str = ""


def deaths(pair, count, name, kill, seed):
    """`kill(rail)` in the middle of a transfer, `count` times, each time another rail in turn. The oracle uses all rails
    that are sound afterwards, from that moment on."""
    found, chance, rails, missed = Deaths(), random.Random(seed), pair.rails, 0
    while len(found.extra_ms) < count and not found.failed:
        turn = len(found.extra_ms)
        rail, op = 1 + turn % len(rails.rates), OPS[turn // len(rails.rates) % 2]
        if not pair.warm_up():
            found.late += 1
            if found.late > 3:
                found.failed = "rails do not come back"
        found.healthy_ms.append(undisturbed(pair, op))
        before = pair.states()[rail - 1] or {}
        pair.initiator.say("one", op=op, size=BULK, series=1, rails_ms=5)
        begin = pair.initiator.line(10)["begin"]
        sleep_until(begin + chance.uniform(60_000, 220_000))
        died = kill(rail)
        result = pair.result(60)
        oracle = rails.goodput()
        rails.heal()
        found.failed = found.failed or failures_of([result])
        end, series = result["lines"][-1]["end"], Series(result["series"])
        if died > end - 20_000:
            missed += 1
            if missed > count:
                found.failed = "the faults come too late"
            continue
        after = pair.states()[rail - 1] or {}
        found.extra_ms.append((end - died) / 1000 - (BULK - series.at(died)) / oracle * 1000)
        found.gap_ms.append(series.gap(died, end))
        resent = resent_share(result, rail, died, before, after)
        found.resent += [] if resent is None else [resent]
        say(f"{name} {turn + 1}/{count}: rail {rail} {op}: {found.extra_ms[-1]:.1f} ms more, gap {found.gap_ms[-1]:.1f} ms")
    return found


def undisturbed(pair, op):
    """How many ms a transfer of 64 MiB without any fault takes beyond the bound."""
    line = pair.ask("one", seconds=60, op=op, size=BULK)["lines"][-1]
    return (line.get("end", math.inf) - line["begin"]) / 1000 - BULK / pair.rails.goodput() * 1000


def resent_share(result, rail, died, before, after):
    """Bytes of the rail that were sent again / the most that it had in flight when it died; None if not told."""
    if "retried_bytes" not in after:
        return None
    looks = [(us, rail_of(told, rail)) for us, told in result["looks"] if told]
    near = [entry["in_flight_bytes"] for us, entry in looks if entry and died - 11_000 <= us <= died + 11_000]
    again = after["retried_bytes"] - before.get("retried_bytes", 0)
    return again / max(near) if near and max(near) else None


def m5(pair, options):
    """A rail swallows everything, silently, in the middle of a transfer."""
    found = deaths(pair, options.faults, "M5", pair.rails.hole, seed=5)
    note = f"a transfer without a fault takes {statistics.median(found.healthy_ms or [0]):.1f} ms more than the bound"
    if found.late:
        note += f"; {found.late} times a rail was not back within 10 s"
    rows = [Row("M5", "silent death: p99 of extra time / oracle", found.extra_ms, 50, 25, "low", "p99", " ms", note, found.failed),
            Row("M5", "silent death: p99 of the longest gap", found.gap_ms, 20, 20, "low", "p99", " ms", "", found.failed)]
    told = found.failed or ("" if found.resent else "the library does not tell resent bytes")
    return [*rows, Row("M8", "bytes sent again / in flight on the dead rail", found.resent, 1.0, 0.5, "low", "p99", failed=told)]


def m6(pair, options):
    """A rail dies with a word: its carrier goes, or its connections are reset."""
    rows, count = [], max(4, options.faults // 2)
    rails = pair.rails
    kinds = (("link down here", lambda rail: rails.link(rail, False, 0)),
             ("link down there", lambda rail: rails.link(rail, False, 1)),
             ("RST, rail sound", rails.reset))
    for what, kill in kinds:
        found = deaths(pair, count, f"M6 {what}", kill, seed=6)
        note = f"without a fault {statistics.median(found.healthy_ms or [0]):.1f} ms"
        rows.append(Row("M6", f"{what}: p99 of extra time / oracle", found.extra_ms, 10, 5, "low", "p99", " ms", note, found.failed))
    return rows


# ---- M7: rails that come back ----

def m7(pair, options):
    """The largest rail is a hole for 1.5 s in a stream."""
    back, ratio, results = [], [], []
    for turn in range(options.reps):
        check_warm(pair)
        begin = pair.begin("stream", op=OPS[turn % 2], ms=5000)
        sleep_until(begin + 1.5e6)
        died = pair.rails.hole(4)
        sleep_until(died + 1.5e6)
        healed = pair.rails.heal()
        result = pair.result(60)
        series = Series(result["series"])
        before = series.rate(begin + 500_000, died)
        back.append(or_never(series.settled(healed, result["end"], 0.9 * before)))
        ratio.append(series.rate(healed + 1e6, result["end"]) / before)
        results.append(result)
        say(f"M7 {turn + 1}/{options.reps}: back in {back[-1]:.0f} ms, steady {ratio[-1]:.3f}")
    failed = failures_of(results)
    return [Row("M7", "after heal: 0.9 of the goodput before", back, 150, 60, "low", unit=" ms", failed=failed),
            Row("M7", "steady goodput after / before", ratio, 0.98, 0.99, failed=failed)]


def m7_flap(pair, options):
    """A rail goes and comes every second."""
    rows = []
    kinds = (("link", lambda on: pair.rails.link(2, not on)), ("hole", lambda on: pair.rails.hole(2, on)))
    for kind, act in kinds:
        shares, results = [], []
        for turn in range(min(3, options.reps)):
            check_warm(pair)
            begin = pair.begin("stream", op=OPS[turn % 2], ms=int(options.flap_s * 1000) + 1200)
            sleep_until(begin + 1e6)
            could, first, last = 0.0, None, None
            for half in range(int(options.flap_s * 2)):
                rate, moment = pair.rails.goodput(), act(half % 2 == 0)
                first = first or moment
                could += rate * (moment - last) / 1e6 if last else 0
                last = moment
                sleep_until(begin + 1e6 + (half + 1) * 500_000)
            result = pair.result(90)
            series = Series(result["series"])
            shares.append((series.at(last) - series.at(first)) / could)
            results.append(result)
            pair.rails.heal()
            say(f"M7 flap by {kind} {turn + 1}: {shares[-1]:.3f}")
        rows.append(Row("M7", f"400x4, one flaps at 1 Hz ({kind}), {options.flap_s:g} s / oracle", shares, 0.92, 0.95,
                        failed=failures_of(results)))
    return rows


# ---- M9, M18 ----

def m9(pair, options):
    """16 KiB at 1000 per second, whoever is late, beside transfers of 64 MiB and alone."""
    ratios, kept, idle_us, beside_us, results = [], [], [], [], []
    for turn in range(options.reps):
        op = OPS[turn % 2]
        idle = pair.ask("mice", seconds=60, op=op, ms=3000)
        bulk, alone = stream(pair, op, 2500)
        both, series = stream(pair, op, 4000, mice=1000)
        # the mice are there from a quarter of the time to a sixteenth before its end
        begin, end = both["begin"] + 1_100_000, both["end"] - 300_000
        room = steady(bulk, alone) - 16384 * 1000
        idle_us.append(idle["mice"]["p99"])
        beside_us.append(both["mice"]["p99"])
        ratios.append(beside_us[-1] / idle_us[-1])
        kept.append(series.rate(begin, end) / room)
        results += [idle, bulk, both]
        say(f"M9 {turn + 1}/{options.reps} {op}: p99 {idle_us[-1]:.0f} us, beside {beside_us[-1]:.0f} us, bulk {kept[-1]:.3f}")
    failed = failures_of(results)
    note = f"p99 alone {statistics.median(idle_us):.0f} us, beside {statistics.median(beside_us):.0f} us"
    return [Row("M9", "16 KiB beside 64 MiB: p99 / p99 alone", ratios, 3, 2, "low", note=note, failed=failed),
            Row("M9", "bulk keeps, of what the mice leave", kept, 0.97, 0.97, failed=failed)]


def m18(pair, options):
    """Random transfers in random weather: every byte checked, every place looked at again later."""
    pair.warm_up()
    before = pair.facts()
    pair.begin("churn", count=options.transfers, seed=options.seed, max=8 * MIB, workers=4)
    weather = Storm(pair.rails, options.seed)
    seconds = 60 + options.transfers * 0.2
    result = weather.beside(pair.initiator, seconds)
    time.sleep(2.5)
    settled = pair.ask("settle", seconds=120)
    back = pair.warm_up()
    # a connection whose end was swallowed is asked after by its kernel after ten seconds
    for _ in range(60):
        now = pair.facts()
        leaks = [f"{end} {b[key] - a[key]} {key}" for end, a, b in zip(("target", "initiator"), before, now)
                 for key in ("fds", "threads") if b[key] > a[key]]
        if not leaks:
            break
        time.sleep(0.25)
    if not back:
        leaks.append("a rail that does not come back")
    note = f"{result['transfers']} transfers, {result['bytes'] / 1e9:.1f} GB, {weather.faults} faults, seed {options.seed}"
    wanted = (("wrong bytes", result["wrong_bytes"] + result["spilt_bytes"]), ("failures seen", result["failures"]),
              ("bytes that landed late", settled["late_bytes"]), ("leaks: descriptors, threads", len(leaks)))
    why = {"failures seen": result["failure"], "leaks: descriptors, threads": ", ".join(leaks)}
    return [Row("M18", what, [float(count)], 0, 0, "low", "sum", note=why.get(what) or note) for what, count in wanted]


# ---- false alarms ----

BUSY = "while True: pass"


def watch(options):
    """Streams with both cores busy besides; whether no rail went down."""
    say(f"{options.calm:g} minutes with a busy loop on each core")
    with Rails(KINDS["unequal"]) as rails, Pair(rails, options.directory, options.environment) as pair:
        pair.warm_up()
        pair.ask("stream", seconds=60, ms=500)
        first = pair.states()
        seen = max((event["seq"] for event in pair.events() or []), default=0)
        loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count())]
        alarms, told, failures, moved = [], {}, 0, 0
        until, turn = time.monotonic() + options.calm * 60, 0
        try:
            while time.monotonic() < until:
                left = until - time.monotonic()
                result, series = stream(pair, OPS[turn % 2], int(max(500, min(10, left) * 1000)))
                failures, moved, turn = failures + result["failures"], moved + series.bytes[-1], turn + 1
                for event in pair.events(seen) or []:
                    seen = event["seq"]
                    told[event["event"]] = told.get(event["event"], 0) + 1
                    if event["event"] == "down":
                        alarms.append(event)
                        say(f"down: {event}")
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        last = pair.states()
    downs = [b.get("downs", 0) - a.get("downs", 0) if a and b else 1 for a, b in zip(first, last)]
    unknown = not any(b and "downs" in b for b in last)
    wrong = len(alarms) or sum(downs) or failures or not all(b and b["up"] for b in last)
    say(f"{moved / 1e9:.1f} GB; events {told or 'none told'}; downs {downs}; {failures} transfers failed")
    print(f"false alarms in {options.calm:g} minutes: {'not told by this library: NO' if unknown else sum(downs)}"
          f" {'' if unknown else 'NO' if wrong else 'ok'}")
    return not wrong and not unknown


# ---- the run ----

def check_warm(pair):
    if not pair.warm_up():
        raise AssertionError("rails do not come back within 10 s")


def or_never(ms):
    return NEVER_MS if ms is None else ms


def sleep_until(us):
    time.sleep(max(0.0, us / 1e6 - time.monotonic()))


TARGETS = {"M1": [(m1, "unequal")], "M2": [(m2, "unequal")], "M3": [(m3, "equal")], "M4": [(m4, "unequal")],
           "M5": [(m5, "unequal")], "M6": [(m6, "unequal")], "M7": [(m7, "unequal"), (m7_flap, "equal")],
           "M9": [(m9, "unequal")], "M18": [(m18, "unequal")]}
NEVER_MS = 9999.0
RTT_S = 0.00005  # a byte there and back over idle rails, by sockets


def add_options(parser):
    group = parser.add_argument_group("measuring")
    group.add_argument("--measure", action="store_true")
    group.add_argument("--quick", action="store_true", help="few repetitions, about three minutes")
    group.add_argument("--reps", type=int, default=7)
    group.add_argument("--faults", type=int, default=52, help="of M5; M6 has half as many of each kind")
    group.add_argument("--transfers", type=int, default=10_000, help="of M18")
    group.add_argument("--seed", type=int, default=18, help="of M18")
    group.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for both movers, such as TENT_SPRAY=static")
    group.add_argument("--json", metavar="FILE", help="all values")


def run(options, only):
    options.environment = dict(word.split("=", 1) for word in options.env)
    options.stream_ms, options.weather_s, options.flap_s = 4000, 30.0, 20.0
    if options.quick:
        options.reps, options.faults, options.transfers = 2, 8, 500
        options.stream_ms, options.weather_s, options.flap_s = 2000, 8.0, 6.0
    if options.calm:
        return watch(options)
    only = ["M5" if name == "M8" else name for name in only]  # the same faults
    rows = []
    for target, parts in TARGETS.items():
        if only and target not in only:
            continue
        for part, kind in parts:
            rows += run_part(part, kind, target, options)
    print(table(rows))
    if options.json:
        with open(options.json, "w") as out:
            json.dump([{**vars(row), "ok": row.ok(), "aimed": row.aimed()} for row in rows], out, indent=1)
    missed = sum(not row.ok() for row in rows)
    print(f"rails.py: {len(rows) - missed} of {len(rows)} hold, {sum(row.aimed() for row in rows)} reach the aim")
    return missed == 0


def run_part(part, kind, target, options):
    """The rows of a part; one that says why, if it could not be measured."""
    before = processor_s()
    try:
        with Rails(KINDS[kind]) as rails, Pair(rails, options.directory, options.environment, size=512 * MIB) as pair:
            pair.warm_up()
            rows = part(pair, options)
    except (AssertionError, Late, Gone, RuntimeError) as why:
        say(f"{target}: {why}")
        rows = [Row(target, (part.__doc__ or "").splitlines()[0], [], 0, 0, failed=str(why))]
    spent, ours = (b - a for a, b in zip(before[:2], processor_s()[:2]))
    others = max(0.0, spent - ours) / (time.monotonic() - before[2]) / os.cpu_count()
    for row in rows if others > 0.03 else []:
        row.note = "; ".join(filter(None, [row.note, f"other programs took {others:.0%} of the machine meanwhile"]))
    return rows


def processor_s():
    """Processor seconds of all processes of this machine, and of this one and the children that have ended; and now."""
    with open("/proc/stat") as stat:
        user, nice, system = map(int, stat.readline().split()[1:4])
    ours = sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return (user + nice + system) / os.sysconf("SC_CLK_TCK"), ours, time.monotonic()
