//! The one error of the crate, classed by what is lost: the call, the peer, the metadata, the engine.
//!
//! What happens to a slice or a rail is never an [`Error`]: the engine makes up for it, and a task that
//! cannot be saved ends in a *state* (`Failed`, `TimedOut`, `Canceled`).

use std::fmt;

/// Result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing went wrong; the C face maps each kind to its own convention's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument makes no sense; nothing was changed.
    InvalidArgument,
    /// The batch has no room for so many tasks; nothing was submitted.
    TooManyRequests,
    /// The local range is not inside one registered region.
    NotRegistered,
    /// The range overlaps a registered region.
    Overlap,
    /// The object still has unfinished work.
    Busy,
    /// The handle or id was freed, belongs to another engine, or never existed.
    Stale,
    /// No transport that is allowed here reaches the peer.
    NoTransport,
    /// A host name did not resolve.
    Dns,
    /// A socket could not be made, bound, connected, read or written.
    Socket,
    /// A peer or a store answered with something that cannot be understood.
    Malformed,
    /// A peer refused.
    Rejected,
    /// The metadata service or a segment's description is unavailable.
    Metadata,
    /// The kernel gave no memory, mapping or descriptor.
    Memory,
    /// The call does not exist here, and never pretends to.
    NotSupported,
    /// The wait ended before the thing waited for.
    TimedOut,
    /// The engine is shutting down, was made before a `fork`, or one of its threads panicked.
    EngineDown,
}

/// An error with its kind and one line that names cause and cure.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of `kind`; `message` names the object, the cause and, where there is one, the cure.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Shorthand for an operating system error met while doing `what`.
    pub fn os(kind: ErrorKind, what: impl fmt::Display, cause: &std::io::Error) -> Self {
        Self::new(kind, format!("{what}: {cause}"))
    }

    /// The kind, for matching.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
