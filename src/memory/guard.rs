//! The guard table: how peers on this host copy to and from our memory only while it is registered
//! (I11), and how the call that unregisters it waits until they have stopped (I6).
//!
//! A one-sided copy (`cma`, `shm`) runs in the peer, where no lock of ours reaches. So the owner keeps a
//! table in a memfd that peers map: a *slot* per region, with its key, and an *entry* per copier. It is
//! the protocol of hazard pointers: a copier writes the slot into its entry, then looks whether the slot
//! still has the key; the owner clears the key, then looks whether an entry names the slot. Between the
//! write and the look both have a full fence, so one of them sees the other.
//!
//! Nobody trusts the mapping. The owner keeps its own books and only ever waits, up to a deadline, for
//! what entries say; a copier checks the range again at each copy and keeps the layout that it checked
//! when it opened the table. The pages with the slots are mapped read-only by peers of good will.

use crate::id::Incarnation;
use crate::segment::Permission;
use crate::slice::Op;
use crate::sync::lock;
use crate::sys::host;
use crate::sys::mem::{self, Mapping};
use crate::time::Instant;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The owner's side.
#[derive(Debug)]
pub(super) struct GuardTable {
    fd: OwnedFd,
    table: Mapping,
    slots: Mutex<Slots>,
}

/// Which slots are in use, in the owner's own memory.
#[derive(Debug, Default)]
struct Slots {
    free: Vec<u32>,
    next: u32,
}

impl GuardTable {
    /// A table with no slot in use.
    pub(super) fn new(incarnation: Incarnation) -> io::Result<Self> {
        let len = LAYOUT.end();
        let fd = mem::sealed_memfd(c"tent-guard", len as u64)?;
        let table = Mapping::of_sealed(&fd, 0, len, true)?;
        let header = [
            (VERSION_AT, VERSION),
            (SLOTS_AT, LAYOUT.slots.into()),
            (COPIERS_AT, LAYOUT.copiers.into()),
            (INCARNATION_AT, low(incarnation)),
            (INCARNATION_AT + 8, high(incarnation)),
            (MAGIC_AT, MAGIC),
        ];
        for (at, value) in header {
            table.word(at).store(value, Ordering::Release);
        }
        Ok(Self { fd, table, slots: Mutex::default() })
    }

    /// The memfd's number, by which peers open it.
    pub(super) fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Opens a slot for a range; `None` when all are taken.
    pub(super) fn publish(
        &self,
        key: u64,
        addr: usize,
        len: usize,
        permission: Permission,
    ) -> Option<u32> {
        let slot = {
            let mut slots = lock(&self.slots);
            let fresh = slots.next;
            match slots.free.pop() {
                Some(slot) => slot,
                None if fresh < LAYOUT.slots => {
                    slots.next += 1;
                    fresh
                }
                None => return None,
            }
        };
        let at = LAYOUT.slot(slot);
        self.table.word(at + ADDR).store(addr as u64, Ordering::Relaxed);
        self.table.word(at + LEN).store(len as u64, Ordering::Relaxed);
        self.table.word(at + PERMISSION).store(permission as u64, Ordering::Relaxed);
        self.reopen(slot, key);
        Some(slot)
    }

    /// Lets no copier in any more.
    pub(super) fn close(&self, slot: u32) {
        protocol::close(self.key(slot));
    }

    /// Opens a closed slot again, for the same range.
    pub(super) fn reopen(&self, slot: u32, key: u64) {
        self.key(slot).store(key, Ordering::Release);
    }

    /// Gives a closed and quiet slot back.
    pub(super) fn release(&self, slot: u32) {
        lock(&self.slots).free.push(slot);
    }

    /// Waits until no copier is in a closed slot; `false` when the deadline came first. A copier that
    /// died does not count, one that merely does not move does.
    pub(super) fn wait_quiet(&self, slot: u32, deadline: Instant) -> bool {
        if self.is_quiet(slot) {
            return true;
        }
        let waiting = self.table.word(LAYOUT.live() + WAITING);
        let bell = self.table.half_word(LAYOUT.live() + BELL);
        waiting.fetch_add(1, Ordering::SeqCst);
        let quiet = loop {
            let rung = bell.load(Ordering::SeqCst);
            if self.is_quiet(slot) {
                break true;
            }
            let left = deadline.since(Instant::now());
            if left.is_zero() {
                break false;
            }
            // the dead ring no bell, so look again from time to time
            mem::wait_word(bell, rung, left.min(LOOK_AGAIN));
        };
        waiting.fetch_sub(1, Ordering::SeqCst);
        quiet
    }

