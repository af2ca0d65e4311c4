//! One connection of the server: request in, reply out, half-close, wait for the client's close. Says
//! what it needs next; when it is closed and what is logged, the loop decides.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::super::wire::{Frame, FrameDecoder};
use crate::sys::evloop::Interest;
use crate::time::Instant;

/// What a connection needs after it has moved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The socket must become ready for this.
    Wait(Interest),
    /// An answer to this: [`Conn::reply`].
    Request(Frame),
    /// The reply is out: [`Conn::half_close`].
    Replied,
    /// To be closed; nothing is wrong.
    Done,
    /// To be closed, and why.
    Broken(String),
}

#[derive(Debug)]
enum State {
    Receiving,
    Replying { reply: Arc<Vec<u8>>, sent: usize },
    Lingering,
}

#[derive(Debug)]
pub(super) struct Conn {
    stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// What the loop watches the socket for.
    pub(super) interest: Interest,
    decoder: FrameDecoder,
    state: State,
    /// When the state was entered.
    since: Instant,
    /// Bytes moved in the state, and when the last of them did.
    moved: u64,
    moved_at: Instant,
}

impl Conn {
    /// A connection that has just been accepted; the socket must not block.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, max_len: usize, now: Instant) -> Self {
        Self {
            stream,
            peer,
            interest: Interest::READ,
            decoder: FrameDecoder::new(max_len),
            state: State::Receiving,
            since: now,
            moved: 0,
            moved_at: now,
        }
    }

    /// Reads or writes what the socket takes now.
    pub(super) fn advance(&mut self, scratch: &mut [u8], now: Instant) -> Step {
        let before = self.moved;
        let step = match self.state {
            State::Receiving => self.receive(scratch),
            State::Replying { .. } => self.send(),
            State::Lingering => self.discard(scratch),
        };
        if self.moved != before {
            self.moved_at = now;
        }
        step
    }

    /// Begins to send the reply.
    pub(super) fn reply(&mut self, reply: Arc<Vec<u8>>, now: Instant) -> Step {
        self.enter(State::Replying { reply, sent: 0 }, now);
        self.send()
    }

    /// Tells the client that no more will come, and waits for it to close: closing at once with bytes
    /// of it unread would reset the connection, and the reset could overtake the reply.
    pub(super) fn half_close(&mut self, scratch: &mut [u8], now: Instant) -> Step {
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return Step::Done;
        }
        self.enter(State::Lingering, now);
        self.discard(scratch)
    }

    /// When this connection has taken too long: nothing has moved for `timeout`, or what has moved is
    /// too little for the time. So a large frame on a slow network passes, and a trickle does not.
    pub(super) fn expiry(&self, timeout: Duration, linger: Duration) -> Instant {
        match self.state {
            State::Lingering => self.since.after(linger),
            _ => {
                let bought = Duration::from_micros(self.moved * 1_000_000 / MIN_RATE);
                self.moved_at.min(self.since.after(bought)).after(timeout)
            }
        }
    }

    /// Why a connection that is late is closed; `None` where nobody needs to know.
    pub(super) fn late_reason(&self) -> Option<&'static str> {
        match self.state {
            State::Receiving if self.decoder.is_idle() => None,
            State::Receiving => Some("half a request within the time"),
            State::Replying { .. } => Some("it did not take the reply within the time"),
            State::Lingering => None,
        }
    }

    /// How much is lost if it is closed early; the least goes first.
    pub(super) fn worth(&self) -> u8 {
        match self.state {
            State::Lingering => 0,
            State::Receiving if self.decoder.is_idle() => 1,
            State::Receiving => 2,
            State::Replying { .. } => 3,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.decoder.held_bytes()
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.moved = 0;
        self.moved_at = now;
    }

    fn receive(&mut self, scratch: &mut [u8]) -> Step {
        for _ in 0..READS_PER_TURN {
            let mut bytes = match self.stream.read(scratch) {
                // port scanners and health checks connect and close
                Ok(0) if self.decoder.is_idle() => return Step::Done,
                Ok(0) => return Step::Broken("it closed within a request".into()),
                Ok(count) => &scratch[..count],
                Err(e) => return after_error(&e, Interest::READ),
            };
            self.moved += bytes.len() as u64;
            match self.decoder.feed(&mut bytes) {
                Ok(Some(frame)) => return Step::Request(frame),
                Ok(None) => {}
                Err(e) => return Step::Broken(e.to_string()),
            }
        }
        Step::Wait(Interest::READ)
    }

    fn send(&mut self) -> Step {
        let State::Replying { reply, sent } = &mut self.state else { return Step::Done };
        while *sent < reply.len() {
            match self.stream.write(&reply[*sent..]) {
                Ok(count) => {
                    *sent += count;
                    self.moved += count as u64;
                }
                Err(e) => return after_error(&e, Interest::WRITE),
            }
        }
        Step::Replied
    }

    fn discard(&mut self, scratch: &mut [u8]) -> Step {
        for _ in 0..READS_PER_TURN {
            match self.stream.read(scratch) {
                Ok(0) => return Step::Done,
                Ok(_) => {}
                Err(e) => return after_error(&e, Interest::READ),
            }
        }
        Step::Wait(Interest::READ)
    }
}

impl AsRawFd for Conn {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

fn after_error(error: &io::Error, interest: Interest) -> Step {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Step::Wait(interest),
        // a reset: the client has gone, and knows
        _ => Step::Done,
    }
}

/// Keeps one busy client from holding the thread; the rest is read in the next turn.
const READS_PER_TURN: usize = 4;
/// Bytes per second below which a connection is too slow.
const MIN_RATE: u64 = 256 << 10;
