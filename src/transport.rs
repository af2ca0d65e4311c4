//! Code that executes slices. A transport obeys and reports: it never retries, waits, times or chooses.
//!
//! Contract (proven on every transport by `transport::contract`):
//! - each accepted slice completes exactly once, through [`Transport::poll`];
//! - after that the device, the kernel and the peer touch its memory no more for its sake, unless the
//!   fault says `RailLostUnfenced` (I3);
//! - `RailDown` is reported only when all slices of the rail have completed;
//! - a short count from [`Transport::post`] is back-pressure, not an error;
//! - nothing blocks, and after warm-up nothing allocates per slice.

use crate::slice::{Capabilities, SliceOp, TransportEvent, TransportKind};
use std::os::fd::RawFd;
use std::sync::Arc;

pub mod cma;
#[cfg(test)]
mod contract;
pub mod copy;
pub mod local;
pub mod shm;
pub mod tcp;

/// Where a rail leads. Made by the engine from a peer's descriptor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RailTarget {
    /// Another engine of this process, or this one: its regions.
    Local(Arc<crate::memory::Regions>),
    /// A peer on this host, attached (shm and cma).
    Host(Arc<crate::memory::link::HostLink>),
    /// One of our own peers over TCP.
    Tcp(tcp::TcpTarget),
    /// An upstream node over TCP.
    Upstream(tcp::UpstreamTarget),
    /// A path of the simulator, and which life of the host behind it is meant (D13).
    #[cfg(any(test, feature = "cli"))]
    Sim {
        /// As the simulated world numbers it.
        path: u32,
        /// Grows when the host starts anew.
        life: u32,
    },
}

/// One kind of transport, owned by one lane (hence `&mut self`; no locks inside).
///
/// Rails are numbered by the lane; a number is used again only after its `RailDown`.
pub trait Transport: Send + std::fmt::Debug {
    /// Which kind it is.
    fn kind(&self) -> TransportKind;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Starts to make `rail` usable; `RailUp` or `RailDown` follows from `poll`.
    fn connect(&mut self, rail: u32, to: &RailTarget);

    /// Takes slices for a rail that is up; returns how many, counted from the front.
    fn post(&mut self, rail: u32, ops: &[SliceOp]) -> usize;

    /// Moves bytes and appends what has happened; returns the bytes moved, at least 1 if anything
    /// happened, else 0.
    fn poll(&mut self, events: &mut Vec<TransportEvent>) -> usize;

    /// Gives the rail up: its slices complete with a fault when nothing of them can land any more, then
    /// `RailDown` follows. While that lasts, another call asks for the fence anew.
    fn abort(&mut self, rail: u32);

    /// Gives the rail up without a fence: whoever calls has waited for longer than a peer of ours writes
    /// from a silent connection ([`tcp::frame::SILENCE`]). Its slices complete at once, then `RailDown`.
    fn forsake(&mut self, rail: u32) {
        self.abort(rail);
    }

    /// A number that grows with each byte of the rail that the other end acknowledges or sends, asked for
    /// before a rail is taken to be silent; `None` if the transport cannot say.
    fn bytes_through(&mut self, _rail: u32) -> Option<u64> {
        None
    }

    /// Asks that a posted slice write nothing more: it completes soon, landed or as `RailLost`. A transport
    /// that cannot do this for a single slice does nothing.
    fn cancel(&mut self, _rail: u32, _token: u64) {}

    /// A descriptor that becomes readable when `poll` has something to do; `None` if it never does by
    /// itself.
    fn wait_fd(&self) -> Option<RawFd>;
}