    /// Whether no living copier is in a closed slot.
    pub(super) fn is_quiet(&self, slot: u32) -> bool {
        // the fence of `close` may have been long ago; what counts is that one lies between
        protocol::fence();
        (0..self.copiers_used()).all(|copier| {
            let at = LAYOUT.copier(copier);
            !protocol::is_in(self.table.word(at + IN_SLOT), slot)
                || !is_owner_alive(self.table.word(at + OWNER).load(Ordering::Acquire))
        })
    }

    /// Refusals that copiers have met, by their own account.
    pub(super) fn refused(&self) -> u64 {
        self.table.word(LAYOUT.live() + REFUSED).load(Ordering::Relaxed)
    }

    fn key(&self, slot: u32) -> &AtomicU64 {
        self.table.word(LAYOUT.slot(slot))
    }

    /// Entries that were ever claimed, counted from the first; peers write it, so it is clamped.
    fn copiers_used(&self) -> u32 {
        let used = self.table.word(LAYOUT.live() + USED).load(Ordering::SeqCst);
        u32::try_from(used).unwrap_or(u32::MAX).min(LAYOUT.copiers)
    }
}

/// A peer's table, mapped.
#[derive(Debug)]
pub(super) struct GuardView {
    layout: Layout,
    /// Header and slots, read-only.
    fixed: Mapping,
    /// What copiers write.
    live: Mapping,
}

impl GuardView {
    /// Maps the table that process `pid` holds under descriptor `fd`.
    ///
    /// # Errors
    /// Those of [`mem::open_peer_memfd`]; `InvalidData` when it is no table, or not that of `expected`.
    pub(super) fn open(pid: i32, fd: i32, expected: Incarnation) -> io::Result<Self> {
        let file = mem::open_peer_memfd(pid, fd, true)?;
        let header = Mapping::of_sealed(&file, 0, PAGE, false)?;
        let word = |at| protocol::load(header.word(at));
        let valid = word(MAGIC_AT) == MAGIC
            && word(VERSION_AT) == VERSION
            && word(INCARNATION_AT) == low(expected)
            && word(INCARNATION_AT + 8) == high(expected);
        let layout = Layout::checked(word(SLOTS_AT), word(COPIERS_AT));
        let layout = layout.filter(|_| valid).ok_or(io::ErrorKind::InvalidData)?;
        let (fixed, live) = (layout.live(), layout.end() - layout.live());
        Ok(Self {
            layout,
            fixed: Mapping::of_sealed(&file, 0, fixed, false)?,
            live: Mapping::of_sealed(&file, fixed as u64, live, true)?,
        })
    }

    /// Claims an entry; `None` when living copiers hold them all.
    pub(super) fn copier(self: &Arc<Self>) -> Option<Copier> {
        let me = pack_owner(host::pid(), host::start_ticks(host::pid()).ok()?)?;
        let claim = |copier: u32, from: u64| {
            // before the entry is used, or the owner would not look at it
            self.live.word(USED).fetch_max(u64::from(copier) + 1, Ordering::SeqCst);
            let owner = self.entry(copier, OWNER);
            owner.compare_exchange(from, me, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        let free = |copier: &u32| {
            self.entry(*copier, OWNER).load(Ordering::Relaxed) == 0 && claim(*copier, 0)
        };
        let dead = |copier: &u32| {
            let owner = self.entry(*copier, OWNER).load(Ordering::Relaxed);
            !is_owner_alive(owner) && claim(*copier, owner)
        };
        let all = 0..self.layout.copiers;
        let entry = all.clone().find(free).or_else(|| all.clone().find(dead))?;
        self.entry(entry, IN_SLOT).store(0, Ordering::SeqCst);
        Some(Copier { view: Arc::clone(self), entry, generation: host::fork_generation() })
    }

    /// Whether a slot still has this key.
    pub(super) fn is_open(&self, slot: u32, key: u64) -> bool {
        slot < self.layout.slots && protocol::load(self.slot_word(slot, KEY)) == key
    }

    fn slot_word(&self, slot: u32, field: usize) -> &AtomicU64 {
        self.fixed.word(self.layout.slot(slot) + field)
    }

    fn entry(&self, copier: u32, field: usize) -> &AtomicU64 {
        self.live.word(self.layout.copier(copier) - self.layout.live() + field)
    }
}

/// The right to copy to and from one peer's memory, one piece at a time.
#[derive(Debug)]
pub struct Copier {
    view: Arc<GuardView>,
    entry: u32,
    generation: u64,
}

impl Copier {
    /// Begins a copy: the range stays registered until the answer is dropped. `None` when the range is
    /// not, or not any more, inside the region of that key, or `op` is not permitted (I11).
    pub fn enter(
        &mut self,
        slot: u32,
        key: u64,
        addr: u64,
        len: u64,
        op: Op,
    ) -> Option<CopyGuard<'_>> {
        // a forked child shares the entry with its parent, and each would clear the other's
        if self.generation != host::fork_generation() {
            return None;
        }
        let view = &*self.view;
        let permitted = (slot < view.layout.slots && key != 0)
            .then(|| self.hold(slot, key))
            .flatten()
            .filter(|held| held.contains(addr, len) && (op == Op::Read || held.is_writable()));
        if permitted.is_none() {
            view.live.word(REFUSED).fetch_add(1, Ordering::Relaxed);
        }
        permitted
    }

    /// Enters the slot if it has that key.
    fn hold(&self, slot: u32, key: u64) -> Option<CopyGuard<'_>> {
        let view = &*self.view;
        let (entry, slot_key) = (view.entry(self.entry, IN_SLOT), view.slot_word(slot, KEY));
        let entered = protocol::enter(entry, slot_key, slot, key);
        let field = |field| view.slot_word(slot, field).load(Ordering::Relaxed);
        let (base, len, permission) = (field(ADDR), field(LEN), field(PERMISSION));
        // entered or not, its drop leaves the slot
        let held = CopyGuard { copier: self, slot, key, base, len, permission };
        entered.then_some(held)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        if self.generation == host::fork_generation() {
            self.view.entry(self.entry, OWNER).store(0, Ordering::SeqCst);
        }
    }
}

