//! Copies within the process: between this engine's memory and that of another engine here, or its own.

#![allow(unsafe_code, reason = "copies registered memory, which is never a Rust reference")]

use super::{RailTarget, Transport};
use crate::memory::Regions;
use crate::slice::{Capabilities, DownCause, SliceFault, SliceOp, TransportEvent, TransportKind};
use crate::sys::mem;
use std::os::fd::RawFd;
use std::sync::Arc;

/// The transport `local`.
#[derive(Debug, Default)]
pub struct LocalTransport {
    rails: CopyRails<Arc<Regions>>,
}

impl LocalTransport {
    /// A transport without rails.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Transport for LocalTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Local
    }

    fn capabilities(&self) -> Capabilities {
        COPY_CAPABILITIES
    }

    fn connect(&mut self, rail: u32, to: &RailTarget) {
        let RailTarget::Local(regions) = to else {
            return self.rails.connect(rail, Err(DownCause::Unreachable));
        };
        self.rails.connect(rail, Ok(Arc::clone(regions)));
    }

    fn post(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        self.rails.post(rail, ops, |target, ops| {
            copy(target, &ops[0]).map_err(CopyFailure::Slice).map(|()| 1)
        })
    }

    fn poll(&mut self, events: &mut Vec<TransportEvent>) -> usize {
        self.rails.poll(events)
    }

    fn abort(&mut self, rail: u32) {
        self.rails.abort(rail);
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }
}

fn copy(target: &Regions, op: &SliceOp) -> Result<(), SliceFault> {
    let pin = target
        .pin_remote(op.remote, op.len, Some(op.key), op.op)
        .map_err(|_| SliceFault::Refused)?; // I11: it has been counted there
    // SAFETY: the task pins its local range and `pin` the other one, so both are registered, hence
    // mapped; registered memory is never a Rust reference.
    unsafe { copy_mapped(op, pin.addr()) };
    Ok(())
}

/// Copies a slice whose remote range is mapped in this process at `theirs`.
///
/// # Safety
/// As [`mem::copy`] demands it of the slice's local range and of the same length at `theirs`.
pub(super) unsafe fn copy_mapped(op: &SliceOp, theirs: usize) {
    // a mapped range is never longer than the address space
    let len = usize::try_from(op.len).unwrap_or(usize::MAX);
    let (to, from) = match op.op {
        crate::slice::Op::Read => (op.local, theirs),
        crate::slice::Op::Write => (theirs, op.local),
    };
    // SAFETY: the caller's promise.
    unsafe { mem::copy(to, from, len) };
}

/// What becomes of a copy that failed.
pub(super) enum CopyFailure {
    /// The slice is lost, the rail is fine.
    Slice(SliceFault),
    /// The rail is lost with it, having written nothing more.
    Rail(DownCause),
}

/// What the transports that copy at once have in common: which rails are up, and what is to be told.
#[derive(Debug)]
pub(super) struct CopyRails<R> {
    /// By rail number; `None` when it is down.
    rails: Vec<Option<R>>,
    events: Vec<TransportEvent>,
}

impl<R> Default for CopyRails<R> {
    fn default() -> Self {
        Self { rails: Vec::new(), events: Vec::with_capacity(EVENTS_MAX + EVENTS_SPARE) }
    }
}

impl<R> CopyRails<R> {
    /// Brings a rail up with what it needs to copy, or reports that it cannot be.
    pub(super) fn connect(&mut self, rail: u32, with: Result<R, DownCause>) {
        let index = rail as usize;
        if self.rails.len() <= index {
            self.rails.resize_with(index + 1, || None);
        }
        self.events.push(match &with {
            Ok(_) => TransportEvent::RailUp { rail },
            Err(cause) => TransportEvent::RailDown { rail, cause: *cause },
        });
        self.rails[index] = with.ok();
    }

    /// Copies `ops` one after another. `copy` copies the first of those left, or several from the front if
    /// that is cheaper, and returns how many.
    pub(super) fn post(
        &mut self,
        rail: u32,
        ops: &[SliceOp],
        mut copy: impl FnMut(&mut R, &[SliceOp]) -> Result<usize, CopyFailure>,
    ) -> usize {
        let Some(up) = self.rails.get_mut(rail as usize).and_then(Option::as_mut) else { return 0 };
        let room = EVENTS_MAX.saturating_sub(self.events.len()).min(ops.len());
        let mut taken = 0;
        while taken < room {
            let (copied, fault, down) = match copy(up, &ops[taken..room]) {
                Ok(copied) => (copied, None, None),
                Err(CopyFailure::Slice(fault)) => (1, Some(fault), None),
                // a copy that has returned is fenced by itself
                Err(CopyFailure::Rail(cause)) => (1, Some(SliceFault::RailLost), Some(cause)),
            };
            let done = ops[taken..taken + copied].iter();
            self.events.extend(done.map(|op| TransportEvent::Done { token: op.token, fault }));
            taken += copied;
            if let Some(cause) = down {
                self.down(rail, cause);
                break;
            }
        }
        taken
    }

