#!/usr/bin/env python3
"""stores.py LIBRARY TENT: our engines and real ones (the wheel of this interpreter's venv) around real metadata
stores on the loopback address: etcd, redis, `tent metad` and Mooncake's own HTTP server. Every byte is compared;
the stores are killed and started again under load, nodes are killed too. Prints a table; 0 if all was right.
"""
import contextlib
import ctypes as c
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

LEN = 64 << 20
SIZES = (1, 4096, 65537, 1 << 20, LEN)
READ, WRITE = 0, 1
COMPLETED, FAILED = 4, 6
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ENVIRONMENT = dict(os.environ, MC_TCP_BIND_ADDRESS="127.0.0.1", MC_LOG_LEVEL="ERROR", TENT_LOG="error")


# ---- nodes: processes that obey lines of stdin -------------------------------------------------------------


def pattern(seed, count):
    index = np.arange((count + 7) // 8, dtype=np.uint64)
    return ((index + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)).view(np.uint8)[:count]


# everything that servers keep; gone at the end
WORK = tempfile.TemporaryDirectory(prefix="tent-stores-", ignore_cleanup_errors=True)


class Request(c.Structure):
    _fields_ = [("opcode", c.c_int), ("source", c.c_void_p), ("target_id", c.c_int32),
                ("target_offset", c.c_uint64), ("length", c.c_uint64)]


class Status(c.Structure):
    _fields_ = [("status", c.c_int), ("bytes", c.c_uint64)]


class Ours:
    """Our engine through the C API."""

    def __init__(self, library, store, name):
        self.lib = c.CDLL(library)
        self.lib.createTransferEngine.restype = c.c_void_p
        self.lib.allocateBatchID.restype = c.c_uint64
        self.lib.tent_last_error.restype = c.c_char_p
        engine = self.lib.createTransferEngine(store.encode(), name.encode(), b"", c.c_uint64(0), 1)
        if not engine:
            raise RuntimeError(self.lib.tent_last_error().decode())
        self.engine = c.c_void_p(engine)

    def register(self, address, length):
        return self.lib.registerLocalMemory(self.engine, c.c_void_p(address), c.c_size_t(length), b"*", 1)

    def open(self, name):
        return self.lib.openSegment(self.engine, name.encode())

    def error(self):
        return self.lib.tent_last_error().decode()

    def transfer(self, opcode, name, address, remote, length):
        segment = self.open(name)
        if segment < 0:
            return False
        batch = c.c_uint64(self.lib.allocateBatchID(self.engine, c.c_size_t(1)))
        request = Request(opcode, address, segment, remote, length)
        if self.lib.submitTransfer(self.engine, batch, c.byref(request), c.c_size_t(1)):
            return False
        status = Status()
        while status.status not in (COMPLETED, FAILED):  # every task ends by its deadline
            self.lib.getTransferStatus(self.engine, batch, c.c_size_t(0), c.byref(status))
        self.lib.freeBatchID(self.engine, batch)
        return status.status == COMPLETED

    def end(self):
        self.lib.destroyTransferEngine(self.engine)


class Theirs:
    """The Mooncake engine."""

    def __init__(self, _library, store, name):
        from mooncake.engine import TransferEngine

        self.engine = TransferEngine()
        if self.engine.initialize(name, store, "tcp", "") != 0:
            raise RuntimeError("initialize failed")

    def register(self, address, length):
        return self.engine.register_memory(address, length)

    def open(self, _name):
        return 0

    def error(self):
        return "unknown"

    def transfer(self, opcode, name, address, remote, length):
        call = self.engine.transfer_sync_write if opcode == WRITE else self.engine.transfer_sync_read
        return call(name, address, remote, length) == 0

    def end(self):
        del self.engine


def node(kind, library, store, name):
    view = np.frombuffer(mmap.mmap(-1, LEN), dtype=np.uint8)
    address, more = view.ctypes.data, []
    begin = time.monotonic()
    try:
        engine = {"ours": Ours, "theirs": Theirs}[kind](library, store, name)
    except RuntimeError as e:
        return print("> " + json.dumps({"error": str(e), "s": time.monotonic() - begin}), flush=True)
    assert engine.register(address, LEN) == 0
    print("> " + json.dumps({"address": address}), flush=True)
    for line in sys.stdin:
        what, *args = json.loads(line)
        begin = time.monotonic()
        if what == "fill":
            view[:] = 0 if args[0] is None else pattern(args[0], LEN)
            said = True
        elif what == "wrong":
            said = int(np.count_nonzero(view[:args[1]] != pattern(*args)))
        elif what == "transfer":
            opcode, peer, remote, length = args
            said = engine.transfer(opcode, peer, address, remote, length)
        elif what == "register":
            more.append(np.frombuffer(mmap.mmap(-1, args[0]), dtype=np.uint8))
            said = [engine.register(more[-1].ctypes.data, args[0]), more[-1].ctypes.data]
        elif what == "open":
            said = [engine.open(args[0]), engine.error()]
        elif what == "end":
            engine.end()
            said = True
        print("> " + json.dumps([said, time.monotonic() - begin]), flush=True)
        if what == "end":
            return None
    return None


class Node:
    """The other end of it."""

    def __init__(self, kind, library, store, name, **variables):
        self.name, self.kind = name, kind
        self.process = spawn([sys.executable, __file__, "--node", kind, library, store, name], text=True,
                             env=dict(ENVIRONMENT, **variables), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.start = self.hear()
        self.address = self.start.get("address")

    def hear(self):
        for line in self.process.stdout:  # their library prints lines of its own
            if line.startswith("> "):
                return json.loads(line[2:])
        raise AssertionError(f"{self.kind} node {self.name} ended")

    def ask(self, *words):
        """What it says, and how long the call took."""
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        said, self.seconds = self.hear()
        return said

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            with contextlib.suppress(AssertionError, BrokenPipeError):
                self.ask("end")
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


def spawn(command, **options):
    """A process that does not outlive this one."""
    libc = c.CDLL(None)
    return subprocess.Popen(command, preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), **options)


# ---- stores ------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Server:
    """A store's process; `command` makes its command line."""

    def __init__(self, **variables):
        self.port, self.variables = free_port(), variables
        self.dir = tempfile.mkdtemp(dir=WORK.name)
        self.up()

    def up(self):
        self.process = spawn(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(f"{self.name} listens", 20, self.listens)

    def listens(self):
        assert self.process.poll() is None, f"{self.name} ended at once: {' '.join(self.command())}"
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0 and self.healthy()

    def healthy(self):
        return True

    def down(self):
        self.process.kill()
        self.process.wait()


class Etcd(Server):
    name, refused_s = "etcd", 5.5

    def command(self):
        self.peer = getattr(self, "peer", None) or free_port()
        at, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer}"
        return ["etcd", "--data-dir", self.dir, "--listen-client-urls", at, "--advertise-client-urls", at,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"default={peer}"]

    def url(self):
        return f"etcd://127.0.0.1:{self.port}"

    def ctl(self, *words):
        env = dict(os.environ, ETCDCTL_API="3")
        done = subprocess.run(["etcdctl", "--endpoints", f"127.0.0.1:{self.port}", *words], env=env, text=True,
                              capture_output=True, timeout=20, check=False)
        return done.returncode, done.stdout

    def healthy(self):
        return self.ctl("endpoint", "health")[0] == 0

    def has(self, key):
        return self.ctl("get", "--keys-only", key)[1].strip() == key


class Redis(Server):
    name, refused_s = "redis", 3.5

    def command(self):
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly",
                "no", "--dir", self.dir, *self.variables.get("more", [])]

    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def has(self, key, *words):
        done = subprocess.run(["redis-cli", "-p", str(self.port), *words, "exists", key], text=True, timeout=20,
                              capture_output=True, check=True)
        return done.stdout.strip().endswith("1")


