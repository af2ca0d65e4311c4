//! One registered range, and the gate that counts who uses it.

use crate::segment::{Access, Permission, ShmBacking};
use crate::slice::Op;
use crate::sync::{AtomicU64, Ordering, lock};
use crate::time::Instant;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A registered range.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) addr: usize,
    pub(super) len: usize,
    pub(super) location: Box<str>,
    pub(super) permission: Permission,
    pub(super) key: u64,
    /// Slot in the guard table; `None` when peers may do nothing, or the table is full or missing.
    pub(super) slot: Option<u32>,
    pub(super) shm: Option<ShmBacking>,
    pub(super) gate: Gate,
}

impl Region {
    /// One past the last byte.
    pub(super) fn end(&self) -> usize {
        self.addr + self.len // registration refuses a range that wraps around
    }

    /// How peers reach it.
    pub(super) fn access(&self) -> Access {
        Access {
            key: self.key,
            permission: self.permission,
            slot: self.slot.unwrap_or(super::NO_SLOT),
            shm: self.shm,
        }
    }

    /// Whether peers may do this.
    pub(super) fn allows(&self, op: Op) -> bool {
        match self.permission {
            Permission::Local => false,
            Permission::Read => op == Op::Read,
            Permission::ReadWrite => true,
        }
    }
}

/// A range in use: its region stays registered, and the call that unregisters it waits (I6).
#[derive(Debug)]
pub struct Pin {
    region: Arc<Region>,
    addr: usize,
}

impl Pin {
    /// `None` when the region is being unregistered.
    pub(super) fn new(region: &Arc<Region>, addr: usize) -> Option<Self> {
        region.gate.enter().then(|| Self { region: Arc::clone(region), addr })
    }

    /// First byte of the range that was asked for.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Where the memory is, as its owner said: `*`, `cpu:0` …
    pub fn location(&self) -> &str {
        &self.region.location
    }

    /// Whether somebody waits for this pin in order to unregister, so that the data path may stop early.
    pub fn closing(&self) -> bool {
        self.region.gate.is_closed()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.region.gate.leave();
    }
}

/// Counts users; can be closed to new ones, and waited on until the last has left.
#[derive(Debug)]
pub(super) struct Gate {
    /// Users, and [`CLOSED`] on top.
    state: AtomicU64,
    lock: Mutex<()>,
    left: Condvar,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { state: AtomicU64::new(0), lock: Mutex::new(()), left: Condvar::new() }
    }

    /// Counts a user in, unless the gate is closed.
    fn enter(&self) -> bool {
        let open = self.state.fetch_add(1, Ordering::Acquire) & CLOSED == 0;
        if !open {
            self.leave();
        }
        open
    }

    fn leave(&self) {
        // Release: what the user did to the memory comes before its end
        if self.state.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            // taking the lock makes sure that a waiter which saw the old count sleeps already
            drop(lock(&self.lock));
            self.left.notify_all();
        }
    }

    /// Closes the gate; `false` when it was closed already, and somebody else will open or end it.
    pub(super) fn close(&self) -> bool {
        self.state.fetch_or(CLOSED, Ordering::AcqRel) & CLOSED == 0
    }

    pub(super) fn reopen(&self) {
        self.state.fetch_and(!CLOSED, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.state.load(Ordering::Acquire) & !CLOSED == 0
    }

    /// Waits until all users of a closed gate have left; `false` when the deadline came first.
    pub(super) fn wait_quiet(&self, deadline: Instant) -> bool {
        let mut guard = lock(&self.lock);
        loop {
            if self.is_quiet() {
                return true;
            }
            let left = deadline.since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.left.wait_timeout(guard, left);
            guard = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

const CLOSED: u64 = 1 << 63;

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// I6: who closes the gate and then finds it quiet may take the memory away.
    #[test]
    fn a_user_and_the_end_of_the_region_exclude_each_other() {
        loom::model(|| {
            let shared = Arc::new((Gate::new(), UnsafeCell::new(0)));
            let user = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    if shared.0.enter() {
                        shared.1.with_mut(|_memory| ());
                        shared.0.leave();
                    }
                })
            };
            assert!(shared.0.close());
            if shared.0.is_quiet() {
                shared.1.with_mut(|_memory| ());
            }
            user.join().unwrap();
            assert!(shared.0.is_quiet() && !shared.0.enter());
        });
    }
}
