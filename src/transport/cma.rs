//! Copies to and from any registered memory of a peer on this host, by `process_vm_readv` and
//! `process_vm_writev`.
//!
//! The kernel would copy from whatever is at the address: that it is the region which the peer registered
//! is the guard table's work (I11), and that the process is still the peer that of its pidfd. What is
//! left is a peer that starts another program in its place without ending its engine: its pid stays, and
//! only the addresses of the new program, which differ, speak against it.

#![allow(unsafe_code, reason = "has the kernel copy to and from registered memory")]

use super::RailTarget;
use super::copy::{CopyFailure, CopyPath, CopyTransport};
use super::shm::HostRail;
use crate::slice::{DownCause, Op, SliceFault, SliceOp, TransportKind};
use crate::sys::host;
use crate::sys::mem::{self, Direction, Stopped};

/// The transport `cma`.
pub type CmaTransport = CopyTransport<CmaPath>;

/// To any registered memory of a peer that the kernel lets us copy with.
#[derive(Debug)]
pub struct CmaPath(HostRail);

impl CopyPath for CmaPath {
    const KIND: TransportKind = TransportKind::Cma;

    fn open(to: &RailTarget) -> Result<Self, DownCause> {
        let rail = HostRail::new(to)?;
        if rail.link.cma_ok() { Ok(Self(rail)) } else { Err(DownCause::Unreachable) }
    }

    fn copy(&mut self, ops: &[SliceOp]) -> Result<usize, CopyFailure> {
        match copy_many(&mut self.0, ops) {
            0 => copy(&mut self.0, &ops[0]).map(|()| 1),
            copied => Ok(copied),
        }
    }
}

/// Copies those of `ops` that go the way of the first, to or from the same region, in one system call;
/// returns how many were copied wholly, from the front. Zero means no more than that it is for [`copy`] to
/// copy the next, or to say why it cannot.
fn copy_many(rail: &mut HostRail, ops: &[SliceOp]) -> usize {
    let first = &ops[0];
    let alike = |op: &&SliceOp| (op.slot, op.key, op.op) == (first.slot, first.key, first.op);
    let count = ops.iter().take(mem::MANY_RANGES).take_while(alike).count();
    if count < 2 || !rail.link.is_alive() {
        return 0;
    }
    let pid = rail.link.pid();
    let entered = rail.copier.enter(first.slot, first.key, first.remote, first.len, first.op);
    let Some(held) = entered else { return 0 };
    // one entry in the guard table holds the region; every range must lie in it (I11)
    let ranges = || {
        let inside = |op: &&SliceOp| held.contains(op.remote, op.len);
        let range = |op: &SliceOp| {
            let remote = usize::try_from(op.remote).ok()?;
            Some((op.local, remote, usize::try_from(op.len).ok()?))
        };
        ops[..count].iter().take_while(inside).map_while(range)
    };
    // SAFETY: as in `copy`, for each range.
    let mut done = unsafe { mem::copy_process_many(pid, direction(first.op), ranges()) };
    drop(held);
    let whole = |op: &&SliceOp| {
        // a length that is no usize was not among the ranges
        let left = usize::try_from(op.len).ok().and_then(|len| done.checked_sub(len));
        done = left.unwrap_or(0);
        left.is_some()
    };
    ops[..count].iter().take_while(whole).count()
}

fn direction(op: Op) -> Direction {
    match op {
        Op::Read => Direction::FromPeer,
        Op::Write => Direction::ToPeer,
    }
}

fn copy(rail: &mut HostRail, op: &SliceOp) -> Result<(), CopyFailure> {
    if !rail.link.is_alive() {
        return Err(CopyFailure::Rail(DownCause::Reset));
    }
    let refused = CopyFailure::Slice(SliceFault::Refused);
    let pid = rail.link.pid();
    let sizes = usize::try_from(op.remote).and_then(|at| Ok((at, usize::try_from(op.len)?)));
    let Ok((remote, len)) = sizes else { return Err(refused) };
    let entered = rail.copier.enter(op.slot, op.key, op.remote, op.len, op.op);
    let Some(held) = entered else { return Err(refused) };
    // SAFETY: the task pins its local range, and `held` keeps the remote one registered by its owner,
    // with the permission that `op` needs; so either may be overwritten.
    let copied = unsafe { mem::copy_process(pid, direction(op.op), op.local, remote, len) };
    drop(held);
    copied.map_err(|Stopped { done, cause }| match cause.raw_os_error() {
        Some(libc::EFAULT) => CopyFailure::Slice(whose_fault(pid, op, remote, done)),
        Some(libc::ESRCH) => CopyFailure::Rail(DownCause::Reset),
        _ => {
            log::warn!("copy with process {pid} refused: {cause}; {}", host::ptrace_scope());
            CopyFailure::Rail(DownCause::Unreachable)
        }
    })
}

