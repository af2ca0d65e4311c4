//! One nonblocking stream: a queue of heads and payload ranges going out, a small buffer for heads
//! coming in, payload straight between the socket and registered memory. Knows no protocol.
#![allow(unsafe_code, reason = "the one place where socket calls meet registered memory")]

use crate::memory::Pin;
use crate::sys::mem;
use crate::sys::net::{self, IoRange};
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Bytes that `head` of a queued item may have.
pub(super) const MAX_HEAD: usize = 64;

/// Registered memory that goes out after a head. The owner keeps it pinned: a served READ by the pin
/// here, a WRITE by its task.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) addr: usize,
    pub(super) len: usize,
    /// Held, never read: it keeps the region registered until the last byte has left.
    pub(super) _pin: Option<Pin>,
}

#[derive(Debug)]
struct Item {
    head: [u8; MAX_HEAD],
    head_len: usize,
    payload: Option<Payload>,
    /// The caller's number, to tell which piece broke on memory that is not mapped.
    id: u64,
}

impl Item {
    fn len(&self) -> usize {
        self.head_len + self.payload.as_ref().map_or(0, |p| p.len)
    }
}

/// What came of an attempt to move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; the socket will say when.
    Later,
    /// The peer has ended its half.
    End,
    /// The memory of item `id` (sending) or of the current payload (receiving, id 0) is not mapped.
    Fault(u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    queue: VecDeque<Item>,
    /// Bytes of the first item that the kernel has taken.
    sent: usize,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The socket may have bytes for us (edge triggered: stays set until it says `WouldBlock`).
    pub(super) readable: bool,
    /// Bytes that must wait before the kernel tells of them.
    low_water: usize,
    /// The socket may take bytes.
    pub(super) writable: bool,
    /// The peer has closed: the end is behind the last byte, and no further edge will tell of it.
    pub(super) ending: bool,
}

impl Stream {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            queue: VecDeque::new(),
            sent: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            readable: true,
            low_water: 1,
            writable: true,
            ending: false,
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Queues a head and, behind it, a payload.
    pub(super) fn queue(&mut self, head: &[u8], payload: Option<Payload>, id: u64) {
        let mut bytes = [0; MAX_HEAD];
        bytes[..head.len()].copy_from_slice(head);
        self.queue.push_back(Item { head: bytes, head_len: head.len(), payload, id });
    }

    /// Takes the payload out of an item of which nothing was sent, and gives it another head. `false`: it
    /// is on its way; then `pin` keeps its payload until it has left.
    pub(super) fn take_back(
        &mut self,
        id: u64,
        head: &[u8],
        pin: impl FnOnce(usize, usize) -> Option<Pin>,
    ) -> bool {
        let sent = self.sent;
        let mut items = self.queue.iter_mut().enumerate();
        let Some((at, item)) = items.find(|(_, i)| i.id == id && i.payload.is_some()) else {
            return false;
        };
        if at > 0 || sent == 0 {
            item.payload = None;
            item.head[..head.len()].copy_from_slice(head);
            return true;
        }
        if let Some(payload) = &mut item.payload {
            payload._pin = pin(payload.addr, payload.len);
        }
        false
    }

    /// Items that wait, for back-pressure.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Sends what the kernel takes, up to about `budget` bytes.
    pub(super) fn flush(&mut self, budget: usize) -> io::Result<Moved> {
        let mut total = 0;
        while self.writable && !self.queue.is_empty() && total < budget {
            let mut ranges = [IoRange::new(0, 0); MAX_RANGES];
            let (count, want) = self.gather(&mut ranges, budget - total);
            // SAFETY: heads live in `queue`; payloads are registered memory pinned by their owner.
            let sent = match unsafe { net::send(self.socket.as_raw_fd(), &ranges[..count]) } {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(libc::EFAULT) => {
                    return Ok(Moved::Fault(self.queue[0].id));
                }
                Err(e) => return Err(e),
            };
            // a short count means that the kernel's buffer is full; the edge will come
            self.writable = sent == want;
            total += sent;
            self.advance(sent);
        }
        Ok(if total > 0 { Moved::Bytes(total) } else { Moved::Later })
    }

    /// Fills `ranges` with the front of the queue; returns how many and their bytes.
    fn gather(&self, ranges: &mut [IoRange; MAX_RANGES], budget: usize) -> (usize, usize) {
        let (mut count, mut bytes, mut skip) = (0, 0, self.sent);
        for item in &self.queue {
            if count + 2 > MAX_RANGES || bytes >= budget {
                break;
            }
            if skip < item.head_len {
                ranges[count] =
                    IoRange::new(item.head[skip..].as_ptr().addr(), item.head_len - skip);
                bytes += item.head_len - skip;
                count += 1;
                skip = item.head_len;
            }
            if let Some(p) = item.payload.as_ref().filter(|p| p.len > skip - item.head_len) {
                let done = skip - item.head_len;
                let len = (p.len - done).min((budget - bytes.min(budget)).max(MIN_SEND));
                ranges[count] = IoRange::new(p.addr + done, len);
                bytes += len;
                count += 1;
                if len < p.len - done {
                    break;
                }
            }
            skip = 0;
        }
        (count, bytes)
    }

