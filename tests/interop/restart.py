#!/usr/bin/env python3
"""restart.py LIBRARY: a node is killed and started anew under the same name while a node of the other kind goes on
asking for it. It has to be used again within 2 s of its first sign of life, and what is reported complete has to be
right; while it is dead nothing may be reported complete, and every request ends soon.

Their engine takes a random RPC port whatever name it is given, so its name is that of a `Front`; all its ports are
new. Theirs as initiator keeps a descriptor for good (also towards its own kind), so ours has to come back with the
data port that it had, or theirs has to be told to keep none: both are tried (see compat/INTEROP.md).
"""
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from node import READ, WRITE, Front, Node, rpc

SIZE = 1 << 20
WITHIN_S = 2.0
# the longest that a request to a dead node may take
ENDS_S = 5.0
TIMES = 3
OPS = {READ: "READ", WRITE: "WRITE"}
# outside the ports in which either engine looks by itself
RPC_PORT, DATA_PORT = 18101, 18102
NAMED = {"MC_LEGACY_RPC_PORT_BINDING": "1"}


class Case:
    """One kind asks, one is restarted."""

    def __init__(self, library, title, asker, kind, front=None, asker_env=None, env=None):
        self.library, self.title, self.kind, self.front, self.env = library, title, kind, front, env
        self.asker, self.seed, self.failures, self.wrong = Node(asker, library, SIZE, env=asker_env), 1, [], 0
        self.start()

    def start(self):
        host = "127.0.0.1" if self.front else "127.0.0.1:%d" % RPC_PORT
        self.node = Node(self.kind, self.library, SIZE, name=host, env=self.env)
        if self.front:
            self.front.behind = self.node
        self.name = self.front.name if self.front else self.node.name

    def attempt(self, op):
        """Whether it was reported complete and is."""
        self.seed += 1
        source, sink = (self.asker, self.node) if op == WRITE else (self.node, self.asker)
        source.ask("fill", self.seed, 0, SIZE)
        sink.ask("fill", self.seed, 0, SIZE, True)
        if not self.move(op):
            return False
        wrong = sink.ask("wrong", self.seed, 0, SIZE)
        self.wrong += wrong
        return wrong == 0

    def move(self, op):
        try:
            return self.asker.move(op, self.node, [(0, self.node.address, SIZE)], self.name)[0]
        except RuntimeError:
            return False  # it could not even be submitted

    def expect(self, good, what):
        if not good:
            self.failures.append(what)

    def run(self, op):
        self.expect(self.attempt(op), "does not work at all")
        took, ended = [], []
        for _ in range(TIMES):
            before = self.data_port()
            self.node.kill()
            began = time.monotonic()
            self.expect(not self.move(op), "reported complete by a dead node")
            ended.append(time.monotonic() - began)
            self.start()
            began, tries = time.monotonic(), 1
            while not self.attempt(op) and time.monotonic() < began + 3 * WITHIN_S:
                tries += 1
                time.sleep(.02)
            took.append("%.2f s (attempt %d%s)" % (time.monotonic() - began, tries,
                                                   ", other data port" if self.data_port() != before else ""))
            self.expect(time.monotonic() < began + WITHIN_S, "not used again within %g s" % WITHIN_S)
        self.expect(max(ended) < ENDS_S, "a request to the dead node took %.1f s" % max(ended))
        self.expect(self.wrong == 0, "wrong bytes")
        print("%-52s %-5s back after %s; %d wrong bytes   %s" % (
            self.title, OPS[op], ", ".join(took), self.wrong, "; ".join(dict.fromkeys(self.failures)) or "ok"), flush=True)

    def data_port(self):
        return rpc(self.node.name, 1, {"name": "restart"})["tcp_data_port"]

    def close(self):
        self.node.close()
        self.asker.close()


def all_stopped(pid):
    """Whether no thread of it runs any more: the signal takes a moment."""
    states = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, task)) as stat:
            states.append(stat.read().rsplit(")", 1)[1].split()[0])
    return set(states) == {"T"}


def stands_still(library, version, impatient=False):
    """A node of theirs that stands still fails requests at their deadline, holds up no other peer, and is used again when
    it goes on. `impatient`: a WRITE is told lost when no byte has moved for the progress timeout. Failures."""
    limit = 1.0 if impatient else 3.0
    env = {"TENT_TASK_TIMEOUT_MS": "20000" if impatient else "%d" % (limit * 1000)}
    env |= {"MC_TCP_PROGRESS_TIMEOUT_SEC": "1"} if impatient else {}
    env |= {"MC_TCP_PROTO": "1"} if version == 1 else {}
    ours, still, other = Node("ours", library, SIZE, env=env), Node("theirs", library, SIZE), Node("theirs", library, SIZE)
    failures = 0
    for op, name in OPS.items():
        if impatient and op != WRITE:
            continue  # a READ goes on over new connections, until its deadline
        ranges = [(0, still.address, SIZE)]
        good = ours.move(op, still, ranges) == [True]
        still.process.send_signal(signal.SIGSTOP)
        while not all_stopped(still.process.pid):
            time.sleep(.001)
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ours.move, op, still, ranges)
            beside = 0
            while not waiting.done():
                good &= ours.move(op, other, [(0, other.address, SIZE)]) == [True]
                beside += 1
            good &= waiting.result() == [False]
        took = time.monotonic() - began
        still.process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        while not (back := ours.move(op, still, ranges) == [True]) and time.monotonic() < began + WITHIN_S:
            time.sleep(.02)
        good = good and back and limit <= took < limit + 2 and beside > 10
        failures += not good
        print("ours -> theirs that stands still, version %d        %-5s failed after %.2f s, %d requests to another beside it, "
              "used again after %.2f s   %s" % (version, name, took, beside, time.monotonic() - began, "ok" if good else "FAILED"), flush=True)
    for node in (ours, still, other):
        node.close()
    return failures


def main():
    library, failures = sys.argv[1], 0
    v1 = {"MC_TCP_PROTO": "1"}
    cases = [
        ("ours -> theirs", "ours", "theirs", Front, None, None),
        ("ours -> theirs, version 1", "ours", "theirs", Front, v1, v1),
        ("theirs -> ours with TENT_DATA_PORT", "theirs", "ours", None, None, {**NAMED, "TENT_DATA_PORT": str(DATA_PORT)}),
        ("theirs with MC_DISABLE_METACACHE -> ours", "theirs", "ours", None, {"MC_DISABLE_METACACHE": "1"}, NAMED),
        ("ours -> ours over TCP", "ours", "ours", Front, {"MC_FORCE_TCP": "1"}, {"MC_FORCE_TCP": "1"}),
    ]
    for title, asker, kind, front, asker_env, env in cases:
        for op in OPS:
            case = Case(library, title, asker, kind, front and front(), asker_env, env)
            case.run(op)
            case.close()
            failures += len(case.failures)
    failures += stands_still(library, 2) + stands_still(library, 1) + stands_still(library, 2, impatient=True)
    print("restart.py: %d failures" % failures)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
