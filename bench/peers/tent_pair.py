"""tent, through its C API. TENT_LIB: the library; TENT_SYNC: where tent_sync.c is built to.

--xport tcp|cma|shm is all that both engines may use: a transfer that cannot take it fails, it does not
fall back. For shm the engine allocates the buffer; otherwise it is private memory, as everywhere here.
"""
import ctypes
import json
import os
import subprocess
import time

import pair

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIBRARY = os.environ.get("TENT_LIB", os.path.join(ROOT, "target/release/libtransfer_engine.so"))
SYNC = os.environ.get("TENT_SYNC", os.path.join(ROOT, "build/peers/tent_sync.so"))
INVALID_BATCH = 2**64 - 1


class Request(ctypes.Structure):
    _fields_ = [("opcode", ctypes.c_int), ("source", ctypes.c_void_p), ("target_id", ctypes.c_int32),
                ("target_offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class Job(ctypes.Structure):
    _fields_ = [("engine", ctypes.c_void_p), ("requests", ctypes.c_void_p), ("count", ctypes.c_size_t),
                ("block", ctypes.c_int)]


def build_sync():
    source = os.path.join(HERE, "tent_sync.c")
    if os.path.exists(SYNC) and os.path.getmtime(SYNC) >= os.path.getmtime(source):
        return
    os.makedirs(os.path.dirname(SYNC), exist_ok=True)
    # both processes of a pair may build: each its own file, put in place in one step
    own = "%s.%d" % (SYNC, os.getpid())
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-I", os.path.join(ROOT, "include"),
                    "-I", os.path.join(ROOT, "compat/include"), source, "-o", own], check=True)
    os.replace(own, SYNC)


def load():
    build_sync()
    lib = ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
    sync = ctypes.CDLL(SYNC)
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    lib.createTransferEngine.restype = pointer
    lib.createTransferEngine.argtypes = [text, text, text, ctypes.c_uint64, ctypes.c_int]
    lib.getLocalIpAndPort.argtypes = [pointer, text, size]
    lib.registerLocalMemory.argtypes = [pointer, pointer, size, text, ctypes.c_int]
    lib.openSegment.argtypes = [pointer, text]
    lib.tent_allocate_memory.argtypes = [pointer, ctypes.POINTER(pointer), size, text]
    lib.tent_rails_json.argtypes = [pointer, text, size]
    lib.tent_last_error.restype = text
    sync.tent_job_run.argtypes = [pointer]
    sync.tent_job_post.argtypes = [pointer]
    sync.tent_job_post.restype = ctypes.c_uint64
    sync.tent_job_poll.argtypes = [pointer, ctypes.c_uint64]
    return lib, sync


class Tent(pair.Side):
    def start(self, host):
        os.environ["TENT_TRANSPORTS"] = self.args.xport
        self.lib, self.sync = load()
        t0 = time.perf_counter()
        self.engine = self.lib.createTransferEngine(b"P2PHANDSHAKE", host.encode(), b"", 0, 1)
        self.insist(self.engine)
        t1 = time.perf_counter()
        if self.args.xport == "shm":
            addr = ctypes.c_void_p()
            self.insist(self.lib.tent_allocate_memory(self.engine, ctypes.byref(addr), self.size, None) == 0)
            t2, t3 = t1, time.perf_counter()
            self.take_address(addr.value)
        else:
            self.take_anonymous()
            t2 = time.perf_counter()
            self.insist(self.lib.registerLocalMemory(self.engine, self.addr, self.size, b"*", 1) == 0)
            t3 = time.perf_counter()
        name = ctypes.create_string_buffer(256)
        self.insist(self.lib.getLocalIpAndPort(self.engine, name, len(name)) == 0)
        self.name = name.value.decode()
        return {"engine_ms": round((t1 - t0) * 1e3, 2), "register_ms": round((t3 - t2) * 1e3, 3)}

    def insist(self, well):
        if not well:
            raise RuntimeError(self.lib.tent_last_error().decode())

    def hello(self):
        return {"name": self.name, "addr": self.addr}

    def connect(self, hello):
        self.segment, self.base = self.lib.openSegment(self.engine, hello["name"].encode()), hello["addr"]
        self.insist(self.segment >= 0)

    def job(self, op, block, batch, start):
        opcode = 0 if op == "READ" else 1
        requests = (Request * batch)(*[Request(opcode, self.addr + o, self.segment, self.base + o, block)
                                       for o in self.offsets(block, batch, start)])
        job = Job(self.engine, ctypes.addressof(requests), batch, self.args.wait == "block")
        job.keep = requests
        return job

    def make(self, op, block, batch, start):
        job, call = self.job(op, block, batch, start), self.sync.tent_job_run
        at = ctypes.addressof(job)

        def run(keep=job):
            if call(at):
                raise RuntimeError(self.lib.tent_last_error().decode())
        return run

    def post(self, op, block, index):
        job, sync = self.job(op, block, 1, index), self.sync
        at = ctypes.addressof(job)

        def go(keep=job):
            batch = sync.tent_job_post(at)
            self.insist(batch != INVALID_BATCH)

            def poll():
                state = sync.tent_job_poll(at, batch)
                self.insist(state >= 0)
                return state == 1
            return poll
        return go

    def carried(self):
        """Bytes by transport, as the engine counts them."""
        text = ctypes.create_string_buffer(1 << 16)
        self.insist(self.lib.tent_rails_json(self.engine, text, len(text)) >= 0)
        sums = {}
        for rail in json.loads(text.value):
            kind = rail["transport"]
            sums[kind] = sums.get(kind, 0) + rail["read_bytes"] + rail["write_bytes"]
        return sums


if __name__ == "__main__":
    pair.main(Tent)
