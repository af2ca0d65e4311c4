//! Copies within the process: between this engine's memory and that of another engine here, or its own.

#![allow(unsafe_code, reason = "copies registered memory, which is never a Rust reference")]

use super::RailTarget;
use super::copy::{CopyFailure, CopyPath, CopyTransport};
use crate::memory::Regions;
use crate::slice::{DownCause, SliceFault, SliceOp, TransportKind};
use crate::sys::mem;
use std::sync::Arc;

/// The transport `local`.
pub type LocalTransport = CopyTransport<LocalPath>;

/// To the regions of an engine of this process.
#[derive(Debug)]
pub struct LocalPath(Arc<Regions>);

impl CopyPath for LocalPath {
    const KIND: TransportKind = TransportKind::Local;

    fn open(to: &RailTarget) -> Result<Self, DownCause> {
        let RailTarget::Local(regions) = to else { return Err(DownCause::Unreachable) };
        Ok(Self(Arc::clone(regions)))
    }

    fn copy(&mut self, ops: &[SliceOp]) -> Result<usize, CopyFailure> {
        copy(&self.0, &ops[0]).map_err(CopyFailure::Slice).map(|()| 1)
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::segment::Permission;
    use crate::slice::TransportEvent;
    use crate::slice::{Class, Op};
    use crate::transport::Transport;
    use crate::transport::copy::EVENTS_MAX;

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
        let room = transport.events.capacity();
        let mut events = Vec::new();
        assert_eq!((transport.poll(&mut events) > 0, transport.poll(&mut events)), (true, 0));
        assert_eq!(events.len(), 1 + 3 + taken);
        assert_eq!(transport.post(0, &[op]), 1);
        assert_eq!(transport.events.capacity(), room, "no allocation per slice");
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
