"""Mooncake Transfer Engine of the wheel `mooncake-transfer-engine-non-cuda`: protocol tcp, P2PHANDSHAKE."""
import time

from mooncake.engine import TransferEngine

import pair


class Mooncake(pair.Side):
    def start(self, host):
        t0 = time.perf_counter()
        self.engine = TransferEngine()
        if self.engine.initialize(host, "P2PHANDSHAKE", "tcp", "") != 0:
            raise RuntimeError("initialize")
        t1 = time.perf_counter()
        self.take_anonymous()
        t2 = time.perf_counter()
        if self.engine.register_memory(self.addr, self.size) != 0:
            raise RuntimeError("register_memory")
        t3 = time.perf_counter()
        self.name = "%s:%d" % (host, self.engine.get_rpc_port())
        return {"engine_ms": round((t1 - t0) * 1e3, 2), "register_ms": round((t3 - t2) * 1e3, 3)}

    def hello(self):
        return {"name": self.name, "addr": self.addr}

    def connect(self, hello):
        self.peer, self.base = hello["name"], hello["addr"]

    def make(self, op, block, batch, start):
        offsets, engine, peer = self.offsets(block, batch, start), self.engine, self.peer
        if batch == 1:
            call = engine.transfer_sync_read if op == "READ" else engine.transfer_sync_write
            local, remote, length = self.addr + offsets[0], self.base + offsets[0], block
        else:
            call = engine.batch_transfer_sync_read if op == "READ" else engine.batch_transfer_sync_write
            local, remote = [self.addr + o for o in offsets], [self.base + o for o in offsets]
            length = [block] * batch

        def run():
            code = call(peer, local, remote, length)
            if code:
                raise RuntimeError("code %d" % code)
        return run

    def post(self, op, block, index):
        engine, peer, (offset,) = self.engine, self.peer, self.offsets(block, 1, index)
        call = engine.batch_transfer_async_read if op == "READ" else engine.batch_transfer_async_write

        def go():
            batch = call(peer, [self.addr + offset], [self.base + offset], [block])
            if batch in (0, 2**64 - 1):
                raise RuntimeError("submit")

            def poll():
                state = engine.transfer_check_status(batch)
                if state < 0:
                    raise RuntimeError("state %d" % state)
                return state == 1
            return poll
        return go


if __name__ == "__main__":
    pair.main(Mooncake)
