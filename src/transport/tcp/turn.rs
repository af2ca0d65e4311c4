//! One turn of one connection: take input until the socket is empty or the turn is over, payload straight
//! to its place, then send what waits. What the heads mean is the business of `client`, `server` and
//! `upstream`.

use super::io::{self, Moved, Stream};
use super::{After, Close, Conn, Role, Rx, Stage, TcpTransport, frame, role_head_len};
use crate::slice::DownCause;
use crate::sys::net;
use crate::time::Instant;
use std::sync::Arc;

impl TcpTransport {
    /// One turn of one connection; returns bytes moved.
    pub(super) fn turn(&mut self, key: u64) -> usize {
        let Some(mut conn) = self.slot(key).and_then(|s| s.conn.take()) else { return 0 };
        conn.ready = false;
        let mut moved = 0;
        let outcome = self.turn_taken(key, &mut conn, &mut moved);
        match outcome {
            Ok(more) => {
                if let Some(slot) = self.slot(key) {
                    slot.conn = Some(conn);
                }
                if more {
                    self.make_ready(key);
                }
            }
            Err(close) => {
                self.forget(key, &conn, !matches!(conn.role, Role::UpstreamServer));
                self.closed(key, *conn, close);
            }
        }
        moved
    }

    /// Returns whether the connection wants another turn though no edge will come.
    fn turn_taken(&mut self, key: u64, conn: &mut Conn, moved: &mut usize) -> Result<bool, Close> {
        if let Role::Client { stage: Stage::Connecting, .. }
        | Role::Fence { stage: Stage::Connecting, .. }
        | Role::Upstream { stage: Stage::Connecting, .. } = conn.role
        {
            if !conn.stream.writable {
                return Ok(false);
            }
            self.connected(key, conn)?;
        }
        let gate = match &conn.role {
            Role::Server { gate, .. } => Some(Arc::clone(gate)),
            _ => None,
        };
        if gate.as_ref().is_some_and(|g| !g.enter()) {
            return Err(Close::Failed(DownCause::Aborted));
        }
        if gate.as_ref().is_some_and(|g| !g.may_go_on()) {
            self.refuse_revoked(conn);
        }
        let read = self.read_turn(key, conn, moved);
        conn.stream.gather_input(match &conn.rx {
            Rx::Body { left, .. } | Rx::Skip { left, .. } => *left,
            _ => 0,
        });
        if let Some(gate) = gate {
            gate.leave();
            self.do_revokes(conn);
        }
        let more_in = read?;
        match conn.stream.flush(TURN_BYTES)? {
            Moved::Bytes(n) => *moved += n,
            Moved::Fault(id) => return Err(Close::LocalMemory(id)),
            Moved::Later | Moved::End => {}
        }
        let drained = conn.stream.queued() == 0;
        if drained && matches!(conn.rx, Rx::Ended) {
            return Err(Close::End);
        }
        Ok((more_in && !conn.is_full()) || (conn.stream.writable && !drained))
    }

    /// Takes input until the socket is empty or the turn is over.
    fn read_turn(&mut self, key: u64, conn: &mut Conn, moved: &mut usize) -> Result<bool, Close> {
        let begin = *moved;
        while *moved - begin < TURN_BYTES {
            if conn.is_full() {
                // when the queue has been flushed the connection gets another turn
                return Ok(true);
            }
            let step = match &mut conn.rx {
                Rx::Ended => return Ok(false),
                Rx::Head => {
                    if self.parse(key, conn)? {
                        conn.heads_only = matches!(conn.rx, Rx::Head);
                        self.skip_ahead(conn)?;
                        continue;
                    }
                    if conn.stream.buffered().is_empty()
                        && let Some((dst, len)) = self.expected(&conn.role)
                    {
                        let head_len = conn.head_len();
                        let (step, ahead) = conn.stream.fill_answer(head_len, dst, len)?;
                        conn.ahead = ahead;
                        match step {
                            Moved::Bytes(n) => *moved += n,
                            Moved::Later => return Ok(false),
                            _ => return Err(Close::End),
                        }
                        continue;
                    }
                    let limit = if conn.heads_only { io::BUFFER } else { conn.head_len() };
                    conn.stream.fill(limit)?
                }
                Rx::Body { left, pin: Some(pin), .. } if pin.closing() => {
                    let left = *left;
                    self.refuse_rest(conn, left);
                    continue;
                }
                Rx::Body { dst, left, pin, .. } => {
                    if pin.is_some() {
                        conn.heard = fresh(&conn.stream, conn.heard)?;
                    }
                    let head_len = role_head_len(&conn.role);
                    let step = conn.stream.fill_payload(*dst, *left, head_len)?;
                    if let Moved::Bytes(n) = step {
                        *dst += n;
                        *left -= n;
                    }
                    step
                }
                Rx::Skip { left, .. } => {
                    let step = conn.stream.discard(*left)?;
                    if let Moved::Bytes(n) = step {
                        *left -= n;
                    }
                    step
                }
            };
            match step {
                Moved::Bytes(n) => *moved += n,
                Moved::Later => return Ok(false),
                Moved::End => return Err(Close::End),
                Moved::Fault(_) => self.input_fault(conn)?,
            }
            self.finish_payload(conn);
        }
        Ok(true)
    }

