//! The RPC port: a server on one thread that answers upstream's frames, and the call that asks a peer.
//!
//! The server serves its connections at once, unlike upstream's, whose second caller waits for the
//! first (#2044). It trusts nobody (I12): connections, bytes held and time are limited, and garbage is
//! closed with one line of log at most every ten seconds. What the frames mean is the [`Handler`]'s.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wire::{self, Frame, FrameKind, Notify};
use crate::error::{Error, ErrorKind, Result};
use crate::sync;
use crate::sys::evloop::{Epoll, Event, EventFd, Interest};
use crate::sys::host;
use crate::time::Instant;

mod bind;
mod client;
mod conn;

pub use bind::bind_in_range;
pub use client::{CallLimits, call};
use conn::{Conn, Step};

/// What the server asks its engine. Called on the server's thread, which serves nobody meanwhile: no
/// method may wait for the network. A panic ends only the request that caused it.
pub trait Handler: Send + Sync {
    /// This engine's descriptor as JSON; `requester` should be the peer's own, and is some JSON.
    fn describe(&self, requester: &[u8]) -> Vec<u8>;

    /// Takes a message; false refuses it.
    fn notify(&self, message: Notify) -> bool;

    /// Periodic work. Called at the start, at the instant it asked for last, and after
    /// [`Server::wake`]; `None` asks for no instant.
    fn tick(&self, now: Instant) -> Option<Instant>;
}

/// Limits of a [`Server`].
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Longest frame taken, in bytes. Default 16 MiB.
    pub max_len: usize,
    /// Open connections; beyond it the one that is missed least is closed. Default 1024.
    pub max_connections: usize,
    /// Bytes of unfinished requests held for all connections; beyond it the largest is closed. Never
    /// less than two longest frames. Default 64 MiB.
    pub max_held_bytes: usize,
    /// How long a request or a reply may stand still, and how long it may take besides one second per
    /// 256 KiB. Default 5 s, upstream's.
    pub timeout: Duration,
    /// How long to wait after the reply for the client to close. Default 1 s.
    pub linger: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_len: 16 << 20,
            max_connections: 1024,
            max_held_bytes: 64 << 20,
            timeout: Duration::from_secs(5),
            linger: Duration::from_secs(1),
        }
    }
}

/// A running server. Ends when dropped.
pub struct Server {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pid: u32,
}

