//! How slices travel in a simulated world: connections and their queues, what arrives at either end, what
//! becomes of a connection that is closed, and the fence (D5).

use super::memory::Memory;
use super::world::{HOME, Happening, PEER_RULE, Sabotage, World, index};
use crate::slice::{Class, DownCause, Op, SliceFault, SliceOp, TransportEvent};
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A slice under way, or closed and waiting for its fence.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) op: SliceOp,
    conn: u32,
    /// Place in the connection's list.
    at: usize,
    /// The peer has placed it, or will not.
    placed: bool,
    revoked: bool,
}

/// What an item on a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    Ack,
    Ask,
    Data,
    /// An answer that the range was refused.
    Refuse,
    /// An answer that it was revoked before.
    Skipped,
    /// What is left of a WRITE that was taken back.
    Empty,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    piece: u64,
    kind: Kind,
    bytes: u64,
}

/// What one connection sends over one link, in order.
#[derive(Debug)]
pub(super) struct Flow {
    conn: u32,
    link: u32,
    /// The next link's flow; the end of the path without one.
    next: Option<u32>,
    back: bool,
    items: VecDeque<Item>,
    /// It waits for a timer, with so many bytes of its first item left.
    pub(super) left: Option<f64>,
    /// Of the first item, if it is in service ([`Link::left`](super::link::Link::left)); bytes of those before.
    finish: f64,
    carried: u64,
    /// When its last item arrived: nothing overtakes.
    last: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Knocking,
    Open,
    /// Closed here; WRITEs wait until the peer is known to write no more.
    Closing,
    Gone,
}

/// The connections of one rail, from connect to down.
#[derive(Debug)]
pub(super) struct Conn {
    lane: usize,
    rail: u32,
    pub(super) path: u32,
    /// Which life of the host is meant.
    life: u32,
    stage: Stage,
    /// First flow by direction (out, back) and class.
    flows: [[u32; 2]; 2],
    pieces: Vec<u64>,
    bytes: u64,
    /// The peer writes nothing from it any more.
    fenced: bool,
    closed: Instant,
    cause: DownCause,
}

impl World {
    pub(super) fn happen(&mut self, what: Happening) {
        match what {
            Happening::Served { link, version } => self.served(link, version),
            Happening::Crossed { flow, item } => self.crossed(flow, item),
            Happening::Resume { flow } => self.resume(flow),
            Happening::Knock { conn, tries } => self.knock(conn, tries),
            Happening::Reset { conn, cause } => self.reset(conn, cause),
            Happening::Fenced { conn, path } => self.fenced(conn, path),
            Happening::Revoke { by, piece } => self.revoke(by, piece),
            Happening::Revoked { by, piece } => self.revoked(by, piece),
            Happening::Ghost { conn, op } => self.ghost(conn, &op),
            Happening::Wake { host } => self.wake_host(host),
        }
    }

    /// Starts a connection; its number.
    pub(super) fn connect(&mut self, lane: usize, rail: u32, path: u32, life: u32) -> u32 {
        let conn = index(self.conns.len());
        let way = self.paths[path as usize].clone();
        let flows = [(&way.out, false), (&way.back, true)].map(|(links, back)| {
            [Class::Urgent, Class::Bulk].map(|_| self.add_flows(conn, links, back))
        });
        self.conns.push(Conn {
            lane,
            rail,
            path,
            life,
            stage: Stage::Knocking,
            flows,
            pieces: Vec::new(),
            bytes: 0,
            fenced: false,
            closed: Instant::NEVER,
            cause: DownCause::Aborted,
        });
        let wait = self.round_trip(path);
        self.plan(wait, Happening::Knock { conn, tries: 0 });
        conn
    }

    /// A chain of flows over these links; the first.
    fn add_flows(&mut self, conn: u32, links: &[u32], back: bool) -> u32 {
        let first = index(self.flows.len());
        for (at, link) in links.iter().enumerate() {
            let next = (at + 1 < links.len()).then_some(first + index(at) + 1);
            self.flows.push(Flow {
                conn,
                link: *link,
                next,
                back,
                items: VecDeque::new(),
                left: None,
                finish: 0.0,
                carried: 0,
                last: Instant(0),
            });
        }
        first
    }

