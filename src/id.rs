//! Ids that cross layers. Each is a newtype; none is an address.

use std::fmt;

/// A segment as this engine numbers it; 0 is the engine's own. Never reused within an engine's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// The engine's own segment.
    pub const LOCAL: Self = Self(0);
}

/// A batch of tasks: engine tag, generation and slot in one word, so a stale or foreign id is
/// recognised (I7). Never 0 and never `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId(pub u64);

/// One life of one engine: 128 random bits. A restarted process has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Incarnation {
    /// Reads the 32 hex digits that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}
