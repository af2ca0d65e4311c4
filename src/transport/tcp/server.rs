//! The serving side of the data port, in both languages. Every request is checked against the registered
//! regions; what is refused is counted there and changes nothing (I11).

use super::frame::{
    HEAD_LEN, HELLO_LEN, Head, Hello, Kind, MAGIC, Status, UPSTREAM_LEN, UpstreamRequest,
    upstream_status,
};
use super::io::Payload;
use super::{After, Close, Conn, Role, Rx, TcpTransport};
use crate::id::Incarnation;
use crate::slice::{DownCause, Op};

/// A client wants nothing more of a WRITE to be written.
#[derive(Debug)]
pub(super) struct RevokeRequest {
    from: Incarnation,
    slot: u32,
    number: u64,
    id: u64,
}

impl TcpTransport {
    /// The first bytes tell the language.
    pub(super) fn parse_first(&mut self, key: u64, conn: &mut Conn) -> Result<bool, Close> {
        let Some(first) = conn.stream.buffered().get(..MAGIC.len()) else { return Ok(false) };
        if first != MAGIC {
            if u64::from_le_bytes(first.try_into().unwrap_or([0xff; 8])) > MAX_UPSTREAM {
                log::debug!("data port: closing a connection that speaks neither language");
                return Err(Close::Failed(DownCause::Protocol));
            }
            self.silent.retain(|k| *k != key);
            conn.role = Role::UpstreamServer;
            return Ok(true);
        }
        let Some(bytes) = conn.stream.take::<HELLO_LEN>() else { return Ok(false) };
        self.silent.retain(|k| *k != key);
        let status = match Hello::decode(&bytes) {
            Err(version) => {
                log::warn!("data port: a peer speaks version {version} of our protocol, not ours");
                Status::Version
            }
            Ok(hello) if hello.to != self.shared.regions.incarnation() => Status::WrongPeer,
            Ok(hello) if hello.fence => {
                for slot in [hello.slot & !1, hello.slot | 1] {
                    self.shared.fences.fence(hello.from, slot, hello.epoch);
                }
                // each lane closes what it has of it
                self.shared.lanes.iter().for_each(|lane| lane.wake.signal());
                conn.rx = Rx::Ended;
                Status::Ok
            }
            Ok(hello) => match self.shared.fences.admit(hello.from, hello.slot, hello.epoch) {
                Some(gate) => {
                    conn.role = Role::Server { from: hello.from, slot: hello.slot, gate };
                    Status::Ok
                }
                None => return Err(Close::Failed(DownCause::Protocol)),
            },
        };
        conn.stream.queue(&Head::answer(Kind::Welcome, status, 0, 0).encode(), None, 0);
        if status != Status::Ok {
            conn.rx = Rx::Ended;
        }
        Ok(matches!(conn.role, Role::Server { .. }))
    }

    /// Does what was asked for in the turn that has ended: no gate of this lane is busy now.
    pub(super) fn do_revokes(&mut self, conn: &mut Conn) {
        for RevokeRequest { from, slot, number, id } in self.revokes.drain(..) {
            let done = self.shared.fences.revoke(from, slot, number);
            let status = if done { Status::Ok } else { Status::Refused };
            Self::answer_write(conn, id, status);
        }
    }

