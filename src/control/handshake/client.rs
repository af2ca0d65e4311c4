//! One question to a peer's RPC port and its answer. Blocks its caller, within the given limits.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::super::wire::{FrameDecoder, FrameKind, encode_frame};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::evloop::{self, Interest};
use crate::time::Instant;

/// Limits of a [`call`].
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// For connecting, all candidates together.
    pub connect_timeout: Duration,
    /// From the connection to the last byte of the answer.
    pub rpc_timeout: Duration,
    /// Longest answer taken, in bytes.
    pub max_len: usize,
}

/// Sends one request to the first of `candidates` that accepts a connection, and returns the body of
/// the answer, unchecked. A candidate that does not answer leaves an equal share of the time to the
/// others. Nothing is sent twice.
///
/// # Errors
/// - `Dns`: no candidates.
/// - `Socket`: nobody accepts (the text names every address and why), the connection broke, or the
///   time ran out.
/// - `Malformed`: the peer closed without an answer, as upstream does with what it does not know, or
///   the answer is no frame of the request's kind.
pub fn call(
    candidates: &[SocketAddr],
    kind: FrameKind,
    body: &[u8],
    limits: &CallLimits,
) -> Result<Vec<u8>> {
    let (stream, to) = connect_any(candidates, limits.connect_timeout)?;
    let deadline = Instant::now().after(limits.rpc_timeout);
    let mut exchange = Exchange { stream, to, deadline };
    exchange.send(&encode_frame(kind, body))?;
    exchange.receive(kind, limits.max_len)
}

/// A connection to the peer, with the time by which all must be done.
struct Exchange {
    stream: TcpStream,
    to: SocketAddr,
    deadline: Instant,
}

impl Exchange {
    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) => self.wait_after(&e, Interest::WRITE, "sending to")?,
            }
        }
        Ok(())
    }

    fn receive(&mut self, kind: FrameKind, max_len: usize) -> Result<Vec<u8>> {
        let mut decoder = FrameDecoder::new(max_len);
        let mut scratch = vec![0; SCRATCH_LEN];
        loop {
            let mut bytes = match self.stream.read(&mut scratch) {
                Ok(0) if decoder.is_idle() => {
                    return Err(self.malformed("closed without an answer"));
                }
                Ok(0) => return Err(self.malformed("closed within its answer")),
                Ok(count) => &scratch[..count],
                Err(e) => {
                    self.wait_after(&e, Interest::READ, "waiting for the answer of")?;
                    continue;
                }
            };
            match decoder.feed(&mut bytes) {
                Ok(Some(frame)) if frame.kind == kind => return Ok(frame.body),
                Ok(Some(frame)) => {
                    let why = format_args!("answered {:?} to {kind:?}", frame.kind);
                    return Err(self.malformed(why));
                }
                Ok(None) => {}
                Err(e) => return Err(self.malformed(format_args!("answered with {e}"))),
            }
        }
    }

    /// After an error of a read or write: waits if it only was not ready.
    fn wait_after(&self, error: &io::Error, interest: Interest, doing: &str) -> Result<()> {
        let failed =
            |e: &io::Error| Error::os(ErrorKind::Socket, format_args!("{doing} {}", self.to), e);
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                wait(&self.stream, interest, self.deadline).map_err(|e| failed(&e))
            }
            _ => Err(failed(error)),
        }
    }

    fn malformed(&self, why: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Malformed, format!("peer {} {why}", self.to))
    }
}

fn connect_any(candidates: &[SocketAddr], timeout: Duration) -> Result<(TcpStream, SocketAddr)> {
    if candidates.is_empty() {
        return Err(Error::new(ErrorKind::Dns, "no address to connect to"));
    }
    let deadline = Instant::now().after(timeout);
    let mut failures = Vec::new();
    for (tried, to) in candidates.iter().enumerate() {
        let now = Instant::now();
        let left = u32::try_from(candidates.len() - tried).unwrap_or(u32::MAX);
        match connect(*to, now.after(deadline.since(now) / left)) {
            Ok(stream) => return Ok((stream, *to)),
            Err(e) => failures.push(format!("connecting to {to}: {e}")),
        }
    }
    Err(Error::new(ErrorKind::Socket, failures.join("; ")))
}

fn connect(to: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let stream = evloop::connect_start(to, None)?;
    wait(&stream, Interest::WRITE, deadline)?;
    evloop::connect_result(&stream)?;
    // a local port that nobody listens on can, by chance, connect to itself
    if stream.local_addr()? == to {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn wait(stream: &TcpStream, interest: Interest, deadline: Instant) -> io::Result<()> {
    let left = deadline.since(Instant::now());
    if left.is_zero() || !evloop::poll(stream.as_raw_fd(), interest, Some(left))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

const SCRATCH_LEN: usize = 16 << 10;
