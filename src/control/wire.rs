//! Upstream's formats on the RPC port, and what our own peers add to them: bytes in, values out. No
//! sockets, no clock. Nothing here trusts its input (I12): it costs no more memory than a small
//! multiple of the bytes received, and what is wrong with it is said in the error.
//!
//! - [`FrameDecoder`], [`encode_frame`]: length, type, body.
//! - [`encode_desc`], [`decode_desc`]: segment descriptors.
//! - [`Notify`] and the small replies.

use std::fmt;

use serde::de::{self, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;

mod desc;

pub use desc::{decode_desc, encode_desc};

/// What a frame asks for. A reply has its request's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Handshake of RDMA and its like.
    Connection,
    /// Segment descriptor for segment descriptor.
    Metadata,
    /// A message.
    Notify,
    /// Are you there?
    Probe,
    /// A [`FrameKind::Connection`] of the old protocol, which knew no types.
    Untyped,
}

impl FrameKind {
    fn byte(self) -> Option<u8> {
        match self {
            Self::Connection => Some(0),
            Self::Metadata => Some(1),
            Self::Notify => Some(2),
            Self::Probe => Some(3),
            Self::Untyped => None,
        }
    }

    /// The kind that a frame's first byte tells; in an untyped frame it begins a JSON object already.
    fn of(first: u8) -> Option<Self> {
        match first {
            0 => Some(Self::Connection),
            1 => Some(Self::Metadata),
            2 => Some(Self::Notify),
            3 => Some(Self::Probe),
            b'{' | b' ' | b'\t' | b'\n' | b'\r' => Some(Self::Untyped),
            _ => None,
        }
    }
}

/// One message of the RPC port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it asks for or answers.
    pub kind: FrameKind,
    /// JSON text, unchecked.
    pub body: Vec<u8>,
}

/// Why bytes are no frame. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame holds its type at least.
    #[error("frame length 0")]
    Empty,
    /// Longer than this side takes.
    #[error("frame length {len} exceeds the limit of {max}")]
    TooLong {
        /// What the frame says.
        len: u64,
        /// What is allowed.
        max: usize,
    },
    /// A browser, a scraper or a health check.
    #[error("http instead of a frame")]
    Http,
    /// A TLS client.
    #[error("tls instead of a frame")]
    Tls,
    /// A type that nobody has defined.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
}

/// Puts frames together from bytes as they come.
#[derive(Debug)]
pub struct FrameDecoder {
    max: usize,
    head: [u8; HEAD_LEN],
    head_len: usize,
    kind: Option<FrameKind>,
    missing: usize,
    body: Vec<u8>,
}

impl FrameDecoder {
    /// A decoder at the start of a frame; `max` limits the length that a frame may announce.
    pub fn new(max: usize) -> Self {
        let head = [0; HEAD_LEN];
        Self { max, head, head_len: 0, kind: None, missing: 0, body: Vec::new() }
    }

    /// Takes bytes from the front of `bytes` up to the end of the frame, which it then returns; what
    /// remains in `bytes` belongs to the next one.
    ///
    /// # Errors
    /// The bytes are no frame; the decoder must not be fed again.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> std::result::Result<Option<Frame>, FrameError> {
        if self.head_len < HEAD_LEN {
            let taken = take(bytes, HEAD_LEN - self.head_len);
            self.head[self.head_len..self.head_len + taken.len()].copy_from_slice(taken);
            self.head_len += taken.len();
            if self.head_len < HEAD_LEN {
                return Ok(None);
            }
            self.missing = announced_len(self.head, self.max)?;
        }
        let Some(kind) = self.read_kind(bytes)? else { return Ok(None) };
        let taken = take(bytes, self.missing);
        self.grow_for(taken.len());
        self.body.extend_from_slice(taken);
        self.missing -= taken.len();
        if self.missing > 0 {
            return Ok(None);
        }
        self.head_len = 0;
        self.kind = None;
        Ok(Some(Frame { kind, body: std::mem::take(&mut self.body) }))
    }

    /// Whether no byte of a next frame has come yet.
    pub fn is_idle(&self) -> bool {
        self.head_len == 0
    }

    /// Bytes of memory held for the frame under way.
    pub fn held_bytes(&self) -> usize {
        self.body.capacity()
    }

    fn read_kind(
        &mut self,
        bytes: &mut &[u8],
    ) -> std::result::Result<Option<FrameKind>, FrameError> {
        if self.kind.is_some() {
            return Ok(self.kind);
        }
        let Some(&first) = bytes.first() else { return Ok(None) };
        let kind = FrameKind::of(first).ok_or(FrameError::UnknownType(first))?;
        if kind != FrameKind::Untyped {
            *bytes = &bytes[1..];
            self.missing -= 1;
        }
        self.kind = Some(kind);
        Ok(self.kind)
    }

    /// Makes room for `more` bytes. Grows with what has come, by a quarter, never with what was
    /// announced: a lie of eight bytes must not cost the limit's memory.
    fn grow_for(&mut self, more: usize) {
        let room = self.body.capacity() - self.body.len();
        if room < more {
            let step = more.max(self.body.len() / 4).min(self.missing);
            self.body.reserve_exact(step);
        }
    }
}

