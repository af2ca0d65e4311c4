//! Copies to and from memory of a peer on this host that the peer's engine allocated: its memfd is mapped
//! here. A region without one is refused; that memory takes `cma`.

#![allow(unsafe_code, reason = "copies registered memory, which is never a Rust reference")]

use super::RailTarget;
use super::copy::{CopyFailure, CopyPath, CopyTransport};
use super::local::copy_mapped;
use crate::memory::Copier;
use crate::memory::link::HostLink;
use crate::slice::{DownCause, SliceFault, SliceOp, TransportKind};
use std::sync::Arc;

/// The transport `shm`.
pub type ShmTransport = CopyTransport<ShmPath>;

/// To memory that the peer's engine allocated.
#[derive(Debug)]
pub struct ShmPath(HostRail);

impl CopyPath for ShmPath {
    const KIND: TransportKind = TransportKind::Shm;

    fn open(to: &RailTarget) -> Result<Self, DownCause> {
        HostRail::new(to).map(Self)
    }

    fn copy(&mut self, ops: &[SliceOp]) -> Result<usize, CopyFailure> {
        copy(&mut self.0, &ops[0]).map(|()| 1)
    }
}

/// A rail to a peer on this host; `shm` and `cma` alike.
#[derive(Debug)]
pub(super) struct HostRail {
    pub(super) link: Arc<HostLink>,
    pub(super) copier: Copier,
}

impl HostRail {
    /// Why not, when the target is not such a peer, its process is gone, or it gives no room to one more
    /// copier.
    pub(super) fn new(to: &RailTarget) -> Result<Self, DownCause> {
        let RailTarget::Host(link) = to else { return Err(DownCause::Unreachable) };
        if !link.is_alive() {
            return Err(DownCause::Refused);
        }
        let copier = link.copier().ok_or(DownCause::Unreachable)?;
        Ok(Self { link: Arc::clone(link), copier })
    }
}

fn copy(rail: &mut HostRail, op: &SliceOp) -> Result<(), CopyFailure> {
    if !rail.link.is_alive() {
        // the mapping is still there: a write would be told as landed, and nobody would ever see it
        return Err(CopyFailure::Rail(DownCause::Reset));
    }
    let refused = CopyFailure::Slice(SliceFault::Refused);
    let entered = rail.copier.enter(op.slot, op.key, op.remote, op.len, op.op);
    let (Some(held), Some(shm)) = (entered, op.shm) else { return Err(refused) };
    let mapping = rail.link.mapping(shm, &held).map_err(|e| {
        log::warn!("cannot map memory of process {}: {e}", rail.link.pid());
        CopyFailure::Rail(DownCause::Unreachable)
    })?;
    let theirs = mapping.local_addr(op.remote, op.len).ok_or(refused)?;
    // SAFETY: the task pins its local range; the other one lies in the mapping, which lives until the end
    // of this call, was made of a file that cannot shrink, and is writable if `op` writes, for `held`
    // says that the region is. Registered memory is never a Rust reference.
    unsafe { copy_mapped(op, theirs) };
    drop(held);
    Ok(())
}