/// A copy under way; ends on drop.
#[derive(Debug)]
pub struct CopyGuard<'a> {
    copier: &'a Copier,
    slot: u32,
    key: u64,
    base: u64,
    len: u64,
    permission: u64,
}

impl CopyGuard<'_> {
    /// First byte of the peer's region, an address there.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes in the peer's region.
    pub(super) fn region_len(&self) -> u64 {
        self.len
    }

    /// Whether the range, addresses there, lies in the peer's region.
    pub fn contains(&self, addr: u64, len: u64) -> bool {
        let end = addr.checked_sub(self.base).and_then(|offset| offset.checked_add(len));
        end.is_some_and(|end| end <= self.len)
    }

    /// Whether the region may be written to.
    pub(super) fn is_writable(&self) -> bool {
        self.permission == Permission::ReadWrite as u64
    }

    /// The region's slot and key.
    pub(super) fn name(&self) -> (u32, u64) {
        (self.slot, self.key)
    }
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        let view = &*self.copier.view;
        protocol::leave(view.entry(self.copier.entry, IN_SLOT));
        if view.live.word(WAITING).load(Ordering::Relaxed) != 0 {
            let bell: &AtomicU32 = view.live.half_word(BELL);
            bell.fetch_add(1, Ordering::SeqCst);
            mem::wake_word(bell);
        }
    }
}

/// The four moves, apart from the mapping, so that loom can play them all.
mod protocol {
    use std::sync::atomic::Ordering;

    /// An atomic word: std's in the mapping, loom's in the model.
    pub(super) trait Word {
        fn load(&self, order: Ordering) -> u64;
        fn store(&self, value: u64, order: Ordering);
        fn fence(order: Ordering);
    }

