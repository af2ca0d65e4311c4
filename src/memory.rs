//! Registered memory: which ranges of this process may be read and written, by whom, and who is doing so.
//!
//! Ranges are plain numbers; nothing here makes a reference to user memory. Every use of a range holds a
//! [`Pin`] (in this process) or an entry of the guard table (a copy by a peer on this host), and
//! unregistering waits for both (I6). A request from outside gets a pin only inside one registered
//! region that permits it (I11).

use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;
use crate::segment::{Access, Buffer, GuardRef, Permission, ShmBacking};
use crate::slice::Op;
use crate::sync::{AtomicU64, Ordering, lock, read, write};
use crate::sys::host;
use crate::sys::mem::{self, Mapping};
use crate::time::Instant;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

mod guard;
pub mod link;
mod region;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use guard::{Copier, CopyGuard};
pub use region::Pin;

use guard::GuardTable;
use region::{Gate, Region};

/// The slot of a region that has none: peers on this host must use another way than a copy.
pub const NO_SLOT: u32 = u32::MAX;

/// A range to register.
#[derive(Debug, Clone, Copy)]
pub struct NewRegion<'a> {
    /// First byte.
    pub addr: usize,
    /// Bytes.
    pub len: usize,
    /// `*`, `cpu:N` …
    pub location: &'a str,
    /// What peers may do.
    pub permission: Permission,
    /// The memfd that backs it; found by itself for memory of [`Regions::allocate`].
    pub shm: Option<ShmBacking>,
}

/// Why a range was not pinned for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not lie inside one registered region.
    #[error("not inside one registered region")]
    NotRegistered,
    /// Its region is being unregistered.
    #[error("the region is being unregistered")]
    Closing,
    /// The key is not the region's: the peer speaks of one that is gone.
    #[error("stale or wrong key")]
    Key,
    /// The region does not permit it.
    #[error("not permitted")]
    Permission,
}

/// The registered ranges of one engine.
pub struct Regions {
    incarnation: Incarnation,
    /// The fork generation that all this belongs to.
    generation: u64,
    /// A word at a stable address, by which peers test that cross-memory copies work.
    probe: Box<u64>,
    guard: Option<GuardTable>,
    by_addr: RwLock<BTreeMap<usize, Arc<Region>>>,
    allocations: Mutex<BTreeMap<usize, Allocation>>,
    version: AtomicU64,
    refused: AtomicU64,
}

/// Memory of [`Regions::allocate`].
#[derive(Debug)]
struct Allocation {
    fd: OwnedFd,
    memory: Mapping,
}

impl Regions {
    /// No regions yet; from here on [`Regions::of_this_process`] finds it.
    pub fn new(incarnation: Incarnation) -> Arc<Self> {
        Self::of_generation(incarnation, host::fork_generation())
    }

