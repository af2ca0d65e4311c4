//! Copies to and from any registered memory of a peer on this host, by `process_vm_readv` and
//! `process_vm_writev`.
//!
//! The kernel would copy from whatever is at the address: that it is the region which the peer registered
//! is the guard table's work (I11), and that the process is still the peer that of its pidfd. What is
//! left is a peer that starts another program in its place without ending its engine: its pid stays, and
//! only the addresses of the new program, which differ, speak against it.

#![allow(unsafe_code, reason = "has the kernel copy to and from registered memory")]

use super::local::{COPY_CAPABILITIES, CopyFailure, CopyRails};
use super::shm::HostRail;
use super::{RailTarget, Transport};
use crate::slice::{
    Capabilities, DownCause, Op, SliceFault, SliceOp, TransportEvent, TransportKind,
};
use crate::sys::host;
use crate::sys::mem::{self, Direction, Stopped};
use std::os::fd::RawFd;

/// The transport `cma`.
#[derive(Debug, Default)]
pub struct CmaTransport {
    rails: CopyRails<HostRail>,
}

impl CmaTransport {
    /// A transport without rails.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Transport for CmaTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Cma
    }

    fn capabilities(&self) -> Capabilities {
        COPY_CAPABILITIES
    }

    fn connect(&mut self, rail: u32, to: &RailTarget) {
        let allowed = |rail: HostRail| {
            if rail.link.cma_ok() { Ok(rail) } else { Err(DownCause::Unreachable) }
        };
        self.rails.connect(rail, HostRail::new(to).and_then(allowed));
    }

    fn post(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        self.rails.post(rail, ops, copy)
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
    let direction = match op.op {
        Op::Read => Direction::FromPeer,
        Op::Write => Direction::ToPeer,
    };
    // SAFETY: the task pins its local range, and `held` keeps the remote one registered by its owner,
    // with the permission that `op` needs; so either may be overwritten.
    let copied = unsafe { mem::copy_process(pid, direction, op.local, remote, len) };
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
    use crate::slice::Class;
    use std::sync::Arc;

    const LEN: usize = 1 << 16;

    /// Takes all access to the upper half of `LEN` bytes away, or gives it back.
    fn protect(addr: usize, protection: i32) {
        let half = std::ptr::with_exposed_provenance_mut(addr + LEN / 2);
        // SAFETY: memory of this test, which nobody touches but through the kernel.
        assert_eq!(unsafe { libc::mprotect(half, LEN / 2, protection) }, 0);
    }

    #[test]
    fn a_side_that_is_not_mapped_is_told_from_the_other() {
        let engine = || Regions::new(Incarnation(host::random_u128().unwrap()));
        let (peer, own) = (engine(), engine());
        let theirs = peer.allocate(LEN, "*").unwrap();
        let ours = own.allocate(LEN, "*").unwrap();
        let access = peer.describe()[0].access.unwrap();
        let link = Arc::new(HostLink::attach(&facts_of(&peer)).unwrap());
        let mut transport = CmaTransport::new();
        transport.connect(0, &RailTarget::Host(link));
        let mut run = |op| {
            let slice = SliceOp {
                token: 9,
                op,
                class: Class::Bulk,
                local: ours,
                remote: theirs as u64,
                len: LEN as u64,
                key: access.key,
                slot: access.slot,
                shm: access.shm,
            };
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
