//! Memory as the kernel has it: sealed memfds and their mappings, copies within and between processes,
//! and words in shared mappings that processes wait on.
//!
//! Addresses are plain numbers here. No reference is ever made to memory that a peer may write to; the
//! only references handed out are to atomics.

use std::ffi::{CStr, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

mod copy;
pub use copy::copy;

/// Bytes per page.
pub fn page_len() -> usize {
    // SAFETY: sysconf has no precondition.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(len).unwrap_or(4096)
}

/// A memfd of `len` bytes that can never change its size, so that a mapping of it never faults.
///
/// # Errors
/// When the kernel gives no descriptor or no memory.
pub fn sealed_memfd(name: &CStr, len: u64) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // hosts may demand NOEXEC_SEAL (vm.memfd_noexec = 2); kernels before 6.3 do not know it
    let fd = memfd(name, flags | libc::MFD_NOEXEC_SEAL).or_else(|_| memfd(name, flags))?;
    let size = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open and ours; no memory of ours is passed.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
    // SEAL_SEAL: a peer that opens it must not be able to forbid us to write
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(fd)
}

/// Opens a memfd of another process by its number there. What the number names is not trusted: nothing
/// but a regular file is opened, so a device or a pipe sees no open and cannot block it.
///
/// # Errors
/// `PermissionDenied` when the kernel's ptrace policy forbids it, `NotFound` when the process or the
/// descriptor is gone, `InvalidData` when it is not a regular file.
pub fn open_peer_memfd(pid: i32, fd: i32, writable: bool) -> io::Result<OwnedFd> {
    let path_only = libc::O_PATH | libc::O_CLOEXEC;
    let path = format!("/proc/{pid}/fd/{fd}");
    let named = OpenOptions::new().read(true).custom_flags(path_only).open(path)?;
    if !named.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let path = format!("/proc/self/fd/{}", named.as_raw_fd());
    Ok(OpenOptions::new().read(true).write(writable).open(path)?.into())
}

/// A shared mapping of a sealed memfd; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    addr: usize,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes from `offset`, a multiple of the page. Refuses a file that could be cut short
    /// under the mapping: touching it would kill the process with SIGBUS (I12).
    ///
    /// # Errors
    /// `InvalidData` for such a file or range; the kernel's otherwise.
    pub fn of_sealed(fd: &OwnedFd, offset: u64, len: usize, writable: bool) -> io::Result<Self> {
        // SAFETY: the descriptor is open; F_GET_SEALS passes no memory.
        let seals = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })?;
        let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidData)?;
        if seals & libc::F_SEAL_SHRINK == 0 || file_len(fd)? < end {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidData)?;
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let fd = fd.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let addr =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, offset) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { addr: addr.expose_provenance(), len })
    }

    /// First byte.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "the kernel refuses an empty mapping")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The 8-byte word at `offset`, which processes share. In a mapping that is not writable only
    /// relaxed loads are allowed.
    ///
    /// # Panics
    /// When the word is not aligned or does not lie in the mapping; offsets come from our own layout.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        let addr = self.checked(offset, size_of::<AtomicU64>());
        // SAFETY: the word is aligned and inside the mapping (just checked), which lives as long as
        // `self`; every process that maps the file uses atomics for it.
        unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(addr)) }
    }

    /// The 4-byte word at `offset`, for [`wait_word`].
    ///
    /// # Panics
    /// As [`Mapping::word`].
    pub fn half_word(&self, offset: usize) -> &AtomicU32 {
        let addr = self.checked(offset, size_of::<AtomicU32>());
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(addr)) }
    }

    /// Asks for huge pages, where the host allows them for shared memory; else does nothing.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: advice on our own mapping; it changes no content.
        unsafe { libc::madvise(self.pointer(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// Gives the memory back to the host now, for every process that has it mapped; all of it reads as
    /// zero from here on.
    pub fn discard(&self) {
        // SAFETY: our own shared mapping; the caller gives the content up.
        unsafe { libc::madvise(self.pointer(), self.len, libc::MADV_REMOVE) };
    }

    fn pointer(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.addr)
    }

    fn checked(&self, offset: usize, len: usize) -> usize {
        assert!(offset.is_multiple_of(len) && offset < self.len && self.len - offset >= len);
        self.addr + offset
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and nothing else unmaps it.
        unsafe { libc::munmap(self.pointer(), self.len) };
    }
}

/// Whether the first and the last byte of a range can be read. One system call, whatever its length: a
/// hole in the middle is not seen.
pub fn is_mapped(addr: usize, len: usize) -> bool {
    let Some(last) = len.checked_sub(1).and_then(|n| addr.checked_add(n)) else { return false };
    let mut bytes = [0_u8; 2];
    let local = iovec(bytes.as_mut_ptr().expose_provenance(), 2);
    let remote = [iovec(addr, 1), iovec(last, 1)];
    let pid = super::host::pid();
    // SAFETY: the kernel writes at most the two bytes of `bytes`, and checks what it reads.
    let n = unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), 2, 0) };
    if n >= 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) {
        return n == 2;
    }
    // a seccomp filter forbids the call: have the bytes read by another one
    readable_by_pipe(addr).unwrap_or(true) && readable_by_pipe(last).unwrap_or(true)
}

