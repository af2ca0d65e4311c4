//! Upstream's protocol as initiator: plain requests over a few persistent connections, answered in
//! order. One of our requests may be cut into several of theirs; each is an ordinary request to them.
//!
//! Such a peer cannot fence: a WRITE whose connection breaks before its answer may still land, and is
//! reported so.

use super::frame::{STATUS_LEN, UpstreamRequest, read_upstream_status};
use super::io::Payload;
use super::{After, Close, Conn, Rail, Role, Rx, Stage, TcpTransport, UpstreamTarget};
use crate::slice::{DownCause, Op, SliceFault, SliceOp, TransportEvent};
use crate::sys::evloop;
use std::collections::VecDeque;

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct InLine {
    token: u64,
    op: Op,
    local: usize,
    len: usize,
    /// The WRITE has no answer of its own: the one byte that is read back behind it says that it is in
    /// memory, for their servers work a connection in order.
    barrier: bool,
}

/// A rail to an upstream node.
#[derive(Debug)]
pub(super) struct UpstreamRail {
    target: UpstreamTarget,
    /// Connections and the bytes that wait on each; all but those under way are open.
    conns: Vec<(u64, usize)>,
    opening: Option<u64>,
    up: bool,
    /// Where barrier bytes go.
    sink: Box<[u8; 8]>,
}

impl UpstreamRail {
    pub(super) fn new(target: UpstreamTarget) -> Self {
        Self { target, conns: Vec::new(), opening: None, up: false, sink: Box::new([0; 8]) }
    }

    /// Its open connections.
    pub(super) fn conns(&self) -> impl Iterator<Item = u64> {
        self.conns.iter().map(|(key, _)| *key)
    }
}

impl TcpTransport {
    fn upstream_rail(&mut self, rail: u32) -> Option<&mut UpstreamRail> {
        match self.rail(rail) {
            Some(Rail::Upstream(rail)) => Some(rail),
            _ => None,
        }
    }

    /// Starts one more connection of the rail.
    pub(super) fn open_upstream(&mut self, rail: u32) {
        let Some(remote) = self.upstream_rail(rail).map(|r| r.target.remote) else { return };
        let line = VecDeque::new();
        let role = Role::Upstream { rail, stage: Stage::Connecting, key: 0, line };
        let opened = evloop::connect_start(remote, None).and_then(|socket| self.add(socket, role));
        let Some(r) = self.upstream_rail(rail) else { return };
        match opened {
            Ok(key) => r.opening = Some(key),
            Err(e) if r.conns.is_empty() => self.upstream_down(rail, super::down_cause(&e)),
            Err(_) => {}
        }
    }

    pub(super) fn upstream_connected(&mut self, key: u64, conn: &mut Conn) {
        let Role::Upstream { rail, stage, key: own, .. } = &mut conn.role else { return };
        *stage = Stage::Open;
        *own = key;
        let rail = *rail;
        let Some(r) = self.upstream_rail(rail) else { return };
        r.opening = None;
        r.conns.push((key, 0));
        if !std::mem::replace(&mut r.up, true) {
            self.events.push(TransportEvent::RailUp { rail });
        }
    }

    pub(super) fn post_upstream(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        let mut taken = 0;
        for op in ops {
            let Some(r) = self.upstream_rail(rail) else { break };
            let Ok(len) = usize::try_from(op.len) else { break };
            let Some(best) = (0..r.conns.len()).min_by_key(|i| r.conns[*i].1) else { break };
            let busy = r.conns[best].1 > 0;
            let more = busy && r.opening.is_none() && r.conns.len() < r.target.conns;
            r.conns[best].1 += len;
            let (key, v1) = (r.conns[best].0, r.target.v1);
            let sink = r.sink.as_ptr().addr();
            if more {
                self.open_upstream(rail);
            }
            let Some(conn) = self.conn(key) else { break };
            let Role::Upstream { line, .. } = &mut conn.role else { break };
            let write = op.op == Op::Write;
            let request = UpstreamRequest { size: op.len, addr: op.remote, write, v2: !v1 };
            let barrier = write && v1;
            let local = if barrier { sink } else { op.local };
            line.push_back(InLine { token: op.token, op: op.op, local, len, barrier });
            let payload = write.then_some(Payload { addr: op.local, len, _pin: None });
            conn.stream.queue(&request.encode(), payload, op.token);
            if barrier {
                let last = op.remote + op.len - 1;
                let request = UpstreamRequest { size: 1, addr: last, write: false, v2: false };
                conn.stream.queue(&request.encode(), None, op.token);
            }
            self.make_ready(key);
            taken += 1;
        }
        taken
    }

