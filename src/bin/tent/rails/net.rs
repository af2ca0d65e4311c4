//! Sockets as a relay needs them: with short queues, waited for to the microsecond, closed by a reset,
//! and a listener that can refuse for a while. System calls only; what to do when is `relay`'s.
#![allow(unsafe_code, reason = "system calls; each block says what it relies on")]

use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::os;

/// A socket that is waited for.
#[repr(transparent)]
pub(crate) struct Watch(libc::pollfd);

impl Watch {
    /// With neither wish the socket is left alone: not even its end is seen.
    pub(crate) fn new(fd: &impl AsRawFd, read: bool, write: bool) -> Self {
        let fd = if read || write { fd.as_raw_fd() } else { -1 };
        let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
        Self(libc::pollfd { fd, events, revents: 0 })
    }

    /// Something happened: bytes, room, or the end.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one of them is ready, or the time is over.
pub(crate) fn wait(watches: &mut [Watch], timeout: Option<Duration>) -> Result<()> {
    let count = libc::nfds_t::try_from(watches.len()).map_err(Error::other)?;
    let time = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos().cast_signed()),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let list = watches.as_mut_ptr().cast::<libc::pollfd>();
    // SAFETY: `list` has `count` entries (`Watch` is a pollfd), `time` is null or valid; both outlive it.
    let n = unsafe { libc::ppoll(list, count, time, std::ptr::null()) };
    match Error::last_os_error() {
        e if n < 0 && e.kind() != std::io::ErrorKind::Interrupted => Err(e),
        _ => Ok(()),
    }
}

/// This thread is woken when it asked to be, not up to 50 us later.
pub(crate) fn prompt_timers() {
    // SAFETY: this option takes an integer only and changes this thread alone.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// A listener on loopback, on a free port, whose connections take in at most about `queue` bytes unread.
pub(crate) fn listen(queue: u64) -> Result<TcpListener> {
    for _ in 0..BIND_TRIES {
        // A port that the kernel chose is lost when the listener stops; one that was asked for is kept.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let socket = stream_socket(queue)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
        let at = raw_address(SocketAddrV4::new(Ipv4Addr::LOCALHOST, free));
        // SAFETY: `at` is a socket address of that size through the call.
        let rc = unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), ADDRESS_LEN) };
        if rc == 0 {
            let listener = TcpListener::from(socket);
            refuse_no_more(&listener)?;
            return Ok(listener);
        }
    }
    Err(Error::last_os_error())
}

/// From now on connects are answered by a reset, as if nobody listened; the port stays taken.
pub(crate) fn refuse(listener: &TcpListener) -> Result<()> {
    // SAFETY: no pointers. (Linux: a listener that is shut down is closed, and keeps its port.)
    ok(unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) })
}

/// Listens (again).
pub(crate) fn refuse_no_more(listener: &TcpListener) -> Result<()> {
    // SAFETY: no pointers.
    ok(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })
}

/// Begins to connect; a refusal shows when the stream is read.
pub(crate) fn connect(to: SocketAddrV4, queue: u64) -> Result<TcpStream> {
    let socket = stream_socket(queue)?;
    let at = raw_address(to);
    // SAFETY: `at` is a socket address of that size through the call.
    let rc = unsafe { libc::connect(socket.as_raw_fd(), (&raw const at).cast(), ADDRESS_LEN) };
    match ok(rc) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(TcpStream::from(socket)),
    }
}

/// Bounds what the kernel takes in of a connection before it is read. Never more than before: what was
/// promised to the sender stays promised.
pub(crate) fn bound_queue(stream: &impl AsRawFd, queue: u64) -> Result<()> {
    // The kernel doubles it for its own book-keeping.
    let bytes = libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX / 2);
    set(stream, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes)
}

/// Makes the next close a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // An orderly end, where it is refused, is an end too.
    let _ = set(stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

fn stream_socket(queue: u64) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    ok(fd)?;
    // SAFETY: `fd` was just made and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    bound_queue(&socket, queue)?;
    // Loopback's own segments, 64 KiB, are as long as the whole queue of a slow link.
    set(&socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, &SEGMENT)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1)?;
    // A pacing congestion control would shape a second time.
    os::set_congestion(&socket, "reno")?;
    Ok(socket)
}

fn set<T>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(Error::other)?;
    let at = std::ptr::from_ref(value).cast();
    // SAFETY: `at` points to `len` bytes of a plain C value through the call.
    ok(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, at, len) })
}

fn raw_address(at: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: at.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*at.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn ok(rc: libc::c_int) -> Result<()> {
    if rc < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// The size of `sockaddr_in`.
const ADDRESS_LEN: libc::socklen_t = 16;
const BACKLOG: libc::c_int = 16;
const BIND_TRIES: usize = 16;
/// As with jumbo frames.
const SEGMENT: libc::c_int = 8948;

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    const WITHIN: Option<Duration> = Some(Duration::from_secs(5));

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        wait(&mut [Watch::new(listener, true, false)], WITHIN).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_listener_refuses_for_a_while_and_keeps_its_port() {
        let listener = listen(100_000).unwrap();
        let at = listener.local_addr().unwrap();
        pair(&listener);
        refuse(&listener).unwrap();
        assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        refuse_no_more(&listener).unwrap();
        assert_eq!(listener.local_addr().unwrap(), at);
        pair(&listener);
    }

    #[test]
    fn what_lies_unread_is_bounded() {
        let queue = 100_000;
        let listener = listen(queue).unwrap();
        let (mut client, server) = pair(&listener);
        os::set_congestion(&client, "reno").unwrap();
        client.set_nonblocking(true).unwrap();
        // nothing is read: the client's kernel ends with its own buffer full, and ours with the queue
        let block = [7; 65_536];
        while wait(&mut [Watch::new(&client, false, true)], Some(Duration::from_millis(200)))
            .is_ok()
            && client.write(&block).is_ok_and(|n| n > 0)
        {}
        let mut unread = 0;
        // SAFETY: `unread` is a place for one int.
        unsafe { libc::ioctl(server.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
        let unread = u64::try_from(unread).unwrap();
        assert!((queue / 3..=queue * 2).contains(&unread), "{unread} bytes lie unread");
    }

    #[test]
    fn a_reset_is_seen_as_one() {
        let listener = listen(100_000).unwrap();
        let (mut client, server) = pair(&listener);
        reset_on_close(&server);
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_connection_that_is_begun_carries_bytes_or_shows_why_not() {
        let listener = listen(100_000).unwrap();
        let std::net::SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!() };
        let mut client = connect(at, 100_000).unwrap();
        wait(&mut [Watch::new(&listener, true, false)], WITHIN).unwrap();
        listener.accept().unwrap().0.write_all(b"x").unwrap();
        wait(&mut [Watch::new(&client, true, false)], WITHIN).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 1);
        refuse(&listener).unwrap();
        // loopback may refuse at once
        if let Ok(mut client) = connect(at, 100_000) {
            wait(&mut [Watch::new(&client, true, false)], WITHIN).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn sockets_that_nobody_wishes_for_are_left_alone() {
        let listener = listen(100_000).unwrap();
        let (client, _server) = pair(&listener);
        let mut none = [Watch::new(&client, false, false)];
        wait(&mut none, Some(Duration::from_millis(1))).unwrap();
        assert!(!none[0].is_ready());
        let mut room = [Watch::new(&client, false, true)];
        wait(&mut room, WITHIN).unwrap();
        assert!(room[0].is_ready());
    }
}
