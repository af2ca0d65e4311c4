#!/usr/bin/env python3
"""The library over real rails that break: two hosts made of name spaces, four links, and weather (net.py).

    rails.py DIR                     facts, in about a minute: right bytes, no failure, nothing lands late
    rails.py DIR --only hole,drain   only these scenarios
    rails.py DIR --measure           the targets M1 to M9 and M18 in one table; see measure.py --help for its options
    rails.py DIR --calm 10           both cores busy for 10 minutes: no rail may go down

DIR holds libtransfer_engine.so. As root, on a machine that has little else to do. Ends with 0 if all was right.
A scenario asserts what must be true in any timing; how fast it is, only --measure says.
"""
import argparse
import sys
import time
import traceback

import measure
from mover import MIB, Gone, Late, Pair, carried_bytes
from net import KINDS, NAMES, Rails, address, end_by_exception
from storm import Storm

SCENARIOS = {}


def scenario(seconds, rails="unequal", names=NAMES, late=None):
    """Registers a scenario: a function of a pair of hosts with their movers, which has to end in that time.
    The link of rail `late` is down at first."""
    def register(function):
        SCENARIOS[function.__name__] = (function, seconds, rails, names, late)
        return function
    return register


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def check_churn(pair, result, complete=True):
    """Every byte right, every transfer completed, and nothing changed afterwards."""
    time.sleep(1.0)  # what is under way somewhere has the time to land late
    result = {**result, **{key: value for key, value in pair.ask("settle").items() if key == "late_bytes"}}
    for key in ("wrong_bytes", "spilt_bytes", "late_bytes"):
        check(result[key] == 0, f"{result[key]} {key.replace('_', ' ')}")
    if complete:
        check(result["failures"] == 0, f"{result['failures']} transfers failed: {result['failure']}")
    return result


def check_carried(before, after, wanted=None):
    """The rails of these numbers (all) have carried bytes meanwhile."""
    for number, (a, b) in enumerate(zip(before, after), 1):
        if wanted is None or number in wanted:
            check(carried_bytes(b) > carried_bytes(a), f"rail {number} carried nothing")


def check_events(pair, rail, wanted, since=0):
    """The library told of these events of a rail, in this order, others between them."""
    told = pair.events(since)
    check(told is not None, "the library tells no events")
    names = [event["event"] for event in told if address(1, rail) in event["rail"]]
    rest = iter(names)
    check(all(name in rest for name in wanted), f"rail {rail}: not {' '.join(wanted)} but {' '.join(names) or 'nothing'}")


def last_event(pair):
    return max((event["seq"] for event in pair.events() or []), default=0)


def wait_until_up(pair, rail, seconds=5):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        state = pair.states()[rail - 1]
        if state and state["up"] and state.get("state", "up") == "up":
            return
        time.sleep(0.05)
        pair.ask("one", seconds=30, op="write", size=4 * MIB)
    raise AssertionError(f"rail {rail} is not up again after {seconds} s: {pair.states()[rail - 1]}")


@scenario(20)
def calm(pair):
    """Nothing happens: every rail carries bytes, every byte is right; and the checker sees a byte that is not."""
    pair.warm_up()
    before = pair.states()
    pair.begin("churn", count=200, seed=1)
    result = pair.result(15)
    check_carried(before, pair.states())
    check_churn(pair, result)
    pair.begin("churn", count=20, seed=2)
    pair.result(15)
    check(pair.ask("spoil")["bytes"] == 1, "nothing to spoil")
    check(pair.ask("settle")["late_bytes"] == 1, "the checker did not see a byte that changed")


def broken(pair, rail, breaks, events, back):
    """A rail breaks under load and heals: the others carry on, and it comes back."""
    check(pair.warm_up(), "the rails do not come up")
    since = last_event(pair)
    pair.begin("churn", count=400, seed=rail, max=8 * MIB)
    time.sleep(0.3)
    breaks()
    result = pair.result(30)
    pair.rails.heal()
    check_churn(pair, result)
    wait_until_up(pair, rail)
    before = pair.states()
    pair.ask("stream", seconds=30, ms=500)
    check_carried(before, pair.states(), [rail])
    check_events(pair, rail, [*events, *back], since)


@scenario(25)
def hole(pair):
    """A rail swallows everything, at both ends, without a word."""
    broken(pair, 4, lambda: pair.rails.hole(4), ["suspect", "down"], ["probing", "up"])


@scenario(25, names=(address(0, 4), address(1, 4)))
def hole_of_the_name(pair):
    """The same rail is the one by which the peers know and call each other."""
    broken(pair, 4, lambda: pair.rails.hole(4), ["suspect", "down"], ["up"])


@scenario(25)
def link_here(pair):
    """The initiator's end of a rail is switched off."""
    broken(pair, 3, lambda: pair.rails.link(3, False, 0), ["down"], ["up"])


@scenario(25)
def link_there(pair):
    """The target's end of a rail is switched off: here only the carrier is gone."""
    broken(pair, 4, lambda: pair.rails.link(4, False, 1), ["down"], ["up"])


@scenario(25)
def reset(pair):
    """The connections of a sound rail are ended with RST, again and again, at either end."""
    check(pair.warm_up(), "the rails do not come up")
    pair.begin("churn", count=400, seed=7, max=8 * MIB)
    for turn in range(10):
        time.sleep(0.1)
        pair.rails.reset(1 + turn % 4, turn % 2)
    check_churn(pair, pair.result(30))
    before = pair.states()
    pair.ask("stream", seconds=30, ms=500)
    check_carried(before, pair.states())


