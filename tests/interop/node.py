"""One node of either kind, in a process of its own: our library through its C API (`ours`), or the Mooncake
engine of the wheel that is installed beside this interpreter (`theirs`). Both obey the same commands, so that a
test is written once and run in every direction.

    node.py ours|theirs --library PATH --size BYTES [--name HOST:PORT]

Commands are JSON lines on stdin, each with an `id`; they run at once, in threads. Answers are lines `> JSON` on
stdout. `Node` is the other end of it.
"""
import argparse
import concurrent.futures
import ctypes as c
import hashlib
import json
import mmap
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading

import numpy as np

READ, WRITE = 0, 1  # OPCODE_*
COMPLETED, FAILED = 4, 6
FACTOR = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 8 << 20
# the longest that any call of a node may take: their own limit for a transfer is 30 s
ANSWER_S = 60
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pattern(seed, count):
    """`count` bytes that differ from seed to seed."""
    mixed = int.from_bytes(hashlib.blake2b(b"%d" % seed, digest_size=8).digest(), "little")
    return (np.arange((count + 7) // 8, dtype=np.uint64) * FACTOR ^ np.uint64(mixed)).view(np.uint8)[:count]


class Memory:
    """The registered buffer of a node."""

    def __init__(self, size):
        self.view = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
        self.address, self.size = self.view.ctypes.data, size

    def pieces(self, seed, at, count):
        for k in range(0, count, CHUNK):
            n = min(CHUNK, count - k)
            yield self.view[at + k:at + k + n], pattern(seed * 1000 + k // CHUNK, n)

    def fill(self, seed, at, count, inverted=False):
        """`inverted`: no byte is as it will have to be."""
        for view, bytes_ in self.pieces(seed, at, count):
            view[:] = ~bytes_ if inverted else bytes_

    def wrong(self, seed, at, count, inverted=False):
        return sum(int(np.count_nonzero(view != (~bytes_ if inverted else bytes_)))
                   for view, bytes_ in self.pieces(seed, at, count))


class Theirs:
    """The Mooncake engine."""

    def __init__(self, options):
        from mooncake.engine import TransferEngine, TransferNotify, TransferOpcode

        self.note, self.opcode = TransferNotify, TransferOpcode
        self.engine = TransferEngine()
        insist(self.engine.initialize(options.name, "P2PHANDSHAKE", "tcp", "") == 0, "initialize")
        self.memory = Memory(options.size)
        insist(self.engine.register_memory(self.memory.address, options.size) == 0, "register_memory")
        self.name = "%s:%d" % (options.name.split(":")[0], self.engine.get_rpc_port())

    def move(self, op, peer, ranges):
        """`ranges`: local offset, remote address, length. One code for all of them."""
        local = [self.memory.address + at for at, _, _ in ranges]
        remote, lengths = [r for _, r, _ in ranges], [n for _, _, n in ranges]
        if len(ranges) == 1:
            call = self.engine.transfer_sync_read if op == READ else self.engine.transfer_sync_write
            return [call(peer, local[0], remote[0], lengths[0]) == 0]
        call = self.engine.batch_transfer_sync_read if op == READ else self.engine.batch_transfer_sync_write
        return [call(peer, local, remote, lengths) == 0] * len(ranges)

    def move_and_notify(self, peer, at, remote, length, name, text):
        note = self.note()
        note.name, note.msg = name, text
        return self.engine.transfer_sync(peer, self.memory.address + at, remote, length, self.opcode.Write, note) == 0

    def notify(self, peer, name, text):
        """They have no call for it alone."""
        raise NotImplementedError

    def notes(self):
        return [[n.name, n.msg] for n in self.engine.get_notifies()]

    def probe(self, peer):
        return self.engine.send_probe(peer)

    def withdraw(self, again):
        """Unregisters the buffer, or registers it again."""
        if again:
            return self.engine.register_memory(self.memory.address, self.memory.size)
        return self.engine.unregister_memory(self.memory.address)


class Request(c.Structure):
    _fields_ = [("opcode", c.c_int), ("source", c.c_void_p), ("target_id", c.c_int32),
                ("target_offset", c.c_uint64), ("length", c.c_uint64)]


class Status(c.Structure):
    _fields_ = [("status", c.c_int), ("bytes", c.c_uint64)]


class Message(c.Structure):
    _fields_ = [("name", c.c_char_p), ("msg", c.c_char_p)]


class Ours:
    """Our engine through the C API."""

    def __init__(self, options):
        self.lib = lib = c.CDLL(options.library)
        pointer, text, size = c.c_void_p, c.c_char_p, c.c_size_t
        lib.createTransferEngine.restype = pointer
        lib.createTransferEngine.argtypes = [text, text, text, c.c_uint64, c.c_int]
        lib.registerLocalMemory.argtypes = [pointer, pointer, size, text, c.c_int]
        lib.unregisterLocalMemory.argtypes = [pointer, pointer]
        lib.getLocalIpAndPort.argtypes = [pointer, text, size]
        lib.openSegment.argtypes = lib.openSegmentNoCache.argtypes = [pointer, text]
        lib.removeLocalSegment.argtypes = [pointer, text]
        lib.allocateBatchID.restype = c.c_uint64
        lib.allocateBatchID.argtypes = [pointer, size]
        lib.submitTransfer.argtypes = [pointer, c.c_uint64, c.POINTER(Request), size]
        lib.submitTransferWithNotify.argtypes = [pointer, c.c_uint64, c.POINTER(Request), size, Message]
        lib.getTransferStatus.argtypes = [pointer, c.c_uint64, size, c.POINTER(Status)]
        lib.freeBatchID.argtypes = [pointer, c.c_uint64]
        lib.genNotifyInEngine.argtypes = [pointer, c.c_uint64, Message]
        lib.getNotifsFromEngine.restype = c.POINTER(Message)
        lib.getNotifsFromEngine.argtypes = [pointer, c.POINTER(c.c_int)]
        lib.freeNotifsMsgBuf.argtypes = [c.POINTER(Message), c.c_int]
        lib.tent_wait.argtypes = [pointer, c.c_uint64, c.c_uint64]
        lib.tent_probe.argtypes = [pointer, c.c_uint64]
        lib.tent_rails_json.argtypes = [pointer, text, size]
        lib.tent_last_error.restype = text
        self.engine = lib.createTransferEngine(b"P2PHANDSHAKE", options.name.encode(), b"", 0, 1)
        insist(self.engine, "createTransferEngine")
        self.memory = Memory(options.size)
        rc = lib.registerLocalMemory(self.engine, self.memory.address, options.size, b"*", 1)
        insist(rc == 0, "registerLocalMemory: %d" % rc)
        name = c.create_string_buffer(64)
        lib.getLocalIpAndPort(self.engine, name, 64)
        self.name = name.value.decode()

    def why(self):
        return self.lib.tent_last_error().decode()

    def segment(self, peer, again=False):
        call = self.lib.openSegmentNoCache if again else self.lib.openSegment
        segment = call(self.engine, peer.encode())
        insist(segment > 0, "openSegment: %d: %s" % (segment, self.why()))
        return segment

    def move(self, op, peer, ranges, note=None):
        """`ranges`: local offset, remote address, length. Whether each of them completed."""
        segment, count, base = self.segment(peer), len(ranges), self.memory.address
        requests = (Request * count)(*[Request(op, base + at, segment, remote, n) for at, remote, n in ranges])
        batch = self.lib.allocateBatchID(self.engine, count)
        if note:
            rc = self.lib.submitTransferWithNotify(self.engine, batch, requests, count, Message(*note))
        else:
            rc = self.lib.submitTransfer(self.engine, batch, requests, count)
        insist(rc == 0, "submitTransfer: %d: %s" % (rc, self.why()))
        insist(self.lib.tent_wait(self.engine, batch, ANSWER_S * 1000) == 0, "not over in time")
        ended, status = [], Status()
        for task in range(count):
            insist(self.lib.getTransferStatus(self.engine, batch, task, c.byref(status)) == 0, "getTransferStatus")
            insist(status.status in (COMPLETED, FAILED), "state %d" % status.status)
            insist(status.status == FAILED or status.bytes == ranges[task][2], "%d bytes" % status.bytes)
            ended.append(status.status == COMPLETED)
        insist(self.lib.freeBatchID(self.engine, batch) == 0, "freeBatchID")
        return ended

    def move_and_notify(self, peer, at, remote, length, name, text):
        return self.move(WRITE, peer, [(at, remote, length)], (name.encode(), text.encode()))[0]

    def notify(self, peer, name, text):
        return self.lib.genNotifyInEngine(self.engine, self.segment(peer), Message(name.encode(), text.encode()))

    def notes(self):
        count = c.c_int()
        array = self.lib.getNotifsFromEngine(self.engine, c.byref(count))
        found = [[array[k].name.decode(), array[k].msg.decode()] for k in range(count.value)]
        self.lib.freeNotifsMsgBuf(array, count)
        return found

    def probe(self, peer):
        return self.lib.tent_probe(self.engine, self.segment(peer))

    def reopen(self, peer):
        """Same id for the same name; a new one after it was forgotten."""
        first = self.segment(peer)
        same = self.segment(peer, again=True)
        self.lib.removeLocalSegment(self.engine, peer.encode())
        return [first, same, self.segment(peer)]

    def withdraw(self, again):
        """Unregisters the buffer, or registers it again."""
        if again:
            return self.lib.registerLocalMemory(self.engine, self.memory.address, self.memory.size, b"*", 1)
        return self.lib.unregisterLocalMemory(self.engine, self.memory.address)

    def rails(self):
        text = c.create_string_buffer(1 << 16)
        insist(self.lib.tent_rails_json(self.engine, text, len(text)) >= 0, "tent_rails_json")
        return json.loads(text.value)


def insist(well, what):
    if not well:
        raise RuntimeError(what)


def serve(options):
    lock = threading.Lock()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print to stdout
    node = {"ours": Ours, "theirs": Theirs}[options.kind](options)
    memory = node.memory

    def say(answer):
        with lock:
            out.write("> %s\n" % json.dumps(answer))
            out.flush()

    def obey(q):
        number, what, arguments = q["id"], q["c"], q["a"]
        try:
            if what in ("fill", "wrong"):
                value = getattr(memory, what)(*arguments)
            else:
                value = getattr(node, what)(*arguments)
            say({"id": number, "value": value})
        except Exception as e:
            say({"id": number, "error": "%s: %s" % (type(e).__name__, e)})

    say({"id": 0, "value": {"name": node.name, "address": memory.address}})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for line in sys.stdin:
            pool.submit(obey, json.loads(line))
    os._exit(0)  # their library crashes now and then when it ends in order


class Gone(RuntimeError):
    """The node's process has ended."""


class Stuck(Exception):
    """A call has not come back: never right, whoever was killed."""


class Node:
    """A node of `kind`, in a child. Calls of any thread; each waits for its own answer."""

    def __init__(self, kind, library, size, name="127.0.0.1", env=None, log=None):
        self.kind, self.waiting, self.number, self.lock = kind, {}, 0, threading.Lock()
        command = [sys.executable, os.path.abspath(__file__), kind, "--library", library, "--size", str(size),
                   "--name", name]
        self.process = subprocess.Popen(command, env={**os.environ, "MC_LOG_LEVEL": "ERROR", **(env or {})}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log or subprocess.DEVNULL, preexec_fn=die_with_parent)
        hello = self.waiting[0] = queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()
        said = self.answer(hello, "start")
        self.name, self.address = said["name"], said["address"]

    def listen(self):
        for line in self.process.stdout:
            if line.startswith("> "):
                answer = json.loads(line[2:])
                self.waiting.pop(answer["id"]).put(answer)
        with self.lock:
            for each in self.waiting.values():
                each.put(None)
            self.waiting = None

    def answer(self, box, what):
        try:
            answer = box.get(timeout=ANSWER_S + 10)
        except queue.Empty:
            raise Stuck("%s of %s: no answer in time" % (what, self.kind)) from None
        if answer is None:
            raise Gone("%s ended" % self.kind)
        if "error" in answer:
            raise RuntimeError("%s of %s: %s" % (what, self.kind, answer["error"]))
        return answer["value"]

    def ask(self, what, *arguments):
        box = queue.Queue()
        with self.lock:
            if self.waiting is None:
                raise Gone("%s ended" % self.kind)
            self.number += 1
            self.waiting[self.number] = box
            try:
                self.process.stdin.write(json.dumps({"id": self.number, "c": what, "a": arguments}) + "\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                raise Gone("%s ended" % self.kind) from None
        return self.answer(box, what)

    def move(self, op, peer, ranges, name=None):
        return self.ask("move", op, name or peer.name, ranges)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


class Front:
    """An address that stays while the node behind it comes and goes: their engine takes a random RPC port whatever
    name it is given, and the port is part of a name. Bytes are handed on, both ways."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.name = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.behind = None
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            front, _ = self.listener.accept()
            try:
                host, port = self.behind.name.rsplit(":", 1)
                back = socket.create_connection((host, int(port)), 5)
            except OSError:
                front.close()
                continue
            for a, b in ((front, back), (back, front)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        try:
            while part := source.recv(1 << 16):
                sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for each in (source, sink):
                each.close()


def die_with_parent():
    c.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def rpc(name, kind, body):
    """One question to a node's RPC port, by hand: the answer's JSON."""
    host, port = name.rsplit(":", 1)
    text = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(5)
        s.sendall(struct.pack("<QB", 1 + len(text), kind) + text)
        reader = s.makefile("rb")
        length, got = struct.unpack("<QB", reader.read(9))
        insist(got == kind, "answered by type %d" % got)
        return json.loads(reader.read(length - 1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["ours", "theirs"])
    parser.add_argument("--library", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--name", default="127.0.0.1")
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