class Metad(Server):
    name, refused_s = "tent metad", 3.5

    def command(self):
        return [TENT, "metad", "--port", str(self.port), *self.variables.get("more", [])]

    def url(self):
        return f"http://127.0.0.1:{self.port}/metadata"

    def has(self, key):
        try:
            urllib.request.urlopen(f"{self.url()}?key={urllib.parse.quote(key, safe='')}", timeout=5).read()
        except urllib.error.HTTPError as e:
            assert e.code == 404, e
            return False
        return True


class Mooncake(Metad):
    name = "their http"

    def command(self):
        return [sys.executable, "-m", "mooncake.http_metadata_server", "--port", str(self.port), "--host",
                "127.0.0.1"]


# ---- what is tested ----------------------------------------------------------------------------------------

failures = 0


def check(store, what, good, note=""):
    global failures
    failures += not good
    print(f"{store:<11} {what:<56} {'ok' if good else 'FAILED'}   {note}", flush=True)


def both_ways(store, a, b, title):
    """A READ and a WRITE of every size from a, on b's memory."""
    for length in SIZES:
        wrong, done, worst = 0, True, 0
        for opcode, source, sink in ((WRITE, a, b), (READ, b, a)):
            seed = length * 4 + opcode
            source.ask("fill", seed)
            sink.ask("fill", None)
            done &= a.ask("transfer", opcode, b.name, b.address, length)
            worst = max(worst, a.seconds)
            wrong += sink.ask("wrong", seed, length)
        check(store, f"{title} {length} B", done and wrong == 0, f"{wrong} wrong bytes, {worst * 1e3:.1f} ms")


