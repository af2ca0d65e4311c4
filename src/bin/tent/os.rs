//! The system calls of the command, made safe to call: memory maps, copies between processes, sockets on
//! raw memory, CPU time. No decisions. The only places with unsafe code are here, `memory`, `capi` and
//! `rails::net`.
#![allow(unsafe_code, reason = "system calls; each block says what it relies on")]

use std::ffi::c_void;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;

/// Memory mapped by this process and unmapped on drop. Addresses inside it stay valid while it lives.
#[derive(Debug)]
pub(crate) struct Map {
    base: *mut u8,
    len: usize,
}

// SAFETY: a map is an address range of the process, bound to no thread.
unsafe impl Send for Map {}
// SAFETY: the type itself gives out addresses only; who reads or writes through them is `memory`'s care.
unsafe impl Sync for Map {}

impl Map {
    /// Ordinary memory, as malloc would give for a large size.
    pub(crate) fn anonymous(len: usize) -> Result<Self> {
        Self::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// A shared mapping of a memory file, as engines use between processes of one host.
    pub(crate) fn shared(len: usize) -> Result<Self> {
        // SAFETY: the name is a valid C string; the call has no other precondition.
        let fd = unsafe { libc::memfd_create(c"tent-limits".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: `fd` was just made and is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = libc::off_t::try_from(len).map_err(Error::other)?;
        // SAFETY: `fd` is open; a wrong size is an error, not undefined.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size) } != 0 {
            return Err(Error::last_os_error());
        }
        Self::new(len, libc::MAP_SHARED, fd.as_raw_fd())
    }

    fn new(len: usize, flags: libc::c_int, fd: libc::c_int) -> Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { base: base.cast(), len })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `map` made exactly this range, and the owner gives it up here.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Which way bytes go, seen from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    In,
    Out,
}

/// Copies between this process and `pid`, all of it. `local` must be valid for `len` bytes until the
/// call returns; a wrong remote range is an error.
pub(crate) fn copy_process(
    way: Way,
    pid: i32,
    local: *mut u8,
    remote: u64,
    len: usize,
) -> Result<()> {
    let mut done = 0;
    while done < len {
        let here = libc::iovec { iov_base: local.wrapping_add(done).cast(), iov_len: len - done };
        let far = usize::try_from(remote).map_err(Error::other)? + done;
        let there = libc::iovec { iov_base: far as *mut c_void, iov_len: len - done };
        let n = match way {
            // SAFETY: `here` is valid by this function's contract; the kernel checks `there`.
            Way::In => unsafe {
                libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0)
            },
            // SAFETY: as above.
            Way::Out => unsafe {
                libc::process_vm_writev(pid, &raw const here, 1, &raw const there, 1, 0)
            },
        };
        done += count(n)?;
    }
    Ok(())
}

/// One `send` or `recv` on raw memory, valid for `len` bytes; returns the bytes moved, 0 at the end of the
/// stream. With `spin` it never sleeps and `Ok(None)` means "nothing yet".
pub(crate) fn socket_io(
    way: Way,
    fd: &impl AsRawFd,
    at: *mut u8,
    len: usize,
    spin: bool,
) -> Result<Option<usize>> {
    let flags = if spin { libc::MSG_DONTWAIT } else { 0 };
    let n = match way {
        // SAFETY: `at` is valid for `len` bytes by this function's contract.
        Way::In => unsafe { libc::recv(fd.as_raw_fd(), at.cast(), len, flags) },
        // SAFETY: as above.
        Way::Out => unsafe {
            libc::send(fd.as_raw_fd(), at.cast(), len, flags | libc::MSG_NOSIGNAL)
        },
    };
    if let Ok(n) = usize::try_from(n) {
        return Ok(Some(n));
    }
    match Error::last_os_error() {
        e if spin && e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        e if e.kind() == std::io::ErrorKind::Interrupted => Ok(None),
        e => Err(e),
    }
}

/// Chooses the congestion control of a socket and of what it will accept.
pub(crate) fn set_congestion(fd: &impl AsRawFd, name: &str) -> Result<()> {
    let len = libc::socklen_t::try_from(name.len()).map_err(Error::other)?;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
    // SAFETY: the name is valid for `len` bytes through the call.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, name.as_ptr().cast(), len) };
    if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn count(n: isize) -> Result<usize> {
    match usize::try_from(n) {
        Ok(0) => Err(Error::other("nothing was copied")),
        Ok(n) => Ok(n),
        Err(_) => Err(Error::last_os_error()),
    }
}

/// User and system time of this process, all threads.
pub(crate) fn cpu_s() -> f64 {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// A clock that all processes of this host share.
pub(crate) fn host_s() -> f64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// The same in nanoseconds.
pub(crate) fn host_ns() -> u64 {
    let (s, ns) = clock_parts(libc::CLOCK_MONOTONIC);
    s * 1_000_000_000 + ns
}

/// The same in microseconds.
pub(crate) fn host_us() -> u64 {
    host_ns() / 1000
}

fn read_clock(clock: libc::clockid_t) -> f64 {
    let (s, ns) = clock_parts(clock);
    units::as_f64(s) + units::as_f64(ns) / 1e9
}

fn clock_parts(clock: libc::clockid_t) -> (u64, u64) {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is ours and lives through the call; these clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// Columns of the terminal that standard output is; None if it is none.
pub(crate) fn terminal_columns() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is ours and lives through the call; on anything but a terminal it is an error.
    let rc = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (rc == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Waits until there is something to read (or the other end is gone); false after `timeout`.
pub(crate) fn readable(fd: &impl AsRawFd, timeout: Duration) -> Result<bool> {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    loop {
        // SAFETY: `p` is one valid entry and lives through the call.
        let n = unsafe { libc::poll(&raw mut p, 1, ms) };
        if n >= 0 {
            return Ok(n > 0);
        }
        let e = Error::last_os_error();
        if e.kind() != std::io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// A worker must not outlive the command that started it, not even if that is killed.
pub(crate) fn die_with_parent() {
    // SAFETY: these options take an integer only and change this process alone.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Lets the other worker copy from and to this one where the kernel is set to refuse strangers.
pub(crate) fn allow_copies() {
    // SAFETY: this option takes an integer only and changes this process alone.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
}

/// The list of transports an engine may use, read when it is made.
pub(crate) const TRANSPORTS: &str = "TENT_TRANSPORTS";

/// Sets a variable that the library reads when an engine is made. To be called by the first thread before
/// it makes any other, and before a library is loaded.
pub(crate) fn set_variable(name: &str, value: &str) {
    // SAFETY: there is no other thread yet, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

/// Forgets one; as with `set_variable`.
pub(crate) fn remove_variable(name: &str) {
    // SAFETY: as above.
    unsafe { std::env::remove_var(name) };
}