/// Direction of a copy between processes, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Their memory → ours.
    FromPeer,
    /// Our memory → theirs.
    ToPeer,
}

/// Where a copy between processes ended early, and why.
#[derive(Debug)]
pub struct Stopped {
    /// Bytes that were copied, from the front.
    pub done: usize,
    /// The kernel's reason. `EFAULT` speaks of the next byte, on one of the two sides.
    pub cause: io::Error,
}

/// Copies `len` bytes between `local` and `remote` in process `pid`.
///
/// # Errors
/// Where it stopped: `ESRCH` no such process, `EPERM` not allowed, `EFAULT` not mapped there or here.
///
/// # Safety
/// The side that is written to must be memory that may be overwritten now: for `FromPeer` the local
/// range, for `ToPeer` the remote one (which is ours too when `pid` is this process).
pub unsafe fn copy_process(
    pid: i32,
    direction: Direction,
    local: usize,
    remote: usize,
    len: usize,
) -> Result<(), Stopped> {
    let mut done = 0;
    while done < len {
        let ours = iovec(local + done, len - done);
        let theirs = iovec(remote + done, len - done);
        let n = match direction {
            // SAFETY: one range each; the kernel checks that both are mapped, the caller that the
            // local one may be written to.
            Direction::FromPeer => unsafe {
                libc::process_vm_readv(pid, &raw const ours, 1, &raw const theirs, 1, 0)
            },
            // SAFETY: as above, for the remote range.
            Direction::ToPeer => unsafe {
                libc::process_vm_writev(pid, &raw const ours, 1, &raw const theirs, 1, 0)
            },
        };
        match usize::try_from(n) {
            Ok(0) => return Err(Stopped { done, cause: fault() }),
            Ok(n) => done += n,
            Err(_) => return Err(Stopped { done, cause: io::Error::last_os_error() }),
        }
    }
    Ok(())
}