def outage(server, a, b):
    """The store dies under load, and comes back, of the forgetful ones without what it knew."""
    stop, counts = threading.Event(), {"good": 0, "bad": 0}

    def load():
        while not stop.is_set():
            counts["good" if a.ask("transfer", WRITE, b.name, b.address, 1 << 20) else "bad"] += 1

    worker = threading.Thread(target=load)
    worker.start()
    time.sleep(0.5)
    server.down()
    rc, _ = b.ask("register", 1 << 20)
    check(server.name, "a registration while the store is away", rc == 0 and b.seconds < 6, f"{b.seconds:.2f} s")
    rc, _ = b.ask("register", 1 << 20)
    check(server.name, "and one more", rc == 0 and b.seconds < 0.5, f"{b.seconds:.2f} s")
    time.sleep(1)
    during = dict(counts)
    server.up()
    begin = time.monotonic()
    # C is new: it knows nobody, so that all it finds is in the store
    fresh = Node("ours", LIBRARY, server.url(), "node-c")

    def found():
        return all(fresh.ask("open", name)[0] > 0 for name in (a_twin.name, b.name))

    a_twin = b if a.kind != "ours" else a
    deadline = time.monotonic() + 12
    a_name_found = False
    while not a_name_found and time.monotonic() < deadline:
        a_name_found = found()
        time.sleep(0.05)
    check(server.name, "publishing resumes after the outage", a_name_found, f"{time.monotonic() - begin:.2f} s")
    # the range that was registered meanwhile is there too
    good = fresh.ask("transfer", WRITE, b.name, rc_address(b), 1 << 20) if a_name_found else False
    check(server.name, "what was registered meanwhile is published", good)
    stop.set()
    worker.join()
    check(server.name, "transfers under the outage", counts["bad"] == 0 and during["good"] > 0,
          f"{counts['good']} done, {counts['bad']} failed")
    return fresh


def rc_address(b):
    rc, address = b.ask("register", 1 << 20)
    assert rc == 0
    return address


def life(server, library):
    store, url = server.name, server.url()
    a, b = Node("ours", library, url, "node-a"), Node("ours", library, url, "node-b")
    both_ways(store, a, b, "ours -> ours")
    rc, why = a.ask("open", "nobody")
    check(store, "a name that nobody has", rc == -1 and "nobody" in why, why[-70:])
    fresh = outage(server, a, b)
    fresh.kill()
    key = "mooncake/rpc_meta/node-c"
    if isinstance(server, Etcd):
        begin = time.monotonic()
        check(store, "a killed node is in the store at first", server.has(key))
        with contextlib.suppress(AssertionError):
            wait_for("the keys go", 20, lambda: not server.has(key) and not server.has("mooncake/ram/node-c"))
        check(store, "the keys of a killed node disappear", not server.has(key), f"{time.monotonic() - begin:.1f} s")
    again = Node("ours", library, url, "node-c")
    check(store, "a killed node starts again under its name", again.address is not None, str(again.start)[:60])
    good = again.address and b.ask("transfer", WRITE, "node-c", again.address, 4096)
    check(store, "and is found", bool(good))
    for one in (again, a, b):
        one.end()
    left = [k for n in ("node-a", "node-b", "node-c") for k in (f"mooncake/rpc_meta/{n}", f"mooncake/ram/{n}")
            if server.has(k)]
    check(store, "nothing is left at the end", not left, str(left))


