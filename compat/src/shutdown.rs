//! What `enableGracefulShutdown` asks for: on SIGTERM or SIGINT every enrolled engine is shut down, then
//! the process exits with 128 + signal. Nothing of this exists until somebody asks.
//!
//! The handler only wakes a watcher thread. In a forked child, where that thread does not exist and no
//! engine runs, it ends the child with the same status at once (upstream's `graceful_shutdown_test.cpp`
//! asks for that); if the host had a handler of its own before, that one is put back and called instead.
//!
//! Not done: upstream's `atexit` handler. Nothing outlives the process that it would have to clear.
#![allow(unsafe_code, reason = "signals and one eventfd")]

use crate::handle::{self, Entry};
use ::tent::time::Instant;
use ::tent::{Error, ErrorKind, Result};
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread::Builder;
use std::time::Duration;

/// Enrols an engine and, the first time in a process, installs the handlers.
pub(crate) fn enable(engine: &Entry) -> Result<()> {
    engine.enrolled.store(true, Ordering::Release);
    arm()
}

/// Installs the handlers, the first time in a process.
pub(crate) fn arm() -> Result<()> {
    let me = pid();
    let seen = CLAIM.load(Ordering::Acquire);
    // whoever loses the race finds the handlers installed in a moment
    let mine =
        seen != me && CLAIM.compare_exchange(seen, me, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if !mine {
        return Ok(());
    }
    install(me).map_err(|cause| {
        CLAIM.store(seen, Ordering::Release);
        Error::os(ErrorKind::Memory, "installing the signal handlers", &cause)
    })
}

fn install(me: i32) -> io::Result<()> {
    let fd = new_eventfd()?;
    let mask = block_all_signals()?;
    let watcher = Builder::new().name("tent-shutdown".into()).spawn(move || watch(fd));
    restore_signals(&mask);
    watcher?;
    let previous = [current_action(libc::SIGTERM)?, current_action(libc::SIGINT)?];
    // in a child that installs anew the first one is kept: the present action is our own handler
    PREVIOUS.get_or_init(|| previous);
    WAKE.store(fd, Ordering::Release);
    OWNER.store(me, Ordering::Release);
    let ours = our_action();
    set_action(libc::SIGTERM, &ours)?;
    set_action(libc::SIGINT, &ours)
}

/// Runs inside the signal: only async-signal-safe calls and atomics, and errno as it was. It never waits,
/// so it does no harm on whatever thread it lands.
extern "C" fn on_signal(signal: c_int) {
    let errno = errno();
    let awake = OWNER.load(Ordering::Acquire) == pid() && {
        SIGNAL.store(signal, Ordering::Release);
        wake(WAKE.load(Ordering::Acquire))
    };
    if !awake {
        let index = usize::from(signal == libc::SIGINT);
        let previous = PREVIOUS.get().map(|actions| actions[index]);
        match previous.filter(|action| action.sa_sigaction != libc::SIG_DFL) {
            Some(action) => {
                set_action(signal, &action).ok();
                // SAFETY: raise is async-signal-safe; the signal is delivered when this handler returns.
                unsafe { libc::raise(signal) };
            }
            // SAFETY: `_exit` is async-signal-safe, takes any number and does not return.
            None => unsafe { libc::_exit(128 + signal) },
        }
    }
    set_errno(errno);
}

/// Sleeps until a signal comes, then ends the process.
fn watch(fd: c_int) {
    if let Err(cause) = wait_for_wake(fd) {
        ::log::error!("graceful shutdown is off: its eventfd is gone: {cause}");
        // the handler notices too and lets the signal do what it did before
        return;
    }
    let signal = SIGNAL.load(Ordering::Acquire);
    ::log::info!("signal {signal}: shutting the engines down");
    end_engines();
    // SAFETY: `_exit` takes any number and does not return. `exit` would run the host's handlers and
    // destructors under the feet of its running threads.
    unsafe { libc::_exit(128 + signal) };
}

/// Shuts all enrolled engines down side by side, for as long as the limit allows.
fn end_engines() {
    let start = Instant::now();
    let (done, ended) = mpsc::channel();
    for index in handle::enrolled_slots() {
        let done = done.clone();
        let end = move || {
            handle::destroy_enrolled(index);
            // nobody listens any more when the limit has passed
            let _ = done.send(());
        };
        if let Err(cause) = Builder::new().name("tent-end".into()).spawn(end) {
            ::log::error!("an engine is not shut down, there is no thread for it: {cause}");
        }
    }
    drop(done);
    // ends when the last sender is gone, too: an engine that panics is not waited for
    while ended.recv_timeout(LIMIT.saturating_sub(Instant::now().since(start))).is_ok() {}
}

fn pid() -> i32 {
    // SAFETY: getpid always succeeds and is async-signal-safe.
    unsafe { libc::getpid() }
}

fn errno() -> c_int {
    // SAFETY: the address of this thread's errno, always valid.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else writes this thread's errno.
    unsafe { place.read() }
}

fn set_errno(value: c_int) {
    // SAFETY: the address of this thread's errno, always valid.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { place.write(value) };
}

fn new_eventfd() -> io::Result<c_int> {
    // SAFETY: takes two numbers.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })
}

fn wake(fd: c_int) -> bool {
    let one = 1_u64;
    // SAFETY: eight readable bytes; write is async-signal-safe.
    let written = unsafe { libc::write(fd, (&raw const one).cast(), size_of::<u64>()) };
    written == size_of::<u64>().cast_signed()
}

fn wait_for_wake(fd: c_int) -> io::Result<()> {
    loop {
        let mut count = 0_u64;
        // SAFETY: eight writable bytes.
        let got = unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
        if got > 0 {
            return Ok(());
        }
        let cause = io::Error::last_os_error();
        if cause.kind() != io::ErrorKind::Interrupted {
            return Err(cause);
        }
    }
}

fn block_all_signals() -> io::Result<libc::sigset_t> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both point to sets of ours; the first was just filled.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::from_raw_os_error(rc));
    }
    // SAFETY: the call succeeded, so the old mask is there.
    Ok(unsafe { before.assume_init() })
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: a mask that this thread had before. It cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

fn current_action(signal: c_int) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only; writes one action of ours.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the action is there.
    Ok(unsafe { action.assume_init() })
}

fn set_action(signal: c_int, action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: a complete action; sigaction is async-signal-safe.
    check(unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) }).map(drop)
}

fn our_action() -> libc::sigaction {
    let handler: extern "C" fn(c_int) = on_signal;
    let mut action = action_of(handler as libc::sighandler_t);
    // the host's system calls go on; Go and others give their threads an alternative stack
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    action
}

fn action_of(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zero is a complete action: no flags, an empty mask, no restorer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action
}

fn check(rc: c_int) -> io::Result<c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Longest time from the signal to the exit; each engine's own bound is shorter.
const LIMIT: Duration = Duration::from_secs(10);

/// Process that is installing or has installed the handlers.
static CLAIM: AtomicI32 = AtomicI32::new(0);
/// Process whose watcher runs.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// The watcher's eventfd.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// The signal that came last.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// What SIGTERM and SIGINT did before.
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();