    pub(super) fn parse_upstream_answer(&mut self, conn: &mut Conn) -> Result<bool, Close> {
        let Role::Upstream { rail, line, .. } = &conn.role else {
            return Err(Close::Failed(DownCause::Protocol));
        };
        let (rail, first) = (*rail, line.front().copied());
        if conn.stream.buffered().is_empty() {
            return Ok(false);
        }
        // an answer that nobody asked for
        let first = first.ok_or(Close::Failed(DownCause::Protocol))?;
        let v1 = self.upstream_rail(rail).is_some_and(|r| r.target.v1);
        if !v1 {
            let Some(bytes) = conn.stream.take::<STATUS_LEN>() else { return Ok(false) };
            match read_upstream_status(bytes) {
                Some(0) => {}
                Some(_) => return Err(Close::Failed(DownCause::Aborted)),
                None => return Err(Close::Failed(DownCause::Protocol)),
            }
            if first.op == Op::Write {
                self.upstream_landed(conn);
                return Ok(true);
            }
        }
        let left = if first.barrier { 1 } else { first.len };
        let after = After::UpstreamLanded;
        conn.rx = Rx::Body { dst: first.local, left, after, pin: None };
        Ok(true)
    }

    /// The first request in line is done.
    pub(super) fn upstream_landed(&mut self, conn: &mut Conn) {
        let Role::Upstream { rail, key, line, .. } = &mut conn.role else { return };
        let Some(piece) = line.pop_front() else { return };
        let (rail, key) = (*rail, *key);
        self.done(piece.token, None);
        if let Some(r) = self.upstream_rail(rail)
            && let Some(share) = r.conns.iter_mut().find(|(k, _)| *k == key)
        {
            share.1 -= piece.len.min(share.1);
        }
    }

    /// A connection of the rail is gone; `line` is what it still owed.
    pub(super) fn upstream_closed(
        &mut self,
        rail: u32,
        key: u64,
        line: VecDeque<InLine>,
        close: Close,
    ) {
        let refused = close == Close::Failed(DownCause::Aborted);
        for (place, piece) in line.into_iter().enumerate() {
            let fault = match (close, piece.op) {
                (Close::LocalMemory(_), _) if place == 0 => SliceFault::LocalMemory,
                // their server refuses, then closes: the first in line was refused, the others were
                // never looked at
                _ if refused && place == 0 => SliceFault::Refused,
                _ if refused => SliceFault::RailLost,
                (_, Op::Read) => SliceFault::RailLost,
                (_, Op::Write) => SliceFault::RailLostUnfenced,
            };
            self.done(piece.token, Some(fault));
        }
        let Some(r) = self.upstream_rail(rail) else { return };
        r.conns.retain(|(k, _)| *k != key);
        r.opening = r.opening.filter(|k| *k != key);
        if r.conns.is_empty() && r.opening.is_none() {
            let cause = match close {
                Close::Failed(cause) => cause,
                Close::End | Close::LocalMemory(_) => DownCause::Reset,
            };
            self.upstream_down(rail, cause);
        }
    }

    pub(super) fn abort_upstream(&mut self, rail: u32) {
        let Some(r) = self.upstream_rail(rail) else { return };
        let mut keys: Vec<u64> = r.conns.drain(..).map(|(key, _)| key).collect();
        keys.extend(r.opening.take());
        for key in keys {
            if let Some(conn) = self.remove(key, true)
                && let Role::Upstream { line, .. } = conn.role
            {
                for piece in line {
                    let read = piece.op == Op::Read;
                    let fault =
                        if read { SliceFault::RailLost } else { SliceFault::RailLostUnfenced };
                    self.done(piece.token, Some(fault));
                }
            }
        }
        self.upstream_down(rail, DownCause::Aborted);
    }

    fn upstream_down(&mut self, rail: u32, cause: DownCause) {
        if self.rails.get_mut(rail as usize).and_then(Option::take).is_some() {
            self.events.push(TransportEvent::RailDown { rail, cause });
        }
    }
}
