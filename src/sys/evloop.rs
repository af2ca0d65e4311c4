//! What an event loop needs from the kernel: epoll, eventfd, poll, and sockets that are set up without
//! blocking. No loop, no policy and no retry lives here; signals that interrupt a wait end it early.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to be told about a descriptor. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(u32);

impl Interest {
    /// Errors and hang-ups only.
    pub const NONE: Self = Self(0);
    /// Bytes to read, or the peer's half-close.
    pub const READ: Self = Self((libc::EPOLLIN | libc::EPOLLRDHUP).cast_unsigned());
    /// Room to write, or a connect that has ended.
    pub const WRITE: Self = Self(libc::EPOLLOUT.cast_unsigned());
    /// Both.
    pub const BOTH: Self = Self(Self::READ.0 | Self::WRITE.0);

    /// Whether all of `other` is in this interest.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One report of [`Epoll::wait`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(libc::epoll_event);

impl Event {
    /// Filler for the array given to [`Epoll::wait`].
    pub const EMPTY: Self = Self(libc::epoll_event { events: 0, u64: 0 });

    /// The token given with the descriptor.
    pub fn token(&self) -> u64 {
        self.0.u64
    }

    /// A read would give bytes, end of file or an error.
    pub fn readable(&self) -> bool {
        self.any(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// A write would take bytes or give an error.
    pub fn writable(&self) -> bool {
        self.any(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// The peer will send nothing more.
    pub fn read_closed(&self) -> bool {
        self.any(libc::EPOLLRDHUP | libc::EPOLLHUP)
    }

    /// The descriptor is broken, or closed in both directions.
    pub fn failed(&self) -> bool {
        self.any(libc::EPOLLHUP | libc::EPOLLERR)
    }

    fn any(&self, mask: i32) -> bool {
        self.0.events & mask.cast_unsigned() != 0
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // copied out first: the kernel's struct is packed, and a reference into it would not be aligned
        let (events, token) = (self.0.events, self.0.u64);
        f.debug_struct("Event")
            .field("token", &token)
            .field("events", &format_args!("{events:#x}"))
            .finish()
    }
}

/// An epoll set.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// The kernel's, when it gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        own(fd).map(Self)
    }

    /// Watches `fd`; its reports carry `token`. With `edge` only changes are told, and the caller reads
    /// or writes until `WouldBlock`. Closing `fd` ends the watch.
    ///
    /// # Errors
    /// The kernel's: `fd` is watched already, is not open, or cannot be polled.
    pub fn add(&self, fd: RawFd, token: u64, interest: Interest, edge: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest, edge)
    }

    /// Changes what is told of `fd`, and its token. With `edge` a condition that holds now is told anew.
    ///
    /// # Errors
    /// The kernel's: `fd` is not watched.
    pub fn modify(&self, fd: RawFd, token: u64, interest: Interest, edge: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest, edge)
    }