    pub(super) fn poll(&mut self, events: &mut Vec<TransportEvent>) -> usize {
        let told = self.events.len();
        events.append(&mut self.events);
        told
    }

    /// Nothing is ever in flight between two calls, so there is nothing to complete first.
    pub(super) fn abort(&mut self, rail: u32) {
        self.down(rail, DownCause::Aborted);
    }

    fn down(&mut self, rail: u32, cause: DownCause) {
        let up = self.rails.get_mut(rail as usize).and_then(Option::take);
        if up.is_some() {
            self.events.push(TransportEvent::RailDown { rail, cause });
        }
    }
}

/// A lane is blocked while it copies: a mebibyte takes about 100 µs.
pub(super) const COPY_CAPABILITIES: Capabilities =
    Capabilities { max_slice: 1 << 20, synchronous: true };

/// Slices that may wait to be told; more are not taken until `poll`.
const EVENTS_MAX: usize = 256;
/// Room for what rails tell besides, before the list grows.
const EVENTS_SPARE: usize = 64;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::segment::Permission;
    use crate::slice::{Class, Op};

    /// An engine with `len` bytes of zeros, and a slice that writes the first half to the second.
    fn engine(len: usize) -> (Arc<Regions>, SliceOp) {
        let regions = Regions::new(Incarnation(crate::sys::host::random_u128().unwrap()));
        let local = regions.allocate(2 * len, "*").unwrap();
        let access = regions.describe()[0].access.unwrap();
        assert_eq!(access.permission, Permission::ReadWrite);
        let op = SliceOp {
            token: 1,
            op: Op::Write,
            class: Class::Bulk,
            local,
            remote: (local + len) as u64,
            len: len as u64,
            key: access.key,
            slot: access.slot,
            shm: access.shm,
        };
        (regions, op)
    }

    #[test]
    fn no_more_slices_are_taken_than_can_be_told() {
        let (regions, op) = engine(64);
        let mut transport = LocalTransport::new();
        transport.connect(0, &RailTarget::Local(regions));
        assert_eq!(transport.post(0, &[op, op, op]), 3);
        let taken = (0..EVENTS_MAX).map(|_| transport.post(0, &[op, op])).sum::<usize>();
        assert!(taken < EVENTS_MAX);
        let room = transport.rails.events.capacity();
        let mut events = Vec::new();
        assert_eq!((transport.poll(&mut events) > 0, transport.poll(&mut events)), (true, 0));
        assert_eq!(events.len(), 1 + 3 + taken);
        assert_eq!(transport.post(0, &[op]), 1);
        assert_eq!(transport.rails.events.capacity(), room, "no allocation per slice");
    }

    #[test]
    fn ranges_that_overlap_are_moved() {
        let (regions, op) = engine(4096);
        let op = SliceOp { remote: op.local as u64 + 1, ..op };
        for i in 0..4096_usize {
            let byte = u8::try_from(i % 251).unwrap();
            let from = std::ptr::from_ref(&byte).expose_provenance();
            // SAFETY: one byte of the allocation, which nobody else uses.
            unsafe { mem::copy(op.local + i, from, 1) };
        }
        let mut transport = LocalTransport::new();
        transport.connect(0, &RailTarget::Local(regions));
        assert_eq!(transport.post(0, &[op]), 1);
        for i in [0, 1, 100, 4095] {
            let pid = crate::sys::host::pid();
            let byte = mem::peek_process(pid, op.local + 1 + i, 1).unwrap();
            assert_eq!(byte, i as u64 % 251);
        }
    }

    #[test]
    fn a_target_of_another_kind_is_unreachable() {
        let (regions, _op) = engine(64);
        let link = crate::memory::link::tests::facts_of(&regions);
        let link = Arc::new(crate::memory::link::HostLink::attach(&link).unwrap());
        let mut events = Vec::new();
        LocalTransport::new().abort(3); // was never up: nothing to tell
        let mut local = LocalTransport::new();
        local.connect(3, &RailTarget::Host(link));
        local.poll(&mut events);
        let mut cma = crate::transport::cma::CmaTransport::new();
        cma.connect(3, &RailTarget::Local(regions));
        cma.poll(&mut events);
        let down = TransportEvent::RailDown { rail: 3, cause: DownCause::Unreachable };
        assert_eq!(events, [down, down]);
    }
}
