//! This host and its processes: who runs where, chance, cores, and whether we are a forked child.
//!
//! Everything is asked afresh on each call, for a fork changes the answers; callers that need a fact on
//! the data path keep it.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The kernel's name for this boot.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Inode of this process's pid name space.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Inode of this process's network name space.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn net_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

/// This process, in its own pid name space.
pub fn pid() -> i32 {
    // SAFETY: getpid has no precondition and cannot fail.
    unsafe { libc::getpid() }
}

/// When a process started, in clock ticks since boot: with the pid, a name that is never reused.
///
/// # Errors
/// `NotFound` when there is no such process, or it has ended and waits for its parent; others when
/// `/proc` cannot be read or understood.
pub fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let stat = Stat::parse(&stat).ok_or(io::ErrorKind::InvalidData)?;
    if stat.has_ended() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(stat.start_ticks)
}

/// Whether the process that started at `start_ticks` under this pid may still run. Says yes when it
/// cannot be known, for the caller concludes from a no that nobody touches memory any more.
pub fn is_alive(pid: i32, start_ticks: u64) -> bool {
    self::start_ticks(pid).map_or_else(|_| may_run(pid), |ticks| ticks == start_ticks)
}

/// A descriptor that tells when this process has ended, whatever becomes of its pid.
///
/// # Errors
/// When there is no such process, or the kernel has no pidfd (before 5.3) or forbids it.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = c_int::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process behind a pidfd has ended. One system call, about 0.3 µs.
pub fn has_exited(pidfd: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd is passed, it lives across the call, and the timeout of 0 never blocks.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0
}

/// Nanoseconds on `CLOCK_MONOTONIC`. The kernel's word, not `std::time::Instant`: that one gives only
/// differences, each of them many times the work, and a small transfer asks five times.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux and `time` is ours; so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Processors this process may use, by affinity and cgroup quota; at least 1.
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// 64 random bits that nobody can guess.
///
/// # Errors
/// When the kernel gives none.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// 128 random bits that nobody can guess.
///
/// # Errors
/// When the kernel gives none.
pub fn random_u128() -> io::Result<u128> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}

/// Keeps the process's signals away from the calling thread: a host's handlers are made for its own
/// threads, not for a small stack of ours.
pub fn block_signals() {
    // SAFETY: all zeros is a valid set, to be filled by the next call.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is valid for writing.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: `all` is a filled set; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
}

/// Counts the forks between the process that first asked and this one. What was made under another
/// number belongs to the parent: its threads are not here, and its shared mappings are not ours to
/// write to. One load once armed; arm it early by calling it.
pub fn fork_generation() -> u64 {
    if !ARMED.load(Ordering::Acquire) && !ARMED.swap(true, Ordering::AcqRel) {
        // SAFETY: the handler is a function that does one atomic add, which is allowed after a fork;
        // the library is never unloaded (`-z nodelete`).
        let failed = unsafe { pthread_atfork(None, None, Some(on_fork_child)) };
        if failed != 0 {
            log::warn!("pthread_atfork failed with {failed}: forks will not be noticed");
        }
    }
    GENERATION.load(Ordering::Relaxed)
}

/// What the kernel's ptrace policy says, for messages about refused cross-memory access.
pub fn ptrace_scope() -> String {
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Err(_) => "no yama policy; the peer must run as the same user and be dumpable".into(),
        Ok(scope) => match scope.trim() {
            "0" => "kernel.yama.ptrace_scope is 0; the peer must run as the same user".into(),
            "1" => "kernel.yama.ptrace_scope is 1: set it to 0, or add CAP_SYS_PTRACE".into(),
            "2" => "kernel.yama.ptrace_scope is 2: add CAP_SYS_PTRACE".into(),
            other => format!("kernel.yama.ptrace_scope is {other}: cross-memory access is off"),
        },
    }
}

/// The fields of `/proc/<pid>/stat` that say who a process is and whether it has ended.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    /// Field 2, the command's name, may hold blanks and parentheses; the last `)` ends it.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end_of_name = stat.iter().rposition(|b| *b == b')')?;
        let text = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
        let field = |number: usize| text.split_ascii_whitespace().nth(number - 3);
        Some(Self {
            state: *field(3)?.as_bytes().first()?,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
        })
    }

    /// A main thread that has left is a zombie too, while others of its process go on.
    fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

/// For a process whose start cannot be read: with hidepid one of another user has no entry in `/proc`,
/// running or not.
fn may_run(pid: i32) -> bool {
    let listed = fs::read(format!("/proc/{pid}/stat"));
    if let Some(stat) = listed.ok().as_deref().and_then(Stat::parse) {
        return !stat.has_ended();
    }
    // SAFETY: signal 0 sends nothing; it only asks whether the process exists.
    let answer = unsafe { libc::kill(pid, 0) };
    answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is writable for its length.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => filled += n,
            Err(_) => {
                let cause = io::Error::last_os_error();
                if cause.kind() != io::ErrorKind::Interrupted {
                    return Err(cause);
                }
            }
        }
    }
    Ok(())
}

extern "C" fn on_fork_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: POSIX's signature; glibc and musl define it in libc itself.
unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
}

static ARMED: AtomicBool = AtomicBool::new(false);
static GENERATION: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_parentheses() {
        let tail = "S 1 2 3 4 -1 5 6 7 8 9 10 11 12 13 20 0 7 0 4242 99 0";
        let stat = Stat::parse(format!("17 (a) Z 1 (b c)) {tail}").as_bytes()).unwrap();
        assert_eq!(stat, Stat { state: b'S', threads: 7, start_ticks: 4242 });
        assert_eq!(Stat::parse(b"17 (a) S 1"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn a_zombie_leader_with_threads_still_runs() {
        let stat = |threads| Stat { state: b'Z', threads, start_ticks: 1 };
        assert!(stat(1).has_ended());
        assert!(!stat(2).has_ended());
    }

    #[test]
    fn this_process_is_alive_under_its_own_start_only() {
        let start = start_ticks(pid()).unwrap();
        assert!(is_alive(pid(), start));
        assert!(!is_alive(pid(), start + 1));
        assert!(!is_alive(i32::MAX, start));
        assert!(!has_exited(&open_pidfd(pid()).unwrap()));
    }

    #[test]
    fn an_ended_child_is_not_alive_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_ticks(pid).unwrap();
        let pidfd = open_pidfd(pid).unwrap();
        assert!(is_alive(pid, start) && !has_exited(&pidfd));
        drop(child.stdin.take());
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives across the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
        assert!(!is_alive(pid, start), "a zombie touches no memory");
        assert!(has_exited(&pidfd));
        child.wait().unwrap();
        assert!(!is_alive(pid, start));
    }

    #[test]
    fn a_fork_changes_the_generation_in_the_child_only() {
        let before = fork_generation();
        // SAFETY: the child calls only an atomic load and _exit, both allowed after a fork.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(GENERATION.load(Ordering::Relaxed) != before + 1);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: waits for the child made above; `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(fork_generation(), before);
    }

    #[test]
    fn chance_differs_and_facts_are_there() {
        assert_ne!(random_u128().unwrap(), random_u128().unwrap());
        assert_ne!(random_u64().unwrap(), random_u64().unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(pid_namespace().unwrap() > 0 && net_namespace().unwrap() > 0);
        assert!(cpu_count() >= 1);
        assert!(!ptrace_scope().is_empty());
    }
}