    /// Counts the payload that came with its head.
    fn skip_ahead(&mut self, conn: &mut Conn) -> Result<(), Close> {
        match (std::mem::take(&mut conn.ahead), &mut conn.rx) {
            (0, _) => return Ok(()),
            (ahead, Rx::Body { dst, left, .. }) if ahead <= *left => {
                *dst += ahead;
                *left -= ahead;
            }
            // the peer sent something else than the one answer that was due
            _ => return Err(Close::Failed(DownCause::Protocol)),
        }
        self.finish_payload(conn);
        Ok(())
    }

    /// The region is being unregistered: what is still to come is thrown away and refused (I6).
    fn refuse_rest(&mut self, conn: &mut Conn, left: usize) {
        if let Rx::Body { after, .. } = &conn.rx {
            let after = match *after {
                After::Ack(id) => After::Refuse(id),
                After::UpstreamStatus { v2, .. } => After::UpstreamStatus { v2, code: 1 },
                other => other,
            };
            conn.rx = Rx::Skip { left, after };
        }
        self.finish_payload(conn);
    }

    /// The WRITE at hand was revoked: its caller has sent the bytes another way.
    fn refuse_revoked(&mut self, conn: &mut Conn) {
        if let Rx::Body { left, after: After::Ack(_), .. } = &conn.rx {
            let left = *left;
            self.refuse_rest(conn, left);
        }
    }

    /// Memory on our side is gone: a served write is refused, an own read fails.
    fn input_fault(&mut self, conn: &mut Conn) -> Result<(), Close> {
        let Rx::Body { left, after, .. } = &conn.rx else {
            return Err(Close::Failed(DownCause::Reset));
        };
        match *after {
            After::Landed(id) => Err(Close::LocalMemory(id)),
            After::UpstreamLanded => Err(Close::LocalMemory(0)),
            _ => {
                let left = *left;
                self.refuse_rest(conn, left);
                Ok(())
            }
        }
    }

    /// If the payload at hand is complete, does what follows.
    pub(super) fn finish_payload(&mut self, conn: &mut Conn) {
        let (Rx::Body { left: 0, after, .. } | Rx::Skip { left: 0, after }) = &conn.rx else {
            return;
        };
        let after = *after;
        conn.rx = Rx::Head;
        match after {
            After::Ack(id) => Self::answer_write(conn, id, frame::Status::Ok),
            After::Refuse(id) => Self::answer_write(conn, id, frame::Status::Refused),
            After::Landed(id) => self.read_landed(conn, id),
            After::UpstreamStatus { v2, code } => Self::upstream_answer(conn, v2, code),
            After::UpstreamLanded => self.upstream_landed(conn),
        }
    }

    /// Parses one head if it is complete; `false`: more bytes are needed.
    fn parse(&mut self, key: u64, conn: &mut Conn) -> Result<bool, Close> {
        match &conn.role {
            Role::Incoming => self.parse_first(key, conn),
            Role::Server { .. } => self.parse_request(conn),
            Role::UpstreamServer => self.parse_upstream_request(conn),
            Role::Client { .. } => self.parse_answer(conn),
            Role::Fence { .. } => self.parse_fenced(conn),
            Role::Upstream { .. } => self.parse_upstream_answer(conn),
        }
    }
}

/// Refuses input that has lain in the kernel for longer than the agreed limit: this process was stopped,
/// and the peer may have told its caller meanwhile that the transfer failed (I3). The clock is read here
/// and not passed in, for the stop may come in the middle of a turn.
fn fresh(stream: &Stream, heard: Instant) -> Result<Instant, Close> {
    let now = Instant::now();
    if now.since(heard) > frame::SILENCE && net::since_last_data(stream.socket()) > frame::SILENCE {
        return Err(Close::Failed(DownCause::Aborted));
    }
    Ok(now)
}

/// Bytes that one connection moves per turn and direction: about 100 us of copying.
const TURN_BYTES: usize = 512 << 10;
