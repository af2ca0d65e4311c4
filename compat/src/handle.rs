//! Engine handles: numbers that are checked, never addresses (I7). A stale, foreign, invented or NULL
//! handle is an error; destroying twice is harmless.
//!
//! Looking one up takes no lock, so that a child of `fork` can do it too. In such a child every inherited
//! handle answers "down" at once, and destroying it only forgets it: the threads that it would have to
//! join do not exist there.

use crate::text::invalid;
use ::tent::{Engine, Error, ErrorKind, Result, TransportKind};
use arc_swap::ArcSwapOption;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// What a handle stands for.
#[derive(Debug)]
pub(crate) struct Entry {
    engine: Engine,
    /// Whether the caller wants to see TIMEOUT and CANCELED (`TENT_COMPAT_STATUS=native`).
    pub(crate) native_status: bool,
    /// Whether a termination signal shuts this engine down.
    pub(crate) enrolled: AtomicBool,
    generation: u64,
    /// Value of [`FORKS`] when the engine was made.
    born: u64,
}

impl Deref for Entry {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Entry {
    fn is_inherited(&self) -> bool {
        self.born != FORKS.load(Ordering::Relaxed)
    }
}

/// Makes a handle for `engine`. Give it back with [`destroy`].
pub(crate) fn insert(engine: Engine, native_status: bool) -> Result<*mut c_void> {
    let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
    if generation >= 1 << GENERATION_BITS {
        return Err(Error::new(ErrorKind::Memory, "this process has used up its engine handles"));
    }
    let born = FORKS.load(Ordering::Relaxed);
    let enrolled = AtomicBool::new(false);
    let entry = Arc::new(Entry { engine, native_status, enrolled, generation, born });
    for (index, slot) in SLOTS.iter().enumerate() {
        if slot.load().is_none() {
            let seen = slot.compare_and_swap(&None::<Arc<Entry>>, Some(Arc::clone(&entry)));
            if seen.is_none() {
                return Ok(pack(ENGINE_TAG, generation, index));
            }
        }
    }
    entry.shutdown();
    Err(Error::new(ErrorKind::Memory, format!("{SLOT_COUNT} engines exist; destroy one first")))
}

/// Calls `f` with the engine behind `handle`; a concurrent destroy waits for nobody and breaks nothing.
pub(crate) fn with<R>(handle: *mut c_void, f: impl FnOnce(&Entry) -> Result<R>) -> Result<R> {
    let (generation, index) = unpack(handle)?;
    let slot = SLOTS[index].load();
    match slot.as_deref() {
        Some(entry) if entry.generation == generation && entry.is_inherited() => Err(forked()),
        Some(entry) if entry.generation == generation => f(entry),
        _ => Err(stale()),
    }
}

/// A handle for an engine that could not be made: every call with it answers with the reason. Give it back
/// with [`destroy`].
pub(crate) fn failed(why: &Error) -> *mut c_void {
    let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed) % (1 << GENERATION_BITS);
    let handle = pack(FAILED_TAG, generation, 0);
    let mut list = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if list.len() >= MAX_FAILED {
        list.pop_front();
    }
    list.push_back((handle.addr(), why.to_string()));
    handle
}

/// Why the engine of a [`failed`] handle could not be made.
fn failure_of(handle: usize) -> Error {
    let list = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    let why = list.iter().find(|(h, _)| *h == handle).map_or("it was destroyed", |(_, why)| why);
    Error::new(ErrorKind::EngineDown, format!("this engine could not be made: {why}"))
}

/// Ends the engine behind `handle`. Of any number of callers one does it, the others get an error.
pub(crate) fn destroy(handle: *mut c_void) -> Result<()> {
    if handle.addr() >> TAG_SHIFT == FAILED_TAG {
        let mut list = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = list.len();
        list.retain(|(h, _)| *h != handle.addr());
        return (list.len() < known).then_some(()).ok_or_else(stale);
    }
    let (generation, index) = unpack(handle)?;
    end(&SLOTS[index], |entry| entry.generation == generation).then_some(()).ok_or_else(stale)
}

/// The slots of the engines that a termination signal shuts down; each goes to [`destroy_enrolled`].
pub(crate) fn enrolled_slots() -> impl Iterator<Item = usize> {
    let enrolled = |e: &Entry| e.enrolled.load(Ordering::Acquire) && !e.is_inherited();
    (0..SLOT_COUNT).filter(move |&index| SLOTS[index].load().as_deref().is_some_and(enrolled))
}

/// Ends the engine in that slot if it is enrolled.
pub(crate) fn destroy_enrolled(index: usize) {
    end(&SLOTS[index], |entry| entry.enrolled.load(Ordering::Acquire));
}

/// The handle of a transport of an engine: not NULL, and always the same for the same two.
pub(crate) fn transport(engine: *mut c_void, kind: TransportKind) -> Result<*mut c_void> {
    let (generation, index) = unpack(engine)?;
    Ok(pack(TRANSPORT_TAG + kind as usize, generation, index))
}

/// Learns of forks from now on. Call before the first engine is made; raw `clone` goes unseen here and is
/// left to the engine's own check.
pub(crate) fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(watch_forks_now);
}

