//! Our protocol as initiator: a rail is two connections, urgent and bulk, to one address of the peer.
//!
//! When a connection of a rail breaks, both are closed. READs in flight are over at once, for nothing
//! here writes to their memory any more. WRITEs may still be read by the peer from its socket: the rail
//! connects again, and the welcome of the new connections says that the old ones are fenced (D5, I3).
//! Only then are those pieces reported lost.

use super::frame::{HEAD_LEN, Head, Hello, Kind, Status};
use super::io::Payload;
use super::{Close, Conn, Rail, Role, Rx, Stage, TcpTarget, TcpTransport};
use crate::slice::{Class, DownCause, Op, SliceFault, SliceOp, TransportEvent};
use crate::sys::{evloop, net};
use crate::transport::tcp::After;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// A piece on its way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    token: u64,
    op: Op,
    local: usize,
    len: u32,
    /// Which connection carries it.
    lane: usize,
}

/// Pieces of a rail by id. An id is an index and a generation, so that what the peer echoes is checked.
#[derive(Debug, Default)]
struct PendingTable {
    entries: Vec<(u32, Option<Pending>)>,
    free: Vec<u32>,
}

impl PendingTable {
    fn insert(&mut self, pending: Pending) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        let entry = &mut self.entries[index as usize];
        entry.0 = entry.0.wrapping_add(1);
        entry.1 = Some(pending);
        u64::from(entry.0) << 32 | u64::from(index)
    }

    fn get(&self, id: u64) -> Option<Pending> {
        let (generation, pending) = self.entries.get(usize::try_from(id & 0xffff_ffff).ok()?)?;
        if u64::from(*generation) == id >> 32 { *pending } else { None }
    }

    fn take(&mut self, id: u64) -> Option<Pending> {
        let pending = self.get(id)?;
        let index = u32::try_from(id & 0xffff_ffff).ok()?;
        self.entries[index as usize].1 = None;
        self.free.push(index);
        Some(pending)
    }

    fn drain(&mut self) -> Vec<Pending> {
        self.free.clear();
        let free = &mut self.free;
        let live = self.entries.iter_mut().enumerate().filter_map(|(index, entry)| {
            free.push(u32::try_from(index).unwrap_or(u32::MAX));
            entry.1.take()
        });
        live.collect()
    }
}

/// A rail to one of our own peers.
#[derive(Debug)]
pub(super) struct ClientRail {
    target: TcpTarget,
    conns: [Option<u64>; 2],
    open: [bool; 2],
    pending: PendingTable,
    /// Per connection: pieces under way, and the last one posted.
    under_way: [(u32, u64); 2],
    /// WRITEs of broken connections that wait for the fence.
    lost: Vec<Pending>,
    /// It was up before: the connections under way are for the fence.
    was_up: bool,
    /// The lane gave it up: when the fence stands it goes down.
    giving_up: bool,
}

impl ClientRail {
    pub(super) fn new(target: TcpTarget) -> Self {
        Self {
            target,
            conns: [None; 2],
            open: [false; 2],
            pending: PendingTable::default(),
            under_way: [(0, 0); 2],
            lost: Vec::new(),
            was_up: false,
            giving_up: false,
        }
    }
}

impl ClientRail {
    /// Takes out a piece that was answered on a connection.
    fn take(&mut self, lane: usize, id: u64) -> Option<Pending> {
        // an answer on the other connection is none
        self.pending.get(id).filter(|p| p.lane == lane)?;
        self.under_way[lane].0 -= 1;
        self.pending.take(id)
    }
}

impl TcpTransport {
    /// Where the next answer's payload goes, when a single READ is under way on the connection, so that
    /// nothing else can come.
    pub(super) fn expected(&mut self, role: &Role) -> Option<(usize, usize)> {
        let Role::Client { rail, lane, stage: Stage::Open } = *role else { return None };
        let r = self.client_rail(rail)?;
        let (1, id) = r.under_way[lane] else { return None };
        let piece = r.pending.get(id).filter(|p| p.op == Op::Read)?;
        Some((piece.local, piece.len as usize))
    }

    fn client_rail(&mut self, rail: u32) -> Option<&mut ClientRail> {
        match self.rail(rail) {
            Some(Rail::Tent(rail)) => Some(rail),
            _ => None,
        }
    }

