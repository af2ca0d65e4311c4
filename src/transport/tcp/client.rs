//! Our protocol as initiator: a rail is two connections, urgent and bulk, to one address of the peer.
//!
//! When a connection of a rail breaks, both are closed. READs in flight are over at once, for nothing
//! here writes to their memory any more. WRITEs may still be read by the peer from its socket: they are
//! over when the peer has said, over whichever path works, that it has fenced the rail (D5, I3; `refence`).

use super::frame::{HEAD_LEN, Head, Hello, Kind, Status};
use super::io::Payload;
use super::{Close, Conn, Rail, Role, Rx, Stage, TcpTarget, TcpTransport, Way};
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
    /// Of a WRITE: how many were sent on its connection before.
    number: u64,
    /// What the lane knows of it: until it is over, which it may be before the peer has answered.
    told: bool,
    /// Its revocation is under way: that it is refused is the answer to that.
    revoking: bool,
    /// Not a piece, but the revocation of one: of which rail, and its id there.
    revokes: Option<(u32, u64)>,
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

    fn find(&self, token: u64) -> Option<(u64, Pending)> {
        self.entries.iter().enumerate().find_map(|(index, (generation, pending))| {
            let pending = pending.filter(|p| p.token == token && !p.told && p.revokes.is_none())?;
            Some((u64::from(*generation) << 32 | index as u64, pending))
        })
    }

    fn mark_revoking(&mut self, id: u64) {
        if let Some((_, Some(pending))) = self.entries.get_mut((id & 0xffff_ffff) as usize) {
            pending.revoking = true;
        }
    }

    /// The lane knows of its end; the peer's answer is still to come.
    fn mark_told(&mut self, id: u64) {
        if let Some((_, Some(pending))) = self.entries.get_mut((id & 0xffff_ffff) as usize) {
            pending.told = true;
        }
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
    /// Per connection: WRITEs posted.
    writes: [u64; 2],
    /// WRITEs of broken connections that wait for the fence, and why the rail broke.
    lost: Vec<Pending>,
    /// Of these, the one whose own memory was not mapped.
    unmapped: Option<u64>,
    cause: DownCause,
    /// Connections that ask for it, of this call and the one before.
    fences: [Vec<u64>; 2],
}

impl ClientRail {
    pub(super) fn new(target: TcpTarget) -> Self {
        Self {
            target,
            conns: [None; 2],
            open: [false; 2],
            pending: PendingTable::default(),
            under_way: [(0, 0); 2],
            writes: [0; 2],
            lost: Vec::new(),
            unmapped: None,
            cause: DownCause::Aborted,
            fences: Default::default(),
        }
    }
}

impl ClientRail {
    pub(super) fn target(&self) -> &TcpTarget {
        &self.target
    }

    pub(super) fn conns(&self) -> [Option<u64>; 2] {
        self.conns
    }

    pub(super) fn fences(&mut self) -> &mut [Vec<u64>; 2] {
        &mut self.fences
    }