    /// Connections whose path has that link.
    pub(super) fn conns_over(&self, link: u32) -> Vec<u32> {
        let over = |conn: &Conn| {
            let path = &self.paths[conn.path as usize];
            conn.stage != Stage::Gone && (path.out.contains(&link) || path.back.contains(&link))
        };
        (0..index(self.conns.len())).filter(|c| over(&self.conns[*c as usize])).collect()
    }

    fn knock(&mut self, conn: u32, tries: u32) {
        let c = &self.conns[conn as usize];
        if c.stage != Stage::Knocking {
            return;
        }
        let (path, life) = (c.path, c.life);
        let host = &self.hosts[self.paths[path as usize].host];
        if self.is_loud(path) {
            return self.down(conn, DownCause::Unreachable);
        }
        if let Some(until) = host.stopped_until.filter(|_| self.is_live(path)) {
            // its kernel takes the connection, and the process says hello when it runs again
            let at = until.after(Duration::from_nanos(self.round_trip(path)));
            return self.plan_at(at, Happening::Knock { conn, tries });
        }
        if !self.is_live(path) {
            // the kernel repeats a connect that was not answered after 1, 2, 4 ... seconds
            return self
                .plan(SYN_AGAIN << tries.min(6), Happening::Knock { conn, tries: tries + 1 });
        }
        if !host.alive {
            return self.down(conn, DownCause::Refused);
        }
        if host.life != life {
            return self.down(conn, DownCause::WrongPeer);
        }
        self.conns[conn as usize].stage = Stage::Open;
        let (lane, rail) = (self.conns[conn as usize].lane, self.conns[conn as usize].rail);
        self.note(|| format!("lane {lane} rail {rail}: up over path {path}"));
        self.inboxes[lane].push((TransportEvent::RailUp { rail }, 0));
    }

    /// Takes a slice; `false` when the connection takes none now.
    pub(super) fn post(&mut self, conn: u32, op: &SliceOp) -> bool {
        let c = &self.conns[conn as usize];
        let lazy = self.nature.sabotage == Some(Sabotage::Lazy) && c.path % 3 == 2;
        if c.stage != Stage::Open || (c.bytes >= self.nature.queue && c.bytes > 0) || lazy {
            return false;
        }
        let (lane, rail, at) = (c.lane, c.rail, c.pieces.len());
        let piece = self.add_piece(Piece { op: *op, conn, at, placed: false, revoked: false });
        let c = &mut self.conns[conn as usize];
        c.pieces.push(piece);
        c.bytes += op.len;
        let held = &mut self.held[c.path as usize][op.op as usize];
        if op.class == Class::Bulk {
            let ahead = &mut self.ahead[c.path as usize][op.op as usize];
            *ahead = (*ahead).max(*held);
        }
        *held += op.len;
        let (kind, bytes) = match op.op {
            Op::Write => (Kind::Write, self.nature.head + op.len),
            Op::Read => (Kind::Ask, self.nature.head),
        };
        let flow = self.conns[conn as usize].flows[0][op.class as usize];
        self.note(|| {
            let (what, to) = (op.op, op.remote);
            format!("lane {lane} rail {rail}: {what:?} {} bytes at {to:#x}", op.len)
        });
        self.send(flow, Item { piece, kind, bytes: bytes.max(1) });
        true
    }

    fn add_piece(&mut self, piece: Piece) -> u64 {
        let at = self.free_pieces.pop().unwrap_or_else(|| {
            self.pieces.push((0, None));
            index(self.pieces.len() - 1)
        });
        let slot = &mut self.pieces[at as usize];
        slot.0 = slot.0.wrapping_add(1);
        slot.1 = Some(piece);
        u64::from(slot.0) << 32 | u64::from(at)
    }

    fn piece(&mut self, id: u64) -> Option<&mut Piece> {
        let slot = self.pieces.get_mut((id & 0xffff_ffff) as usize)?;
        if u64::from(slot.0) == id >> 32 { slot.1.as_mut() } else { None }
    }