/// One frame as bytes. The body ends with a newline, as upstream's does.
pub fn encode_frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let newline: &[u8] = if body.ends_with(b"\n") { b"" } else { b"\n" };
    let len = body.len() + newline.len() + usize::from(kind.byte().is_some());
    let mut frame = Vec::with_capacity(HEAD_LEN + len);
    frame.extend_from_slice(&(len as u64).to_le_bytes());
    frame.extend(kind.byte());
    frame.extend_from_slice(body);
    frame.extend_from_slice(newline);
    frame
}

/// Whether `body` is one well-formed JSON value. Upstream closes on anything else, and takes anything
/// that is, even where it expects an object.
pub fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// A message from one engine to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// By convention the sender's name. Any bytes.
    pub name: Vec<u8>,
    /// The message. Any bytes.
    pub message: Vec<u8>,
    /// Who sent it, as which of its messages; `None` from an upstream peer.
    pub origin: Option<NotifyOrigin>,
}

/// What lets a receiver drop a message that was sent twice, and see the order of a sender's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotifyOrigin {
    /// Which life of the sender.
    pub from: Incarnation,
    /// Counts the sender's messages to this receiver.
    pub seq: u64,
}

impl Notify {
    /// The body of a [`FrameKind::Notify`] request. Bytes that are no text travel in the extra key; an
    /// upstream receiver sees replacement characters for them, as from an upstream sender.
    pub fn encode(&self) -> Vec<u8> {
        let (name, name_hex) = text_or_hex(&self.name);
        let (notify_msg, msg_hex) = text_or_hex(&self.message);
        let tent = self.origin.map(|o| NotifyTentOut {
            from: o.from.to_string(),
            msg_hex,
            name_hex,
            seq: o.seq,
        });
        to_json(&NotifyOut { name, notify_msg, tent })
    }

    /// Reads the body of a [`FrameKind::Notify`] request.
    ///
    /// # Errors
    /// `Malformed`: no JSON object, no `notify_msg`, or an extra key of ours that makes no sense.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let parsed: NotifyBody = from_json("notification", body)?;
        let name = parsed.name.unwrap_or_default().0;
        let Some(Raw(message)) = parsed.notify_msg else {
            return Err(malformed("notification", "no notify_msg"));
        };
        let Some(tent) = parsed.tent else { return Ok(Self { name, message, origin: None }) };
        let from = parse_incarnation(&tent.from)
            .ok_or_else(|| malformed("notification", "tent.from is not 32 hex digits"))?;
        Ok(Self {
            name: hex_or(tent.name_hex, name)?,
            message: hex_or(tent.msg_hex, message)?,
            origin: Some(NotifyOrigin { from, seq: tent.seq }),
        })
    }
}

/// The body that answers a [`FrameKind::Notify`].
pub fn notify_reply(accepted: bool) -> &'static [u8] {
    if accepted {
        br#"{"name":"","notify_msg":"success"}"#
    } else {
        br#"{"name":"","notify_msg":""}"#
    }
}

/// Reads the body that answers a [`FrameKind::Notify`].
///
/// # Errors
/// `Rejected` if the peer did not take the message, `Malformed` if the answer cannot be read.
pub fn check_notify_reply(body: &[u8]) -> Result<()> {
    let parsed: NotifyBody = from_json("answer to a notification", body)?;
    match parsed.notify_msg {
        Some(Raw(text)) if !text.is_empty() => Ok(()),
        _ => Err(Error::new(ErrorKind::Rejected, "the peer refused the notification")),
    }
}

