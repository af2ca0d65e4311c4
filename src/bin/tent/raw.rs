//! The machine's bounds, as plain as a C program would have them: process_vm copies, memcpy, a send and
//! recv loop, a spinning ping-pong. No engine here. They use the same buffers, blocks, turns, threads and
//! clock as the engine's loads, and nothing is pinned, for the engine pins nothing either.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::clock;
use super::drive::{self, Layout, Took};
use super::fail::{Fail, Result};
use super::memory::Buffer;
use super::os::{self, Way};
use super::proto::{Command, Load, NodeInfo, Outcome, Plan, Range, Streamed, Touched, Wait};

/// What a raw worker holds.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    memory: Option<Buffer>,
    shared: Option<Buffer>,
    listener: Option<TcpListener>,
    streams: Vec<TcpStream>,
}

impl Raw {
    pub(crate) fn handle(&mut self, command: Command) -> Result<Value> {
        let done = match command {
            Command::RawMemory { bytes, shared } => json(self.make_memory(bytes, shared)?),
            Command::RawCopy { way, pid, address, plan } => {
                json(self.copy(way, pid, address, &plan)?)
            }
            Command::RawMemcpy { plan } => json(self.memcpy(&plan)?),
            Command::RawListen { congestion } => json(self.listen(congestion.as_deref())?),
            Command::RawConnect { port } => json(self.connect(port)?),
            Command::RawAccept => json(self.accept()?),
            Command::RawStream { on, way, block, count, cycle } => {
                let stream = self.streams.get(on).ok_or_else(|| missing("a connection"))?;
                json(self.stream(stream, way, block, count, cycle)?)
            }
            Command::RawPing { plan } => json(self.ping(&plan)?),
            Command::RawPong { block, cycle } => json(self.pong(block, cycle)?),
            _ => return Err(missing("a raw command")),
        };
        done.map_err(|e| Fail::setup(format!("cannot write an answer: {e}"), "report it"))
    }

    fn make_memory(&mut self, bytes: u64, shared: bool) -> Result<NodeInfo> {
        let memory = Buffer::anonymous(bytes)?;
        self.shared = if shared { Some(Buffer::shared(bytes)?) } else { None };
        let (address, len) = (memory.address(), memory.len());
        self.memory = Some(memory);
        Ok(NodeInfo { segment: String::new(), address, len, start_us: 0.0, register_us: 0.0 })
    }

    fn copy(&self, way: Way, pid: i32, address: u64, plan: &Plan) -> Result<Outcome> {
        let memory = self.memory()?;
        drive::run(memory.len(), plan, &mut own_cpu, |_| {
            move |touched: Touched| {
                let at = memory.at(touched.range)?;
                let begin = clock::now();
                let remote = address + touched.range.offset;
                os::copy_process(way, pid, at, remote, length(touched.range)).map_err(|e| {
                    Fail::system("process_vm copy", &e, "kernel.yama.ptrace_scope=0, or root")
                })?;
                Ok(Took { tx_ns: clock::ns_since(begin), submit_ns: 0 })
            }
        })
    }

    fn memcpy(&self, plan: &Plan) -> Result<Outcome> {
        let memory = self.memory()?;
        let shared = self.shared.as_ref().ok_or_else(|| missing("a shared mapping"))?;
        drive::run(memory.len(), plan, &mut own_cpu, |_| {
            move |touched: Touched| {
                let begin = clock::now();
                shared.copy_from(memory, touched.range)?;
                Ok(Took { tx_ns: clock::ns_since(begin), submit_ns: 0 })
            }
        })
    }

