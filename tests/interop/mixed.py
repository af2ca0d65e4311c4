#!/usr/bin/env python3
"""mixed.py LIBRARY [--minutes 10] [--every 30]: two nodes of theirs and two of ours; everybody writes to and reads from
everybody, every range with content of its own. Every so often one node of each kind is killed (SIGKILL) and started
anew under its name. Whatever a living initiator was told is complete is looked at on a living target. Prints counts;
ends with 0 if nothing of that was lost, nothing got stuck, and every pair with one of ours came back after
every restart.
"""
import argparse
import itertools
import random
import sys
import threading
import time
from collections import Counter, deque

from node import READ, WRITE, Front, Node, Stuck

MIB = 1 << 20
NODES = ("theirs", "theirs", "ours", "ours")
SIZES = (1, 100, 4096, 4097, 65536, 65537, 300_000, MIB)
SLOT, RING, BLOCKS, RANGES = MIB, 32, 16, 4
# what peers write, one ring of slots for each; what peers read; what is sent, or was read
INBOX, OWN, STAGE = 0, len(NODES) * RING * SLOT, (len(NODES) * RING + BLOCKS) * SLOT
BUFFER = STAGE + len(NODES) * RANGES * SLOT
# a WRITE that failed may still land where a peer cannot fence: its slot is left alone for longer than theirs tries
QUARANTINE_S = 40.0
# after a failure: a dead peer refuses at once, and to ask it all the time would only heat the cores
PAUSE_S = 0.02
# a pair has to move bytes again so long after a restart; all cores are busy here, `restart.py` measures better
BACK_S = 10.0
# theirs would otherwise never look again where a peer is (see compat/INTEROP.md)
ENV = {"theirs": {"MC_DISABLE_METACACHE": "1"}, "ours": {"MC_LEGACY_RPC_PORT_BINDING": "1"}}
# RPC ports of ours, by number; outside the ports in which either engine looks by itself
PORT = 18111


class Place:
    """One of the nodes, through all its lives."""

    def __init__(self, index, library):
        self.index, self.kind, self.library = index, NODES[index], library
        self.life, self.since = 0, 0.0
        # theirs takes another port each time it is started, whatever name it is given
        self.front = Front() if self.kind == "theirs" else None
        self.name = self.front.name if self.front else "127.0.0.1:%d" % (PORT + index)
        self.start()

    def start(self):
        node = Node(self.kind, self.library, BUFFER, name="127.0.0.1" if self.front else self.name, env=ENV[self.kind])
        if self.front:
            self.front.behind = node
        for block in range(BLOCKS):
            node.ask("fill", self.content(self.life, block), OWN + block * SLOT, SLOT)
        self.node, self.since = node, time.monotonic()

    def content(self, life, block):
        """The seed of a block that peers read; no other node or life has it."""
        return 1 + (self.index * 1000 + life) * BLOCKS + block

    def restart(self):
        # first the number: what is looked at from now on does not count
        self.life, node, self.node = self.life + 1, self.node, None
        node.kill()
        self.start()


class Pair:
    """What one node asks of another, in a thread."""

    seeds = itertools.count(1 << 32)

    def __init__(self, initiator, target, stop, chance):
        self.initiator, self.target, self.stop, self.chance = initiator, target, stop, chance
        self.counts, self.errors, self.back, self.lost = Counter(), Counter(), [], []
        self.slots, self.lives, self.waits = deque(), None, None
        self.thread = threading.Thread(target=self.run)

    def name(self):
        return "%s %d -> %s %d" % (self.initiator.kind, self.initiator.index, self.target.kind, self.target.index)

    def now(self):
        return self.initiator.life, self.target.life

    def run(self):
        while not self.stop.is_set():
            lives = self.now()
            if lives != self.lives:
                if self.lives is None or lives[1] != self.lives[1]:
                    self.slots = deque((0.0, k) for k in range(RING))  # the new one's memory
                self.lives, self.waits = lives, True
            try:
                self.once(lives)
            except Stuck as e:
                self.lost.append(str(e))
                return
            except RuntimeError as e:
                self.counts["calls refused"] += 1
                if self.now() == lives:
                    self.errors[str(e)[:160]] += 1
                time.sleep(PAUSE_S)

    def once(self, lives):
        op, count = self.chance.choice((READ, WRITE)), self.chance.randint(1, RANGES)
        if op == WRITE and sum(free <= time.monotonic() for free, _ in self.slots) < count:
            time.sleep(PAUSE_S)
            return
        initiator, target = self.initiator.node, self.target.node
        if not initiator or not target:
            time.sleep(PAUSE_S)
            return
        sizes = [self.chance.choice(SIZES) for _ in range(count)]
        stage = [STAGE + (self.target.index * RANGES + k) * SLOT for k in range(count)]
        if op == WRITE:
            self.write(lives, initiator, target, stage, sizes)
        else:
            self.read(lives, initiator, target, stage, sizes)

    def write(self, lives, initiator, target, stage, sizes):
        self.slots = deque(sorted(self.slots))
        slots = [self.slots.popleft()[1] for _ in sizes]
        seeds = [next(self.seeds) for _ in sizes]
        places = [INBOX + (self.initiator.index * RING + slot) * SLOT for slot in slots]
        ended = [False] * len(sizes)
        try:
            for seed, at, size in zip(seeds, stage, sizes):
                initiator.ask("fill", seed, at, size)
            ended = initiator.ask("move", WRITE, self.target.name,
                                  [(at, target.address + to, size) for at, to, size in zip(stage, places, sizes)])
        finally:
            for slot, good in zip(slots, ended):
                self.slots.append((time.monotonic() + (0 if good else QUARANTINE_S), slot))
        for seed, to, size, good in zip(seeds, places, sizes, ended):
            self.account("WRITE", lives, size, good, lambda: target.ask("wrong", seed, to, size))

    def read(self, lives, initiator, target, stage, sizes):
        blocks = [self.chance.randrange(BLOCKS) for _ in sizes]
        seeds = [self.target.content(lives[1], block) for block in blocks]
        for seed, at, size in zip(seeds, stage, sizes):
            initiator.ask("fill", seed, at, size, True)
        ended = initiator.ask("move", READ, self.target.name,
                              [(at, target.address + OWN + block * SLOT, size) for at, block, size in zip(stage, blocks, sizes)])
        for seed, at, size, good in zip(seeds, stage, sizes, ended):
            self.account("READ", lives, size, good, lambda: initiator.ask("wrong", seed, at, size))

    def account(self, op, lives, size, good, count_wrong):
        if not good:
            self.counts["failed"] += 1
            if self.now() == lives:
                time.sleep(PAUSE_S)
            return
        wrong = count_wrong()
        if self.now() != lives:
            self.counts["void"] += 1  # reported complete, and then one of the two died: nothing to look at
            return
        if wrong:
            self.lost.append("%s of %d bytes: %d wrong" % (op, size, wrong))
            return
        self.counts[op] += 1
        self.counts["bytes"] += size
        if self.waits:
            self.waits = False
            self.back.append(time.monotonic() - max(self.initiator.since, self.target.since))