    fn take_piece(&mut self, id: u64) -> Option<Piece> {
        self.piece(id)?;
        let at = (id & 0xffff_ffff) as usize;
        self.free_pieces.push(index(at));
        let piece = self.pieces[at].1.take()?;
        let list = &mut self.conns[piece.conn as usize].pieces;
        list.swap_remove(piece.at);
        if let Some(moved) = list.get(piece.at).copied()
            && let Some(other) = self.piece(moved)
        {
            other.at = piece.at;
        }
        Some(piece)
    }

    /// Ends a slice: the engine will be told.
    fn report(&mut self, id: u64, fault: Option<SliceFault>) {
        let Some(piece) = self.take_piece(id) else { return };
        let conn = &mut self.conns[piece.conn as usize];
        conn.bytes -= piece.op.len;
        self.held[conn.path as usize][piece.op.op as usize] -= piece.op.len;
        let (lane, rail, token) = (conn.lane, conn.rail, piece.op.token);
        let moved = if fault.is_none() { piece.op.len } else { 0 };
        let times = match self.nature.sabotage {
            Some(Sabotage::Mute) if self.rng.one_in(SELDOM) => 0,
            Some(Sabotage::Twice) if self.rng.one_in(SELDOM) => 2,
            _ => 1,
        };
        for _ in 0..times {
            self.inboxes[lane].push((TransportEvent::Done { token, fault }, moved));
        }
        self.note(|| {
            let (len, at) = (piece.op.len, piece.op.remote);
            let end = fault.map_or_else(|| "done".to_owned(), |f| format!("{f:?}"));
            format!("lane {lane} rail {rail}: {len} bytes at {at:#x}: {end}")
        });
    }

    fn send(&mut self, flow: u32, item: Item) {
        let f = &mut self.flows[flow as usize];
        f.items.push_back(item);
        if f.items.len() == 1 && f.left.is_none() {
            let link = f.link;
            f.finish = self.links[link as usize].push(flow, float(item.bytes), self.now);
            self.replan(link);
        }
    }

    fn resume(&mut self, flow: u32) {
        let f = &mut self.flows[flow as usize];
        if let Some(left) = f.left.take()
            && !f.items.is_empty()
        {
            let link = f.link;
            f.finish = self.links[link as usize].push(flow, left, self.now);
            self.replan(link);
        }
    }

    fn served(&mut self, link: u32, version: u64) {
        let l = &mut self.links[link as usize];
        if l.version != version {
            return;
        }
        let Some(flow) = l.pop(self.now) else { return };
        let (latency, jitter) = (l.latency, l.jitter);
        let wait = latency + self.rng.below(jitter + 1);
        let f = &mut self.flows[flow as usize];
        let item = f.items.pop_front();
        f.carried += item.map_or(0, |i| i.bytes);
        f.last = f.last.max(Instant(self.now.0 + wait));
        let at = f.last;
        if let Some(next) = f.items.front() {
            f.finish = l.push(flow, float(next.bytes), self.now);
        }
        self.replan(link);
        if let Some(item) = item {
            self.plan_at(at, Happening::Crossed { flow, item });
        }
    }

    /// Bytes that have come through the last links of a connection, both ways.
    pub(super) fn bytes_through(&mut self, conn: u32) -> u64 {
        let mut through = 0;
        for first in self.conns[conn as usize].flows.into_iter().flatten() {
            let mut flow = first;
            while let Some(next) = self.flows[flow as usize].next {
                flow = next;
            }
            let f = &self.flows[flow as usize];
            let in_service = f.items.front().filter(|_| f.left.is_none());
            let part = in_service.map_or(0.0, |item| {
                float(item.bytes) - self.links[f.link as usize].left(f.finish, self.now)
            });
            through += f.carried + whole(part);
        }
        through
    }

    fn crossed(&mut self, flow: u32, item: Item) {
        let f = &self.flows[flow as usize];
        let (conn, back) = (f.conn, f.back);
        match f.next {
            // a closed connection's packets are dropped on the way; those that arrived are ghosts
            Some(_) if self.conns[conn as usize].stage != Stage::Open => {}
            Some(next) => self.send(next, item),
            None if back => self.at_home(conn, item),
            None => self.at_host(conn, item),
        }
    }

