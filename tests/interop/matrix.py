#!/usr/bin/env python3
"""matrix.py LIBRARY: our library and a real Mooncake engine (the wheel of this interpreter's venv), two processes
over loopback: direction x operation x version x size, batches, requests at once, refused ranges, notifications,
probes, a name that is opened again, and the connections that carry one request. Every byte is compared, those
around each range too. Prints a table; ends with 0 if all was right.
"""
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from node import READ, WRITE, Node, rpc

MIB = 1 << 20
SIZES = (1, 3, 4095, 4096, 4097, 65537, MIB, 16 * MIB, 64 * MIB, 256 * MIB)
# no multiple of anything, and room for bytes that must stay as they are
AT, MARGIN = 4096 + 24, 4096
BUFFER = SIZES[-1] + 3 * MARGIN
MANY, SMALL, THREADS = 2000, 4096, 8
BATCH = 64
# a refusal is told at once, where the protocol has one; a connection that is closed is tried a few times
SOON_S = 5.0
OPS = {READ: "READ", WRITE: "WRITE"}
TEXTS = ("plain", "a=b==c", "größer → 終わり ✓", "{\"json\": [1, \"\\n\"]}", "x" * 65536, "é" * 400_000)


class Table:
    """What was done, line by line."""

    def __init__(self):
        self.rows, self.failures, self.seed = [], 0, 1

    def check(self, version, way, what, size, good, wrong=0, note=""):
        self.failures += not good or wrong > 0
        self.rows.append((version, way, what, size, good, wrong))
        print("v%d  %-16s %-30s %11s  %-6s %d wrong bytes%s" % (
            version, way, what, size, "ok" if good else "FAILED", wrong, "   " + note if note else ""), flush=True)

    def next_seed(self):
        self.seed += 1
        return self.seed

    def summary(self):
        print("\n| direction | op | version | store | sizes | cases | wrong bytes |\n|---|---|---|---|---|---|---|")
        groups = {}
        for version, way, what, size, good, wrong in self.rows:
            if what in OPS.values():
                groups.setdefault((way, what, version), []).append((size, good, wrong))
        for (way, what, version), cells in sorted(groups.items()):
            print("| %s | %s | %d | P2PHANDSHAKE | %d … %d | %d of %d ok | %d |" % (
                way, what, version, cells[0][0], cells[-1][0], sum(good for _, good, _ in cells), len(cells),
                sum(wrong for _, _, wrong in cells)))
        print("\nmatrix.py: %d cases, %d failures, %d wrong bytes" % (
            len(self.rows), self.failures, sum(row[5] for row in self.rows)))


def settled(count, version, op, initiator):
    """Wrong bytes. In version 1 nobody answers a WRITE: their call may return before the bytes are there."""
    deadline = time.monotonic() + (10 if version == 1 and op == WRITE and initiator.kind == "theirs" else 0)
    while True:
        wrong = count()
        if wrong == 0 or time.monotonic() >= deadline:
            return wrong


def sizes(table, version, initiator, target):
    way = "%s -> %s" % (initiator.kind, target.kind)
    for size in SIZES:
        for op, name in OPS.items():
            seed, begin = table.next_seed(), AT - MARGIN
            source, sink = (initiator, target) if op == WRITE else (target, initiator)
            source.ask("fill", seed, AT, size)
            # what lies around the range is of another seed, and must stay
            sink.ask("fill", seed, begin, MARGIN)
            sink.ask("fill", seed, AT, size, True)
            sink.ask("fill", seed, AT + size, MARGIN)
            began = time.monotonic()
            (good,) = initiator.move(op, target, [(AT, target.address + AT, size)])
            took = time.monotonic() - began
            wrong = settled(lambda: sink.ask("wrong", seed, AT, size), version, op, initiator)
            wrong += sink.ask("wrong", seed, begin, MARGIN) + sink.ask("wrong", seed, AT + size, MARGIN)
            table.check(version, way, name, size, good, wrong, "%.2f GB/s" % (size / took / 1e9) if size >= MIB else "")


def many(table, version, initiator, target):
    """Small requests of several threads at once, and batches: each range has its own content."""
    way = "%s -> %s" % (initiator.kind, target.kind)
    for op, name in OPS.items():
        for what, count, per_call in (("small %s at once" % name, MANY, 1), ("batches of %s" % name, 16 * BATCH, BATCH)):
            seed, span = table.next_seed(), count * SMALL
            source, sink = (initiator, target) if op == WRITE else (target, initiator)
            source.ask("fill", seed, 0, span)
            sink.ask("fill", seed, 0, span, True)
            ranges = [(k * SMALL, target.address + k * SMALL, SMALL) for k in range(count)]
            calls = [ranges[k:k + per_call] for k in range(0, count, per_call)]
            with ThreadPoolExecutor(THREADS) as pool:
                ended = list(pool.map(lambda call: initiator.move(op, target, call), calls))
            good = all(all(each) for each in ended)
            wrong = settled(lambda: sink.ask("wrong", seed, 0, span), version, op, initiator)
            table.check(version, way, what, "%d x 4096" % count, good, wrong)


def refused(table, version, initiator, target):
    """What is not inside the peer's buffer is refused, is told where the protocol can tell it, and changes nothing;
    afterwards the peer is served as before."""
    way = "%s -> %s" % (initiator.kind, target.kind)
    for op, name in OPS.items():
        for what, at in (("behind", BUFFER), ("across the end of", BUFFER - 50), ("before", -4096)):
            seed = table.next_seed()
            target.ask("fill", seed, BUFFER - 4096, 4096)
            (completed,) = initiator.move(op, target, [(0, target.address + at, 100)])
            # version 1 has no answer to a WRITE: their caller is told that it went well, by which we see the version
            # (a later one may use the connection that was closed for the first, and fail)
            silent = (version, op, initiator.kind) == (1, WRITE, "theirs")
            good = completed == silent if what == "behind" else silent or not completed
            table.check(version, way, "%s %s the buffer" % (name, what), 100, good,
                        target.ask("wrong", seed, BUFFER - 4096, 4096), "they are not told" if silent else "")
        again = poll(5, lambda: initiator.move(op, target, [(0, target.address, 4096)])[0])
        table.check(version, way, "%s after refusals" % name, 4096, again)