impl Server {
    /// Serves `listener`, which [`bind_in_range`] gives, until [`Server::stop`].
    ///
    /// # Errors
    /// `Socket` if the kernel gives no descriptor or thread.
    pub fn start(
        listener: TcpListener,
        handler: Arc<dyn Handler>,
        limits: ServerLimits,
    ) -> Result<Self> {
        let failed = |e: io::Error| Error::os(ErrorKind::Socket, "starting the control thread", &e);
        listener.set_nonblocking(true).map_err(failed)?;
        let shared = Arc::new(Shared {
            wake: EventFd::new().map_err(failed)?,
            stop: AtomicBool::new(false),
        });
        let epoll = Epoll::new().map_err(failed)?;
        epoll.add(listener.as_raw_fd(), LISTENER, Interest::READ, false).map_err(failed)?;
        epoll.add(shared.wake.fd(), WAKE, Interest::READ, false).map_err(failed)?;
        let mut server = Loop {
            epoll,
            listener,
            handler,
            shared: Arc::clone(&shared),
            held_limit: limits.max_held_bytes.max(limits.max_len.saturating_mul(2)),
            limits,
            conns: BTreeMap::new(),
            next_id: FIRST_CONN,
            held_bytes: 0,
            next_expiry: Instant::NEVER,
            next_tick: None,
            accept_again: None,
            last_reply: Weak::new(),
            log: LogLimiter::default(),
            scratch: vec![0; SCRATCH_LEN],
        };
        let thread = sync::spawn("tent-control", move || server.run()).map_err(failed)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), pid: std::process::id() })
    }

    /// Has [`Handler::tick`] called soon. Never blocks.
    pub fn wake(&self) {
        self.shared.wake.signal();
    }

    /// Closes every connection and the listener, and waits for the thread. Idempotent. From the thread
    /// itself (a handler that drops the engine) and after a fork, where there is no thread, it does not
    /// wait.
    pub fn stop(&self) {
        if std::process::id() != self.pid {
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.signal();
        let Some(thread) = sync::lock(&self.thread).take() else { return };
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            log::error!("the control thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// What the thread and its owner share.
struct Shared {
    wake: EventFd,
    stop: AtomicBool,
}

/// The thread's own state.
struct Loop {
    epoll: Epoll,
    listener: TcpListener,
    handler: Arc<dyn Handler>,
    shared: Arc<Shared>,
    limits: ServerLimits,
    held_limit: usize,
    /// By token; tokens grow, so the first is the oldest and none is used twice.
    conns: BTreeMap<u64, Conn>,
    next_id: u64,
    held_bytes: usize,
    /// No connection expires before; it may be earlier than needed.
    next_expiry: Instant,
    next_tick: Option<Instant>,
    /// When to listen again after the process ran out of descriptors.
    accept_again: Option<Instant>,
    /// Many peers ask for one descriptor at once: they share its bytes while the last still travels.
    last_reply: Weak<Vec<u8>>,
    log: LogLimiter,
    scratch: Vec<u8>,
}

impl Loop {
    fn run(&mut self) {
        host::block_signals();
        let mut events = [Event::EMPTY; EVENTS_PER_TURN];
        let mut now = Instant::now();
        self.tick(now);
        while !self.shared.stop.load(Ordering::Acquire) {
            let count = match self.epoll.wait(&mut events, self.sleep_time(now)) {
                Ok(count) => count,
                Err(e) => {
                    log::error!("the control thread ends: waiting for sockets: {e}");
                    return;
                }
            };
            now = Instant::now();
            for event in &events[..count] {
                match event.token() {
                    LISTENER => self.accept(now),
                    WAKE => {
                        self.shared.wake.drain();
                        self.next_tick = Some(now);
                    }
                    id => self.advance(id, now),
                }
            }
            self.on_time(now);
        }
    }

    /// How long nothing can happen without an event; `None` = for ever.
    fn sleep_time(&self, now: Instant) -> Option<Duration> {
        // not a minimum of options: as it is compiled, valgrind takes it for a use of what is not set
        let or_never = |at: Option<Instant>| at.unwrap_or(Instant::NEVER);
        let next = self.next_expiry.min(or_never(self.next_tick)).min(or_never(self.accept_again));
        (next != Instant::NEVER).then(|| next.since(now))
    }

    fn on_time(&mut self, now: Instant) {
        if self.next_expiry <= now {
            self.expire(now);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.watch_listener(Interest::READ);
        }
        if self.next_tick.is_some_and(|at| at <= now) && !self.shared.stop.load(Ordering::Acquire) {
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        let asked = catch_unwind(AssertUnwindSafe(|| self.handler.tick(now)));
        self.next_tick = match asked {
            // an instant that has passed must not make this thread spin
            Ok(next) => {
                next.filter(|at| *at != Instant::NEVER).map(|at| at.max(now.after(MIN_TICK)))
            }
            Err(_) => {
                log::error!("a periodic task of the control thread panicked");
                Some(now.after(TICK_AFTER_PANIC))
            }
        };
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    if let Err(e) = self.admit(stream, peer, now) {
                        log::debug!("control port: connection from {peer}: {e}");
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if OUT_OF_RESOURCES.contains(&e.raw_os_error().unwrap_or(0)) => {
                    self.log.warn(now, format_args!("control port: accepting: {e}"));
                    if !self.evict_least_missed(now) {
                        // level-triggered, so the waiting caller would keep this thread spinning
                        self.watch_listener(Interest::NONE);
                        self.accept_again = Some(now.after(ACCEPT_PAUSE));
                        return;
                    }
                }
                // the caller has gone again
                Err(_) => {}
            }
        }
    }

    fn admit(
        &mut self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<()> {
        if self.conns.len() >= self.limits.max_connections {
            self.evict_least_missed(now);
        }
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let id = self.next_id;
        self.next_id += 1;
        self.epoll.add(stream.as_raw_fd(), id, Interest::READ, false)?;
        self.conns.insert(id, Conn::new(stream, peer, self.limits.max_len, now));
        self.next_expiry = self.next_expiry.min(now.after(self.limits.timeout));
        // most callers have sent their request by now
        self.advance(id, now);
        Ok(())
    }

    /// Moves a connection on as far as it goes.
    fn advance(&mut self, id: u64, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let held = conn.held_bytes();
        let mut step = conn.advance(&mut self.scratch, now);
        if let Step::Request(frame) = step {
            step = match self.answer(&frame) {
                Ok(reply) => self.conns.get_mut(&id).map_or(Step::Done, |c| c.reply(reply, now)),
                Err(reason) => Step::Broken(reason),
            };
            self.next_expiry = self.next_expiry.min(now.after(self.limits.timeout));
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if step == Step::Replied {
            step = conn.half_close(&mut self.scratch, now);
            self.next_expiry = self.next_expiry.min(now.after(self.limits.linger));
        }
        self.held_bytes = self.held_bytes - held + conn.held_bytes();
        match step {
            Step::Wait(interest) => {
                if conn.interest != interest {
                    conn.interest = interest;
                    let fd = conn.as_raw_fd();
                    if self.epoll.modify(fd, id, interest, false).is_err() {
                        self.remove(id);
                    }
                }
            }
            Step::Broken(reason) => self.close_loudly(id, &reason, now),
            Step::Done | Step::Replied | Step::Request(_) => drop(self.remove(id)),
        }
        if self.held_bytes > self.held_limit {
            self.evict_largest(now);
        }
    }

    /// The reply frame, or why there is none: upstream closes then, without a reply.
    fn answer(&mut self, frame: &Frame) -> std::result::Result<Arc<Vec<u8>>, String> {
        if !wire::is_json(&frame.body) {
            return Err("the request is not JSON".into());
        }
        let kind = frame.kind;
        let asked = catch_unwind(AssertUnwindSafe(|| self.ask(frame)));
        let body = match asked {
            Ok(body) => body?,
            Err(_) => return Err("its request made the handler panic".into()),
        };
        let reply = wire::encode_frame(kind, &body);
        if let Some(last) = self.last_reply.upgrade().filter(|last| **last == reply) {
            return Ok(last);
        }
        let reply = Arc::new(reply);
        self.last_reply = Arc::downgrade(&reply);
        Ok(reply)
    }

    fn ask(&self, frame: &Frame) -> std::result::Result<Vec<u8>, String> {
        match frame.kind {
            FrameKind::Metadata => Ok(self.handler.describe(&frame.body)),
            FrameKind::Notify => {
                let message = Notify::decode(&frame.body).map_err(|e| e.to_string())?;
                Ok(wire::notify_reply(self.handler.notify(message)).to_vec())
            }
            FrameKind::Probe => Ok(wire::PROBE_REPLY.to_vec()),
            FrameKind::Connection | FrameKind::Untyped => Ok(wire::CONNECTION_REPLY.to_vec()),
        }
    }

    fn expire(&mut self, now: Instant) {
        let limits = &self.limits;
        let mut late = Vec::new();
        self.next_expiry = Instant::NEVER;
        for (id, conn) in &self.conns {
            let expiry = conn.expiry(limits.timeout, limits.linger);
            if expiry <= now {
                late.push((*id, conn.late_reason()));
            } else {
                self.next_expiry = self.next_expiry.min(expiry);
            }
        }
        for (id, reason) in late {
            match reason {
                Some(reason) => self.close_loudly(id, reason, now),
                None => drop(self.remove(id)),
            }
        }
    }

    /// Closes the connection that is missed least; false if there is none.
    fn evict_least_missed(&mut self, now: Instant) -> bool {
        let least = self.conns.iter().min_by_key(|(id, c)| (c.worth(), **id)).map(|(id, _)| *id);
        let Some(id) = least else { return false };
        self.close_loudly(id, "too many connections", now);
        true
    }

    fn evict_largest(&mut self, now: Instant) {
        let largest = self.conns.iter().max_by_key(|(_, c)| c.held_bytes()).map(|(id, _)| *id);
        if let Some(id) = largest {
            self.close_loudly(id, "too many bytes in unfinished requests", now);
        }
    }

    fn close_loudly(&mut self, id: u64, reason: &str, now: Instant) {
        let Some(conn) = self.remove(id) else { return };
        let peer = conn.peer;
        self.log
            .warn(now, format_args!("control port: closed the connection from {peer}: {reason}"));
    }

    fn remove(&mut self, id: u64) -> Option<Conn> {
        // dropping the socket also ends its watch
        let conn = self.conns.remove(&id)?;
        self.held_bytes -= conn.held_bytes();
        Some(conn)
    }

    fn watch_listener(&mut self, interest: Interest) {
        if let Err(e) = self.epoll.modify(self.listener.as_raw_fd(), LISTENER, interest, false) {
            log::error!("control port: watching the listener: {e}");
        }
    }
}

/// One line per interval; the next one says how many were left out.
#[derive(Debug, Default)]
struct LogLimiter {
    quiet_until: Instant,
    left_out: u64,
}

impl LogLimiter {
    fn warn(&mut self, now: Instant, line: fmt::Arguments<'_>) {
        match self.admit(now) {
            Some(0) => log::warn!("{line}"),
            Some(left_out) => log::warn!("{line} ({left_out} more since the last such line)"),
            None => {}
        }
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now < self.quiet_until {
            self.left_out += 1;
            return None;
        }
        self.quiet_until = now.after(LOG_INTERVAL);
        Some(std::mem::take(&mut self.left_out))
    }
}

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_CONN: u64 = 2;

const EVENTS_PER_TURN: usize = 64;
const ACCEPTS_PER_TURN: usize = 64;
/// Bytes taken from a socket at once.
const SCRATCH_LEN: usize = 64 << 10;
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two ticks.
const MIN_TICK: Duration = Duration::from_millis(1);
const TICK_AFTER_PANIC: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OUT_OF_RESOURCES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

#[cfg(test)]
mod tests;