/// As [`copy_process`] for up to [`MANY_RANGES`] ranges (here, there, bytes) in one system call, which
/// costs half of what as many calls do. Returns how many bytes were copied, counted from the front; why
/// there were not more is for a call with the next range alone to find out.
///
/// # Safety
/// As [`copy_process`], for each range.
pub unsafe fn copy_process_many(
    pid: i32,
    direction: Direction,
    ranges: impl Iterator<Item = (usize, usize, usize)>,
) -> usize {
    let (mut ours, mut theirs) = ([iovec(0, 0); MANY_RANGES], [iovec(0, 0); MANY_RANGES]);
    let mut count = 0;
    for (at, (local, remote, len)) in ranges.take(MANY_RANGES).enumerate() {
        (ours[at], theirs[at]) = (iovec(local, len), iovec(remote, len));
        count = at + 1;
    }
    let (ours, theirs, count) = (ours.as_ptr(), theirs.as_ptr(), count as libc::c_ulong);
    let n = match direction {
        // SAFETY: `count` ranges each, as filled in above; the kernel checks that they are mapped, the
        // caller that the local ones may be written to.
        Direction::FromPeer => unsafe {
            libc::process_vm_readv(pid, ours, count, theirs, count, 0)
        },
        // SAFETY: as above, for the remote ranges.
        Direction::ToPeer => unsafe { libc::process_vm_writev(pid, ours, count, theirs, count, 0) },
    };
    usize::try_from(n).unwrap_or(0)
}

/// Most ranges that [`copy_process_many`] takes.
pub const MANY_RANGES: usize = 64;

/// Copies within this process, and says so if `dst` is not mapped instead of ending the process.
///
/// # Errors
/// `EFAULT`: one of the ranges is not mapped.
///
/// # Safety
/// `dst` may be overwritten now, `len` bytes of it, and `src` may be read. Where the kernel does not
/// allow the call at all (a seccomp filter), both must be mapped.
pub unsafe fn copy_checked(dst: usize, src: usize, len: usize) -> io::Result<()> {
    let pid = super::host::pid();
    // SAFETY: the caller's promise.
    match unsafe { copy_process(pid, Direction::ToPeer, src, dst, len) } {
        Err(Stopped { done: 0, cause }) if cause.raw_os_error() != Some(libc::EFAULT) => {
            // SAFETY: the caller's promise, mapped memory included.
            unsafe { copy(dst, src, len) };
            Ok(())
        }
        outcome => outcome.map_err(|stopped| stopped.cause),
    }
}

/// Reads up to 8 bytes at `remote` in process `pid`, low byte first.
///
/// # Errors
/// As [`copy_process`].
pub fn peek_process(pid: i32, remote: usize, len: usize) -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    let local = bytes.as_mut_ptr().expose_provenance();
    // SAFETY: at most the 8 bytes of `bytes`, which is ours, are written.
    unsafe { copy_process(pid, Direction::FromPeer, local, remote, len.min(8)) }
        .map_err(|stopped| stopped.cause)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Sleeps while `word` holds `expected`, until [`wake_word`] in any process that maps it, or for
/// `timeout`. May also return without a reason.
pub fn wait_word(word: &AtomicU32, expected: u32, timeout: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the word and the time live across the call. Not FUTEX_PRIVATE: others map the word too.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const time,
            ptr::null::<u32>(),
            0,
        )
    };
}

/// Wakes all that sleep on `word`, in every process.
pub fn wake_word(word: &AtomicU32) {
    // SAFETY: the kernel uses the word's address only as a name.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, c_int::MAX) };
}

