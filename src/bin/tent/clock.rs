//! The one clock and the one pause of the command. It measures and it waits; it decides nothing.

use std::time::{Duration, Instant};

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "the command is a client; this is its one clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since `start`.
pub(crate) fn ns_since(start: Instant) -> u64 {
    u64::try_from(now().duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since `start`.
pub(crate) fn s_since(start: Instant) -> f64 {
    now().duration_since(start).as_secs_f64()
}

/// Sleeps: between two looks at a child, or while an idle engine is being watched.
#[allow(clippy::disallowed_methods, reason = "the command is a client; this is its one pause")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A duration from seconds given by a user; nonsense (negative, not a number) is zero, and a day is
/// the longest, so that no deadline overflows.
pub(crate) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.min(LONGEST_S)).unwrap_or(Duration::ZERO)
}

const LONGEST_S: f64 = 86_400.0;
