//! TCP: our own protocol between our peers, upstream's v1 and v2 towards upstream nodes, both as client
//! and as server, on one data port.
//!
//! One [`TcpTransport`] belongs to one lane. This file owns the connections and turns their crank;
//! `client` speaks our protocol as initiator, `server` serves both, `upstream` is the initiator towards
//! an upstream node, `io` moves bytes, `frame` knows the formats, `fence` keeps late writers out (I3) and
//! `refence` asks the peer to.

mod client;
mod fence;
pub mod frame;
mod io;
mod refence;
mod server;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod turn;
mod upstream;

use crate::id::Incarnation;
use crate::memory::{Pin, Regions};
use crate::slice::{Capabilities, DownCause, SliceFault, SliceOp, TransportEvent, TransportKind};
use crate::sys::evloop::{self, Epoll, Event, EventFd, Interest};
use crate::sys::net;
use crate::time::Instant;
use crate::transport::{RailTarget, Transport};
use crossbeam_queue::ArrayQueue;
use fence::{Fences, Gate};
use io::Stream;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A rail to one of our own peers.
#[derive(Debug, Clone)]
pub struct TcpTarget {
    /// Every way to the peer: a fence is asked for over all of them.
    pub ways: Arc<[Way]>,
    /// The one that this rail takes.
    pub way: usize,
    /// Which life of the peer is meant.
    pub peer: Incarnation,
    /// Names the rail among all of this engine's rails to that peer.
    pub slot: u32,
}

/// A pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Local address to leave from; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// The peer's data port, or what stands in for it.
    pub remote: SocketAddr,
}

/// A rail to an upstream node.
#[derive(Debug, Clone)]
pub struct UpstreamTarget {
    /// The node's data port.
    pub remote: SocketAddr,
    /// Its data protocol has no answers to WRITE (version 1).
    pub v1: bool,
    /// Most connections to open.
    pub conns: usize,
}

/// What the TCP transports of one engine share.
#[derive(Debug)]
pub struct TcpShared {
    regions: Arc<Regions>,
    fences: Fences,
    epoch: AtomicU64,
    lanes: Vec<Inbox>,
    next_lane: AtomicUsize,
    send_buffer: usize,
}

/// Accepted connections on their way to the lane that will serve them.
#[derive(Debug)]
struct Inbox {
    queue: ArrayQueue<TcpStream>,
    wake: EventFd,
}

impl TcpShared {
    /// State for `lanes` transports that serve `regions`; `send_buffer` bounds what the kernel holds per
    /// connection, in bytes (0 = the kernel's default).
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new(
        regions: Arc<Regions>,
        lanes: usize,
        send_buffer: usize,
    ) -> std::io::Result<Arc<Self>> {
        let inbox = || {
            let wake = EventFd::new()?;
            Ok(Inbox { queue: ArrayQueue::new(MAX_HANDOVER), wake })
        };
        Ok(Arc::new(Self {
            regions,
            fences: Fences::default(),
            epoch: AtomicU64::new(1),
            lanes: (0..lanes.max(1)).map(|_| inbox()).collect::<std::io::Result<_>>()?,
            next_lane: AtomicUsize::new(0),
            send_buffer,
        }))
    }
}

/// What follows when the payload at hand is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Server: acknowledge the write of this id.
    Ack(u64),
    /// Server: say that the write of this id was refused.
    Refuse(u64),
    /// Client: the read of this id has landed.
    Landed(u64),
    /// Server, upstream's language: answer with this status, if the request was v2.
    UpstreamStatus { v2: bool, code: u32 },
    /// Client, upstream's language: the first request in line is done.
    UpstreamLanded,
}

/// Where a connection is in its input.
#[derive(Debug)]
enum Rx {
    Head,
    Body {
        dst: usize,
        left: usize,
        after: After,
        pin: Option<Pin>,
    },
    Skip {
        left: usize,
        after: After,
    },
    /// Nothing more is taken from this peer; the queue is flushed, then the connection closed.
    Ended,
}