    fn advance(&mut self, mut sent: usize) {
        sent += self.sent;
        while let Some(first) = self.queue.front() {
            if sent < first.len() {
                break;
            }
            sent -= first.len();
            self.queue.pop_front();
        }
        self.sent = sent;
    }

    /// Bytes received and not yet consumed.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes `N` bytes if they are there.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.buffered().get(..N)?.try_into().ok()?;
        self.consume(N);
        Some(bytes)
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives into the buffer, until it holds up to `limit` bytes.
    pub(super) fn fill(&mut self, limit: usize) -> io::Result<Moved> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = &mut self.buffer[self.end..limit.max(self.end + 1).min(BUFFER)];
        let mut ranges = [IoRange::new(free.as_mut_ptr().addr(), free.len())];
        let moved = self.receive(&mut ranges)?;
        if let Moved::Bytes(n) = moved {
            self.end += n;
        }
        Ok(moved)
    }

    /// Receives a head of `head_len` bytes into the empty buffer and, behind it, up to `len` bytes to `dst`:
    /// for an answer that can be nothing else. Returns the bytes that went to `dst` besides.
    pub(super) fn fill_answer(
        &mut self,
        head_len: usize,
        dst: usize,
        len: usize,
    ) -> io::Result<(Moved, usize)> {
        let head = &mut self.buffer[..head_len];
        let mut ranges = [IoRange::new(head.as_mut_ptr().addr(), head_len), IoRange::new(dst, len)];
        let moved = self.receive(&mut ranges)?;
        let Moved::Bytes(n) = moved else { return Ok((moved, 0)) };
        (self.start, self.end) = (0, n.min(head_len));
        Ok((moved, n.saturating_sub(head_len)))
    }

    /// Moves up to `left` payload bytes to `dst`: what is buffered first, then from the socket, together
    /// with the head of `head_len` bytes that may follow, so that it costs no call of its own.
    pub(super) fn fill_payload(
        &mut self,
        dst: usize,
        left: usize,
        head_len: usize,
    ) -> io::Result<Moved> {
        let ready = self.buffered().len().min(left);
        if ready > 0 {
            let source = self.buffered().as_ptr().expose_provenance();
            // SAFETY: `source` has `ready` bytes; `dst` is registered memory that the caller pinned, of
            // at least `left` bytes. (If it is not mapped any more, the kernel says so.)
            if unsafe { mem::copy_checked(dst, source, ready) }.is_err() {
                return Ok(Moved::Fault(0));
            }
            self.consume(ready);
            return Ok(Moved::Bytes(ready));
        }
        // one head and no more: payload caught here would have to be copied again
        let tail = &mut self.buffer[..head_len];
        let mut ranges =
            [IoRange::new(dst, left), IoRange::new(tail.as_mut_ptr().addr(), tail.len())];
        match self.receive(&mut ranges)? {
            Moved::Bytes(n) => {
                (self.start, self.end) = (0, n.saturating_sub(left));
                Ok(Moved::Bytes(n.min(left)))
            }
            other => Ok(other),
        }
    }

    /// Throws away up to `left` payload bytes.
    pub(super) fn discard(&mut self, left: usize) -> io::Result<Moved> {
        if self.buffered().is_empty() {
            match self.fill(left)? {
                Moved::Bytes(_) => {}
                other => return Ok(other),
            }
        }
        let n = self.buffered().len().min(left);
        self.consume(n);
        Ok(Moved::Bytes(n))
    }

    /// The socket is empty, and `left` bytes of a payload are still to come: on a slow link each packet would
    /// wake the lane, so the kernel is asked to gather some.
    pub(super) fn gather_input(&mut self, left: usize) {
        let wish = if left < LOW_WATER_MIN { 1 } else { left.min(LOW_WATER) };
        if !self.readable && wish != self.low_water {
            net::low_water(&self.socket, wish);
            self.low_water = wish;
        }
    }

    fn receive(&mut self, ranges: &mut [IoRange]) -> io::Result<Moved> {
        if !self.readable {
            return Ok(Moved::Later);
        }
        let want: usize = ranges.iter().map(IoRange::len).sum();
        loop {
            // SAFETY: the ranges are our buffer and pinned, registered memory (see the callers).
            match unsafe { net::receive(self.socket.as_raw_fd(), ranges) } {
                Ok(0) => return Ok(Moved::End),
                Ok(n) => {
                    // a short count means that the socket is empty; the edge will come
                    self.readable = n == want || self.ending;
                    return Ok(Moved::Bytes(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Moved::Later);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::EFAULT) => return Ok(Moved::Fault(0)),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Receive buffer: room for hundreds of heads.
pub(super) const BUFFER: usize = 16 << 10;
/// Input is told of when so much of a payload waits: a copy of some 5 us.
const LOW_WATER: usize = 64 << 10;
/// For less it does not pay to ask.
const LOW_WATER_MIN: usize = 8 << 10;
/// Ranges in one send.
const MAX_RANGES: usize = 128;
/// A payload is not cut smaller than this to fit a budget.
const MIN_SEND: usize = 64 << 10;