    /// An item has come to the peer.
    pub(super) fn at_host(&mut self, conn: u32, item: Item) {
        let (path, life) = (self.conns[conn as usize].path, self.conns[conn as usize].life);
        let host = self.paths[path as usize].host;
        let h = &mut self.hosts[host];
        if h.stopped_until.is_some() {
            h.held.push_back((self.now, conn, item));
            return;
        }
        if !h.alive || h.life != life {
            if self.is_live(path) {
                let wait = self.round_trip(path) / 2;
                self.plan(wait, Happening::Reset { conn, cause: DownCause::Reset });
            }
            return;
        }
        let (fenced, open) =
            (self.conns[conn as usize].fenced, self.conns[conn as usize].stage == Stage::Open);
        if fenced {
            return;
        }
        let found = self.piece(item.piece).map(|p| (p.op, p.revoked));
        let Some((op, revoked)) = found.filter(|_| item.kind != Kind::Empty) else { return };
        let head = self.nature.head.max(1);
        let answer = match item.kind {
            Kind::Write if revoked => (Kind::Skipped, head),
            _ if !self.admits(host, &op) => (Kind::Refuse, head),
            Kind::Write => {
                self.place_at_host(host, &op, op.len);
                if let Some(piece) = self.piece(item.piece) {
                    piece.placed = true;
                }
                (Kind::Ack, head)
            }
            _ => (Kind::Data, head + op.len),
        };
        if open {
            let flow = self.conns[conn as usize].flows[1][op.class as usize];
            self.send(flow, Item { piece: item.piece, kind: answer.0, bytes: answer.1 });
        }
    }

    /// The peer's check of a request (I11).
    fn admits(&self, host: usize, op: &SliceOp) -> bool {
        let host = &self.hosts[host];
        !host.withdrawn && op.key == host.key && host.memory.holds(op.remote, op.len)
    }

    /// An answer has come back.
    fn at_home(&mut self, conn: u32, item: Item) {
        if self.conns[conn as usize].stage != Stage::Open {
            return;
        }
        let Some(op) = self.piece(item.piece).map(|p| p.op) else { return };
        match item.kind {
            Kind::Refuse => self.report(item.piece, Some(SliceFault::Refused)),
            Kind::Skipped => self.report(item.piece, Some(SliceFault::RailLost)),
            Kind::Data => {
                let host = self.paths[self.conns[conn as usize].path as usize].host;
                if !self.hosts[host].alive
                    || self.hosts[host].life != self.conns[conn as usize].life
                {
                    // the memory that it was read from is gone; so the last packets are lost with it
                    return;
                }
                self.place_at_home(host, &op);
                self.report(item.piece, None);
            }
            _ => self.report(item.piece, None),
        }
    }

    fn place_at_host(&mut self, host: usize, op: &SliceOp, len: u64) {
        self.placed += len;
        let to = &mut self.hosts[host].memory;
        if to.is_closed(op.remote, len) {
            let (at, home) = (op.remote, op.local as u64 - HOME);
            self.breach(format!(
                "I3: {len} bytes landed at {at:#x} of host {host}, from {home:#x} here, after \
                 their task had ended"
            ));
            return;
        }
        let astray = self.nature.sabotage == Some(Sabotage::Astray) && self.rng.one_in(SELDOM);
        let addr = op.remote + u64::from(astray);
        if self.nature.sabotage != Some(Sabotage::Empty) || !self.rng.one_in(SELDOM) {
            carry(&self.home, op.local as u64, to, addr, len);
        }
    }

    fn place_at_home(&mut self, host: usize, op: &SliceOp) {
        self.placed += op.len;
        if self.home.is_closed(op.local as u64, op.len) {
            let at = op.local as u64 - HOME;
            self.breach(format!(
                "I3: {} bytes landed at {at:#x} here after their task had ended",
                op.len
            ));
            return;
        }
        carry(&self.hosts[host].memory, op.remote, &mut self.home, op.local as u64, op.len);
    }

