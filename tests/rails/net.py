"""Two hosts that are joined by rails: two network name spaces, pairs of veth, a token bucket at each end.

A rail is known by its number, from 1. Each host has one more link, without a limit, on which the peers call each
other (`NAMES`), as a cluster has a network for management; the rails are the other addresses.

Weather: `rate`, `link`, `hole`, `reset`. All of it heals with `heal`. Needs root. Everything is removed by `close`,
and what a run left that was killed is removed by the next.
"""
import itertools
import os
import pathlib
import signal
import subprocess
import time

from netlink import Host

MBIT = 1e6
MTU = 1500
# payload of what the bucket counts: a TCP segment with time stamps in an Ethernet frame
PAYLOAD = (MTU - 52) / (MTU + 14)
NAMES = ("10.77.0.1", "10.77.0.2")
QUEUE_S = 0.020
# A bucket deeper than what timers and two busy cores are late by, or the rail would not reach its rate.
DEPTH_S = 0.00105
PREFIX = "tent-rails-"
COUNT = itertools.count()  # a program may have several pairs of hosts
KINDS = {"unequal": (100, 200, 400, 800), "equal": (400, 400, 400, 400)}


def run(*words, **options):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def now_us():
    """CLOCK_MONOTONIC, the clock of the movers and of the library."""
    return time.monotonic_ns() / 1000


class Rails:
    """Two hosts and the rails between them. `rates` in Mbit/s."""

    def __init__(self, rates):
        self.nominal = [rate * MBIT for rate in rates]
        self.rates = list(self.nominal)
        self.faults = [None] * len(rates)  # what ails a rail: hole, down
        self.log = []  # (us, what): the weather so far
        self.hosts = []
        sweep()
        number = next(COUNT)
        self.namespaces = [f"{PREFIX}{os.getpid()}-{number}{side}" for side in "ab"]
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.close()

    def close(self):
        for host in self.hosts:
            host.close()
        self.hosts = []
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL)

    def _build(self):
        a, b = self.namespaces
        for namespace in self.namespaces:
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            for key, value in SYSCTLS.items():
                run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{key}={value}")
        for rail in range(len(self.rates) + 1):
            pair = [device(0, rail), device(1, rail)]
            run("ip", "-n", a, "link", "add", pair[0], "mtu", str(MTU), "type", "veth", "peer", "name", pair[1],
                "mtu", str(MTU), "netns", b)
            for side, namespace in enumerate(self.namespaces):
                run("ip", "-n", namespace, "addr", "add", f"{address(side, rail)}/24", "dev", pair[side])
                if rail:
                    rate = self.nominal[rail - 1]
                    run("ip", "-n", namespace, "link", "set", pair[side], "gso_max_size", str(gso(rate)))
                    shape = ["rate", f"{rate:.0f}bit", "burst", str(burst(rate, rate)), "limit", str(limit(rate, rate))]
                    run("tc", "-n", namespace, "qdisc", "add", "dev", pair[side], "root", "tbf", *shape)
                run("ip", "-n", namespace, "link", "set", pair[side], "up")
        self.hosts = [Host(namespace) for namespace in self.namespaces]
        self._wait_for_carriers()

    def _wait_for_carriers(self):
        until = time.monotonic() + 20
        want = len(self.rates) + 1
        for namespace in self.namespaces:
            while run("ip", "-n", namespace, "-br", "link").count(" UP ") < want:
                if time.monotonic() > until:
                    raise RuntimeError("the links do not come up")
                time.sleep(0.02)

    # ---- what the rails can carry ----

    def goodput(self, rails=None):
        """Bytes of payload per second that these rails (all) carry now, those that are down or a hole not counted."""
        rails = range(1, len(self.rates) + 1) if rails is None else rails
        return sum(self.rates[rail - 1] for rail in rails if not self.faults[rail - 1]) / 8 * PAYLOAD

    def tokens(self, rails=None):
        """Bytes of payload that full buckets let through at once."""
        rails = range(1, len(self.rates) + 1) if rails is None else rails
        return sum(burst(self.nominal[rail - 1], self.rates[rail - 1]) for rail in rails) * PAYLOAD

    # ---- weather: each returns the moment at which it began ----

    def _note(self, what):
        moment = now_us()
        self.log.append((moment, what))
        return moment

    def rate(self, rail, factor):
        """Both directions of a rail get this part of what it was built with."""
        nominal = self.nominal[rail - 1]
        rate = nominal * factor
        moment = self._note(f"rate {rail} {factor:.2f}")
        self.rates[rail - 1] = rate
        for side, host in enumerate(self.hosts):
            host.rate(device(side, rail), rate, burst(nominal, rate), limit(nominal, rate))
        return moment

    def link(self, rail, up, side=0):
        """Takes the carrier of a rail away, for both ends, by switching one of them; or gives it back."""
        moment = self._note(f"link {rail} {'up' if up else 'down'}")
        self.faults[rail - 1] = None if up else "down"
        self.hosts[side].link(device(side, rail), up)
        return moment

    def hole(self, rail, on=True):
        """Lets a rail swallow all that either end sends, silently."""
        moment = self._note(f"hole {rail} {'on' if on else 'off'}")
        self.faults[rail - 1] = "hole" if on else None
        for side, host in enumerate(self.hosts):
            host.hole(device(side, rail), address(1 - side, rail), on)
        return moment

    def reset(self, rail, side=0):
        """Ends the TCP connections of a rail with RST; the rail itself is sound."""
        moment = self._note(f"reset {rail}")
        self.hosts[side].reset(address(side, rail))
        return moment

    def heal(self, rail=None):
        """Ends every fault of a rail, or of all; the moment at which it began to."""
        moment = now_us()
        for each in range(1, len(self.rates) + 1) if rail is None else [rail]:
            fault = self.faults[each - 1]
            if fault == "down":
                self._note(f"link {each} up")
                for side, host in enumerate(self.hosts):
                    host.link(device(side, each), True)
                self.faults[each - 1] = None
            elif fault == "hole":
                self.hole(each, False)
            if self.rates[each - 1] != self.nominal[each - 1]:
                self.rate(each, 1.0)
        return moment

    def exec(self, side, *words):
        """The words that run a command on one of the hosts."""
        return ["ip", "netns", "exec", self.namespaces[side], *words]