/// The body of a [`FrameKind::Probe`] request.
pub const PROBE_REQUEST: &[u8] = b"{}";

/// The body that answers a [`FrameKind::Probe`].
pub const PROBE_REPLY: &[u8] = br#"{"status":"success"}"#;

/// Reads the body that answers a [`FrameKind::Probe`].
///
/// # Errors
/// `Rejected` if the peer says anything but success, `Malformed` if the answer cannot be read.
pub fn check_probe_reply(body: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Reply {
        status: String,
    }
    let reply: Reply = from_json("answer to a probe", body)?;
    if reply.status == "success" {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Rejected,
        format!("the peer answers the probe with {:?}", reply.status),
    ))
}

/// The body with which an engine that has no RDMA answers a [`FrameKind::Connection`]: all empty, and
/// no refusal in it, as upstream's. The initiator fails because the paths do not match.
pub const CONNECTION_REPLY: &[u8] = br#"{"local_gid":"","local_lid":0,"local_nic_path":"","payload":"","peer_nic_path":"","qp_num":[],"reply_msg":""}"#;

#[derive(Serialize)]
struct NotifyOut<'a> {
    name: std::borrow::Cow<'a, str>,
    notify_msg: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tent: Option<NotifyTentOut>,
}

#[derive(Serialize)]
struct NotifyTentOut {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    seq: u64,
}

#[derive(Deserialize)]
struct NotifyBody {
    name: Option<Raw>,
    notify_msg: Option<Raw>,
    tent: Option<NotifyTentIn>,
}

#[derive(Deserialize)]
struct NotifyTentIn {
    from: String,
    seq: u64,
    name_hex: Option<String>,
    msg_hex: Option<String>,
}

/// A JSON string whose raw bytes need not be UTF-8: upstream writes what it is given.
#[derive(Default)]
struct Raw(Vec<u8>);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct RawVisitor;
        impl de::Visitor<'_> for RawVisitor {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> std::result::Result<Raw, E> {
                Ok(Raw(bytes.to_vec()))
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Raw, E> {
                Ok(Raw(text.as_bytes().to_vec()))
            }
        }
        from.deserialize_bytes(RawVisitor)
    }
}

/// The length that a frame's head announces, as far as it is allowed.
fn announced_len(head: [u8; HEAD_LEN], max: usize) -> std::result::Result<usize, FrameError> {
    let len = u64::from_le_bytes(head);
    if len == 0 {
        return Err(FrameError::Empty);
    }
    match usize::try_from(len) {
        Ok(fits) if fits <= max => Ok(fits),
        // only a length that is refused is looked at as text: 0x0316 is a length and a TLS record
        _ if HTTP_STARTS.iter().any(|s| head.starts_with(s)) => Err(FrameError::Http),
        _ if head.starts_with(&[0x16, 0x03]) => Err(FrameError::Tls),
        _ => Err(FrameError::TooLong { len, max }),
    }
}

/// Cuts up to `count` bytes from the front of `bytes`.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
}

fn malformed(what: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Malformed, format!("{what}: {why}"))
}

fn from_json<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T> {
    // derived readers would also take an array of the fields in order
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed(what, "not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|e| malformed(what, e))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // fails only for maps with keys that are no strings, and there are none here
    serde_json::to_vec(value).unwrap_or_default()
}

/// Exactly the 32 hex digits that [`Incarnation`] writes; its own reader is more lenient.
fn parse_incarnation(text: &str) -> Option<Incarnation> {
    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| Incarnation::parse(text)).flatten()
}

fn text_or_hex(bytes: &[u8]) -> (std::borrow::Cow<'_, str>, Option<String>) {
    let text = String::from_utf8_lossy(bytes);
    let exact = matches!(text, std::borrow::Cow::Borrowed(_));
    (text, (!exact).then(|| hex(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        // writing into a string never fails
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The bytes that `hex` spells, or `plain` where there is none.
fn hex_or(hex: Option<String>, plain: Vec<u8>) -> Result<Vec<u8>> {
    let Some(hex) = hex else { return Ok(plain) };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = hex.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect::<Option<_>>().ok_or_else(|| malformed("notification", "bad hex digits in tent"))
}

/// Bytes of a frame's length field.
const HEAD_LEN: usize = 8;

const HTTP_STARTS: &[&[u8]] = &[
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
    b"PRI * ",
    b"HTTP/",
];

#[cfg(test)]
mod tests;
