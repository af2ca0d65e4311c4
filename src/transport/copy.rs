//! What the transports that copy at once have in common: which rails are up, and what is to be told. Each
//! adds how it opens a rail and how it copies ([`CopyPath`]).

use super::{RailTarget, Transport};
use crate::slice::{Capabilities, DownCause, SliceFault, SliceOp, TransportEvent, TransportKind};
use std::os::fd::RawFd;

/// What becomes of a copy that failed.
#[derive(Debug)]
pub enum CopyFailure {
    /// The slice is lost, the rail is fine.
    Slice(SliceFault),
    /// The rail is lost with it, having written nothing more.
    Rail(DownCause),
}

/// A way to copy: what a rail holds while it is up.
pub trait CopyPath: Sized + Send + std::fmt::Debug {
    /// Its kind.
    const KIND: TransportKind;

    /// What a rail to `to` needs to copy.
    ///
    /// # Errors
    /// Why there is no such rail.
    fn open(to: &RailTarget) -> Result<Self, DownCause>;

    /// Copies the first of `ops`, which are never none, or several from the front if that is cheaper; how
    /// many.
    ///
    /// # Errors
    /// What became of the first; the others were not begun.
    fn copy(&mut self, ops: &[SliceOp]) -> Result<usize, CopyFailure>;
}

/// A transport that copies on the spot.
#[derive(Debug)]
pub struct CopyTransport<P> {
    /// By rail number; `None` when it is down.
    rails: Vec<Option<P>>,
    pub(super) events: Vec<TransportEvent>,
}

impl<P> Default for CopyTransport<P> {
    fn default() -> Self {
        Self { rails: Vec::new(), events: Vec::with_capacity(EVENTS_MAX + EVENTS_SPARE) }
    }
}

impl<P> CopyTransport<P> {
    /// A transport without rails.
    pub fn new() -> Self {
        Self::default()
    }

    fn down(&mut self, rail: u32, cause: DownCause) {
        let up = self.rails.get_mut(rail as usize).and_then(Option::take);
        if up.is_some() {
            self.events.push(TransportEvent::RailDown { rail, cause });
        }
    }
}

impl<P: CopyPath> Transport for CopyTransport<P> {
    fn kind(&self) -> TransportKind {
        P::KIND
    }

    /// A lane is blocked while it copies: a mebibyte takes about 100 µs.
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_slice: 1 << 20, synchronous: true }
    }

    fn connect(&mut self, rail: u32, to: &RailTarget) {
        let index = rail as usize;
        if self.rails.len() <= index {
            self.rails.resize_with(index + 1, || None);
        }
        let opened = P::open(to);
        self.events.push(match &opened {
            Ok(_) => TransportEvent::RailUp { rail },
            Err(cause) => TransportEvent::RailDown { rail, cause: *cause },
        });
        self.rails[index] = opened.ok();
    }

    fn post(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        let Some(up) = self.rails.get_mut(rail as usize).and_then(Option::as_mut) else { return 0 };
        let room = EVENTS_MAX.saturating_sub(self.events.len()).min(ops.len());
        let mut taken = 0;
        while taken < room {
            let (copied, fault, down) = match up.copy(&ops[taken..room]) {
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

    fn poll(&mut self, events: &mut Vec<TransportEvent>) -> usize {
        let told = self.events.len();
        events.append(&mut self.events);
        told
    }

    /// Nothing is ever in flight between two calls, so there is nothing to complete first.
    fn abort(&mut self, rail: u32) {
        self.down(rail, DownCause::Aborted);
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }
}

/// Slices that may wait to be told; more are not taken until `poll`.
pub(super) const EVENTS_MAX: usize = 256;
/// Room for what rails tell besides, before the list grows.
const EVENTS_SPARE: usize = 64;