    pub(super) fn parse_request(&mut self, conn: &mut Conn) -> Result<bool, Close> {
        let Some(bytes) = conn.stream.take::<HEAD_LEN>() else { return Ok(false) };
        let head = Head::decode(&bytes).ok_or(Close::Failed(DownCause::Protocol))?;
        let (len, key) = (u64::from(head.len), Some(head.key));
        let Role::Server { from, gate, .. } = &conn.role else {
            return Err(Close::Failed(DownCause::Protocol));
        };
        match head.kind {
            Kind::Revoke => {
                let (from, number, id) = (*from, head.key, head.id);
                let slot = u32::try_from(head.addr).map_err(|_| DownCause::Protocol);
                let slot = slot.map_err(Close::Failed)?;
                self.revokes.push(RevokeRequest { from, slot, number, id });
            }
            Kind::Write if !gate.next_write() => {
                let left = head.len as usize;
                conn.rx = Rx::Skip { left, after: After::Refuse(head.id) };
                self.finish_payload(conn);
            }
            Kind::Write => {
                let left = head.len as usize;
                conn.rx = match self.shared.regions.pin_remote(head.addr, len, key, Op::Write) {
                    Ok(pin) => {
                        let dst = local_address(head.addr);
                        Rx::Body { dst, left, after: After::Ack(head.id), pin: Some(pin) }
                    }
                    Err(_) => Rx::Skip { left, after: After::Refuse(head.id) },
                };
                // a payload of no bytes is complete already
                self.finish_payload(conn);
            }
            Kind::Read => match self.shared.regions.pin_remote(head.addr, len, key, Op::Read) {
                Ok(pin) => {
                    let answer = Head::answer(Kind::Data, Status::Ok, head.id, head.len);
                    let payload = Payload {
                        addr: local_address(head.addr),
                        len: head.len as usize,
                        _pin: Some(pin),
                    };
                    conn.stream.queue(&answer.encode(), Some(payload), head.id);
                }
                Err(_) => {
                    let answer = Head::answer(Kind::Data, Status::Refused, head.id, 0);
                    conn.stream.queue(&answer.encode(), None, head.id);
                }
            },
            Kind::Welcome | Kind::Ack | Kind::Data => {
                return Err(Close::Failed(DownCause::Protocol));
            }
        }
        Ok(true)
    }

    pub(super) fn answer_write(conn: &mut Conn, id: u64, status: Status) {
        conn.stream.queue(&Head::answer(Kind::Ack, status, id, 0).encode(), None, id);
    }

    pub(super) fn parse_upstream_request(&mut self, conn: &mut Conn) -> Result<bool, Close> {
        let Some(bytes) = conn.stream.take::<UPSTREAM_LEN>() else { return Ok(false) };
        let request = UpstreamRequest::decode(&bytes);
        let op = if request.write { Op::Write } else { Op::Read };
        let pin = self.shared.regions.pin_remote(request.addr, request.size, None, op);
        let (Ok(pin), Ok(len)) = (pin, usize::try_from(request.size)) else {
            // upstream's servers answer a refusal in v2 and close in both; taking the payload first
            // keeps a reset from overtaking the answer
            if !request.v2 {
                return Err(Close::Failed(DownCause::Protocol));
            }
            if request.write && request.size <= MAX_DRAIN {
                let left = usize::try_from(request.size).unwrap_or(0);
                conn.rx = Rx::Skip { left, after: After::UpstreamStatus { v2: true, code: 1 } };
                self.finish_payload(conn);
            } else {
                Self::upstream_answer(conn, true, 1);
            }
            return Ok(true);
        };
        let addr = local_address(request.addr);
        if request.write {
            let after = After::UpstreamStatus { v2: request.v2, code: 0 };
            conn.rx = Rx::Body { dst: addr, left: len, after, pin: Some(pin) };
        } else {
            let payload = Some(Payload { addr, len, _pin: Some(pin) });
            if request.v2 {
                conn.stream.queue(&upstream_status(0), payload, 0);
            } else {
                conn.stream.queue(&[], payload, 0);
            }
        }
        Ok(true)
    }

    /// Answers an upstream request after its payload; a refusal ends the connection, as upstream's do.
    pub(super) fn upstream_answer(conn: &mut Conn, v2: bool, code: u32) {
        if v2 {
            conn.stream.queue(&upstream_status(code), None, 0);
        }
        if code != 0 {
            conn.rx = Rx::Ended;
        }
    }
}

/// An address that a peer sent and `pin_remote` found inside a region of ours fits this process.
#[expect(clippy::cast_possible_truncation, reason = "addresses are 64 bits on every target")]
fn local_address(addr: u64) -> usize {
    addr as usize
}

/// Larger first words are no upstream size but somebody else's protocol.
const MAX_UPSTREAM: u64 = 1 << 48;
/// Refused payload that is still taken in, so that the peer reads the answer and not a reset.
const MAX_DRAIN: u64 = 1 << 30;