def device(side, rail):
    return f"v{'ab'[side]}{rail}"


def address(side, rail):
    return f"10.77.{rail}.{side + 1}"


def addresses(side, rails):
    return [address(side, rail) for rail in range(1, rails + 1)]


def gso(nominal):
    """The longest packet that the sender makes: what a rail cannot interrupt, so short on slow rails."""
    return 32768 if nominal > 400 * MBIT else 16384


def burst(nominal, rate):
    """At least a whole packet with the headers of its segments, or the bucket cuts it up, at the cost of a core."""
    return int(max(gso(nominal) * 1.075, rate / 8 * DEPTH_S))


def limit(nominal, rate):
    """What the queue holds: as `latency 20ms` of tc."""
    return int(rate / 8 * QUEUE_S) + burst(nominal, rate)


def sweep():
    """Removes the hosts of runs that are no longer there."""
    for entry in pathlib.Path("/run/netns").glob(f"{PREFIX}*"):
        pid = entry.name.removeprefix(PREFIX).split("-")[0]
        if not pathlib.Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", entry.name], stderr=subprocess.DEVNULL)


def end_by_exception():
    """Lets the signals that end a program unwind it, so that `with Rails(...)` removes what it made."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

    def leave(number, _):
        for each in numbers:  # a second one must not interrupt the removing
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in numbers:
        signal.signal(each, leave)


SYSCTLS = {
    # a rail's packets are its own: no filtering by the way back, no answer for another rail's address
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.arp_ignore": 1,
    "net.ipv4.conf.all.arp_announce": 2,
    # nothing but what the test sends
    "net.ipv6.conf.all.disable_ipv6": 1,
    "net.ipv6.conf.default.disable_ipv6": 1,
}