    impl Word for std::sync::atomic::AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }
        fn store(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }
        fn fence(order: Ordering) {
            std::sync::atomic::fence(order);
        }
    }

    #[cfg(loom)]
    impl Word for loom::sync::atomic::AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }
        fn store(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }
        fn fence(order: Ordering) {
            loom::sync::atomic::fence(order);
        }
    }

    /// Copier: names the slot, then looks whether it has the key. Must be followed by [`leave`],
    /// whatever the answer.
    pub(super) fn enter<W: Word>(entry: &W, slot_key: &W, slot: u32, key: u64) -> bool {
        entry.store(u64::from(slot) + 1, Ordering::SeqCst);
        W::fence(Ordering::SeqCst);
        load(slot_key) == key
    }

    /// Copier: what it did to the memory comes before.
    pub(super) fn leave<W: Word>(entry: &W) {
        entry.store(0, Ordering::SeqCst);
        W::fence(Ordering::SeqCst);
    }

    /// Owner: clears the key; then [`is_in`] tells who got in before.
    pub(super) fn close<W: Word>(slot_key: &W) {
        slot_key.store(0, Ordering::SeqCst);
        W::fence(Ordering::SeqCst);
    }

    /// Owner: whether this entry names the slot.
    pub(super) fn is_in<W: Word>(entry: &W, slot: u32) -> bool {
        entry.load(Ordering::Acquire) == u64::from(slot) + 1
    }

    /// An acquiring load out of a mapping that may be read-only, where only relaxed loads are allowed.
    pub(super) fn load<W: Word>(word: &W) -> u64 {
        let value = word.load(Ordering::Relaxed);
        W::fence(Ordering::Acquire);
        value
    }

    pub(super) fn fence() {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Where things are: [`PAGE`] of header, the slots, then on a new page what copiers write: a line of
/// words for all, and the entries.
#[derive(Debug, Clone, Copy)]
struct Layout {
    slots: u32,
    copiers: u32,
}

impl Layout {
    /// The layout that a peer claims, if it is one that we would map.
    fn checked(slots: u64, copiers: u64) -> Option<Self> {
        let slots = u32::try_from(slots).ok().filter(|n| (1..=SLOTS_MAX).contains(n))?;
        let copiers = u32::try_from(copiers).ok().filter(|n| (1..=COPIERS_MAX).contains(n))?;
        Some(Self { slots, copiers })
    }

    const fn slot(self, slot: u32) -> usize {
        PAGE + slot as usize * LINE
    }

    /// Where copiers may write.
    const fn live(self) -> usize {
        self.slot(self.slots).next_multiple_of(PAGE)
    }

    const fn copier(self, copier: u32) -> usize {
        self.live() + LINE + copier as usize * LINE
    }

    const fn end(self) -> usize {
        self.copier(self.copiers).next_multiple_of(PAGE)
    }
}

/// Process id and start in one word, so that an entry of a dead process is recognised; never 0.
fn pack_owner(pid: i32, start_ticks: u64) -> Option<u64> {
    let pid = u64::try_from(pid).ok().filter(|pid| *pid > 0 && *pid < 1 << PID_BITS)?;
    (start_ticks < 1 << (64 - PID_BITS)).then_some(start_ticks << PID_BITS | pid)
}

/// Whether whoever packed this may still copy.
fn is_owner_alive(owner: u64) -> bool {
    let pid = i32::try_from(owner & ((1 << PID_BITS) - 1)).unwrap_or(0);
    pid > 0 && host::is_alive(pid, owner >> PID_BITS)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(super) fn low(incarnation: Incarnation) -> u64 {
    incarnation.0 as u64
}

fn high(incarnation: Incarnation) -> u64 {
    low(Incarnation(incarnation.0 >> 64))
}

/// Slots for 131072 regions cost 8 MiB of address space, and memory only where one is in use.
const LAYOUT: Layout = Layout { slots: 1 << 17, copiers: 1 << 10 };
const SLOTS_MAX: u32 = 1 << 20;
const COPIERS_MAX: u32 = 1 << 14;
/// How often to look for copiers that died.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Linux gives pids below 2^22; the ticks of the other 42 bits last a thousand years.
const PID_BITS: u32 = 22;

const MAGIC: u64 = u64::from_be_bytes(*b"tentgrd\0");
const VERSION: u64 = 1;
/// Alignment of the parts: the largest page of any host that we run on.
const PAGE: usize = 64 << 10;
const LINE: usize = 64;

// header
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const SLOTS_AT: usize = 16;
const COPIERS_AT: usize = 24;
const INCARNATION_AT: usize = 32;

// slot
const KEY: usize = 0;
const ADDR: usize = 8;
const LEN: usize = 16;
const PERMISSION: usize = 24;

// words of all copiers
const WAITING: usize = 0;
const BELL: usize = 8;
const USED: usize = 16;
const REFUSED: usize = 24;

// entry
const OWNER: usize = 0;
const IN_SLOT: usize = 8;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::protocol;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};

    /// I6, I11: when the owner has closed the slot and sees nobody in it, nobody copies any more, and
    /// what was copied before is visible to it.
    #[test]
    fn a_copy_and_the_end_of_the_region_exclude_each_other() {
        const SLOT: u32 = 3;
        const KEY: u64 = 77;
        loom::model(|| {
            let shared = Arc::new((AtomicU64::new(KEY), AtomicU64::new(0), UnsafeCell::new(0)));
            let copier = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    let (key, entry, memory) = &*shared;
                    if protocol::enter(entry, key, SLOT, KEY) {
                        memory.with_mut(|_copy| ());
                    }
                    protocol::leave(entry);
                })
            };
            let (key, entry, memory) = &*shared;
            protocol::close(key);
            if !protocol::is_in(entry, SLOT) {
                memory.with_mut(|_unmap| ());
            }
            copier.join().unwrap();
            assert_eq!(entry.load(Ordering::SeqCst), 0);
        });
    }

    /// A slot that is closed and published for another range is another region: its key is another.
    #[test]
    fn a_stale_key_never_enters() {
        const SLOT: u32 = 0;
        loom::model(|| {
            let shared = Arc::new((AtomicU64::new(1), AtomicU64::new(0), UnsafeCell::new(0)));
            let copier = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    let (key, entry, memory) = &*shared;
                    if protocol::enter(entry, key, SLOT, 1) {
                        memory.with(|_copy| ());
                    }
                    protocol::leave(entry);
                })
            };
            let (key, entry, memory) = &*shared;
            protocol::close(key);
            if !protocol::is_in(entry, SLOT) {
                memory.with_mut(|_other_range| ());
                key.store(2, Ordering::Release);
            }
            copier.join().unwrap();
        });
    }
}