@scenario(25, "equal")
def slow(pair):
    """A rail falls to a tenth: it may be late, but it is not wrong, and its share shrinks."""
    check(pair.warm_up(), "the rails do not come up")
    pair.rails.rate(2, 0.1)
    pair.begin("churn", count=200, seed=3, max=8 * MIB)
    check_churn(pair, pair.result(30))
    before = pair.states()
    pair.ask("stream", seconds=30, ms=1500)
    moved = [carried_bytes(b) - carried_bytes(a) for a, b in zip(before, pair.states())]
    check(moved[1] * 2 < min(moved[0], *moved[2:]), f"the slow rail carried {moved[1]} of {sum(moved)} bytes")


@scenario(40)
def storm(pair):
    """Random weather; one transfer of twenty is canceled. Nothing is left behind."""
    check(pair.warm_up(), "the rails do not come up")
    before = pair.facts()
    pair.begin("churn", count=4000, seed=11, max=2 * MIB, cancel=5)
    weather = Storm(pair.rails, seed=11, pause_s=0.08)
    result = weather.beside(pair.initiator, 35)
    check(weather.faults > 10, f"only {weather.faults} faults")
    check_churn(pair, result)
    check(pair.warm_up(), "the rails do not come back")
    check_no_leak(pair, before)


def check_no_leak(pair, before, seconds=14):
    """Descriptors and threads of both ends are again as many as before, soon."""
    until = time.monotonic() + seconds
    while True:
        now = pair.facts()
        more = [f"{end} holds {b[key] - a[key]} more {key}" for end, a, b in zip(("target", "initiator"), before, now)
                for key in ("fds", "threads") if b[key] > a[key]]
        if not more:
            return
        check(time.monotonic() < until, "; ".join(more))
        time.sleep(0.25)


@scenario(25)
def all_dead(pair):
    """Every rail is silent for a second. Whatever the transfers then come to, none is wrong and none lands late; and
    when the rails are back, so are the transfers."""
    check(pair.warm_up(), "the rails do not come up")
    pair.begin("churn", count=300, seed=5, max=8 * MIB)
    time.sleep(0.3)
    for rail in range(1, 5):
        pair.rails.hole(rail)
    time.sleep(1.0)
    pair.rails.heal()
    check_churn(pair, pair.result(40), complete=False)
    check(pair.warm_up(), "the rails do not come back")
    pair.begin("churn", count=50, seed=6)
    check_churn(pair, pair.result(30))


@scenario(25, late=4)
def late(pair):
    """A rail whose link was down when the peer was opened carries bytes when the link is there."""
    check(pair.ask("stream", seconds=20, ms=300)["failures"] == 0, "transfers failed")
    check(pair.states()[3] is None, "there is a rail over a link that is down")
    pair.rails.heal()
    wait_until_up(pair, 4)
    before = pair.states()
    check(pair.ask("stream", seconds=20, ms=800)["failures"] == 0, "transfers failed")
    check_carried(before, pair.states())


@scenario(20)
def drain(pair):
    """A rail is drained under load, without any failure; then it carries nothing, until it is undrained."""
    check(pair.warm_up(), "the rails do not come up")
    name = pair.states()[3]["rail"].replace(" ", "+")
    result = pair.ask("stream", seconds=20, ms=1000, drain_ms=300, rail=name)
    check(result["drained"] == 0, f"drain gave {result['drained']}")
    check(result["failures"] == 0, result["failure"])
    before = pair.states()
    check(pair.ask("stream", seconds=20, ms=800)["failures"] == 0, "transfers failed")
    after = pair.states()
    check(carried_bytes(after[3]) == carried_bytes(before[3]), "the drained rail carried bytes")
    check_carried(before, after, [1, 2, 3])
    check(pair.ask("drain", rail=name, on=0)["rc"] == 0, "undrain refused")
    wait_until_up(pair, 4)
    before = pair.states()
    check(pair.ask("stream", seconds=20, ms=800)["failures"] == 0, "transfers failed")
    check_carried(before, pair.states())
    check_events(pair, 4, ["drained", "undrained"])


def run_scenario(name, directory):
    """Runs one; None, or why it is not right."""
    function, seconds, kind, names, late_rail = SCENARIOS[name]
    until = time.monotonic() + seconds
    try:
        with Rails(KINDS[kind]) as rails:
            if late_rail:
                rails.link(late_rail, False)
            with Pair(rails, directory, names=names, until=until) as pair:
                function(pair)
    except (AssertionError, Late, Gone) as why:
        return str(why)
    except Exception:
        return traceback.format_exc()
    return None


def run_scenarios(directory, names):
    wrong = 0
    for name in names:
        begin = time.monotonic()
        why = run_scenario(name, directory)
        wrong += why is not None
        print(f"  {name:16} {time.monotonic() - begin:5.1f} s  {'ok' if why is None else 'NO: ' + why}", flush=True)
    print(f"rails.py: {'all right' if not wrong else f'{wrong} of {len(names)} scenarios failed'}")
    return wrong == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--only", default="", help="some scenarios or targets, separated by commas")
    parser.add_argument("--calm", type=float, metavar="MINUTES")
    measure.add_options(parser)
    options = parser.parse_args()
    end_by_exception()
    only = [name for name in options.only.split(",") if name]
    if options.measure or options.calm:
        return measure.run(options, only)
    unknown = [name for name in only if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {' '.join(unknown)}; there are {' '.join(SCENARIOS)}")
    return run_scenarios(options.directory, only or list(SCENARIOS))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
