//! What a run showed: progress about every millisecond, what happened when, and sums over any stretch of
//! it. Plain data and arithmetic; times are microseconds from the start of the run.

use super::script::{Entry, Weather};
use crate::units;

/// One look at the progress; all counts are from the start of the run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    pub(crate) us: u64,
    /// Bytes that have landed, as the requests tell.
    pub(crate) bytes: u64,
    pub(crate) resent_slices: u64,
    pub(crate) resent_bytes: u64,
}

/// A fault that took effect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Applied {
    pub(crate) entry: Entry,
    pub(crate) us: u64,
}

/// An event of a rail.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) us: u64,
    pub(crate) rail: usize,
    pub(crate) event: String,
    pub(crate) why: String,
}

/// A request from its submit to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin_us: u64,
    pub(crate) end_us: u64,
}

/// CPU seconds of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) initiator_s: f64,
    pub(crate) target_s: f64,
    pub(crate) relays_s: f64,
}

/// In how many directions a load moves bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ways {
    #[default]
    One,
    Both,
}

impl Ways {
    pub(crate) fn count(self) -> f64 {
        match self {
            Self::One => 1.0,
            Self::Both => 2.0,
        }
    }
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) rates_bps: Vec<u64>,
    /// Directions in which bytes move: a link has its rate each way.
    pub(crate) ways: Ways,
    pub(crate) looks: Vec<Look>,
    /// Bytes of each rail at each look, one rail after the other.
    pub(crate) rail_bytes: Vec<u64>,
    pub(crate) applied: Vec<Applied>,
    pub(crate) seen: Vec<Seen>,
    /// The library tells events.
    pub(crate) has_events: bool,
    pub(crate) requests: Vec<Span>,
    /// When no more requests were made.
    pub(crate) end_us: u64,
    pub(crate) checked_bytes: u64,
    pub(crate) wrong_bytes: u64,
    pub(crate) failed: u64,
    /// Why the first request failed.
    pub(crate) why_failed: String,
    /// How long fewer requests were under way than wanted, for want of prepared buffers.
    pub(crate) starved_us: u64,
    pub(crate) cpu: Cpu,
}

impl Record {
    pub(crate) fn rails(&self) -> usize {
        self.rates_bps.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.looks.last().map_or(0, |look| look.bytes)
    }

    /// Bytes per second over a stretch.
    pub(crate) fn rate(&self, from_us: u64, to_us: u64) -> f64 {
        let moved = self.bytes_at(to_us) - self.bytes_at(from_us);
        per_second(moved, from_us, to_us)
    }

    /// The same of one rail.
    pub(crate) fn rail_rate(&self, rail: usize, from_us: u64, to_us: u64) -> f64 {
        let moved = self.rail_bytes_at(rail, to_us) - self.rail_bytes_at(rail, from_us);
        per_second(moved, from_us, to_us)
    }

    /// Bytes that had landed at a time; between two looks, as if they came evenly.
    pub(crate) fn bytes_at(&self, us: u64) -> f64 {
        self.value_at(us, |at| self.looks[at].bytes)
    }

    pub(crate) fn rail_bytes_at(&self, rail: usize, us: u64) -> f64 {
        let rails = self.rails();
        self.value_at(us, |at| self.rail_bytes.get(at * rails + rail).copied().unwrap_or(0))
    }

    /// The last look that is not later.
    pub(crate) fn look_at(&self, us: u64) -> Look {
        let after = self.looks.partition_point(|look| look.us <= us);
        after.checked_sub(1).map_or_else(Look::default, |at| self.looks[at])
    }

    /// The longest time in which nothing landed, counted from the look that saw the last bytes to the look
    /// that saw the next ones: never too short.
    pub(crate) fn longest_stall_us(&self, from_us: u64, to_us: u64) -> u64 {
        let before = self.looks.partition_point(|look| look.us <= from_us);
        let (mut since, mut bytes) = (from_us, self.look_at(from_us).bytes);
        let mut longest = 0;
        for look in self.looks[before..].iter().take_while(|look| look.us <= to_us) {
            if look.bytes > bytes {
                longest = longest.max(look.us - since);
                (since, bytes) = (look.us, look.bytes);
            }
        }
        longest.max(to_us.saturating_sub(since))
    }