def mixed(server, library):
    """Ours and theirs by one store."""
    store, url = server.name, server.url()
    ours = Node("ours", library, url, "ours:17999")
    theirs = Node("theirs", library, url, "theirs:17998")
    check(store, "their engine starts", theirs.address is not None, str(theirs.start)[:60])
    if theirs.address is None:
        return
    both_ways(store, ours, theirs, "ours -> theirs")
    both_ways(store, theirs, ours, "theirs -> ours")
    theirs.kill()
    # to nobody: it may fail, and must end
    ours.ask("transfer", WRITE, theirs.name, theirs.address, 4096)
    check(store, "a transfer to a peer that was killed ends", ours.seconds < 30, f"{ours.seconds:.2f} s")
    if isinstance(server, Mooncake):  # which takes no engine of theirs twice
        for part in ("rpc_meta", "ram"):
            key = urllib.parse.quote(f"mooncake/{part}/{theirs.name}", safe="")
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(urllib.request.Request(f"{url}?key={key}", method="DELETE"), timeout=5)
    theirs = Node("theirs", library, url, theirs.name)
    begin, good = time.monotonic(), False
    while theirs.address and not good and time.monotonic() < begin + 10:
        good = ours.ask("transfer", WRITE, theirs.name, theirs.address, 4096)
    took = time.monotonic() - begin
    check(store, "their engine, killed and restarted, is used again", good and took < 2, f"{took:.2f} s")
    ours.end()
    theirs.end()


def dead(kind, library, server):
    """No store at the start: nobody listens, or somebody who never answers."""
    port = free_port()
    url = server.url().replace(str(server.port), str(port))
    one = Node("ours", library, url, "node-d")
    good = "error" in one.start and one.start["s"] < 1
    check(kind, "nobody listens: an error at once", good, f"{one.start.get('s', 0):.2f} s")
    with socket.create_server(("127.0.0.1", port)):
        one = Node("ours", library, url, "node-d")
    good = "error" in one.start and one.start["s"] < server.refused_s and "node-d" in one.start["error"]
    check(kind, "a store that never answers: an error in time", good, f"{one.start.get('s', 0):.2f} s")
    one.end()


def twins(server, library):
    """Two living engines of one name: the newer is found, and the older again when the newer is gone."""
    store, url = server.name, server.url()
    older, newer = (Node("ours", library, url, "twin") for _ in range(2))

    def leads_to(one, seconds):
        """A stranger who opens the name reaches that one's memory, and not that of the other."""
        deadline = time.monotonic() + seconds
        while True:
            stranger = Node("ours", library, url, "stranger")
            stranger.ask("fill", 7)
            one.ask("fill", None)
            good = (stranger.ask("open", "twin")[0] > 0
                    and stranger.ask("transfer", WRITE, "twin", one.address, 4096) and not one.ask("wrong", 7, 4096))
            stranger.end()
            if good or time.monotonic() > deadline:
                return good

    check(store, "two engines of one name: the newer is found", leads_to(newer, 0))
    older.ask("register", 4096)
    check(store, "also after the older registered memory", leads_to(newer, 0))
    newer.kill()
    check(store, "the older again, when the newer was killed", leads_to(older, 12))
    older.end()


