#!/usr/bin/env python3
"""interop.py LIBRARY: our library and a real Mooncake engine (the wheel of this interpreter's venv), two
processes over loopback: both as initiator and as target, READ and WRITE, the data protocol's versions 1 and
2, ranges that must be refused, a notification. Every byte is compared. Prints a table; 0 if all was right.
"""
import ctypes as c
import mmap
import os
import subprocess
import sys
import time

import numpy as np

LEN = 64 << 20
SIZES = (1, 4096, 65537, 1 << 20, LEN)
WRITE, READ = 1, 0
COMPLETED, FAILED = 4, 6


def memory():
    area = mmap.mmap(-1, LEN)
    view = np.frombuffer(area, dtype=np.uint8)
    return view.ctypes.data, view


def pattern(seed):
    index = np.arange(LEN // 8, dtype=np.uint64)
    return ((index + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)).view(np.uint8)


def theirs():
    """The Mooncake engine: obeys lines of stdin."""
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    address, view = memory()
    view[:] = 0
    assert engine.register_memory(address, LEN) == 0
    answer(f"127.0.0.1:{engine.get_rpc_port()} {address}")
    for line in sys.stdin:
        what, *args = line.split()
        if what == "fill":
            view[:] = pattern(int(args[0]))
            answer("ok")
        elif what == "wrong":
            seed, count = map(int, args)
            answer(np.count_nonzero(view[:count] != pattern(seed)[:count]))
        elif what == "messages":
            answer(len(engine.get_notifies()))
        else:
            call = engine.transfer_sync_write if what == "write" else engine.transfer_sync_read
            answer(call(args[0], address, int(args[1]), int(args[2])))


def answer(text):
    print(f"> {text}", flush=True)


class Request(c.Structure):
    _fields_ = [("opcode", c.c_int), ("source", c.c_void_p), ("target_id", c.c_int32),
                ("target_offset", c.c_uint64), ("length", c.c_uint64)]


class Status(c.Structure):
    _fields_ = [("status", c.c_int), ("bytes", c.c_uint64)]


class Message(c.Structure):
    _fields_ = [("name", c.c_char_p), ("msg", c.c_char_p)]


class Ours:
    """Our engine through the C API."""

    def __init__(self, path):
        self.lib = c.CDLL(path)
        self.lib.createTransferEngine.restype = c.c_void_p
        self.lib.allocateBatchID.restype = c.c_uint64
        self.engine = c.c_void_p(self.lib.createTransferEngine(b"P2PHANDSHAKE", b"127.0.0.1", b"", c.c_uint64(0), 1))
        assert self.engine, "no engine"
        self.address, self.view = memory()
        self.view[:] = 0
        rc = self.lib.registerLocalMemory(self.engine, c.c_void_p(self.address), c.c_size_t(LEN), b"*", 1)
        assert rc == 0, rc
        name = c.create_string_buffer(64)
        self.lib.getLocalIpAndPort(self.engine, name, c.c_size_t(64))
        self.name = name.value.decode()

    def transfer(self, opcode, segment, remote, length):
        batch = c.c_uint64(self.lib.allocateBatchID(self.engine, c.c_size_t(1)))
        request = Request(opcode, self.address, segment, remote, length)
        rc = self.lib.submitTransfer(self.engine, batch, c.byref(request), c.c_size_t(1))
        assert rc == 0, rc
        status, deadline = Status(), time.monotonic() + 30
        while status.status not in (COMPLETED, FAILED):
            assert time.monotonic() < deadline, "not over after 30 s"
            self.lib.getTransferStatus(self.engine, batch, c.c_size_t(0), c.byref(status))
        assert self.lib.freeBatchID(self.engine, batch) == 0
        return status.status


def arrived(view, expected, version):
    """Wrong bytes. Version 1 has no answer to a WRITE: their call may return before the bytes are here."""
    deadline = time.monotonic() + (5 if version == 1 else 0)
    while True:
        wrong = np.count_nonzero(view != expected)
        if wrong == 0 or time.monotonic() >= deadline:
            return wrong


def run(path, version):
    environment = dict(os.environ, MC_LOG_LEVEL="ERROR", **({"MC_TCP_PROTO": "1"} if version == 1 else {}))
    os.environ.update(environment)
    peer = subprocess.Popen([sys.executable, __file__, "--theirs"], env=environment, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def hear():
        for line in peer.stdout:  # their library prints lines of its own
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the Mooncake engine ended")

    def ask(text):
        peer.stdin.write(text + "\n")
        peer.stdin.flush()
        return hear()

    name, remote = hear().split()
    remote, ours, seed, failures = int(remote), Ours(path), 0, 0
    segment = ours.lib.openSegment(ours.engine, name.encode())
    assert segment > 0, segment

    def check(what, length, good, wrong):
        nonlocal failures
        failures += not (good and wrong == 0)
        print(f"v{version}  {what:<24} {length:>9} B   {'ok' if good else 'FAILED'}   {wrong} wrong bytes")

    for length in SIZES:
        seed += 2
        ours.view[:] = pattern(seed)
        ask(f"fill {seed + 1}")
        state = ours.transfer(WRITE, segment, remote, length)
        check("we write to Mooncake", length, state == COMPLETED, int(ask(f"wrong {seed} {length}")))
        ours.view[:] = 0
        ask(f"fill {seed}")
        state = ours.transfer(READ, segment, remote, length)
        wrong = np.count_nonzero(ours.view[:length] != pattern(seed)[:length])
        check("we read from Mooncake", length, state == COMPLETED, wrong)
        ours.view[:] = 0
        rc = ask(f"write {ours.name} {ours.address} {length}")
        wrong = arrived(ours.view[:length], pattern(seed)[:length], version)
        check("Mooncake writes to us", length, rc == "0", wrong)
        ours.view[:] = pattern(seed + 1)
        rc = ask(f"read {ours.name} {ours.address} {length}")
        check("Mooncake reads from us", length, rc == "0", int(ask(f"wrong {seed + 1} {length}")))
    state = ours.transfer(WRITE, segment, remote + LEN + 4096, 100)
    check("outside their buffer", 100, state == FAILED, 0)
    if version == 2:  # version 1 has no answer to a WRITE, so their caller is told nothing
        rc = ask(f"write {ours.name} {ours.address + LEN} 100")
        check("outside our buffer", 100, rc != "0", 0)
    rc = ours.lib.genNotifyInEngine(ours.engine, c.c_uint64(segment), Message(b"tent", b"hello"))
    check("a message to Mooncake", 5, rc == 0 and ask("messages") == "1", 0)
    ours.lib.destroyTransferEngine(ours.engine)
    peer.stdin.close()
    peer.wait(10)
    return failures


def main():
    if sys.argv[1] == "--theirs":
        return theirs()
    failures = run(sys.argv[1], 2) + run(sys.argv[1], 1)
    print(f"interop.py: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