    fn of_generation(incarnation: Incarnation, generation: u64) -> Arc<Self> {
        let guard = GuardTable::new(incarnation)
            .inspect_err(|e| log::warn!("no guard table, so no copies within the host: {e}"))
            .ok();
        let regions = Arc::new(Self {
            incarnation,
            generation,
            probe: Box::new(guard::low(incarnation)),
            guard,
            by_addr: RwLock::default(),
            allocations: Mutex::default(),
            version: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let mut engines = lock(&ENGINES);
        engines.retain(|_, engine| engine.strong_count() > 0);
        engines.insert(incarnation.0, Arc::downgrade(&regions));
        regions
    }

    /// The regions of another engine of this process. What a forked child inherited does not count: it
    /// is a copy of the parent's memory, not that memory.
    pub fn of_this_process(incarnation: Incarnation) -> Option<Arc<Self>> {
        let regions = lock(&ENGINES).get(&incarnation.0)?.upgrade()?;
        (!regions.is_inherited()).then_some(regions)
    }

    /// The engine's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Regions registered now.
    pub fn len(&self) -> usize {
        read(&self.by_addr).len()
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes whenever the set of regions does.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Requests from outside that were refused (I11), copiers' own refusals included.
    pub fn refused(&self) -> u64 {
        let by_copiers = self.guard.as_ref().map_or(0, GuardTable::refused);
        self.refused.load(Ordering::Relaxed).wrapping_add(by_copiers)
    }

    /// Where peers on this host find the guard table; `None` when the host gave none.
    pub fn guard_ref(&self) -> Option<GuardRef> {
        let probe = std::ptr::from_ref(&*self.probe).expose_provenance() as u64;
        self.guard.as_ref().map(|guard| GuardRef { fd: guard.fd(), probe })
    }

    /// What peers may know: the regions that they may reach, by address.
    pub fn describe(&self) -> Vec<Buffer> {
        let regions = read(&self.by_addr);
        let reachable = regions.values().filter(|r| r.permission != Permission::Local);
        reachable
            .map(|region| Buffer {
                addr: region.addr as u64,
                len: region.len as u64,
                location: region.location.to_string(),
                access: Some(region.access()),
            })
            .collect()
    }

    /// How a peer reaches the region that holds the range, for an engine of this process that asks
    /// directly. `None`: no region that peers may reach holds it.
    pub fn access_of(&self, addr: u64, len: u64) -> Option<Access> {
        let start = usize::try_from(addr).ok()?;
        let regions = read(&self.by_addr);
        let (_, region) = regions.range(..=start).next_back()?;
        let end = addr.checked_add(len)?;
        let inside = end <= region.addr as u64 + region.len as u64;
        (inside && region.permission != Permission::Local).then(|| region.access())
    }

    /// Registers one range; it must stay mapped until it is unregistered.
    ///
    /// # Errors
    /// As [`Regions::register_batch`].
    pub fn register(
        &self,
        addr: usize,
        len: usize,
        location: &str,
        permission: Permission,
        shm: Option<ShmBacking>,
    ) -> Result<()> {
        self.register_batch(&[NewRegion { addr, len, location, permission, shm }])
    }

    /// Registers all ranges or none. Adjacent ones are fine and stay apart.
    ///
    /// # Errors
    /// `InvalidArgument` for a range that is empty, begins at null, wraps around or is not mapped at an
    /// end; `Overlap`; `Memory` when the kernel gives no randomness; `EngineDown` in a forked child.
    pub fn register_batch(&self, new: &[NewRegion<'_>]) -> Result<()> {
        self.refuse_inherited()?;
        new.iter().try_for_each(validate)?;
        let mut regions = Vec::with_capacity(new.len());
        for region in new {
            regions.push(self.build(region)?);
        }
        regions.sort_unstable_by_key(|region| region.addr);
        let inside = regions.windows(2).find(|pair| pair[0].end() > pair[1].addr);
        if let Some(pair) = inside {
            return Err(overlap(&pair[1], &pair[0]));
        }
        // slots are opened before the lock, for nobody knows their keys yet; only these loops are under it
        let regions: Vec<_> = regions.into_iter().map(|r| Arc::new(self.publish(r))).collect();
        let mut by_addr = write(&self.by_addr);
        let taken = regions.iter().find_map(|r| Some((r, overlapping(&by_addr, r.addr, r.len)?)));
        if let Some((region, old)) = taken {
            let refused = overlap(region, old);
            drop(by_addr);
            regions.iter().for_each(|region| self.retract(region));
            return Err(refused);
        }
        by_addr.extend(regions.into_iter().map(|region| (region.addr, region)));
        drop(by_addr);
        self.changed();
        Ok(())
    }

    /// Withdraws the region that begins at `addr`: nobody gets in any more, and who is in is waited for.
    ///
    /// # Errors
    /// `NotRegistered` when no region begins there; `Busy` when somebody is still in after `timeout`:
    /// then it is registered as before (I6). `EngineDown` in a forked child.
    pub fn unregister(&self, addr: usize, timeout: Duration) -> Result<()> {
        self.refuse_inherited()?;
        let deadline = Instant::now().after(timeout);
        let region = read(&self.by_addr).get(&addr).cloned();
        let region = region.ok_or_else(|| {
            Error::new(ErrorKind::NotRegistered, format!("no region begins at {addr:#x}"))
        })?;
        if !region.gate.close() {
            return Err(busy(addr, "is being unregistered by another thread"));
        }
        let slot = self.slot_of(&region);
        if let Some((guard, slot)) = slot {
            guard.close(slot);
        }
        let quiet = region.gate.wait_quiet(deadline)
            && slot.is_none_or(|(guard, slot)| guard.wait_quiet(slot, deadline));
        if !quiet {
            if let Some((guard, slot)) = slot {
                guard.reopen(slot, region.key);
            }
            region.gate.reopen();
            return Err(busy(addr, "is in use by a transfer: wait for it or cancel it"));
        }
        write(&self.by_addr).remove(&addr);
        if let Some((guard, slot)) = slot {
            guard.release(slot);
        }
        self.changed();
        Ok(())
    }

    /// Pins a range for this engine's own transfer: inside one region, whatever its permission.
    pub fn pin_local(&self, addr: usize, len: u64) -> Option<Pin> {
        let by_addr = read(&self.by_addr);
        Pin::new(containing(&by_addr, addr, len)?, addr)
    }

    /// Pins a range for a peer. `key` is the region's as the peer knows it; upstream requests carry none.
    ///
    /// # Errors
    /// Why it was refused; it has been counted (I11).
    pub fn pin_remote(
        &self,
        addr: u64,
        len: u64,
        key: Option<u64>,
        op: Op,
    ) -> std::result::Result<Pin, Refusal> {
        let pin = self.try_pin_remote(addr, len, key, op);
        if pin.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        pin
    }

    /// Memory that peers on this host can map, registered for reading and writing. `len` is rounded up
    /// to whole pages, which are given when first touched.
    ///
    /// # Errors
    /// `InvalidArgument` for no bytes, `Memory` when the host gives none; as [`Regions::register_batch`].
    pub fn allocate(&self, len: usize, location: &str) -> Result<usize> {
        self.allocate_for(len, location, Permission::ReadWrite)
    }

    /// As [`Regions::allocate`], where peers may do what `permission` says.
    ///
    /// # Errors
    /// As [`Regions::allocate`].
    pub fn allocate_for(
        &self,
        len: usize,
        location: &str,
        permission: Permission,
    ) -> Result<usize> {
        self.refuse_inherited()?;
        let rounded = len.checked_next_multiple_of(mem::page_len()).filter(|len| *len > 0);
        let len = rounded.ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, format!("cannot allocate {len} bytes"))
        })?;
        let failed = |e| Error::os(ErrorKind::Memory, format_args!("allocating {len} bytes"), &e);
        let fd = mem::sealed_memfd(c"tent-memory", len as u64).map_err(failed)?;
        let memory = Mapping::of_sealed(&fd, 0, len, true).map_err(failed)?;
        if len >= HUGE_PAGE {
            memory.prefer_huge_pages();
        }
        let addr = memory.addr();
        lock(&self.allocations).insert(addr, Allocation { fd, memory });
        let registered = self.register(addr, len, location, permission, None);
        if registered.is_err() {
            lock(&self.allocations).remove(&addr);
        }
        registered.map(|()| addr)
    }

    /// Copies `bytes` to registered memory of this engine.
    ///
    /// # Errors
    /// `NotRegistered` when the range is not inside one region.
    #[expect(unsafe_code, reason = "copies to memory that must never become a reference")]
    pub fn put(&self, addr: usize, bytes: &[u8]) -> Result<()> {
        let _pin = self.pin_own(addr, bytes.len())?;
        // SAFETY: `bytes` can be read; the range is registered, which promises that it is mapped and may
        // be overwritten at any time, and the pin keeps it so.
        unsafe { mem::copy(addr, bytes.as_ptr().expose_provenance(), bytes.len()) };
        Ok(())
    }

    /// Copies registered memory of this engine to `into`.
    ///
    /// # Errors
    /// As [`Regions::put`].
    #[expect(unsafe_code, reason = "copies from memory that must never become a reference")]
    pub fn take(&self, addr: usize, into: &mut [u8]) -> Result<()> {
        let _pin = self.pin_own(addr, into.len())?;
        // SAFETY: as in `put`, with the sides exchanged; `into` is ours alone.
        unsafe { mem::copy(into.as_mut_ptr().expose_provenance(), addr, into.len()) };
        Ok(())
    }

    fn pin_own(&self, addr: usize, len: usize) -> Result<Pin> {
        self.pin_local(addr, len as u64).ok_or_else(|| {
            let text = format!("{addr:#x}+{len} is not inside one registered region");
            Error::new(ErrorKind::NotRegistered, text)
        })
    }

    /// Unregisters and unmaps what [`Regions::allocate`] gave.
    ///
    /// # Errors
    /// `NotRegistered` when `addr` was not allocated here; `Busy` as [`Regions::unregister`], or when
    /// parts of it are registered by themselves.
    pub fn free(&self, addr: usize, timeout: Duration) -> Result<()> {
        self.refuse_inherited()?;
        let len = lock(&self.allocations).get(&addr).map(|allocation| allocation.memory.len());
        let len = len.ok_or_else(|| {
            Error::new(ErrorKind::NotRegistered, format!("nothing was allocated at {addr:#x}"))
        })?;
        let whole = read(&self.by_addr).contains_key(&addr);
        if whole {
            self.unregister(addr, timeout)?;
        }
        let by_addr = write(&self.by_addr);
        if overlapping(&by_addr, addr, len).is_some() {
            return Err(busy(addr, "was allocated here, and parts of it are registered"));
        }
        let allocation = lock(&self.allocations).remove(&addr);
        drop(by_addr);
        if let Some(allocation) = allocation {
            // peers keep their mappings until they notice: the memory is given back at once
            allocation.memory.discard();
        }
        Ok(())
    }

    fn try_pin_remote(
        &self,
        addr: u64,
        len: u64,
        key: Option<u64>,
        op: Op,
    ) -> std::result::Result<Pin, Refusal> {
        let addr = usize::try_from(addr).map_err(|_| Refusal::NotRegistered)?;
        let by_addr = read(&self.by_addr);
        let region = containing(&by_addr, addr, len).ok_or(Refusal::NotRegistered)?;
        if key.is_some_and(|key| key != region.key) {
            return Err(Refusal::Key);
        }
        if !region.allows(op) {
            return Err(Refusal::Permission);
        }
        Pin::new(region, addr).ok_or(Refusal::Closing)
    }

    fn build(&self, new: &NewRegion<'_>) -> Result<Region> {
        let key = host::random_u64().map_err(|e| Error::os(ErrorKind::Memory, "random key", &e))?;
        Ok(Region {
            addr: new.addr,
            len: new.len,
            location: new.location.into(),
            permission: new.permission,
            key: key.max(1), // 0 means closed
            slot: None,
            shm: new.shm.or_else(|| self.backing_of(new.addr, new.len)),
            gate: Gate::new(),
        })
    }

    /// Opens a slot for it, unless peers may do nothing with it anyway.
    fn publish(&self, mut region: Region) -> Region {
        let guard = self.guard.as_ref().filter(|_| region.permission != Permission::Local);
        region.slot = guard.and_then(|guard| {
            guard.publish(region.key, region.addr, region.len, region.permission)
        });
        region
    }

    /// Takes back a slot that nobody can have heard of.
    fn retract(&self, region: &Region) {
        if let Some((guard, slot)) = self.slot_of(region) {
            guard.close(slot);
            guard.release(slot);
        }
    }

    fn slot_of(&self, region: &Region) -> Option<(&GuardTable, u32)> {
        self.guard.as_ref().zip(region.slot)
    }

    /// The memfd behind a range that lies in one allocation.
    fn backing_of(&self, addr: usize, len: usize) -> Option<ShmBacking> {
        let allocations = lock(&self.allocations);
        let (base, allocation) = allocations.range(..=addr).next_back()?;
        let offset = addr - base;
        let room = allocation.memory.len().checked_sub(offset)?;
        let fd = allocation.fd.as_raw_fd();
        (len <= room).then_some(ShmBacking { fd, offset: offset as u64 })
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    fn is_inherited(&self) -> bool {
        self.generation != host::fork_generation()
    }

    fn refuse_inherited(&self) -> Result<()> {
        if self.is_inherited() {
            let cause = "this engine belongs to the parent process: make a new one after a fork";
            return Err(Error::new(ErrorKind::EngineDown, cause));
        }
        Ok(())
    }

    /// Closes every region for good and waits until nobody here or on this host uses one; `false` if
    /// somebody still does after `timeout`.
    pub fn close(&self, timeout: Duration) -> bool {
        if self.is_inherited() {
            return false;
        }
        let deadline = Instant::now().after(timeout);
        let by_addr = read(&self.by_addr);
        for region in by_addr.values() {
            region.gate.close();
            if let Some((guard, slot)) = self.slot_of(region) {
                guard.close(slot);
            }
        }
        by_addr.values().all(|region| {
            let slot = self.slot_of(region);
            region.gate.wait_quiet(deadline)
                && slot.is_none_or(|(guard, slot)| guard.wait_quiet(slot, deadline))
        })
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        // a child's drop must not close the parent's table, nor discard its memory
        let quiet = self.close(Duration::ZERO);
        let mut engines = lock(&ENGINES);
        if engines.get(&self.incarnation.0).is_some_and(|engine| engine.strong_count() == 0) {
            engines.remove(&self.incarnation.0);
        }
        drop(engines);
        if !quiet {
            // somebody may still copy: to leak is better than to have it land in what comes after (I3)
            let allocations = std::mem::take(&mut *lock(&self.allocations));
            allocations.into_values().for_each(|allocation| std::mem::forget(allocation.memory));
        }
    }
}

impl std::fmt::Debug for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { incarnation, .. } = self;
        write!(f, "Regions({incarnation}, {} regions)", self.len())
    }
}