/// How far a connection that we opened has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Greeting,
    Open,
}

#[derive(Debug)]
enum Role {
    /// Accepted; its first bytes will tell its language.
    Incoming,
    Server {
        from: Incarnation,
        slot: u32,
        gate: Arc<Gate>,
    },
    UpstreamServer,
    Client {
        rail: u32,
        lane: usize,
        stage: Stage,
    },
    /// Opened only to fence a rail of ours.
    Fence {
        rail: u32,
        stage: Stage,
    },
    Upstream {
        rail: u32,
        stage: Stage,
        key: u64,
        line: VecDeque<upstream::InLine>,
    },
}

#[derive(Debug)]
struct Conn {
    stream: Stream,
    role: Role,
    rx: Rx,
    /// Already in the ready list.
    ready: bool,
    /// Payload bytes that came with a head which is not parsed yet.
    ahead: usize,
    /// The last head had no payload: many may be received in one go. Else payload would be caught with
    /// them and copied once more.
    heads_only: bool,
    /// When bytes came last.
    heard: Instant,
}

impl Conn {
    fn head_len(&self) -> usize {
        role_head_len(&self.role)
    }

    /// Whether no further request is taken before answers have left: a peer that asks and does not
    /// listen is not served further; and upstream's requests take effect in order, so that a READ that
    /// waits to be sent must not see the WRITE behind it.
    fn is_full(&self) -> bool {
        let limit = if matches!(self.role, Role::UpstreamServer) { 1 } else { MAX_QUEUED };
        self.stream.queued() >= limit
    }
}

/// Bytes of what comes next on a connection of that role, when no payload does.
fn role_head_len(role: &Role) -> usize {
    match role {
        Role::Incoming => frame::HELLO_LEN,
        Role::Server { .. } | Role::Client { .. } | Role::Fence { .. } => frame::HEAD_LEN,
        Role::UpstreamServer => frame::UPSTREAM_LEN,
        Role::Upstream { .. } => frame::STATUS_LEN,
    }
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// The peer ended it, or it was flushed and is not needed any more.
    End,
    Failed(DownCause),
    /// The local memory of the piece with this id is not mapped any more.
    LocalMemory(u64),
}

