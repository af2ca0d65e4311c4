//! One end of a measurement: an engine with one registered buffer, and the peers' buffers it has opened.
//! It moves ranges; what to move and what to make of it is the caller's.

use super::capi::{Engine, Library, Op, Progress, Request};
use super::clock;
use super::drive::{self, Took};
use super::fail::{Fail, Result};
use super::memory::Buffer;
use super::proto::{Memory, NodeInfo, NodeSpec, Outcome, Plan, Range, Touched, Wait};
use super::units;

/// An engine and its buffer. The engine goes first on drop, so nothing can land in freed memory.
#[derive(Debug)]
pub(crate) struct Node {
    engine: Engine,
    buffer: Buffer,
    lent: bool,
    pub(crate) info: NodeInfo,
}

/// A peer's buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote {
    segment: i32,
    base: u64,
    pub(crate) len: u64,
}

impl Remote {
    /// The same buffer without its first bytes.
    pub(crate) fn skip(self, bytes: u64) -> Self {
        let bytes = bytes.min(self.len);
        Self { base: self.base + bytes, len: self.len - bytes, ..self }
    }
}

impl Node {
    pub(crate) fn start(lib: &'static Library, spec: &NodeSpec) -> Result<Self> {
        let begin = clock::now();
        let engine = Engine::create(lib, &spec.metadata, &spec.name, spec.port)?;
        let start_us = clock::s_since(begin) * 1e6;
        let lent = spec.memory == Memory::Engine;
        let buffer = if lent {
            Buffer::lent(engine.allocate(spec.bytes)?, spec.bytes)?
        } else {
            Buffer::anonymous(spec.bytes)?
        };
        let base = buffer.at(buffer.whole())?;
        let begin = clock::now();
        engine.register(base, spec.bytes, lent)?;
        let register_us = clock::s_since(begin) * 1e6;
        // With a metadata store the given name is the segment's; in P2PHANDSHAKE the address is.
        let segment = if spec.metadata == P2P { engine.address()? } else { spec.name.clone() };
        let (address, len) = (buffer.address(), buffer.len());
        let info = NodeInfo { segment, address, len, start_us, register_us };
        Ok(Self { engine, buffer, lent, info })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Opens a segment; `known` says where its buffer is, for libraries that cannot tell.
    pub(crate) fn open(&self, segment: &str, known: Option<(u64, u64)>) -> Result<Remote> {
        let id = self.engine.open_segment(segment)?;
        let told = match known {
            Some(place) => Some(place),
            None => self.engine.segment_buffers(id)?.and_then(|list| list.first().copied()),
        };
        let (base, len) = told.ok_or_else(|| {
            Fail::setup(
                format!("nobody tells where the buffer of {segment} is"),
                "add the --target_addr that the target printed",
            )
        })?;
        Ok(Remote { segment: id, base, len })
    }

    /// Microseconds to register the buffer once more, after it was unregistered.
    pub(crate) fn reregister_us(&self) -> Result<f64> {
        let base = self.buffer.at(self.buffer.whole())?;
        self.engine.unregister(base)?;
        let begin = clock::now();
        self.engine.register(base, self.buffer.len(), self.lent)?;
        Ok(clock::s_since(begin) * 1e6)
    }

    /// The request that moves one range between here and the same place of the peer's buffer.
    pub(crate) fn request(&self, remote: &Remote, op: Op, range: Range) -> Result<Request> {
        let source = self.buffer.at(range)?;
        if range.offset.checked_add(range.len).is_none_or(|end| end > remote.len) {
            let cure = "a smaller --total_buffer_size, or a larger one at the target";
            return Err(Fail::usage("the target's buffer is too small", cure));
        }
        Ok(Request::new(op, source, remote.segment, remote.base + range.offset, range.len))
    }

    /// Moves the ranges one batch after the other; for preparation and checks.
    pub(crate) fn move_all(&self, remote: &Remote, op: Op, ranges: &[Range]) -> Result<()> {
        let pieces = ranges.iter().flat_map(|range| pieces(*range, PIECE));
        for piece in pieces {
            transfer(&self.engine, &mut [self.request(remote, op, piece)?], Wait::Poll)?;
        }
        Ok(())
    }

    /// Runs a load; thread t uses remote t modulo their number.
    pub(crate) fn run(
        &self,
        remotes: &[Remote],
        plan: &Plan,
        cpu: &mut dyn FnMut() -> Result<f64>,
    ) -> Result<Outcome> {
        if plan.wait == Wait::Block && !self.engine.can_wait() {
            return Err(Fail::usage("this library has no tent_wait", "use --wait poll"));
        }
        let total = remotes.iter().map(|r| r.len).min().unwrap_or(0).min(self.buffer.len());
        drive::run(total, plan, cpu, |thread| {
            let mut requests = Vec::new();
            move |touched: Touched| {
                let many = remotes.len() as u64;
                let at = usize::try_from(thread.checked_rem(many).unwrap_or(0)).unwrap_or(0);
                let remote = remotes.get(at).ok_or_else(|| Fail::usage("no target", ""))?;
                requests.clear();
                for piece in pieces(touched.range, plan.block) {
                    requests.push(self.request(remote, touched.op, piece)?);
                }
                transfer(&self.engine, &mut requests, plan.wait)
            }
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.lent
            && let Ok(base) = self.buffer.at(self.buffer.whole())
        {
            // At the end only: a failure here changes nothing for anybody.
            let _ = self.engine.unregister(base);
            self.engine.free(base);
        }
    }
}

/// A range in pieces of at most `size`, in order.
pub(crate) fn pieces(range: Range, size: u64) -> impl Iterator<Item = Range> {
    let end = range.offset + range.len;
    let step = size.max(1);
    let count = range.len.div_ceil(step);
    (0..count).map(move |i| {
        let offset = range.offset + i * step;
        Range { offset, len: step.min(end - offset) }
    })
}

/// One batch from submit to its end.
fn transfer(engine: &Engine, requests: &mut [Request], wait: Wait) -> Result<Took> {
    let batch = engine.allocate_batch(requests.len())?;
    let begin = clock::now();
    engine.submit(batch, requests)?;
    let submit_ns = clock::ns_since(begin);
    if wait == Wait::Block && !engine.wait(batch, TIMEOUT_MS)? {
        return Err(too_long());
    }
    for task in 0..requests.len() {
        let mut turns = 0u64;
        loop {
            match engine.poll(batch, task)? {
                Progress::Completed => break,
                Progress::Failed(status) => return Err(engine.task_failed(status)),
                Progress::Moving(_) => {}
            }
            turns += 1;
            if turns.is_multiple_of(256) && clock::ns_since(begin) > TIMEOUT_MS * 1_000_000 {
                return Err(too_long());
            }
        }
    }
    let tx_ns = clock::ns_since(begin);
    engine.free_batch(batch)?;
    Ok(Took { tx_ns, submit_ns })
}

fn too_long() -> Fail {
    Fail::transfer(
        format!("a batch did not end within {} s", TIMEOUT_MS / 1000),
        "look at the rails; is the peer alive?",
    )
}

/// The name of the metadata service that needs no server.
pub(crate) const P2P: &str = "P2PHANDSHAKE";
const TIMEOUT_MS: u64 = 60_000;
const PIECE: u64 = 64 * units::MIB;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_exactly() {
        for (offset, len, size) in [(0, 10, 3), (7, 64, 64), (1, 0, 5), (3, 1000, 7), (9, 5, 100)] {
            let mut at = offset;
            for piece in pieces(Range { offset, len }, size) {
                assert_eq!(piece.offset, at);
                assert!(piece.len > 0 && piece.len <= size);
                at += piece.len;
            }
            assert_eq!(at, offset + len);
        }
    }
}
