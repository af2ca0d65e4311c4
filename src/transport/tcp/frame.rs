//! Bytes of the data port, both languages; pure. All integers are little-endian.
//!
//! Ours: a connection opens with a 64-byte hello whose first 8 bytes are [`MAGIC`]; after it both sides
//! send 32-byte heads, some followed by payload. As upstream's requests begin with a size, and the magic
//! read as a size is above 2^61, the first 8 bytes tell the two languages apart.
//!
//! Upstream's (its `tcp_transport`): a 24-byte request {size u64, addr u64, opcode u8 | 0x80 for v2, 7
//! bytes of padding}; v2 answers with an 8-byte status.

use crate::id::Incarnation;
use std::time::Duration;

/// First 8 bytes of our hello.
pub const MAGIC: [u8; 8] = *b"TENT-D1\x7e";
/// Bytes of a hello.
pub const HELLO_LEN: usize = 64;
/// Bytes of a head.
pub const HEAD_LEN: usize = 32;
/// Longest payload that a head may announce; a longer one is garbage.
pub const MAX_PAYLOAD: u32 = 16 << 20;
/// The agreed limit: a server writes nothing from a connection of ours whose payload stood still for
/// longer, for its initiator may have told its caller that the transfer failed (D5).
pub const SILENCE: Duration = Duration::from_secs(2);
/// Bytes of upstream's request.
pub const UPSTREAM_LEN: usize = 24;
/// Bytes of upstream's v2 status.
pub const STATUS_LEN: usize = 8;

const VERSION: u16 = 1;
const STATUS_MAGIC: u64 = 0x4D43_5456_0000_0000;

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Server → client: the hello was taken; every older connection of its slot is fenced.
    Welcome = 1,
    /// Client → server, with payload: place it at `addr`.
    Write = 2,
    /// Server → client: the write of `id` is in memory, or was refused.
    Ack = 3,
    /// Client → server: send `len` bytes from `addr`.
    Read = 4,
    /// Server → client, with payload: the bytes of `id`, or none if refused.
    Data = 5,
    /// Client → server: of the connection in place `addr`, write nothing more of the `key`-th WRITE
    /// (counted from 0). `Ack` says that it is so, or `Refused` that it cannot be promised.
    Revoke = 6,
}

/// Outcome in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Outside a permitted range, or the key is stale.
    Refused = 1,
    /// The hello was meant for another life of this address.
    WrongPeer = 2,
    /// The hello's version is not spoken here.
    Version = 3,
}

/// One head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which message.
    pub kind: Kind,
    /// Outcome, in answers.
    pub status: Status,
    /// Payload that follows (`Write`, `Data`) or is asked for (`Read`), in bytes.
    pub len: u32,
    /// The client's number of the piece, echoed.
    pub id: u64,
    /// Address in the server.
    pub addr: u64,
    /// Key of the region.
    pub key: u64,
}

impl Head {
    /// An answer to piece `id`.
    pub fn answer(kind: Kind, status: Status, id: u64, len: u32) -> Self {
        Self { kind, status, len, id, addr: 0, key: 0 }
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[0] = self.kind as u8;
        out[2..4].copy_from_slice(&(self.status as u16).to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..24].copy_from_slice(&self.addr.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.to_le_bytes());
        out
    }

    /// Reads a head; `None` if these bytes are not one.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Option<Self> {
        use Kind::{Ack, Data, Read, Revoke, Welcome, Write};
        let kinds = [Welcome, Write, Ack, Read, Data, Revoke];
        let kind = kinds.into_iter().find(|k| *k as u8 == bytes[0])?;
        let code = u16::from_le_bytes([bytes[2], bytes[3]]);
        let status = [Status::Ok, Status::Refused, Status::WrongPeer, Status::Version]
            .into_iter()
            .find(|s| *s as u16 == code)?;
        let len = u32::from_le_bytes(word(bytes, 4));
        (len <= MAX_PAYLOAD && bytes[1] == 0).then(|| Self {
            kind,
            status,
            len,
            id: u64::from_le_bytes(word(bytes, 8)),
            addr: u64::from_le_bytes(word(bytes, 16)),
            key: u64::from_le_bytes(word(bytes, 24)),
        })
    }
}

/// The first bytes of a connection of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Which engine calls.
    pub from: Incarnation,
    /// Which life of the server it means to reach.
    pub to: Incarnation,
    /// Names this connection's place among the caller's; a new one in the same place fences the old.
    pub slot: u32,
    /// Grows with every connection in that place.
    pub epoch: u64,
    /// Whether it carries urgent pieces.
    pub urgent: bool,
    /// It comes only to fence both connections of the rail whose place it names, over any path that
    /// works; it carries nothing.
    pub fence: bool,
}