    /// What it accepts has the listener's congestion control from the first byte on.
    fn listen(&mut self, congestion: Option<&str>) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(socket_fail)?;
        if let Some(name) = congestion {
            os::set_congestion(&listener, name).map_err(socket_fail)?;
        }
        let port = listener.local_addr().map_err(socket_fail)?.port();
        self.listener = Some(listener);
        Ok(port)
    }

    fn connect(&mut self, port: u16) -> Result<()> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(socket_fail)?;
        self.set(stream)
    }

    fn accept(&mut self) -> Result<()> {
        let listener = self.listener.take().ok_or_else(|| missing("a listener"))?;
        let (stream, _) = listener.accept().map_err(socket_fail)?;
        self.set(stream)
    }

    fn set(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true).map_err(socket_fail)?;
        stream.set_read_timeout(Some(SOCKET_TIMEOUT)).map_err(socket_fail)?;
        stream.set_write_timeout(Some(SOCKET_TIMEOUT)).map_err(socket_fail)?;
        self.streams.push(stream);
        Ok(())
    }

    /// `count` blocks in one direction: whole blocks offered to `send`, whatever is there taken by `recv`.
    fn stream(
        &self,
        stream: &TcpStream,
        way: Way,
        block: u64,
        count: u64,
        cycle: u64,
    ) -> Result<Streamed> {
        let memory = self.memory()?;
        let layout = self.layout(block, cycle)?;
        let start_s = os::host_s();
        for step in 0..count {
            let range = layout.step(0, step).range;
            all(way, stream, memory.at(range)?, length(range), false)?;
        }
        Ok(Streamed { start_s, end_s: os::host_s(), bytes: count * block })
    }

    fn ping(&self, plan: &Plan) -> Result<Outcome> {
        let (memory, stream) = (self.memory()?, self.connection()?);
        let out = drive::run(memory.len(), plan, &mut own_cpu, |_| {
            move |touched: Touched| {
                let mut request = [GO_ON; REQUEST];
                let at = memory.at(touched.range)?;
                let begin = clock::now();
                all(Way::Out, stream, request.as_mut_ptr(), REQUEST, false)?;
                all(Way::In, stream, at, length(touched.range), true)?;
                Ok(Took { tx_ns: clock::ns_since(begin), submit_ns: 0 })
            }
        });
        // Also after a failure: the other end spins until it hears this.
        let mut request = [STOP; REQUEST];
        let stopped = all(Way::Out, stream, request.as_mut_ptr(), REQUEST, false);
        let out = out?;
        stopped.map(|()| out)
    }

    fn pong(&self, block: u64, cycle: u64) -> Result<u64> {
        let (memory, stream) = (self.memory()?, self.connection()?);
        let layout = self.layout(block, cycle)?;
        let mut request = [GO_ON; REQUEST];
        for step in 0.. {
            all(Way::In, stream, request.as_mut_ptr(), REQUEST, true)?;
            if request[0] == STOP {
                return Ok(step);
            }
            let range = layout.step(0, step).range;
            all(Way::Out, stream, memory.at(range)?, length(range), false)?;
        }
        Ok(0)
    }

    fn layout(&self, block: u64, cycle: u64) -> Result<Layout> {
        let plan = Plan {
            load: Load::Read,
            block,
            batch: 1,
            threads: 1,
            cycle,
            warmup_s: 0.0,
            run_s: 0.0,
            interval_us: 0,
            wait: Wait::Poll,
        };
        Layout::new(self.memory()?.len(), &plan).ok_or_else(|| missing("memory for one block"))
    }

    fn memory(&self) -> Result<&Buffer> {
        self.memory.as_ref().ok_or_else(|| missing("raw memory"))
    }

    fn connection(&self) -> Result<&TcpStream> {
        self.streams.first().ok_or_else(|| missing("a connection"))
    }
}

/// Moves all `len` bytes at `at`; spins instead of sleeping when asked to.
fn all(way: Way, stream: &TcpStream, at: *mut u8, len: usize, spin: bool) -> Result<()> {
    let mut done = 0;
    let mut idle_turns = 0u64;
    let mut idle_since = None;
    while done < len {
        match os::socket_io(way, stream, at.wrapping_add(done), len - done, spin) {
            Ok(Some(0)) => return Err(Fail::setup("the plain connection was closed", "")),
            Ok(Some(n)) => done += n,
            Ok(None) => {
                idle_turns += 1;
                // The other end may be waiting for this very core.
                if idle_turns.is_multiple_of(TURNS_PER_YIELD) {
                    std::thread::yield_now();
                }
                if idle_turns.is_multiple_of(TURNS_PER_LOOK) {
                    let since = *idle_since.get_or_insert_with(clock::now);
                    if clock::now().duration_since(since) > SOCKET_TIMEOUT {
                        return Err(Fail::setup("the plain connection is silent", ""));
                    }
                }
            }
            Err(e) => return Err(socket_fail(e)),
        }
    }
    Ok(())
}

fn json(of: impl serde::Serialize) -> serde_json::Result<Value> {
    serde_json::to_value(of)
}

fn own_cpu() -> Result<f64> {
    Ok(os::cpu_s())
}

fn length(range: Range) -> usize {
    usize::try_from(range.len).unwrap_or(0)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn socket_fail(e: std::io::Error) -> Fail {
    Fail::system("plain socket", &e, "is loopback up?")
}

fn missing(what: &str) -> Fail {
    Fail::usage(format!("the worker lacks {what}"), "workers are internal")
}

/// As long as a request header of the engine's own protocol.
const REQUEST: usize = 40;
const GO_ON: u8 = 1;
const STOP: u8 = 2;
const SOCKET_TIMEOUT: Duration = Duration::from_secs(30);
const TURNS_PER_YIELD: u64 = 4;
const TURNS_PER_LOOK: u64 = 1 << 20;