    /// Starts both connections of a rail.
    pub(super) fn open_client(&mut self, rail: u32) {
        let Some(target) = self.client_rail(rail).map(|r| r.target.clone()) else { return };
        for lane in 0..2 {
            let role = Role::Client { rail, lane, stage: Stage::Connecting };
            let from = target.local.map(|ip| SocketAddr::new(ip, 0));
            let opened = evloop::connect_start(target.remote, from).and_then(|socket| {
                if target.local == Some(target.remote.ip()) || target.remote.ip().is_loopback() {
                    net::no_pacing(&socket);
                }
                self.add(socket, role)
            });
            match opened {
                Ok(key) => {
                    if let Some(r) = self.client_rail(rail) {
                        r.conns[lane] = Some(key);
                    }
                }
                Err(e) => return self.client_closed(rail, Close::Failed(super::down_cause(&e))),
            }
        }
    }

    /// The connection stands: say who we are and whom we mean.
    pub(super) fn greet(&mut self, conn: &mut Conn) {
        let epoch = self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        let from = self.shared.regions.incarnation();
        let Role::Client { rail, lane, stage } = &mut conn.role else { return };
        let Some(Rail::Tent(r)) = self.rails.get(*rail as usize).and_then(Option::as_ref) else {
            return;
        };
        *stage = Stage::Greeting;
        let hello = Hello {
            from,
            to: r.target.peer,
            slot: r.target.slot << 1 | u32::from(*lane == Class::Bulk as usize),
            epoch,
            urgent: *lane == Class::Urgent as usize,
        };
        conn.stream.queue(&hello.encode(), None, 0);
    }

    pub(super) fn post_client(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        let mut taken = 0;
        for op in ops {
            let Some(r) = self.client_rail(rail) else { break };
            let lane = op.class as usize;
            let (true, Some(key)) = (r.open[0] && r.open[1], r.conns[lane]) else { break };
            let Ok(len) = u32::try_from(op.len) else { break };
            let pending = Pending { token: op.token, op: op.op, local: op.local, len, lane };
            let id = r.pending.insert(pending);
            let kind = if op.op == Op::Write { Kind::Write } else { Kind::Read };
            let head = Head { kind, status: Status::Ok, len, id, addr: op.remote, key: op.key };
            let payload = (op.op == Op::Write).then(|| Payload {
                addr: op.local,
                len: len as usize,
                _pin: None, // the task holds the pin until the piece is done
            });
            let Some(conn) = self.conn(key) else {
                if let Some(r) = self.client_rail(rail) {
                    r.pending.take(id);
                }
                break;
            };
            conn.stream.queue(&head.encode(), payload, id);
            self.make_ready(key);
            if let Some(r) = self.client_rail(rail) {
                r.under_way[lane] = (r.under_way[lane].0 + 1, id);
            }
            taken += 1;
        }
        taken
    }

    pub(super) fn parse_answer(&mut self, conn: &mut Conn) -> Result<bool, Close> {
        let Some(bytes) = conn.stream.take::<HEAD_LEN>() else { return Ok(false) };
        let protocol = Close::Failed(DownCause::Protocol);
        let head = Head::decode(&bytes).ok_or(protocol)?;
        let Role::Client { rail, lane, stage } = &mut conn.role else { return Err(protocol) };
        let (rail, lane) = (*rail, *lane);
        match (head.kind, *stage) {
            (Kind::Welcome, Stage::Greeting) => {
                match head.status {
                    Status::Ok => *stage = Stage::Open,
                    Status::WrongPeer => return Err(Close::Failed(DownCause::WrongPeer)),
                    _ => return Err(protocol),
                }
                if self.welcomed(rail, lane) {
                    return Err(Close::Failed(DownCause::Aborted));
                }
            }
            (Kind::Ack, Stage::Open) => {
                let r = self.client_rail(rail).ok_or(protocol)?;
                let piece = r.take(lane, head.id).filter(|p| p.op == Op::Write).ok_or(protocol)?;
                self.done(piece.token, fault_of(head.status));
            }
            (Kind::Data, Stage::Open) => {
                let r = self.client_rail(rail).ok_or(protocol)?;
                let piece = r.pending.get(head.id).filter(|p| p.op == Op::Read && p.lane == lane);
                let piece = piece.ok_or(protocol)?;
                if head.status != Status::Ok {
                    r.take(lane, head.id);
                    self.done(piece.token, fault_of(head.status));
                } else if head.len == piece.len {
                    let after = After::Landed(head.id);
                    let left = piece.len as usize;
                    conn.rx = Rx::Body { dst: piece.local, left, after, pin: None };
                } else {
                    return Err(protocol);
                }
            }
            _ => return Err(protocol),
        }
        Ok(true)
    }

