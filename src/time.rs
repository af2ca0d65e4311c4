//! The one clock. Everything below the engine's lanes takes `now` as an argument instead.

use std::time::Duration;

/// Nanoseconds on the monotonic clock of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Reads the clock.
    pub fn now() -> Self {
        // starts at one second, so that subtracting a small duration never reaches zero
        Self(FIRST + crate::sys::host::monotonic_ns())
    }

    /// Nanoseconds on the kernel's `CLOCK_MONOTONIC`, which other processes of this host read too.
    pub fn monotonic_ns(self) -> u64 {
        self.0.saturating_sub(FIRST)
    }

    /// This moment plus `d`, saturating at [`Instant::NEVER`].
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this moment; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What the clock shows when the kernel's shows zero.
const FIRST: u64 = 1_000_000_000;

/// Local wall-clock text `YYYY-MM-DD HH:MM:SS.uuuuuu` in UTC, for the descriptor's `timestamp` that
/// nobody interprets.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn timestamp() -> String {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, secs) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (y, m, d) = civil(days);
    format!(
        "{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}.{:06}",
        secs / 3600,
        secs / 60 % 60,
        secs % 60,
        since.subsec_micros()
    )
}

/// Days since 1970-01-01 to (year, month, day): the usual era arithmetic on 400-year cycles.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_are_right_at_the_edges() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_779), (2026, 11, 22));
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::NEVER.after(Duration::from_secs(1)), Instant::NEVER);
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
    }
}