def kill_in_turn(places, every, until):
    """One node of each kind at a time, the first of each and then the second. Called by the main thread, for a node
    dies with the thread that started it. Returns how many it has restarted."""
    for turn in itertools.count():
        wait = min(every, until - time.monotonic())
        time.sleep(max(0.0, wait))
        if wait < every:
            return 2 * turn
        for kind in ("theirs", "ours"):
            place = [p for p in places if p.kind == kind][turn % 2]
            began = time.monotonic()
            place.restart()
            print("  killed and restarted %s %d in %.1f s" % (kind, place.index, time.monotonic() - began), flush=True)


def report(pairs, restarts, seconds):
    failures = 0
    print("\n| pair | WRITE | READ | MB | failed | calls refused | void | back after (longest) | lost |")
    print("|" + "---|" * 9)
    for pair in pairs:
        c, back = pair.counts, max(pair.back, default=0)
        # it came back after each restart of either; theirs does not find another of theirs again by itself
        came_back = (pair.initiator.kind, pair.target.kind) == ("theirs", "theirs") or (not pair.waits and back <= BACK_S)
        good = not pair.lost and came_back and c["WRITE"] and c["READ"]
        failures += not good
        print("| %s | %d | %d | %.0f | %d | %d | %d | %.2f s, %d times | %d%s |" % (
            pair.name(), c["WRITE"], c["READ"], c["bytes"] / 1e6, c["failed"], c["calls refused"], c["void"], back,
            len(pair.back), len(pair.lost), "" if good else " **FAILED**"))
        for text in pair.lost[:5]:
            print("    !!", text)
        for text, times in pair.errors.most_common(3):
            print("    %d x %s" % (times, text))
    total = Counter()
    for pair in pairs:
        total.update(pair.counts)
    print("\nmixed.py: %d restarts in %.0f s; %d ranges were reported complete and looked at, %.1f GB; %d lost; %d pairs failed" % (
        restarts, seconds, total["WRITE"] + total["READ"], total["bytes"] / 1e9, sum(len(p.lost) for p in pairs), failures))
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=30, help="seconds between the kills")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    o = parser.parse_args()
    print("mixed.py: %g minutes, one of each kind killed every %g s, --seed %d" % (o.minutes, o.every, o.seed), flush=True)
    places, stop = [Place(k, o.library) for k in range(len(NODES))], threading.Event()
    pairs = [Pair(a, b, stop, random.Random(o.seed + 10 * a.index + b.index)) for a, b in itertools.permutations(places, 2)]
    began = time.monotonic()
    for pair in pairs:
        pair.thread.start()
    try:
        restarts = kill_in_turn(places, o.every, began + o.minutes * 60)
        # the last to be restarted have the time that every other had
        deadline = time.monotonic() + BACK_S
        while any(p.waits and "ours" in (p.initiator.kind, p.target.kind) for p in pairs) and time.monotonic() < deadline:
            time.sleep(.1)
    finally:
        stop.set()
        for pair in pairs:
            pair.thread.join()
    failures = report(pairs, restarts, time.monotonic() - began)
    for place in places:
        place.node.close()
    return failures > 0 or restarts < 2


if __name__ == "__main__":
    sys.exit(main())