    pub(super) fn cause(&self) -> DownCause {
        self.cause
    }

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
        let piece = r.pending.get(id).filter(|p| p.op == Op::Read && !p.told)?;
        Some((piece.local, piece.len as usize))
    }

    pub(super) fn client_rail(&mut self, rail: u32) -> Option<&mut ClientRail> {
        match self.rail(rail) {
            Some(Rail::Tent(rail)) => Some(rail),
            _ => None,
        }
    }

    /// Starts both connections of a rail.
    pub(super) fn open_client(&mut self, rail: u32) {
        let Some(way) = self.client_rail(rail).map(|r| r.target.ways[r.target.way]) else { return };
        for lane in 0..2 {
            match self.open_way(way, Role::Client { rail, lane, stage: Stage::Connecting }) {
                Ok(key) => {
                    if let Some(r) = self.client_rail(rail) {
                        r.conns[lane] = Some(key);
                    }
                }
                Err(e) => return self.client_closed(rail, Close::Failed(super::down_cause(&e))),
            }
        }
    }

    pub(super) fn open_way(&mut self, way: Way, role: Role) -> std::io::Result<u64> {
        let from = way.local.map(|ip| SocketAddr::new(ip, 0));
        let socket = evloop::connect_start(way.remote, from)?;
        if way.local == Some(way.remote.ip()) || way.remote.ip().is_loopback() {
            net::no_pacing(&socket);
        }
        self.add(socket, role)
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
            fence: false,
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
            let id = r.pending.insert(Pending {
                token: op.token,
                op: op.op,
                local: op.local,
                len,
                lane,
                number: r.writes[lane],
                told: false,
                revoking: false,
                revokes: None,
            });
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
                r.writes[lane] += u64::from(op.op == Op::Write);
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
                self.welcomed(rail, lane);
            }
            (Kind::Ack, Stage::Open) => {
                let r = self.client_rail(rail).ok_or(protocol)?;
                let piece = r.take(lane, head.id).filter(|p| p.op == Op::Write).ok_or(protocol)?;
                match piece.revokes {
                    Some((of, id)) if head.status == Status::Ok => self.revoked(of, id),
                    None if !piece.told => {
                        let fault = fault_of(head.status);
                        let revoked =
                            fault.filter(|_| piece.revoking).map(|_| SliceFault::RailLost);
                        self.done(piece.token, revoked.or(fault));
                    }
                    _ => {}
                }
            }
            (Kind::Data, Stage::Open) => {
                let r = self.client_rail(rail).ok_or(protocol)?;
                let piece = r.pending.get(head.id).filter(|p| p.op == Op::Read && p.lane == lane);
                let piece = piece.ok_or(protocol)?;
                if head.status != Status::Ok {
                    r.take(lane, head.id);
                    if !piece.told {
                        self.done(piece.token, fault_of(head.status));
                    }
                } else if head.len == piece.len && piece.told {
                    let left = piece.len as usize;
                    conn.rx = Rx::Skip { left, after: After::Landed(head.id) };
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
        let piece = self.client_rail(rail).and_then(|r| r.take(lane, id));
        if let Some(piece) = piece.filter(|p| !p.told) {
            self.done(piece.token, None);
        }
    }

    /// One connection was welcomed; with the second the rail is up.
    fn welcomed(&mut self, rail: u32, lane: usize) {
        let Some(r) = self.client_rail(rail) else { return };
        r.open[lane] = true;
        if r.open[0] && r.open[1] {
            self.events.push(TransportEvent::RailUp { rail });
        }
    }

    /// Ends a piece early. Of a READ the rest is thrown away here; a WRITE that has begun to leave is
    /// revoked at the peer, over another rail.
    pub(super) fn cancel_client(&mut self, rail: u32, token: u64) {
        let Some(r) = self.client_rail(rail) else { return };
        let Some((id, piece)) = r.pending.find(token) else { return };
        let Some(key) = r.conns[piece.lane] else { return };
        let regions = std::sync::Arc::clone(&self.shared.regions);
        let Some(conn) = self.conn(key) else { return };
        let over = match piece.op {
            Op::Read => {
                if let Rx::Body { left, after: After::Landed(at_hand), .. } = conn.rx
                    && at_hand == id
                {
                    conn.rx = Rx::Skip { left, after: After::Landed(id) };
                }
                true
            }
            Op::Write => {
                // an empty one in its place: both ends count them
                let (kind, status) = (Kind::Write, Status::Ok);
                let empty = Head { kind, status, len: 0, id, addr: 0, key: 0 };
                let pin = |addr, len: usize| regions.pin_local(addr, len as u64);
                conn.stream.take_back(id, &empty.encode(), pin)
            }
        };
        if !over {
            return self.revoke(rail, id, piece);
        }
        if let Some(r) = self.client_rail(rail) {
            r.pending.mark_told(id);
        }
        self.done(token, Some(SliceFault::RailLost));
    }

    /// Asks over another rail to the same peer that nothing more of a WRITE be written; without one it
    /// takes its time.
    fn revoke(&mut self, of: u32, id: u64, piece: Pending) {
        let Some(target) = self.client_rail(of).map(|r| r.target.clone()) else { return };
        let other = |(number, rail): (usize, &Option<Rail>)| match rail {
            Some(Rail::Tent(r)) if r.open == [true; 2] && r.target.peer == target.peer => {
                u32::try_from(number).ok().filter(|number| *number != of)
            }
            _ => None,
        };
        let Some(by) = self.rails.iter().enumerate().find_map(other) else { return };
        if let Some(r) = self.client_rail(of) {
            r.pending.mark_revoking(id);
        }
        let lane = Class::Urgent as usize;
        let Some(r) = self.client_rail(by) else { return };
        let Some(key) = r.conns[lane] else { return };
        let note = Pending { lane, revokes: Some((of, id)), ..piece };
        let own = r.pending.insert(note);
        r.under_way[lane] = (r.under_way[lane].0 + 1, own);
        let slot = target.slot << 1 | u32::from(piece.lane == Class::Bulk as usize);
        let (kind, status) = (Kind::Revoke, Status::Ok);
        let head = Head { kind, status, len: 0, id: own, addr: slot.into(), key: piece.number };
        if let Some(conn) = self.conn(key) {
            conn.stream.queue(&head.encode(), None, own);
            self.make_ready(key);
        }
    }

    /// The peer has promised it.
    fn revoked(&mut self, rail: u32, id: u64) {
        let Some(r) = self.client_rail(rail) else { return };
        let Some(piece) = r.pending.get(id).filter(|p| !p.told) else { return };
        r.pending.mark_told(id);
        self.done(piece.token, Some(SliceFault::RailLost));
    }

    /// A connection of the rail is gone (already out of its slot).
    pub(super) fn client_closed(&mut self, rail: u32, close: Close) {
        let cause = match close {
            Close::Failed(cause) => cause,
            Close::End | Close::LocalMemory(_) => DownCause::Reset,
        };
        let broken = match close {
            Close::LocalMemory(id) => self.client_rail(rail).and_then(|r| r.pending.take(id)),
            _ => None,
        };
        if let Some(piece) = broken.filter(|p| !p.told) {
            // its bytes up to the hole may have been sent, so a WRITE waits for the fence like the others
            if piece.op == Op::Read {
                self.done(piece.token, Some(SliceFault::LocalMemory));
            } else if let Some(r) = self.client_rail(rail) {
                r.unmapped = Some(piece.token);
                r.lost.push(piece);
            }
        }
        self.break_client(rail, cause);
    }

    /// Gives the rail up, behind a fence if it has WRITEs to fence; called again, asks for that anew.
    pub(super) fn abort_client(&mut self, rail: u32) {
        self.break_client(rail, DownCause::Aborted);
    }

    /// Closes what the rail has open and begins the fence, or asks for it anew.
    fn break_client(&mut self, rail: u32, cause: DownCause) {
        let Some(r) = self.client_rail(rail) else { return };
        let keys = std::mem::take(&mut r.conns);
        let first = r.lost.is_empty() || r.open == [true; 2];
        r.open = [false; 2];
        r.under_way = [(0, 0); 2];
        let pieces = r.pending.drain();
        for key in keys.into_iter().flatten() {
            self.remove(key, true);
        }
        for piece in pieces.into_iter().filter(|p| !p.told && p.revokes.is_none()) {
            if piece.op == Op::Read {
                self.done(piece.token, Some(SliceFault::RailLost));
            } else if let Some(r) = self.client_rail(rail) {
                r.lost.push(piece);
            }
        }
        let Some(r) = self.client_rail(rail) else { return };
        if r.lost.is_empty() {
            return self.client_down(rail, cause);
        }
        if first {
            r.cause = cause;
            self.events.push(TransportEvent::RailBroken { rail, cause });
        }
        self.ask_fence(rail);
    }

    /// The rail is over.
    pub(super) fn client_down(&mut self, rail: u32, cause: DownCause) {
        let Some(Rail::Tent(r)) = self.rails.get_mut(rail as usize).and_then(Option::take) else {
            return;
        };
        for key in r.fences.into_iter().flatten() {
            self.remove(key, true);
        }
        for piece in r.lost {
            let unmapped = r.unmapped == Some(piece.token);
            let fault = if unmapped { SliceFault::LocalMemory } else { SliceFault::RailLost };
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
        let (op, told, revokes) = (Op::Write, false, None);
        let piece = |token| Pending {
            token,
            op,
            local: 0,
            len: 1,
            lane: 0,
            number: 0,
            told,
            revoking: false,
            revokes,
        };
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