impl From<std::io::Error> for Close {
    fn from(_: std::io::Error) -> Self {
        Self::Failed(DownCause::Reset)
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    conn: Option<Box<Conn>>,
}

#[derive(Debug)]
enum Rail {
    Tent(client::ClientRail),
    Upstream(upstream::UpstreamRail),
}

/// See the module.
#[derive(Debug)]
pub struct TcpTransport {
    shared: Arc<TcpShared>,
    lane: usize,
    listener: Option<TcpListener>,
    epoll: Epoll,
    slots: Vec<Slot>,
    free: Vec<usize>,
    rails: Vec<Option<Rail>>,
    ready: VecDeque<u64>,
    events: Vec<TransportEvent>,
    /// The connection that spoke last, a little: it is asked directly before epoll is, for a while.
    hot: Option<u64>,
    /// Times that it had nothing to say since.
    hot_misses: u32,
    turns: u32,
    /// Accepted connections that have not said a word yet, oldest first (bounded: port scanners).
    silent: VecDeque<u64>,
    /// Revocations asked for in the turn at hand.
    revokes: Vec<server::RevokeRequest>,
}

impl TcpTransport {
    /// The transport of lane `lane`; the lane with the listener accepts for all.
    ///
    /// # Errors
    /// When the kernel gives no epoll.
    pub fn new(
        shared: Arc<TcpShared>,
        lane: usize,
        listener: Option<TcpListener>,
    ) -> std::io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(shared.lanes[lane].wake.fd(), INBOX, Interest::READ, false)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            epoll.add(listener.as_raw_fd(), LISTENER, Interest::READ, false)?;
        }
        Ok(Self {
            shared,
            lane,
            listener,
            epoll,
            slots: Vec::new(),
            free: Vec::new(),
            rails: Vec::new(),
            ready: VecDeque::new(),
            events: Vec::new(),
            hot: None,
            hot_misses: 0,
            turns: 0,
            silent: VecDeque::new(),
            revokes: Vec::new(),
        })
    }

    fn add(&mut self, socket: TcpStream, role: Role) -> std::io::Result<u64> {
        socket.set_nodelay(true).ok();
        net::bound_send_buffer(&socket, self.shared.send_buffer);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        let key = u64::from(slot.generation) << 32 | index as u64;
        if let Err(e) = self.epoll.add(socket.as_raw_fd(), key, Interest::BOTH, true) {
            self.free.push(index);
            return Err(e);
        }
        let mut stream = Stream::new(socket);
        // a connection under way says by an edge when it stands
        stream.writable =
            !matches!(role, Role::Client { .. } | Role::Upstream { .. } | Role::Fence { .. });
        stream.readable = stream.writable;
        let heard = Instant::now();
        slot.conn = Some(Box::new(Conn {
            stream,
            role,
            rx: Rx::Head,
            ready: false,
            ahead: 0,
            heads_only: false,
            heard,
        }));
        self.make_ready(key);
        Ok(key)
    }

    fn slot(&mut self, key: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::try_from(key & 0xffff_ffff).ok()?)?;
        (u64::from(slot.generation) == key >> 32).then_some(slot)
    }

    fn conn(&mut self, key: u64) -> Option<&mut Conn> {
        self.slot(key)?.conn.as_deref_mut()
    }

    fn make_ready(&mut self, key: u64) {
        if let Some(conn) = self.conn(key).filter(|c| !c.ready) {
            conn.ready = true;
            self.ready.push_back(key);
        }
    }

    /// Removes a connection; `reset` throws away what the kernel holds for the peer.
    fn remove(&mut self, key: u64, reset: bool) -> Option<Box<Conn>> {
        let conn = self.slot(key)?.conn.take()?;
        self.forget(key, &conn, reset);
        Some(conn)
    }

    /// The part of closing that a connection taken out of its slot needs too.
    fn forget(&mut self, key: u64, conn: &Conn, reset: bool) {
        self.epoll.delete(conn.stream.socket().as_raw_fd()).ok();
        if reset {
            net::reset_on_close(conn.stream.socket());
        }
        if let Role::Server { from, slot, gate } = &conn.role {
            self.shared.fences.leave(*from, *slot, gate);
        }
        if matches!(conn.role, Role::Incoming) {
            self.silent.retain(|k| *k != key);
        }
        self.free.push((key & 0xffff_ffff) as usize);
    }

    /// Asks the connection that spoke last: who exchanges small messages is spared a call of epoll for
    /// each. Epoll is still asked every few turns, and always when there is no such connection.
    fn ask_hot(&mut self) -> usize {
        let Some(key) = self.hot.filter(|_| self.ready.is_empty()) else { return 0 };
        let moved = match self.conn(key) {
            Some(conn) => {
                conn.stream.readable = true;
                self.turn(key)
            }
            None => 0,
        };
        self.hot_misses = if moved > 0 { 0 } else { self.hot_misses + 1 };
        if self.hot_misses >= HOT_MISSES {
            (self.hot, self.hot_misses) = (None, 0);
        }
        moved
    }

    /// Waits for edges without blocking and marks their connections ready.
    fn gather(&mut self) {
        let mut events = [Event::EMPTY; MAX_EVENTS];
        let count = self.epoll.wait(&mut events, Some(Duration::ZERO)).unwrap_or(0);
        for event in &events[..count] {
            match event.token() {
                LISTENER => self.accept(),
                INBOX => self.adopt(),
                key => {
                    let Some(conn) = self.conn(key) else { continue };
                    conn.stream.readable |= event.readable() || event.failed();
                    conn.stream.writable |= event.writable() || event.failed();
                    conn.stream.ending |= event.read_closed() || event.failed();
                    self.make_ready(key);
                }
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        for _ in 0..MAX_ACCEPT {
            match listener.accept() {
                Ok((socket, from)) => {
                    let within_host = socket.local_addr().is_ok_and(|own| own.ip() == from.ip());
                    if within_host || from.ip().to_canonical().is_loopback() {
                        net::no_pacing(&socket);
                    }
                    net::keep_alive(&socket);
                    let count = self.shared.lanes.len();
                    let lane = self.shared.next_lane.fetch_add(1, Ordering::Relaxed) % count;
                    let inbox = &self.shared.lanes[lane];
                    // a full inbox drops the newcomer: it is closed and may come again
                    let kept = socket.set_nonblocking(true).is_ok();
                    if kept && inbox.queue.push(socket).is_ok() {
                        inbox.wake.signal();
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    log::warn!("data port cannot accept: {e}; raise the limit of open files");
                    return;
                }
            }
        }
    }

    fn adopt(&mut self) {
        self.shared.lanes[self.lane].wake.drain();
        self.close_fenced();
        while let Some(socket) = self.shared.lanes[self.lane].queue.pop() {
            if let Ok(key) = self.add(socket, Role::Incoming) {
                self.silent.push_back(key);
            }
            if self.silent.len() > MAX_SILENT
                && let Some(oldest) = self.silent.pop_front()
            {
                log::debug!("data port: closing the oldest of {MAX_SILENT} silent connections");
                self.remove(oldest, true);
            }
        }
    }

    /// Closes what was fenced: of a path that is dead no byte will ever come that would show it.
    fn close_fenced(&mut self) {
        let fenced = |slot: &Slot| {
            let conn = slot.conn.as_ref()?;
            matches!(&conn.role, Role::Server { gate, .. } if gate.is_fenced()).then_some(())
        };
        let keys: Vec<u64> = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| fenced(slot).is_some())
            .map(|(index, slot)| u64::from(slot.generation) << 32 | index as u64)
            .collect();
        for key in keys {
            self.remove(key, true);
        }
    }

    /// A connection that we opened stands, or not.
    fn connected(&mut self, key: u64, conn: &mut Conn) -> Result<(), Close> {
        if let Err(e) = evloop::connect_result(conn.stream.socket()) {
            return Err(Close::Failed(down_cause(&e)));
        }
        conn.stream.readable = true;
        match conn.role {
            Role::Client { .. } => self.greet(conn),
            Role::Fence { .. } => self.greet_fence(conn),
            Role::Upstream { .. } => self.upstream_connected(key, conn),
            _ => {}
        }
        Ok(())
    }

    /// A connection is gone; what it carried is dealt with by its role.
    fn closed(&mut self, key: u64, conn: Conn, close: Close) {
        match conn.role {
            Role::Client { rail, .. } => self.client_closed(rail, close),
            Role::Fence { rail, .. } => self.fence_closed(rail, key, close),
            Role::Upstream { rail, line, .. } => self.upstream_closed(rail, key, line, close),
            Role::Incoming | Role::Server { .. } | Role::UpstreamServer => {}
        }
    }

    fn rail(&mut self, rail: u32) -> Option<&mut Rail> {
        self.rails.get_mut(rail as usize)?.as_mut()
    }

    fn done(&mut self, token: u64, fault: Option<SliceFault>) {
        self.events.push(TransportEvent::Done { token, fault });
    }
}

/// Maps a connect or socket error to what it means for the rail.
fn down_cause(e: &std::io::Error) -> DownCause {
    match e.raw_os_error() {
        Some(libc::ECONNREFUSED) => DownCause::Refused,
        Some(libc::ECONNRESET | libc::EPIPE) => DownCause::Reset,
        _ => DownCause::Unreachable,
    }
}

impl Transport for TcpTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { max_slice: u64::from(frame::MAX_PAYLOAD), synchronous: false }
    }

    fn connect(&mut self, rail: u32, to: &RailTarget) {
        let index = rail as usize;
        if self.rails.len() <= index {
            self.rails.resize_with(index + 1, || None);
        }
        match to {
            RailTarget::Tcp(target) => {
                self.rails[index] = Some(Rail::Tent(client::ClientRail::new(target.clone())));
                self.open_client(rail);
            }
            RailTarget::Upstream(target) => {
                self.rails[index] =
                    Some(Rail::Upstream(upstream::UpstreamRail::new(target.clone())));
                self.open_upstream(rail);
            }
            _ => self.events.push(TransportEvent::RailDown { rail, cause: DownCause::Unreachable }),
        }
    }

    fn post(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        match self.rail(rail) {
            Some(Rail::Tent(_)) => self.post_client(rail, ops),
            Some(Rail::Upstream(_)) => self.post_upstream(rail, ops),
            None => 0,
        }
    }

    fn poll(&mut self, events: &mut Vec<TransportEvent>) -> usize {
        self.turns = self.turns.wrapping_add(1);
        let mut moved = self.ask_hot();
        if self.hot.is_none() || self.turns.is_multiple_of(HOT_TURNS) {
            self.gather();
        }
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            let bytes = self.turn(key);
            if (1..=HOT_BYTES).contains(&bytes) {
                (self.hot, self.hot_misses) = (Some(key), 0);
            }
            moved += bytes;
        }
        moved = moved.max(self.events.len());
        events.append(&mut self.events);
        moved
    }

    fn abort(&mut self, rail: u32) {
        match self.rail(rail) {
            Some(Rail::Tent(_)) => self.abort_client(rail),
            Some(Rail::Upstream(_)) => self.abort_upstream(rail),
            None => {}
        }
    }

    fn forsake(&mut self, rail: u32) {
        match self.rail(rail) {
            Some(Rail::Tent(_)) => self.forsake_client(rail),
            Some(Rail::Upstream(_)) => self.abort_upstream(rail),
            None => {}
        }
    }

    fn bytes_through(&mut self, rail: u32) -> Option<u64> {
        let keys: Vec<u64> = match self.rail(rail)? {
            Rail::Tent(rail) => rail.conns().into_iter().flatten().collect(),
            Rail::Upstream(rail) => rail.conns().collect(),
        };
        let through = keys.into_iter().filter_map(|key| {
            self.slot(key)?.conn.as_ref().map(|conn| net::bytes_through(conn.stream.socket()))
        });
        Some(through.fold(0, u64::wrapping_add))
    }

    fn cancel(&mut self, rail: u32, token: u64) {
        if let Some(Rail::Tent(_)) = self.rail(rail) {
            self.cancel_client(rail, token);
        }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.epoll.fd())
    }
}

/// Token of the listener in the epoll set.
const LISTENER: u64 = u64::MAX;
/// Token of the inbox's eventfd.
const INBOX: u64 = u64::MAX - 1;
/// Epoll is asked every so many turns though a connection is asked directly.
const HOT_TURNS: u32 = 4;
/// After so many it is asked no more.
const HOT_MISSES: u32 = 256;
/// More than this at a time is a stream, not a conversation.
const HOT_BYTES: usize = 16 << 10;
/// Events taken per wait.
const MAX_EVENTS: usize = 64;
/// Connections accepted per turn, so that a flood does not starve the data.
const MAX_ACCEPT: usize = 64;
/// Accepted connections that may wait for their lane.
const MAX_HANDOVER: usize = 1024;
/// Accepted connections that may stay without a word.
const MAX_SILENT: usize = 1024;
/// Answers that may wait for one peer before we stop to read from it.
const MAX_QUEUED: usize = 4096;