impl Hello {
    /// As bytes.
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = u8::from(self.urgent);
        out[11] = u8::from(self.fence);
        out[12..16].copy_from_slice(&self.slot.to_le_bytes());
        out[16..32].copy_from_slice(&self.from.0.to_le_bytes());
        out[32..48].copy_from_slice(&self.to.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.epoch.to_le_bytes());
        out
    }

    /// Reads a hello whose magic was seen; `Err` names the version if it is not ours.
    ///
    /// # Errors
    /// The foreign version.
    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Self, u16> {
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(version);
        }
        Ok(Self {
            from: Incarnation(u128::from_le_bytes(word(bytes, 16))),
            to: Incarnation(u128::from_le_bytes(word(bytes, 32))),
            slot: u32::from_le_bytes(word(bytes, 12)),
            epoch: u64::from_le_bytes(word(bytes, 48)),
            urgent: bytes[10] == 1,
            fence: bytes[11] == 1,
        })
    }
}

/// Upstream's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamRequest {
    /// Bytes.
    pub size: u64,
    /// Address in the server.
    pub addr: u64,
    /// WRITE, else READ.
    pub write: bool,
    /// Version 2: the server answers with a status.
    pub v2: bool,
}

impl UpstreamRequest {
    /// As bytes.
    pub fn encode(&self) -> [u8; UPSTREAM_LEN] {
        let mut out = [0; UPSTREAM_LEN];
        out[..8].copy_from_slice(&self.size.to_le_bytes());
        out[8..16].copy_from_slice(&self.addr.to_le_bytes());
        out[16] = u8::from(self.write) | if self.v2 { 0x80 } else { 0 };
        out
    }

    /// Any 24 bytes are a request: low seven opcode bits other than 1 read, as upstream does.
    pub fn decode(bytes: &[u8; UPSTREAM_LEN]) -> Self {
        Self {
            size: u64::from_le_bytes(word(bytes, 0)),
            addr: u64::from_le_bytes(word(bytes, 8)),
            write: bytes[16] & 0x7f == 1,
            v2: bytes[16] & 0x80 != 0,
        }
    }
}

/// Upstream's v2 status as bytes: 0 = done, 1 = range refused.
pub fn upstream_status(code: u32) -> [u8; STATUS_LEN] {
    (STATUS_MAGIC + u64::from(code)).to_le_bytes()
}

/// Reads upstream's v2 status; `None` without its magic.
pub fn read_upstream_status(bytes: [u8; STATUS_LEN]) -> Option<u32> {
    u32::try_from(u64::from_le_bytes(bytes).checked_sub(STATUS_MAGIC)?).ok()
}

/// The `N` bytes at `at`; the callers' array types make the range certain.
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heads_round_trip(len in 0..=MAX_PAYLOAD, id: u64, addr: u64, key: u64) {
            for kind in [Kind::Welcome, Kind::Write, Kind::Ack, Kind::Read, Kind::Data, Kind::Revoke] {
                let head = Head { kind, status: Status::Refused, len, id, addr, key };
                prop_assert_eq!(Head::decode(&head.encode()), Some(head));
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: [u8; HEAD_LEN]) {
            if let Some(head) = Head::decode(&bytes) {
                prop_assert!(head.len <= MAX_PAYLOAD);
            }
        }

        #[test]
        fn hellos_round_trip(from: u128, to: u128, slot: u32, epoch: u64, urgent: bool, fence: bool) {
            let hello = Hello { from: Incarnation(from), to: Incarnation(to), slot, epoch, urgent, fence };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }

        #[test]
        fn upstream_requests_round_trip(size: u64, addr: u64, write: bool, v2: bool) {
            let request = UpstreamRequest { size, addr, write, v2 };
            prop_assert_eq!(UpstreamRequest::decode(&request.encode()), request);
        }
    }

    #[test]
    fn upstream_status_has_the_bytes_seen_on_the_wire() {
        // measured on upstream's 0.3.13.post1: code 0 is 00 00 00 00 56 54 43 4d
        assert_eq!(upstream_status(0), [0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d]);
        assert_eq!(read_upstream_status(upstream_status(1)), Some(1));
        assert_eq!(read_upstream_status([0; 8]), None);
    }

    #[test]
    fn the_magic_is_no_size_that_upstream_could_send() {
        assert!(u64::from_le_bytes(MAGIC) > 1 << 61);
    }
}