/// The kernel does not say which side was not mapped; the side that was only read can be asked.
fn whose_fault(pid: i32, op: &SliceOp, remote: usize, done: usize) -> SliceFault {
    let peek = |pid, addr: usize| mem::peek_process(pid, addr + done, 1).is_ok();
    let theirs = match op.op {
        Op::Read => !peek(pid, remote),
        Op::Write => peek(host::pid(), op.local),
    };
    if theirs { SliceFault::Refused } else { SliceFault::LocalMemory }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::memory::Regions;
    use crate::memory::link::HostLink;
    use crate::memory::link::tests::facts_of;
    use crate::slice::{Class, TransportEvent};
    use crate::transport::Transport;
    use std::sync::Arc;

    const LEN: usize = 1 << 16;

    /// Takes all access to the upper half of `LEN` bytes away, or gives it back.
    fn protect(addr: usize, protection: i32) {
        let half = std::ptr::with_exposed_provenance_mut(addr + LEN / 2);
        // SAFETY: memory of this test, which nobody touches but through the kernel.
        assert_eq!(unsafe { libc::mprotect(half, LEN / 2, protection) }, 0);
    }

    /// Two engines of this process, `LEN` bytes of memory each, a transport with rail 0 from one to the
    /// other, and a slice over all of it.
    fn pair(op: Op) -> ([Arc<Regions>; 2], CmaTransport, SliceOp) {
        let engine = || Regions::new(Incarnation(host::random_u128().unwrap()));
        let (peer, own) = (engine(), engine());
        let remote = peer.allocate(LEN, "*").unwrap() as u64;
        let local = own.allocate(LEN, "*").unwrap();
        let access = peer.describe()[0].access.unwrap();
        let (key, slot, shm) = (access.key, access.slot, access.shm);
        let link = Arc::new(HostLink::attach(&facts_of(&peer)).unwrap());
        let mut transport = CmaTransport::new();
        transport.connect(0, &RailTarget::Host(link));
        transport.poll(&mut Vec::new());
        let (class, len) = (Class::Bulk, LEN as u64);
        let slice = SliceOp { token: 9, op, class, local, remote, len, key, slot, shm };
        ([peer, own], transport, slice)
    }

    /// I3, I11: in a call for many, each slice has its own outcome, and none covers for another.
    #[test]
    fn of_many_slices_only_the_bad_ones_fail() {
        const SMALL: usize = 128;
        for op in [Op::Read, Op::Write] {
            let (_engines, mut transport, whole) = pair(op);
            let count = 3 * mem::MANY_RANGES;
            let mut ops: Vec<SliceOp> = (0..count)
                .map(|i| SliceOp {
                    token: i as u64,
                    local: whole.local + i * SMALL,
                    remote: whole.remote + (i * SMALL) as u64,
                    len: (SMALL) as u64,
                    ..whole
                })
                .collect();
            ops[5].key ^= 1;
            ops[70].remote = whole.remote + LEN as u64 - 1;
            ops[100].remote = whole.remote + (LEN / 2) as u64;
            ops[130].slot = u32::MAX;
            let theirs = usize::try_from(whole.remote).unwrap();
            for (i, op) in ops.iter().enumerate() {
                let byte = u8::try_from(i + 1).unwrap();
                let from = if op.op == Op::Read { theirs } else { whole.local };
                let to = from + i * SMALL;
                let bytes = [byte; SMALL];
                // SAFETY: memory of this test, which nobody else uses.
                unsafe { mem::copy(to, bytes.as_ptr().expose_provenance(), bytes.len()) };
            }
            protect(theirs, libc::PROT_NONE);
            assert_eq!(transport.post(0, &ops), count);
            protect(theirs, libc::PROT_READ | libc::PROT_WRITE);
            let mut events = Vec::new();
            transport.poll(&mut events);
            assert_eq!(events.len(), count);
            for (i, event) in events.iter().enumerate() {
                let fault = [5, 70, 100, 130].contains(&i).then_some(SliceFault::Refused);
                assert_eq!(*event, TransportEvent::Done { token: i as u64, fault }, "{op:?} {i}");
                let at = if op == Op::Read { ops[i].local } else { theirs + i * SMALL };
                for at in [at, at + SMALL - 1] {
                    let byte = mem::peek_process(host::pid(), at, 1).unwrap();
                    assert_eq!(byte, if fault.is_some() { 0 } else { i as u64 + 1 }, "{op:?} {i}");
                }
            }
        }
    }

    #[test]
    fn a_side_that_is_not_mapped_is_told_from_the_other() {
        let (_engines, mut transport, whole) = pair(Op::Read);
        let (theirs, ours) = (usize::try_from(whole.remote).unwrap(), whole.local);
        let mut run = |op| {
            let slice = SliceOp { op, ..whole };
            assert_eq!(transport.post(0, &[slice]), 1);
            let mut events = Vec::new();
            transport.poll(&mut events);
            match events.last() {
                Some(TransportEvent::Done { token: 9, fault }) => *fault,
                other => panic!("{other:?}"),
            }
        };
        let all = libc::PROT_READ | libc::PROT_WRITE;
        for op in [Op::Read, Op::Write] {
            protect(theirs, libc::PROT_NONE);
            assert_eq!(run(op), Some(SliceFault::Refused), "{op:?}");
            protect(theirs, all);
            protect(ours, libc::PROT_NONE);
            assert_eq!(run(op), Some(SliceFault::LocalMemory), "{op:?}");
            protect(ours, all);
        }
        protect(theirs, libc::PROT_READ);
        assert_eq!(run(Op::Write), Some(SliceFault::Refused));
        assert_eq!(run(Op::Read), None);
        protect(theirs, all);
        protect(ours, libc::PROT_READ);
        assert_eq!(run(Op::Read), Some(SliceFault::LocalMemory));
        assert_eq!(run(Op::Write), None);
    }
}