#[allow(unsafe_code, reason = "registers a fork handler")]
fn watch_forks_now() {
    extern "C" fn in_child() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only adds to an atomic, which is allowed in a forked child, and the library is
    // never unmapped (-z nodelete). If it cannot be registered the engine's own check remains.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

/// Takes the entry that `wanted` accepts out of its slot and ends its engine.
fn end(slot: &ArcSwapOption<Entry>, wanted: impl Fn(&Entry) -> bool) -> bool {
    let seen = slot.load_full();
    let Some(entry) = seen.filter(|entry| wanted(entry)) else { return false };
    let won = slot.compare_and_swap(&entry, None);
    if won.as_ref().is_none_or(|winner| !Arc::ptr_eq(winner, &entry)) {
        return false;
    }
    if entry.is_inherited() {
        // dropping it would join threads that exist only in the parent
        std::mem::forget(entry);
    } else {
        entry.shutdown();
    }
    true
}

fn pack(tag: usize, generation: u64, index: usize) -> *mut c_void {
    let generation = usize::try_from(generation).unwrap_or(0);
    std::ptr::without_provenance_mut(tag << TAG_SHIFT | generation << SLOT_BITS | index)
}

fn unpack(handle: *mut c_void) -> Result<(u64, usize)> {
    let value = handle.addr();
    if value == 0 {
        return Err(invalid("the engine is NULL"));
    }
    if value >> TAG_SHIFT == FAILED_TAG {
        return Err(failure_of(value));
    }
    if value >> TAG_SHIFT != ENGINE_TAG {
        return Err(invalid(format!("{value:#x} is no engine of this library")));
    }
    let generation = (value >> SLOT_BITS) as u64 & ((1 << GENERATION_BITS) - 1);
    Ok((generation, value & (SLOT_COUNT - 1)))
}

fn stale() -> Error {
    Error::new(ErrorKind::Stale, "the engine has been destroyed")
}

fn forked() -> Error {
    let message = "the engine belongs to the parent process; create one of your own after fork";
    Error::new(ErrorKind::EngineDown, message)
}

/// Engines that may exist at once in a process.
const SLOT_COUNT: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 8;
const GENERATION_BITS: u32 = 40;
const TAG_SHIFT: u32 = 48;
/// Top bits that no address in user space has: a handle is never mistaken for a pointer nor a pointer for
/// a handle, and it is never small (Go's runtime stops at "pointers" below 4096).
const ENGINE_TAG: usize = 0x7e47;
/// The same for engines that could not be made.
const FAILED_TAG: usize = 0x7e48;
/// Engines that could not be made, and whose reason is kept until they are destroyed; the oldest goes first.
const MAX_FAILED: usize = 64;
/// The same for transports; the kind is added.
const TRANSPORT_TAG: usize = 0x7e50;
const _: () = assert!(usize::BITS == 64, "handles need 64 bits");

static SLOTS: [ArcSwapOption<Entry>; SLOT_COUNT] =
    [const { ArcSwapOption::const_empty() }; SLOT_COUNT];
/// The handles of engines that could not be made, with the reasons.
static FAILED: Mutex<VecDeque<(usize, String)>> = Mutex::new(VecDeque::new());
/// The next generation; starts at 1.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);
/// Forks between the process that loaded the library and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(handle: usize) -> ErrorKind {
        let handle = std::ptr::without_provenance_mut(handle);
        with(handle, |_| Ok(())).unwrap_err().kind()
    }

    #[test]
    fn what_is_no_handle_is_an_error() {
        let local = 0_u64;
        let address = (&raw const local).addr();
        for invented in [0, 1, 4095, address, usize::MAX, TRANSPORT_TAG << TAG_SHIFT | 256] {
            assert_eq!(kind_of(invented), ErrorKind::InvalidArgument, "{invented:#x}");
        }
        // the right form, but nobody ever got it
        assert_eq!(kind_of(pack(ENGINE_TAG, 1 << 39, 3).addr()), ErrorKind::Stale);
        assert!(destroy(std::ptr::null_mut()).is_err());
    }

    #[test]
    fn an_engine_that_could_not_be_made_says_why_until_it_is_destroyed() {
        let handle = failed(&invalid("the moon is full"));
        assert!(!handle.is_null());
        let text = with(handle, |_| Ok(())).unwrap_err().to_string();
        assert!(text.ends_with("the moon is full"), "{text}");
        destroy(handle).unwrap();
        assert!(destroy(handle).is_err() && with(handle, |_| Ok(())).is_err());
    }

    #[test]
    fn handles_survive_packing() {
        for generation in [1, 77, (1 << GENERATION_BITS) - 1] {
            for index in [0, 1, SLOT_COUNT - 1] {
                let handle = pack(ENGINE_TAG, generation, index);
                assert_eq!(unpack(handle).unwrap(), (generation, index));
                let tcp = transport(handle, TransportKind::Tcp).unwrap();
                assert!(!tcp.is_null() && unpack(tcp).is_err());
                assert_ne!(tcp, transport(handle, TransportKind::Shm).unwrap());
            }
        }
    }
}
