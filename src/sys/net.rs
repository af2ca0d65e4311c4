//! Sockets of the data path: nonblocking, close-on-exec, with the options that bulk transfer needs.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One range of memory for a vectored call: address and bytes.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct IoRange(libc::iovec);

impl IoRange {
    /// The range `[addr, addr+len)`.
    pub fn new(addr: usize, len: usize) -> Self {
        Self(libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: len })
    }

    /// Bytes of the range.
    #[expect(clippy::len_without_is_empty, reason = "a range is never asked whether it is empty")]
    pub fn len(&self) -> usize {
        self.0.iov_len
    }
}

// An IoRange is two numbers; what may be done with the memory is the business of the unsafe calls.
// SAFETY: see above: nothing is dereferenced through the value itself.
unsafe impl Send for IoRange {}

/// Starts a connection; the socket becomes writable when it stands or has failed ([`take_error`]).
///
/// # Errors
/// The operating system's, an immediate refusal included.
pub fn connect_start(local: Option<IpAddr>, remote: SocketAddr) -> io::Result<OwnedFd> {
    let family = if remote.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(family, kind, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    if let Some(ip) = local {
        // the port is chosen at connect, so that many rails of one address do not run out of ports
        set_int(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1).ok();
        let (addr, len) = sockaddr(SocketAddr::new(ip, 0));
        // SAFETY: `addr` is a valid sockaddr of `len` bytes.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let (addr, len) = sockaddr(remote);
    // SAFETY: `addr` is a valid sockaddr of `len` bytes.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const addr).cast(), len) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error);
        }
    }
    Ok(fd)
}

/// Accepts one waiting connection; `None` when there is none.
///
/// # Errors
/// The operating system's (`EMFILE` above all).
pub fn accept(listener: &TcpListener) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null address pointers are allowed.
    let raw = unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags)
    };
    if raw < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: `raw` was just made and nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }))
}

/// The pending error of a socket, cleared.
pub fn take_error(fd: &OwnedFd) -> Option<io::Error> {
    let mut code: libc::c_int = 0;
    let mut len = socklen::<libc::c_int>();
    // SAFETY: `code` and `len` are valid for the call.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut code).cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Some(io::Error::last_os_error());
    }
    (code != 0).then(|| io::Error::from_raw_os_error(code))
}

/// Prepares a data socket: no delay, bounded buffers (0 leaves the kernel's), keep-alive off.
pub fn tune(fd: &OwnedFd, send_buffer: usize, receive_buffer: usize) {
    set_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).ok();
    for (option, bytes) in [(libc::SO_SNDBUF, send_buffer), (libc::SO_RCVBUF, receive_buffer)] {
        if let (true, Ok(bytes)) = (bytes > 0, libc::c_int::try_from(bytes)) {
            set_int(fd, libc::SOL_SOCKET, option, bytes).ok();
        }
    }
}

/// Makes the next close a reset, which throws away what the kernel still holds for the peer.
pub fn reset_on_close(fd: &OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: `linger` is valid for the call.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            socklen::<libc::linger>(),
        )
    };
}

/// Ends the sending half.
pub fn shutdown_write(fd: &OwnedFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// Sends from `ranges` without blocking; bytes taken by the kernel.
///
/// # Errors
/// `WouldBlock`, `EFAULT` for memory that is not mapped, or the connection's.
///
/// # Safety
/// The ranges are registered memory or buffers of ours that stay alive for the call. (Memory that is
/// not mapped is an error, not undefined behaviour: only the kernel reads it.)
pub unsafe fn send(fd: RawFd, ranges: &[IoRange]) -> io::Result<usize> {
    let mut msg = message();
    msg.msg_iov = ranges.as_ptr().cast::<libc::iovec>().cast_mut();
    msg.msg_iovlen = ranges.len();
    // SAFETY: `msg` describes `ranges`, which the caller keeps alive.
    let n = unsafe { libc::sendmsg(fd, &raw const msg, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Receives into `ranges` without blocking; 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock`, `EFAULT` for memory that is not mapped, or the connection's.
///
/// # Safety
/// The ranges are registered, pinned memory or buffers of ours, for the kernel to write to.
pub unsafe fn receive(fd: RawFd, ranges: &mut [IoRange]) -> io::Result<usize> {
    let mut msg = message();
    msg.msg_iov = ranges.as_mut_ptr().cast::<libc::iovec>();
    msg.msg_iovlen = ranges.len();
    // SAFETY: `msg` describes `ranges`, which the caller owns for writing.
    let n = unsafe { libc::recvmsg(fd, &raw mut msg, libc::MSG_DONTWAIT) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn message() -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr: no name, no ranges, no control data.
    unsafe { std::mem::zeroed() }
}

fn set_int(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is valid for the call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            socklen::<libc::c_int>(),
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of small structs")]
fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn sockaddr(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = match addr {
        SocketAddr::V4(v4) => {
            let out = (&raw mut storage).cast::<libc::sockaddr_in>();
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for sockaddr_in.
            unsafe { out.write(value) };
            socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let out = (&raw mut storage).cast::<libc::sockaddr_in6>();
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is large and aligned enough for sockaddr_in6.
            unsafe { out.write(value) };
            socklen::<libc::sockaddr_in6>()
        }
    };
    (storage, len)
}
