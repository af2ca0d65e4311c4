//! The words that the scheduler, the engine and the transports share. Plain data, no behaviour.

use crate::segment::ShmBacking;

/// Direction of a transfer, seen from the engine that submits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Peer memory → local memory.
    Read,
    /// Local memory → peer memory.
    Write,
}

/// The kinds of transport; also a bit in [`TransportMask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TransportKind {
    /// A plain copy within the process.
    Local = 0,
    /// A copy through a mapping of the peer's memfd.
    Shm = 1,
    /// `process_vm_readv` / `process_vm_writev`.
    Cma = 2,
    /// TCP: our protocol between our peers, upstream's towards an upstream node.
    Tcp = 3,
}

impl TransportKind {
    /// All kinds, best first.
    pub const ALL: [Self; 4] = [Self::Local, Self::Shm, Self::Cma, Self::Tcp];

    /// The name used in configuration, logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shm => "shm",
            Self::Cma => "cma",
            Self::Tcp => "tcp",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name().eq_ignore_ascii_case(name))
    }
}

/// A set of transport kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransportMask(pub u8);

impl TransportMask {
    /// Every kind.
    pub const ALL: Self = Self(0b1111);
    /// No kind.
    pub const NONE: Self = Self(0);

    /// The set that holds just `kind`.
    pub fn only(kind: TransportKind) -> Self {
        Self(1 << kind as u8)
    }

    /// Whether `kind` is in the set.
    pub fn has(self, kind: TransportKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// The set with `kind` added.
    #[must_use]
    pub fn with(self, kind: TransportKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// The kinds that both sets hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Urgent pieces have a lane of their own beside bulk ones (D3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Small or high-priority work.
    Urgent = 0,
    /// Everything else.
    Bulk = 1,
}

/// How much a task matters beside others to the same peer (D3): what is higher is claimed first, except
/// one claim in sixteen, so that nothing starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Priority {
    /// Someone waits for it.
    High = 0,
    /// What nothing is said of.
    #[default]
    Medium = 1,
    /// Whenever there is room; small requests of it are not urgent either.
    Low = 2,
}

/// One piece of a task, to be posted once to one rail.
///
/// `local` names registered memory of this process that the task keeps pinned until the piece has
/// completed; it is never turned into a reference, for peers write to it behind our back.
#[derive(Debug, Clone, Copy)]
pub struct SliceOp {
    /// Comes back in the completion.
    pub token: u64,
    /// Direction.
    pub op: Op,
    /// Urgent or bulk.
    pub class: Class,
    /// Address of the local range.
    pub local: usize,
    /// Address of the range in the peer.
    pub remote: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// The key of the peer's region in which the remote range lies.
    pub key: u64,
    /// Slot of that region in the peer's guard table, for copies within the host.
    pub slot: u32,
    /// The memfd behind that region, if there is one.
    pub shm: Option<ShmBacking>,
}

/// Why a posted piece did not land.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SliceFault {
    /// The peer (or the kernel for it) refused the range: not registered, no permission, stale key.
    Refused,
    /// The local range is not mapped any more.
    LocalMemory,
    /// The rail broke; the attempt is fenced: nothing of it can land any more (I3).
    RailLost,
    /// The rail broke and the peer cannot be asked to fence: what was sent may still land. A READ never
    /// gives this.
    RailLostUnfenced,
}

/// What a transport reports. Each accepted slice completes exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportEvent {
    /// The slice of this token is over: `None` when it has landed.
    Done {
        /// Token of the [`SliceOp`].
        token: u64,
        /// Why it did not land.
        fault: Option<SliceFault>,
    },
    /// The rail takes slices from now on.
    RailUp {
        /// Which rail, as the lane numbers it.
        rail: u32,
    },
    /// The rail broke: its slices will complete when they are fenced, then `RailDown` follows. Told at once,
    /// so that others can take the work meanwhile.
    RailBroken {
        /// Which rail, as the lane numbers it.
        rail: u32,
        /// Why.
        cause: DownCause,
    },
    /// The rail takes nothing any more; all its slices have completed. It may be connected again.
    RailDown {
        /// Which rail, as the lane numbers it.
        rail: u32,
        /// Why, for people and for the decision what to do with the work.
        cause: DownCause,
    },
}

/// Why a rail went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DownCause {
    /// Nobody listens there.
    Refused,
    /// No route, unreachable, or no answer within the connect time.
    Unreachable,
    /// The connection broke.
    Reset,
    /// The process at that address is not the one that the descriptor speaks of.
    WrongPeer,
    /// The peer does not speak the protocol.
    Protocol,
    /// This side asked for it.
    Aborted,
}

/// What a transport can do; the plan relies on its truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest piece that one post may carry, in bytes.
    pub max_slice: u64,
    /// Whether a post finishes before it returns (the copies).
    pub synchronous: bool,
}