    /// The initiator gives the connection up, or asks for the fence anew.
    pub(super) fn abort(&mut self, conn: u32) {
        match self.conns[conn as usize].stage {
            Stage::Knocking => self.down(conn, DownCause::Aborted),
            Stage::Open => self.close(conn, DownCause::Aborted),
            Stage::Closing => self.ask_fence(conn),
            Stage::Gone => {}
        }
    }

    /// The initiator waits for the fence no longer.
    pub(super) fn forsake(&mut self, conn: u32) {
        self.abort(conn);
        if self.conns[conn as usize].stage == Stage::Closing {
            self.end(conn);
        }
    }

    /// The initiator wants a slice to write nothing more. A READ is over at once; a WRITE that has not
    /// begun to leave is taken back, another is revoked over another connection if there is one.
    pub(super) fn cancel(&mut self, conn: u32, token: u64) {
        let pieces = self.conns[conn as usize].pieces.clone();
        let found = pieces
            .into_iter()
            .find_map(|id| self.piece(id).filter(|p| p.op.token == token).map(|p| (id, p.op)));
        let Some((id, op)) = found.filter(|_| self.conns[conn as usize].stage == Stage::Open)
        else {
            return;
        };
        let flow = self.conns[conn as usize].flows[0][op.class as usize];
        let mut waiting = self.flows[flow as usize].items.iter_mut().skip(1);
        if op.op == Op::Read {
            return self.report(id, Some(SliceFault::RailLost));
        }
        if let Some(item) = waiting.find(|item| item.piece == id) {
            (item.kind, item.bytes) = (Kind::Empty, self.nature.head.max(1));
            return self.report(id, Some(SliceFault::RailLost));
        }
        let c = &self.conns[conn as usize];
        let (lane, life, host) = (c.lane, c.life, self.paths[c.path as usize].host);
        let other = |by: &u32| {
            let o = &self.conns[*by as usize];
            let same = o.lane == lane && o.life == life && self.paths[o.path as usize].host == host;
            *by != conn && same && o.stage == Stage::Open
        };
        if let Some(by) = (0..index(self.conns.len())).find(other) {
            let wait = self.round_trip(self.conns[by as usize].path) / 2;
            self.plan(wait, Happening::Revoke { by, piece: id });
        }
    }

    fn revoke(&mut self, by: u32, piece: u64) {
        let c = &self.conns[by as usize];
        let (path, life, open) = (c.path, c.life, c.stage == Stage::Open);
        let host = &self.hosts[self.paths[path as usize].host];
        let runs = host.alive && host.life == life && host.stopped_until.is_none();
        if open && runs && self.is_live(path) {
            if let Some(piece) = self.piece(piece) {
                piece.revoked = true;
            }
            let wait = self.round_trip(path) / 2;
            self.plan(wait, Happening::Revoked { by, piece });
        }
    }

    fn revoked(&mut self, by: u32, piece: u64) {
        if self.conns[by as usize].stage == Stage::Open {
            self.report(piece, Some(SliceFault::RailLost));
        }
    }

    fn reset(&mut self, conn: u32, cause: DownCause) {
        match self.conns[conn as usize].stage {
            Stage::Knocking => self.down(conn, cause),
            Stage::Open => self.close(conn, cause),
            Stage::Closing | Stage::Gone => {}
        }
    }

    /// Closes an open connection: READs are over, WRITEs when the peer is known to write no more. What was
    /// sent of them may still be placed until then.
    fn close(&mut self, conn: u32, cause: DownCause) {
        let (now, ghosts) = (self.now, self.nature.ghosts);
        let c = &mut self.conns[conn as usize];
        (c.stage, c.closed, c.cause) = (Stage::Closing, now, cause);
        let (lane, rail, firsts) = (c.lane, c.rail, c.flows);
        let pieces = c.pieces.clone();
        self.note(|| format!("lane {lane} rail {rail}: closed ({cause:?})"));
        for first in firsts.into_iter().flatten() {
            self.clear_flows(first);
        }
        for id in pieces {
            let Some((op, placed)) = self.piece(id).map(|p| (p.op, p.placed)) else { continue };
            if op.op == Op::Read {
                self.report(id, Some(SliceFault::RailLost));
            } else if !placed && ghosts > 0 && self.rng.one_in(ghosts) {
                let most = if self.rng.one_in(2) { SOON } else { LATE };
                let wait = self.rng.below(most);
                self.plan(wait, Happening::Ghost { conn, op: Box::new(op) });
            }
        }
        if self.conns[conn as usize].pieces.is_empty() {
            return self.down(conn, cause);
        }
        self.inboxes[lane].push((TransportEvent::RailBroken { rail, cause }, 0));
        self.ask_fence(conn);
    }

