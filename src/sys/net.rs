//! Calls of the data path on sockets: vectored, without blocking, straight from and to raw memory.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

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

/// Bounds what the kernel holds of a connection on its way out, in bytes; 0 leaves the kernel's rule.
pub fn bound_send_buffer(stream: &TcpStream, bytes: usize) {
    if let (true, Ok(bytes)) = (bytes > 0, libc::c_int::try_from(bytes)) {
        // a socket without the bound works, only less well
        set_option(stream, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes).ok();
    }
}

/// Takes pacing and delay measurement out of a connection within the host: there is no network to be
/// fair to, and a pacing congestion control (bbr) costs a third of the rate on loopback.
pub fn no_pacing(stream: &TcpStream) {
    let fd = stream.as_raw_fd();
    let (pointer, len) = (RENO.as_ptr().cast(), RENO.len());
    let len = libc::socklen_t::try_from(len).unwrap_or(0);
    // SAFETY: `pointer` and `len` describe a constant. Refused, the connection works all the same.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, pointer, len) };
}

/// Built into every kernel.
const RENO: &[u8] = b"reno";

/// Has the kernel ask after the other end when nothing comes for ten seconds, and end the connection when it
/// is not there any more: of a peer that was cut off while it closed, no byte would ever tell.
pub fn keep_alive(stream: &TcpStream) {
    let tcp = libc::IPPROTO_TCP;
    let options = [
        (tcp, libc::TCP_KEEPIDLE, 10),
        (tcp, libc::TCP_KEEPINTVL, 5),
        (tcp, libc::TCP_KEEPCNT, 3),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    ];
    for (level, name, value) in options {
        set_option::<libc::c_int>(stream, level, name, &value).ok();
    }
}

/// Tells of input only when so many bytes of it wait, or the connection ends.
pub fn low_water(stream: &TcpStream, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(stream, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes).ok();
}

/// How long ago the last bytes arrived in the kernel; zero if it does not say.
pub fn since_last_data(stream: &TcpStream) -> Duration {
    Duration::from_millis(u64::from(tcp_info(stream).tcpi_last_data_recv))
}

/// Bytes that the other end's kernel has acknowledged, and those that have come from there.
pub fn bytes_through(stream: &TcpStream) -> u64 {
    let info = tcp_info(stream);
    info.tcpi_bytes_acked.wrapping_add(info.tcpi_bytes_received)
}

/// All zeros where the kernel does not say.
fn tcp_info(stream: &TcpStream) -> libc::tcp_info {
    // SAFETY: all zeros is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = socklen::<libc::tcp_info>();
    let (fd, pointer) = (stream.as_raw_fd(), (&raw mut info).cast());
    // SAFETY: `pointer` and `len` describe `info`; the kernel fills at most `len` bytes.
    unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, pointer, &raw mut len) };
    info
}

/// Makes the next close a reset, which throws away what the kernel still holds for the peer.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger).ok();
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

fn set_option<T>(
    stream: &TcpStream,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: `pointer` and the length describe `value`, which outlives the call.
    let rc = unsafe { libc::setsockopt(fd, level, name, pointer, socklen::<T>()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of small structs")]
fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
