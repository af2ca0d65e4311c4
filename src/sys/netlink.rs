//! News of links and addresses: the kernel tells of a lost carrier, a link switched off or an address
//! taken away, long before a connection notices. Each name space has its own news; a watch hears that of
//! the thread that opened it, and asks the kernel for nothing.

use std::io;
use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What has happened to a link or an address. The kernel repeats itself: the same news twice is usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link is new, has changed, or is gone.
    Link {
        /// The interface's index.
        index: u32,
        /// Its name.
        name: String,
        /// Switched on and the other end is there. A link that is gone is not running.
        running: bool,
    },
    /// An address can be used from now on, or no longer.
    Address {
        /// The index of the interface that has it.
        index: u32,
        /// The address.
        addr: IpAddr,
        /// Taken away, or found to be in use elsewhere.
        gone: bool,
    },
    /// News was lost: look at every link and address anew.
    Lost,
}

/// A subscription to the news of one network name space.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Subscribes. What happened before is not told.
    ///
    /// # Errors
    /// The kernel's, when it gives no descriptor or has no such sockets.
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointers
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut addr = no_addr();
        addr.nl_family = FAMILY;
        addr.nl_groups = GROUPS.cast_unsigned();
        let (pointer, len) = ((&raw const addr).cast(), socklen(&addr));
        // SAFETY: `pointer` and `len` describe `addr`, which outlives the call
        if unsafe { libc::bind(fd, pointer, len) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket, buffer: vec![0; LONGEST] })
    }

    /// The descriptor, readable while there is news. Not for edge-triggered use: one [`Self::read`] may
    /// leave some.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Appends the news to `into` without blocking, up to [`MOST_READS`] messages of the socket. Never
    /// fails: where something could not be read, the news is [`LinkEvent::Lost`].
    pub fn read(&mut self, into: &mut Vec<LinkEvent>) {
        for _ in 0..MOST_READS {
            match self.receive() {
                Ok((len, from)) => match self.buffer.get(..len) {
                    // a process with privileges may write to this socket too; the kernel is 0
                    Some(_) if from != 0 => {}
                    Some(bytes) => parse(bytes, into),
                    None => lost(into),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: news came faster than we read; what was kept follows
                Err(_) => lost(into),
            }
        }
    }

    /// One datagram into the buffer: its length, also where it did not fit, and who sent it.
    fn receive(&mut self) -> io::Result<(usize, u32)> {
        let mut from = no_addr();
        let mut from_len = socklen(&from);
        let (fd, flags) = (self.fd(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
        let (bytes, room) = (self.buffer.as_mut_ptr().cast(), self.buffer.len());
        let (name, name_len) = ((&raw mut from).cast(), &raw mut from_len);
        // SAFETY: the kernel writes at most `room` bytes to the buffer, which is ours alone, and at most
        // `from_len` to `from`; both outlive the call
        let len = unsafe { libc::recvfrom(fd, bytes, room, flags, name, name_len) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        Ok((len, from.nl_pid))
    }
}

fn lost(into: &mut Vec<LinkEvent>) {
    if into.last() != Some(&LinkEvent::Lost) {
        into.push(LinkEvent::Lost);
    }
}

fn no_addr() -> libc::sockaddr_nl {
    // SAFETY: all zeros is a valid sockaddr_nl
    unsafe { std::mem::zeroed() }
}

#[expect(clippy::cast_possible_truncation, reason = "the size of a small struct")]
fn socklen<T>(_: &T) -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// Appends what the messages in `bytes` say. What is malformed or of no interest is skipped; behind a
/// length that cannot be, nothing can be found any more.
fn parse(mut bytes: &[u8], into: &mut Vec<LinkEvent>) {
    while let Some((kind, body, rest)) = message(bytes) {
        match i32::from(kind) {
            libc::NLMSG_OVERRUN => lost(into),
            _ => into.extend(event(kind, body)),
        }
        bytes = rest;
    }
}

/// Kind and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32_at(bytes, offset_of!(libc::nlmsghdr, nlmsg_len))?;
    let kind = u16_at(bytes, offset_of!(libc::nlmsghdr, nlmsg_type))?;
    let (body, rest) = cut(bytes, size_of::<libc::nlmsghdr>(), usize::try_from(len).ok()?)?;
    Some((kind, body, rest))
}

fn event(kind: u16, body: &[u8]) -> Option<LinkEvent> {
    match kind {
        libc::RTM_NEWLINK => link(body, false),
        libc::RTM_DELLINK => link(body, true),
        libc::RTM_NEWADDR => address(body, false),
        libc::RTM_DELADDR => address(body, true),
        _ => None,
    }
}

fn link(body: &[u8], is_gone: bool) -> Option<LinkEvent> {
    // a bridge tells of its ports with messages of its own kind, whose "deleted" means "left the bridge"
    let family = *body.get(offset_of!(libc::ifinfomsg, ifi_family))?;
    if i32::from(family) != libc::AF_UNSPEC {
        return None;
    }
    let index = u32_at(body, offset_of!(libc::ifinfomsg, ifi_index))?;
    let flags = u32_at(body, offset_of!(libc::ifinfomsg, ifi_flags))?;
    let name = attribute(body.get(size_of::<libc::ifinfomsg>()..)?, libc::IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    // a carrier that goes or comes clears or sets LOWER_UP at once, and RUNNING after it
    let all = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOWER_UP).cast_unsigned();
    Some(LinkEvent::Link { index, name, running: !is_gone && flags & all == all })
}

fn address(body: &[u8], is_gone: bool) -> Option<LinkEvent> {
    let family = i32::from(*body.get(offset_of!(libc::ifaddrmsg, ifa_family))?);
    let flags = u32::from(*body.get(offset_of!(libc::ifaddrmsg, ifa_flags))?);
    let index = u32_at(body, offset_of!(libc::ifaddrmsg, ifa_index))?;
    let attributes = body.get(size_of::<libc::ifaddrmsg>()..)?;
    // where both are given, the other one is the far end's
    let own = attribute(attributes, libc::IFA_LOCAL);
    let addr = own.or_else(|| attribute(attributes, libc::IFA_ADDRESS))?;
    let addr = match family {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(addr).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(addr).ok()?),
        _ => return None,
    };
    let is_duplicate = flags & libc::IFA_F_DADFAILED != 0;
    let settled = flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_OPTIMISTIC) != libc::IFA_F_TENTATIVE;
    // while it is being looked for on the link it cannot be bound; another message follows
    let is_told = is_gone || is_duplicate || settled;
    is_told.then_some(LinkEvent::Address { index, addr, gone: is_gone || is_duplicate })
}

/// The value of the first attribute of this kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = u16_at(bytes, offset_of!(libc::rtattr, rta_len))?;
        let kind = u16_at(bytes, offset_of!(libc::rtattr, rta_type))?;
        let (value, rest) = cut(bytes, size_of::<libc::rtattr>(), usize::from(len))?;
        if kind == wanted {
            return Some(value);
        }
        bytes = rest;
    }
}

/// Cuts off the first `len` bytes and their padding: what they hold behind a header, and the rest.
/// `None` if they are not there, or shorter than the header: so a loop over it ends.
fn cut(bytes: &[u8], header: usize, len: usize) -> Option<(&[u8], &[u8])> {
    let value = bytes.get(header..len)?;
    Some((value, bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default()))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_ne_bytes(*two))
}

/// Messages taken from the socket by one [`LinkWatch::read`].
pub const MOST_READS: usize = 64;

#[expect(clippy::cast_possible_truncation, reason = "16")]
const FAMILY: libc::sa_family_t = libc::AF_NETLINK as libc::sa_family_t;
const GROUPS: libc::c_int = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
/// The kernel sends nothing longer unless it is asked for more.
const LONGEST: usize = 32 << 10;
const ALIGN: usize = 4;

#[cfg(test)]
mod tests;