    /// The set's own descriptor, readable while something is to be reported: sets can be nested.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Ends the watch of `fd`. A report of it may already lie in an array that was filled before.
    ///
    /// # Errors
    /// The kernel's: `fd` is not watched.
    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::NONE, false)
    }

    /// Fills `events` from the front and returns how many there are. Waits up to `timeout`, to the
    /// nanosecond where the kernel can (5.11), else rounded up to a millisecond; `None` waits for
    /// ever. 0 also when a signal came first.
    ///
    /// # Errors
    /// The kernel's; none is possible while the set is open and `events` is not empty.
    pub fn wait(&self, events: &mut [Event], timeout: Option<Duration>) -> io::Result<usize> {
        let count = if timeout.is_none_or(|t| t.is_zero()) || PWAIT2_MISSING.load(Ordering::Relaxed)
        {
            self.wait_ms(events, timeout)
        } else {
            match self.wait_ns(events, timeout) {
                // seccomp profiles older than the call answer with EPERM
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    PWAIT2_MISSING.store(true, Ordering::Relaxed);
                    self.wait_ms(events, timeout)
                }
                done => done,
            }
        };
        none_if_interrupted(count)
    }

    fn wait_ns(&self, events: &mut [Event], timeout: Option<Duration>) -> io::Result<usize> {
        let limit = timeout.map(timespec);
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` is `len` writable slots of the kernel's layout (transparent wrapper), and
        // `limit` is null or lives until the call returns
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                clamp_count(events.len()),
                limit,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
    }

    fn wait_ms(&self, events: &mut [Event], timeout: Option<Duration>) -> io::Result<usize> {
        let limit_ms = timeout.map_or(-1, |t| {
            // rounding down would spin through the last fraction of a millisecond
            i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        // SAFETY: `events` is `len` writable slots of the kernel's layout (transparent wrapper)
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast(),
                clamp_count(events.len()),
                limit_ms,
            )
        };
        usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
    }

    fn control(
        &self,
        verb: i32,
        fd: RawFd,
        token: u64,
        interest: Interest,
        edge: bool,
    ) -> io::Result<()> {
        let mode = if edge { libc::EPOLLET.cast_unsigned() } else { 0 };
        let mut event = libc::epoll_event { events: interest.0 | mode, u64: token };
        // SAFETY: `event` outlives the call, which only reads it
        let rc = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), verb, fd, &raw mut event) };
        ok(rc)
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A counter that wakes whoever polls it.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter at zero, non-blocking.
    ///
    /// # Errors
    /// The kernel's, when it gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        own(fd).map(Self)
    }

    /// Makes the descriptor readable. Safe in a signal handler.
    pub fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: `one` is 8 readable bytes. The only failure is a counter about to overflow, and then
        // the descriptor is readable already
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the signals; returns how many there were, 0 if none.
    pub fn drain(&self) -> u64 {
        let mut count = [0_u8; 8];
        // SAFETY: `count` is 8 writable bytes
        let n = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if n == 8 { u64::from_ne_bytes(count) } else { 0 }
    }

    /// The descriptor; it stays owned here.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A clock that makes its descriptor readable once.
#[derive(Debug)]
pub struct TimerFd(OwnedFd);

impl TimerFd {
    /// A timer that is not set.
    ///
    /// # Errors
    /// The kernel's, when it gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers
        let fd = unsafe {
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
        };
        own(fd).map(Self)
    }

    /// Makes the descriptor readable after `wait`; what was set before is forgotten.
    pub fn set(&self, wait: Duration) {
        // zero would unset it
        let value = timespec(wait.max(Duration::from_nanos(1)));
        let zero = timespec(Duration::ZERO);
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `setting` lives across the call, and no old setting is asked for; a valid time and an
        // open timer leave nothing to fail
        unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut())
        };
    }

    /// Takes the expiry, if there was one.
    pub fn drain(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: `count` is 8 writable bytes
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// The descriptor; it stays owned here.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits until `fd` is ready for `interest`; false if `timeout` came first. `None` waits for ever. An
/// error or hang-up of `fd` counts as ready. A signal restarts the wait with the full timeout, so a
/// caller with a deadline computes `timeout` anew when this returns.
///
/// # Errors
/// The kernel's: `fd` is not open.
pub fn poll(fd: RawFd, interest: Interest, timeout: Option<Duration>) -> io::Result<bool> {
    let read = if interest.has(Interest::READ) { libc::POLLIN | libc::POLLRDHUP } else { 0 };
    let write = if interest.has(Interest::WRITE) { libc::POLLOUT } else { 0 };
    let mut entry = libc::pollfd { fd, events: read | write, revents: 0 };
    let limit = timeout.map(timespec);
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        // SAFETY: one pollfd, `limit` null or alive, no signal mask
        let count = unsafe { libc::ppoll(&raw mut entry, 1, limit, std::ptr::null()) };
        if count >= 0 {
            if entry.revents & libc::POLLNVAL != 0 {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            return Ok(count > 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A listening socket on `addr`: non-blocking, `SO_REUSEADDR`, and for `[::]` taking IPv4 too unless
/// `v6_only`.
///
/// # Errors
/// The kernel's: the port is taken, the family is off, no descriptor is left.
pub fn listen(addr: SocketAddr, v6_only: bool, backlog: i32) -> io::Result<TcpListener> {
    let socket = stream_socket(addr)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if addr.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(v6_only))?;
    }
    bind(&socket, addr)?;
    // SAFETY: takes no pointers
    ok(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(socket))
}

/// How many callers may wait to be accepted by a listener.
///
/// # Errors
/// The kernel's.
pub fn set_backlog(listener: &TcpListener, backlog: u16) -> io::Result<()> {
    // SAFETY: takes no pointers; to listen again changes nothing but the backlog
    ok(unsafe { libc::listen(listener.as_raw_fd(), i32::from(backlog)) })
}

/// Begins to connect to `to`, from `from` if given (port 0 = any). The stream is non-blocking; when it
/// is writable, [`connect_result`] tells how it went.
///
/// # Errors
/// What the kernel refuses at once: no route, the family is off, `from` is not ours.
pub fn connect_start(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = stream_socket(to)?;
    if let Some(from) = from {
        bind(&socket, from)?;
    }
    let raw = RawAddr::from(to);
    // SAFETY: `raw` holds a socket address of that length until the call returns
    let rc = unsafe { libc::connect(socket.as_raw_fd(), raw.as_ptr(), raw.len()) };
    match ok(rc) {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => Err(e),
        _ => Ok(TcpStream::from(socket)),
    }
}

/// How a connect that [`connect_start`] began has ended; call it once, when the stream is writable.
///
/// # Errors
/// Why it failed: refused, unreachable, timed out.
pub fn connect_result(stream: &TcpStream) -> io::Result<()> {
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A socket address in the kernel's form.
enum RawAddr {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddr {
    fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Self::V4(a) => std::ptr::from_ref(a).cast(),
            Self::V6(a) => std::ptr::from_ref(a).cast(),
        }
    }

    fn len(&self) -> libc::socklen_t {
        match self {
            Self::V4(a) => socklen(a),
            Self::V6(a) => socklen(a),
        }
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(a) => Self::V4(libc::sockaddr_in {
                sin_family: FAMILY_V4,
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(a) => Self::V6(libc::sockaddr_in6 {
                sin6_family: FAMILY_V6,
                sin6_port: a.port().to_be(),
                sin6_flowinfo: a.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                sin6_scope_id: a.scope_id(),
            }),
        }
    }
}

fn stream_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers
    own(unsafe { libc::socket(family, kind, 0) })
}

fn bind(socket: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    let raw = RawAddr::from(addr);
    // SAFETY: `raw` holds a socket address of that length until the call returns
    ok(unsafe { libc::bind(socket.as_raw_fd(), raw.as_ptr(), raw.len()) })
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let pointer = std::ptr::from_ref(&value).cast();
    // SAFETY: `pointer` and the length describe `value`, which outlives the call
    ok(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, socklen(&value)) })
}

fn own(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ok(rc: i32) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn none_if_interrupted(count: io::Result<usize>) -> io::Result<usize> {
    match count {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        done => done,
    }
}

fn timespec(d: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(d.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: i64::from(d.subsec_nanos()),
    }
}

fn clamp_count(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of the kernel's structs, under 128")]
fn socklen<T>(_value: &T) -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

#[expect(clippy::cast_possible_truncation, reason = "2 and 10")]
const FAMILY_V4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "2 and 10")]
const FAMILY_V6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

/// Set once the kernel has refused `epoll_pwait2`.
static PWAIT2_MISSING: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn eventfd_wakes_an_epoll_and_drains() {
        let (epoll, wake) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(wake.fd(), 7, Interest::READ, false).unwrap();
        let mut events = [Event::EMPTY; 4];
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        wake.signal();
        wake.signal();
        assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
        assert_eq!(events[0].token(), 7);
        assert!(events[0].readable() && !events[0].failed());
        assert_eq!((wake.drain(), wake.drain()), (2, 0));
        assert_eq!(epoll.wait(&mut events, Some(Duration::from_nanos(1))).unwrap(), 0);
    }

    #[test]
    fn edge_reports_once_until_modified() {
        let (epoll, wake) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(wake.fd(), 1, Interest::READ, true).unwrap();
        wake.signal();
        let mut events = [Event::EMPTY; 1];
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 1);
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        epoll.modify(wake.fd(), 2, Interest::READ, true).unwrap();
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 1);
        assert_eq!(events[0].token(), 2);
        epoll.delete(wake.fd()).unwrap();
        assert!(epoll.delete(wake.fd()).is_err());
    }

    #[test]
    fn millisecond_fallback_waits_at_least_as_long() {
        let (epoll, wake) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        let mut events = [Event::EMPTY; 1];
        assert_eq!(epoll.wait_ms(&mut events, Some(Duration::from_micros(10))).unwrap(), 0);
        epoll.add(wake.fd(), 1, Interest::READ, false).unwrap();
        wake.signal();
        assert_eq!(epoll.wait_ms(&mut events, None).unwrap(), 1);
    }

    #[test]
    fn connect_and_listen_carry_bytes_in_both_families() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = listen(host.parse().unwrap(), true, 8) else {
                println!("skipped: no listener on {host}");
                continue;
            };
            let mut client = connect_start(listener.local_addr().unwrap(), None).unwrap();
            assert!(poll(client.as_raw_fd(), Interest::WRITE, None).unwrap());
            connect_result(&client).unwrap();
            assert!(poll(listener.as_raw_fd(), Interest::READ, None).unwrap());
            let (mut server, from) = listener.accept().unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
    }

    #[test]
    fn refused_connect_is_an_error() {
        let gone = listen("127.0.0.1:0".parse().unwrap(), true, 1).unwrap().local_addr().unwrap();
        let error = connect_start(gone, None)
            .and_then(|s| {
                poll(s.as_raw_fd(), Interest::WRITE, None)?;
                connect_result(&s)
            })
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn bound_connect_leaves_from_that_address() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), true, 8).unwrap();
        let from = "127.0.0.9:0".parse().unwrap();
        let client = connect_start(listener.local_addr().unwrap(), Some(from)).unwrap();
        assert_eq!(client.local_addr().unwrap().ip(), from.ip());
    }

    #[test]
    fn dual_stack_listener_takes_v4() {
        let Ok(listener) = listen("[::]:0".parse().unwrap(), false, 8) else {
            println!("skipped: no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn poll_times_out_and_refuses_closed_descriptors() {
        let wake = EventFd::new().unwrap();
        assert!(!poll(wake.fd(), Interest::READ, Some(Duration::ZERO)).unwrap());
        assert!(poll(-1, Interest::READ, Some(Duration::ZERO)).is_ok_and(|ready| !ready));
        assert!(poll(19_999, Interest::READ, Some(Duration::ZERO)).is_err());
    }
}