def withdrawn(table, version, initiator, target):
    """The peer unregisters what the initiator has seen registered: refused, and soon; registered again, it works."""
    way = "%s -> %s" % (initiator.kind, target.kind)
    for op, name in OPS.items():
        seed = table.next_seed()
        target.ask("fill", seed, 0, 4096)
        code = target.ask("withdraw", False)
        began = time.monotonic()
        (completed,) = initiator.move(op, target, [(0, target.address, 4096)])
        took = time.monotonic() - began
        silent = (version, op, initiator.kind) == (1, WRITE, "theirs")
        table.check(version, way, "%s, unregistered" % name, 4096, code == 0 and (silent or not completed) and took < SOON_S,
                    target.ask("wrong", seed, 0, 4096), "after %.2f s" % took)
        code = target.ask("withdraw", True)
        again = poll(5, lambda: initiator.move(op, target, [(0, target.address, 4096)])[0])
        table.check(version, way, "%s, registered again" % name, 4096, code == 0 and again)


def poll(seconds, well):
    """Whether `well()` comes true."""
    deadline = time.monotonic() + seconds
    while not (good := well()) and time.monotonic() < deadline:
        time.sleep(.05)
    return good


def notes(table, version, initiator, target):
    way = "%s -> %s" % (initiator.kind, target.kind)
    target.ask("notes")
    for text in TEXTS:
        seed = table.next_seed()
        initiator.ask("fill", seed, 0, 4096)
        good, got = initiator.ask("move_and_notify", target.name, 0, target.address, 4096, "näme=" + initiator.kind, text), []
        poll(5, lambda: got.extend(target.ask("notes")) or got)
        right = got == [["näme=" + initiator.kind, text]]
        table.check(version, way, "WRITE and notify", len(text.encode()), good and right,
                    settled(lambda: target.ask("wrong", seed, 0, 4096), version, WRITE, initiator))
    if initiator.kind == "ours":  # theirs has no call for a notification alone
        for text in TEXTS:
            code, got = initiator.ask("notify", target.name, "näme", text), []
            poll(5, lambda: got.extend(target.ask("notes")) or got)
            table.check(version, way, "notify", len(text.encode()), code == 0 and got == [["näme", text]])


def stripes(table, version, ours, theirs):
    """One request of ours goes over several of their connections: bytes of each, as the kernel counts them."""
    port = rpc(theirs.name, 1, {"name": "matrix"})["tcp_data_port"]

    def carried(key):
        text = subprocess.run(["ss", "-tinHO", "dst", "127.0.0.1:%d" % port], capture_output=True, text=True, check=True).stdout
        mine = {}
        for line in text.splitlines():
            local, sent = line.split()[3], re.search(r"\b%s:(\d+)" % key, line)
            mine[local] = int(sent.group(1)) if sent else 0
        return mine

    for op, name, key in ((WRITE, "WRITE", "bytes_acked"), (READ, "READ", "bytes_received")):
        before, size = carried(key), 256 * MIB
        (good,) = ours.move(op, theirs, [(0, theirs.address, size)])
        shares = [n - before.get(local, 0) for local, n in carried(key).items()]
        shares = sorted((n for n in shares if n >= size // 20), reverse=True)
        table.check(version, "ours -> theirs", "one %s, striped" % name, size,
                    good and len(shares) >= 2 and sum(shares) >= size - 2 * MIB,
                    note="%d connections: %s MiB" % (len(shares), " + ".join("%d" % (n >> 20) for n in shares)))
    rails = [r["rail"] for r in ours.ask("rails") if r["peer"] == theirs.name]
    table.check(version, "ours -> theirs", "the rail's name", "", rails == ["tcp upstream v%d 127.0.0.1" % version], note=str(rails))


def talk(table, version, ours, theirs):
    """What the RPC ports say."""
    table.check(version, "theirs -> ours", "send_probe", "", theirs.ask("probe", ours.name) == 0)
    table.check(version, "ours -> theirs", "tent_probe", "", ours.ask("probe", theirs.name) == 0)
    for node in (ours, theirs):
        table.check(version, "by hand -> " + node.kind, "probe", "", rpc(node.name, 3, {}) == {"status": "success"})
    first, same, new = ours.ask("reopen", theirs.name)
    table.check(version, "ours -> theirs", "open, again, after forget", "", first == same != new, note="%d %d %d" % (first, same, new))


def run(library, version, table):
    env = {"MC_TCP_PROTO": "1"} if version == 1 else {}
    ours, theirs = (Node(kind, library, BUFFER, env=env) for kind in ("ours", "theirs"))
    for initiator, target in ((ours, theirs), (theirs, ours)):
        for part in (sizes, many, refused, withdrawn, notes):
            part(table, version, initiator, target)
    stripes(table, version, ours, theirs)
    talk(table, version, ours, theirs)
    name = ours.name
    ours.close()
    table.check(version, "theirs -> ours", "send_probe, ours is gone", "", theirs.ask("probe", name) != 0)
    theirs.close()


def main():
    table = Table()
    for version in (2, 1):
        run(sys.argv[1], version, table)
    table.summary()
    return table.failures > 0


if __name__ == "__main__":
    sys.exit(main())