fn memfd(name: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is terminated and lives across the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes in the file behind a descriptor.
fn file_len(fd: &OwnedFd) -> io::Result<u64> {
    Ok(File::from(fd.as_fd().try_clone_to_owned()?).metadata()?.len())
}

/// Has one byte read by `write` to a pipe: `EFAULT` when it is not mapped.
fn readable_by_pipe(addr: usize) -> io::Result<bool> {
    let (_reader, writer) = io::pipe()?;
    let byte = ptr::with_exposed_provenance::<c_void>(addr);
    // SAFETY: the kernel checks the byte; an empty pipe takes it without blocking.
    let n = unsafe { libc::write(writer.as_raw_fd(), byte, 1) };
    Ok(n == 1)
}

fn iovec(addr: usize, len: usize) -> libc::iovec {
    libc::iovec { iov_base: ptr::with_exposed_provenance_mut(addr), iov_len: len }
}

fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn page() -> (OwnedFd, Mapping) {
        let fd = sealed_memfd(c"tent-test", 8192).unwrap();
        let map = Mapping::of_sealed(&fd, 0, 8192, true).unwrap();
        (fd, map)
    }

    #[test]
    fn a_sealed_memfd_keeps_its_size_and_is_shared() {
        let (fd, map) = page();
        let file = File::from(fd.try_clone().unwrap());
        assert!(file.set_len(4096).is_err() && file.set_len(16384).is_err());
        let again = open_peer_memfd(super::super::host::pid(), fd.as_raw_fd(), false).unwrap();
        let other = Mapping::of_sealed(&again, 4096, 4096, false).unwrap();
        map.word(4096).store(7, Ordering::Relaxed);
        assert_eq!(other.word(0).load(Ordering::Relaxed), 7);
        map.discard();
        assert_eq!(other.word(0).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_could_raise_sigbus_is_not_mapped() {
        // I12: an unsealed file, a range past the end, and what is not a file at all
        let unsealed = memfd(c"tent-test", libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING).unwrap();
        File::from(unsealed.try_clone().unwrap()).set_len(8192).unwrap();
        assert!(Mapping::of_sealed(&unsealed, 0, 4096, true).is_err());
        let (fd, _map) = page();
        assert!(Mapping::of_sealed(&fd, 4096, 8192, true).is_err());
        assert!(Mapping::of_sealed(&fd, u64::MAX - 4095, 8192, true).is_err());
        let (reader, _writer) = io::pipe().unwrap();
        let pid = super::super::host::pid();
        let refused = open_peer_memfd(pid, reader.as_raw_fd(), true).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert!(open_peer_memfd(pid, -1, true).is_err());
        assert!(open_peer_memfd(i32::MAX, 0, true).is_err());
    }

    #[test]
    fn only_mapped_ranges_pass() {
        let (_fd, map) = page();
        let end = map.addr() + map.len();
        assert!(is_mapped(map.addr(), map.len()) && is_mapped(end - 1, 1));
        assert!(readable_by_pipe(map.addr()).unwrap());
        assert!(!is_mapped(map.addr(), 0) && !is_mapped(usize::MAX, 2) && !is_mapped(8, 1));
        assert!(!readable_by_pipe(8).unwrap());
        drop(map);
    }

    #[test]
    fn a_copy_between_processes_stops_where_memory_ends() {
        let (_fd, map) = page();
        let pid = super::super::host::pid();
        map.word(8).store(0x0102_0304, Ordering::Relaxed);
        assert_eq!(peek_process(pid, map.addr() + 8, 8).unwrap(), 0x0102_0304);
        let mut bytes = [0_u8; 4];
        let local = bytes.as_mut_ptr().expose_provenance();
        // SAFETY: `bytes` is ours and as long as the copy.
        unsafe { copy_process(pid, Direction::FromPeer, local, map.addr() + 8, 4) }.unwrap();
        assert_eq!(bytes, [4, 3, 2, 1]);
        // SAFETY: the kernel refuses address 8 in any process.
        let stopped = unsafe { copy_process(pid, Direction::ToPeer, local, 8, 4) }.unwrap_err();
        assert_eq!((stopped.done, stopped.cause.raw_os_error()), (0, Some(libc::EFAULT)));
        // SAFETY: as above, there is no such process.
        let gone = unsafe { copy_process(i32::MAX, Direction::FromPeer, local, 8, 4) }.unwrap_err();
        assert_eq!(gone.cause.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_sleeper_wakes_when_the_word_changes() {
        let (_fd, map) = page();
        let word = map.half_word(16);
        wait_word(word, 1, Duration::from_secs(60)); // differs already: returns at once
        std::thread::scope(|scope| {
            scope.spawn(|| {
                word.store(1, Ordering::SeqCst);
                wake_word(word);
            });
            while word.load(Ordering::SeqCst) == 0 {
                wait_word(word, 0, Duration::from_secs(60));
            }
        });
    }
}