    fn clear_flows(&mut self, first: u32) {
        let mut at = Some(first);
        while let Some(flow) = at {
            let f = &mut self.flows[flow as usize];
            let active = !f.items.is_empty() && f.left.is_none();
            f.items.clear();
            f.left = None;
            at = f.next;
            let link = f.link;
            if active {
                self.links[link as usize].remove(self.now, |f| f == flow);
                self.replan(link);
            }
        }
    }

    /// Asks the peer for the fence over every path, once; who asks asks again.
    fn ask_fence(&mut self, conn: u32) {
        if self.nature.sabotage == Some(Sabotage::NoFence) {
            return self.end(conn);
        }
        let host = self.paths[self.conns[conn as usize].path as usize].host;
        for path in self.ways_to(host) {
            let wait = self.round_trip(path);
            self.plan(wait, Happening::Fenced { conn, path });
        }
    }

    fn fenced(&mut self, conn: u32, path: u32) {
        let at = self.paths[path as usize].host;
        let host = &self.hosts[at];
        let answers = self.is_live(path) && host.stopped_until.is_none();
        // a process that is gone is fenced, which is known when every path says so
        let sure = host.alive || {
            let ways = self.ways_to(at);
            ways.into_iter().all(|way| self.is_live(way) || self.is_loud(way))
        };
        if self.conns[conn as usize].stage == Stage::Closing && answers && sure {
            self.conns[conn as usize].fenced = true;
            self.end(conn);
        }
    }

    fn end(&mut self, conn: u32) {
        for id in self.conns[conn as usize].pieces.clone() {
            self.report(id, Some(SliceFault::RailLost));
        }
        let cause = self.conns[conn as usize].cause;
        self.down(conn, cause);
    }

    fn down(&mut self, conn: u32, cause: DownCause) {
        let c = &mut self.conns[conn as usize];
        c.stage = Stage::Gone;
        let (lane, rail) = (c.lane, c.rail);
        self.inboxes[lane].push((TransportEvent::RailDown { rail, cause }, 0));
        self.note(|| format!("lane {lane} rail {rail}: down ({cause:?})"));
    }

    /// Something of an abandoned WRITE is placed after all, whole or in part, unless the fence was first.
    fn ghost(&mut self, conn: u32, op: &SliceOp) {
        let c = &self.conns[conn as usize];
        let host = self.paths[c.path as usize].host;
        let h = &self.hosts[host];
        if c.fenced || !h.alive || h.life != c.life || self.now.since(c.closed) > PEER_RULE {
            return;
        }
        if !self.admits(host, op) {
            return;
        }
        let len = self.rng.within(1, op.len);
        self.note(|| format!("late: {len} bytes at {:#x} of host {host}", op.remote));
        self.ghosts += len;
        self.place_at_host(host, op, len);
    }
}

/// Copies between two memories, if they hold bytes.
fn carry(from: &Memory, at: u64, to: &mut Memory, addr: u64, len: u64) {
    if from.is_kept() && to.is_kept() {
        to.slice_mut(addr, len).copy_from_slice(from.slice(at, len));
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of an item")]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one item")]
fn float(n: u64) -> f64 {
    n as f64
}

/// First pause before the kernel repeats a connect, nanoseconds.
const SYN_AGAIN: u64 = 1_000_000_000;
/// One in so many is sabotaged.
const SELDOM: u64 = 16;
/// What was under way at the end of a connection comes late by up to this, or by up to nearly the peer's
/// rule, nanoseconds.
const SOON: u64 = 5_000_000;
const LATE: u64 = 1_999_000_000;