    pub(super) fn read_landed(&mut self, conn: &Conn, id: u64) {
        let Role::Client { rail, lane, .. } = conn.role else { return };
        if let Some(piece) = self.client_rail(rail).and_then(|r| r.take(lane, id)) {
            self.done(piece.token, None);
        }
    }

    /// One connection was welcomed; with the second the rail is up, or the fence is complete. `true`: the
    /// fence was all that the rail was kept for.
    fn welcomed(&mut self, rail: u32, lane: usize) -> bool {
        let Some(r) = self.client_rail(rail) else { return true };
        r.open[lane] = true;
        if !(r.open[0] && r.open[1]) {
            return false;
        }
        let giving_up = r.giving_up;
        let lost = std::mem::take(&mut r.lost);
        if !std::mem::replace(&mut r.was_up, true) {
            self.events.push(TransportEvent::RailUp { rail });
        }
        for piece in lost {
            self.done(piece.token, Some(SliceFault::RailLost));
        }
        giving_up
    }

    /// A connection of the rail is gone (already out of its slot).
    pub(super) fn client_closed(&mut self, rail: u32, close: Close) {
        let Some(r) = self.client_rail(rail) else { return };
        let was_open = r.open == [true; 2];
        let keys = std::mem::take(&mut r.conns);
        r.open = [false; 2];
        let pending = &mut r.pending;
        let broken = match close {
            Close::LocalMemory(id) => pending.take(id),
            _ => None,
        };
        let pieces = pending.drain();
        r.under_way = [(0, 0); 2];
        for key in keys.into_iter().flatten() {
            self.remove(key, true);
        }
        if let Some(piece) = broken {
            // its bytes up to the hole may have been sent, so a WRITE waits for the fence like the others
            if piece.op == Op::Read {
                self.done(piece.token, Some(SliceFault::LocalMemory));
            } else if let Some(r) = self.client_rail(rail) {
                r.lost.push(piece);
            }
        }
        for piece in pieces {
            if piece.op == Op::Read {
                self.done(piece.token, Some(SliceFault::RailLost));
            } else if let Some(r) = self.client_rail(rail) {
                r.lost.push(piece);
            }
        }
        let cause = match close {
            Close::Failed(cause) => cause,
            Close::End | Close::LocalMemory(_) => DownCause::Reset,
        };
        let must_fence = self.client_rail(rail).is_some_and(|r| !r.lost.is_empty());
        if was_open && must_fence && cause != DownCause::Aborted {
            return self.open_client(rail);
        }
        self.client_down(rail, cause);
    }

    /// Gives the rail up: the first time behind a fence, if it has WRITEs to fence; a second call, while
    /// that is under way, ends it without.
    pub(super) fn abort_client(&mut self, rail: u32) {
        let Some(r) = self.client_rail(rail) else { return };
        let first = !std::mem::replace(&mut r.giving_up, true);
        let must_fence =
            r.pending.entries.iter().any(|(_, p)| p.is_some_and(|p| p.op == Op::Write));
        let cause = if first && must_fence { DownCause::Reset } else { DownCause::Aborted };
        self.client_closed(rail, Close::Failed(cause));
    }

    /// The rail is over: what still waits for a fence will not get one.
    fn client_down(&mut self, rail: u32, cause: DownCause) {
        let Some(Rail::Tent(r)) = self.rails.get_mut(rail as usize).and_then(Option::take) else {
            return;
        };
        // nobody listens there, or another process does: the one that could write is gone
        let gone = matches!(cause, DownCause::Refused | DownCause::WrongPeer);
        let fault = if gone { SliceFault::RailLost } else { SliceFault::RailLostUnfenced };
        for piece in r.lost {
            self.done(piece.token, Some(fault));
        }
        self.events.push(TransportEvent::RailDown { rail, cause });
    }
}

fn fault_of(status: Status) -> Option<SliceFault> {
    (status != Status::Ok).then_some(SliceFault::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echoed_id_is_taken_once_and_never_another_pieces() {
        let mut table = PendingTable::default();
        let piece = |token| Pending { token, op: Op::Write, local: 0, len: 1, lane: 0 };
        let first = table.insert(piece(1));
        assert_eq!(table.take(first).map(|p| p.token), Some(1));
        assert!(table.take(first).is_none());
        let second = table.insert(piece(2));
        assert!(table.get(first).is_none(), "I7");
        assert_eq!(table.drain().len(), 1);
        assert!(table.get(second).is_none());
        assert!(table.get(u64::MAX).is_none());
    }
}