def access(library):
    """Passwords, databases, clusters, several endpoints."""
    redis = Redis(more=["--requirepass", "secret"])
    one = Node("ours", library, redis.url(), "n", MC_REDIS_PASSWORD="wrong")
    check("redis", "a wrong password is an error", "MC_REDIS_PASSWORD" in one.start.get("error", ""))
    one = Node("ours", library, redis.url(), "n", MC_REDIS_PASSWORD="secret", MC_REDIS_DB_INDEX="3",
               MC_METADATA_CLUSTER_ID="cl1")
    where = redis.has("mooncake/cl1/rpc_meta/n", "--no-auth-warning", "-a", "secret", "-n", "3")
    check("redis", "password, database 3 and cluster", where, str(one.start)[:60])
    one.end()
    redis.down()
    etcd = Etcd()
    for words in (("user", "add", "root:secret"), ("user", "grant-role", "root", "root"), ("auth", "enable")):
        rc, said = etcd.ctl(*words)
        assert rc == 0, said
    dead_first = f"etcd://127.0.0.1:{free_port()},127.0.0.1:{etcd.port}"
    one = Node("ours", library, dead_first, "n")
    check("etcd", "no user is an error", "ETCDCTL_USER" in one.start.get("error", ""), one.start.get("error", "")[-70:])
    one = Node("ours", library, dead_first, "n", ETCDCTL_USER="root:wrong")
    check("etcd", "a wrong password is an error", "ETCDCTL_USER" in one.start.get("error", ""), one.start.get("error", "")[-70:])
    one = Node("ours", library, dead_first, "n", ETCDCTL_USER="root:secret")
    check("etcd", "user and password, the first endpoint dead", one.address is not None, str(one.start)[:70])
    one.end()
    etcd.down()
    secure(library)
    file = os.path.join(tempfile.mkdtemp(dir=WORK.name), "metad")
    metad = Metad(more=["--persist", file])
    one = Node("ours", library, metad.url(), "n/with%2F odd+é", MC_METADATA_CLUSTER_ID="cl 1")
    one.kill()
    metad.down()
    metad.up()
    check("tent metad", "--persist, and a key with odd characters", metad.has("mooncake/cl 1/rpc_meta/n/with%2F odd+é"))
    metad.down()


def secure(library):
    """etcd over TLS, with a certificate of ours that it asks for."""
    where = tempfile.mkdtemp(dir=WORK.name)

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=where, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-subj", "/CN=tent test", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        with open(os.path.join(where, "names"), "w") as names:
            names.write("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{name}.pem")
    etcd = SecureEtcd(where=where)
    files = {"ETCDCTL_CACERT": os.path.join(where, "ca.pem")}
    pair = {"ETCDCTL_CERT": os.path.join(where, "client.pem"), "ETCDCTL_KEY": os.path.join(where, "client.key")}
    one = Node("ours", library, etcd.url(), "n", **files, **pair)
    check("etcd", "TLS, with a certificate of ours", one.address is not None, str(one.start)[:70])
    one.end()
    for what, variables in (("without the authority", pair), ("without a certificate of ours", files), ("plain", {})):
        one = Node("ours", library, etcd.url(), "n", **variables)
        good = "error" in one.start and one.start["s"] < etcd.refused_s
        check("etcd", f"TLS, {what}: an error", good, one.start.get("error", "none")[-60:])
        one.end()
    etcd.down()


class SecureEtcd(Etcd):
    def command(self):
        where = self.variables["where"]
        plain = [word.replace(f"http://127.0.0.1:{self.port}", f"https://127.0.0.1:{self.port}")
                 for word in super().command()]
        return [*plain, "--client-cert-auth", "--trusted-ca-file", f"{where}/ca.pem", "--cert-file",
                f"{where}/server.pem", "--key-file", f"{where}/server.key"]

    def healthy(self):
        return True


def main():
    global LIBRARY, TENT
    if sys.argv[1] == "--node":
        return node(*sys.argv[2:])
    LIBRARY, TENT = map(os.path.abspath, sys.argv[1:3])
    only = sys.argv[3:]
    for kind in (Etcd, Redis, Metad, Mooncake):
        if only and kind.__name__.lower() not in only:
            continue
        server = kind()
        life(server, LIBRARY)
        if kind is not Redis:  # the wheel has no redis
            mixed(server, LIBRARY)
        if kind is Metad:
            twins(server, LIBRARY)
        if kind is not Mooncake:
            dead(server.name, LIBRARY, server)
        server.down()
    if not only or "access" in only:
        access(LIBRARY)
    print(f"stores.py: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