fn validate(new: &NewRegion<'_>) -> Result<()> {
    let NewRegion { addr, len, .. } = *new;
    let cause = if addr == 0 {
        "it begins at null"
    } else if len == 0 {
        "it is empty"
    } else if addr.checked_add(len).is_none() {
        "it wraps around"
    } else if !mem::is_mapped(addr, len) {
        "it is not mapped, or not readable, at its first or its last byte"
    } else {
        return Ok(());
    };
    let message = format!("cannot register {len} bytes at {addr:#x}: {cause}");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// The region that holds the range whole; adjacent regions do not merge (upstream's rule).
fn containing(
    by_addr: &BTreeMap<usize, Arc<Region>>,
    addr: usize,
    len: u64,
) -> Option<&Arc<Region>> {
    let end = addr.checked_add(usize::try_from(len).ok()?)?;
    let (_, region) = by_addr.range(..=addr).next_back()?;
    (end <= region.end() && addr < region.end()).then_some(region)
}

/// A region that shares a byte with a range that does not wrap around.
fn overlapping(
    by_addr: &BTreeMap<usize, Arc<Region>>,
    addr: usize,
    len: usize,
) -> Option<&Arc<Region>> {
    let (_, last) = by_addr.range(..addr + len).next_back()?;
    (last.end() > addr).then_some(last)
}

fn overlap(new: &Region, old: &Region) -> Error {
    let message = format!(
        "cannot register {} bytes at {:#x}: they overlap the region of {} bytes at {:#x}",
        new.len, new.addr, old.len, old.addr
    );
    Error::new(ErrorKind::Overlap, message)
}

fn busy(addr: usize, cause: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("the region at {addr:#x} {cause}"))
}

/// All engines of this process, by incarnation.
static ENGINES: Mutex<BTreeMap<u128, Weak<Regions>>> = Mutex::new(BTreeMap::new());

/// From here on huge pages are worth asking for.
const HUGE_PAGE: usize = 2 << 20;
