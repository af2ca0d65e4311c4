"""NIXL of the wheels `nixl` and `nixl-cu12`, UCX backend; UCX_* of the environment choose the transports.

NIXL_IPROG=0            no progress thread in the initiator: the polling caller drives UCX
NIXL_PTHR_DELAY_US=n    progress threads sleep so long between looks (the Python interface has 0: they spin)
NIXL_UCX_EH=none        no peer error handling, which UCX's shared memory does not have
"""
import base64
import os
import sys
import time

from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t

import pair


def delay_progress(us):
    binding = sys.modules[nixl_agent.__module__].nixlBind
    original = binding.nixlAgent

    def with_delay(name, config):
        config.pthrDelay = us
        return original(name, config)
    binding.nixlAgent = with_delay


class Nixl(pair.Side):
    mutual = True

    def start(self, host):
        if delay := os.environ.get("NIXL_PTHR_DELAY_US"):
            delay_progress(int(delay))
        t0 = time.perf_counter()
        self.name = "%s-%d" % (self.args.role, os.getpid())
        progress = self.args.role == "target" or os.environ.get("NIXL_IPROG", "1") == "1"
        sync = nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT if self.args.threads > 1 else None
        config = nixl_agent_config(backends=[], sync_mode=sync, enable_prog_thread=progress)
        self.agent = nixl_agent(self.name, config)
        handling = os.environ.get("NIXL_UCX_EH")
        self.agent.create_backend("UCX", {"ucx_error_handling_mode": handling} if handling else {})
        t1 = time.perf_counter()
        self.take_anonymous()
        t2 = time.perf_counter()
        self.registered = self.agent.register_memory([(self.addr, self.size, 0, "")], "DRAM")
        t3 = time.perf_counter()
        return {"engine_ms": round((t1 - t0) * 1e3, 2), "register_ms": round((t3 - t2) * 1e3, 3)}

    def hello(self):
        return {"addr": self.addr, "agent": base64.b64encode(self.agent.get_agent_metadata()).decode()}

    def connect(self, hello):
        name = self.agent.add_remote_agent(base64.b64decode(hello["agent"]))
        self.peer, self.base = name.decode() if isinstance(name, bytes) else name, hello["addr"]

    def prepare(self, op, block, batch, start):
        offsets, agent = self.offsets(block, batch, start), self.agent
        local = agent.get_xfer_descs([(self.addr + o, block, 0) for o in offsets], "DRAM")
        remote = agent.get_xfer_descs([(self.base + o, block, 0) for o in offsets], "DRAM")
        return agent.initialize_xfer(op, local, remote, self.peer)

    def make(self, op, block, batch, start):
        handle = self.prepare(op, block, batch, start)
        post, check = self.agent.transfer, self.agent.check_xfer_state

        def run():
            state = post(handle)
            while state == "PROC":
                state = check(handle)
            if state != "DONE":
                raise RuntimeError("state " + str(state))
        return run

    def post(self, op, block, index):
        handle, agent = self.prepare(op, block, 1, index), self.agent

        def go():
            state = agent.transfer(handle)

            def poll():
                nonlocal state
                if state == "PROC":
                    state = agent.check_xfer_state(handle)
                if state == "ERR":
                    raise RuntimeError("state ERR")
                return state == "DONE"
            return poll
        return go


if __name__ == "__main__":
    pair.main(Nixl)