    /// What a request usually took.
    pub(crate) fn median_request_us(&self) -> Option<u64> {
        let mut times: Vec<_> = self.requests.iter().map(|r| r.end_us - r.begin_us).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// The longest time between two looks: stalls shorter than this may be the machine's.
    pub(crate) fn longest_blink_us(&self) -> u64 {
        self.looks.windows(2).map(|pair| pair[1].us - pair[0].us).max().unwrap_or(0)
    }

    /// The weather at a time, faults of that very time included.
    pub(crate) fn weather_at(&self, us: u64) -> Weather {
        let mut weather = Weather::clear(&self.rates_bps);
        self.applied.iter().filter(|a| a.us <= us).for_each(|a| weather.apply(&a.entry));
        weather
    }

    /// Bytes per second that the live links can give.
    pub(crate) fn live_rate(&self, us: u64) -> f64 {
        self.weather_at(us).live_bps() / 8.0 * self.ways.count()
    }

    /// The same of one rail.
    pub(crate) fn rail_live_rate(&self, rail: usize, us: u64) -> f64 {
        self.weather_at(us).rail_bps(rail) / 8.0 * self.ways.count()
    }

    fn value_at(&self, us: u64, value: impl Fn(usize) -> u64) -> f64 {
        let after = self.looks.partition_point(|look| look.us <= us);
        let Some(before) = after.checked_sub(1) else { return 0.0 };
        let low = units::as_f64(value(before));
        if after == self.looks.len() {
            return low;
        }
        let (a, b) = (self.looks[before].us, self.looks[after].us);
        let part = units::as_f64(us - a) / units::as_f64((b - a).max(1));
        low + (units::as_f64(value(after)) - low) * part
    }
}

fn per_second(bytes: f64, from_us: u64, to_us: u64) -> f64 {
    let us = units::as_f64(to_us.saturating_sub(from_us));
    if us > 0.0 { bytes / us * 1e6 } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of rails that carry `bytes(rail, ms)` in each millisecond.
    pub(crate) fn made(rates_bps: &[u64], ms: u64, bytes: impl Fn(usize, u64) -> u64) -> Record {
        let mut record = Record {
            rates_bps: rates_bps.to_vec(),
            end_us: ms * 1000,
            has_events: true,
            ..Record::default()
        };
        let mut sums = vec![0; rates_bps.len()];
        for at in 0..=ms {
            let total = sums.iter().sum();
            record.looks.push(Look { us: at * 1000, bytes: total, ..Look::default() });
            record.rail_bytes.extend(&sums);
            for (rail, sum) in sums.iter_mut().enumerate() {
                *sum += bytes(rail, at);
            }
        }
        record
    }

    #[test]
    fn rates_are_bytes_over_time() {
        let record = made(&[8_000_000, 16_000_000], 100, |rail, _| 1000 * (rail as u64 + 1));
        assert_eq!(record.bytes(), 300_000);
        assert!((record.rate(10_000, 60_000) - 3e6).abs() < 1.0);
        assert!((record.rail_rate(1, 10_500, 60_500) - 2e6).abs() < 1.0);
        assert!((record.bytes_at(500) - 1500.0).abs() < 1e-6);
        assert!((record.bytes_at(u64::MAX) - 3e5).abs() < 1e-6);
        assert!(record.rate(5, 5).abs() < 1e-9 && Record::default().rate(0, 9).abs() < 1e-9);
    }

    #[test]
    fn a_stall_lasts_until_bytes_are_seen_again() {
        let record = made(&[8], 100, |_, ms| u64::from(!(40..60).contains(&ms)));
        // 40 ms is the last look with news, 61 ms the next
        assert_eq!(record.longest_stall_us(0, 100_000), 21_000);
        assert_eq!(record.longest_stall_us(0, 30_000), 1000);
        // only what lies in the stretch
        assert_eq!(record.longest_stall_us(50_000, 55_000), 5000);
        assert_eq!(record.longest_stall_us(50_000, 100_000), 11_000);
        assert_eq!(record.longest_blink_us(), 1000);
    }

    #[test]
    fn a_run_that_ends_in_a_stall_shows_it() {
        let record = made(&[8], 100, |_, ms| u64::from(ms < 30));
        assert_eq!(record.longest_stall_us(0, 100_000), 70_000);
    }

    #[test]
    fn the_weather_follows_what_took_effect() {
        let mut record = made(&[100, 200], 10, |_, _| 1);
        let script = super::super::script::parse("1s hole r1; 2s heal r1", 2).unwrap();
        record.applied =
            vec![Applied { entry: script[0], us: 4000 }, Applied { entry: script[1], us: 8000 }];
        let live = |record: &Record| {
            [3999, 4000, 7999, 8000].map(|us| units::round(record.live_rate(us) * 8.0))
        };
        assert_eq!(live(&record), [300, 100, 100, 300]);
        assert_eq!(units::round(record.rail_live_rate(1, 0) * 8.0), 200);
        record.ways = Ways::Both;
        assert_eq!(live(&record), [600, 200, 200, 600]);
    }
}
