//! What a rail delivers in one direction, learned from what completes on it (D3): bytes per time that it
//! was busy, and the shortest round trip. A sample that waited behind others says nothing about a slice's
//! own time, so time is counted between completions, never per slice.

use crate::time::Instant;

/// See the module. Rates in bytes per nanosecond, times in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    rate: f64,
    rtt: f64,
    /// Bytes and busy nanoseconds since the last look.
    got: f64,
    busy: f64,
    last: Option<Instant>,
    learned: bool,
}

/// A clean completion, as the meter wants to know it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Bytes.
    pub len: u64,
    /// When the slice was posted.
    pub posted: Instant,
    /// Bytes that were in flight before it, in its direction.
    pub ahead: u64,
    /// When it completed.
    pub now: Instant,
    /// Whether anything is in flight behind it.
    pub more: bool,
}

impl Meter {
    /// A rail that nothing is known of but a guess, in bytes per second.
    pub fn new(guess: f64) -> Self {
        Self { rate: guess / 1e9, rtt: RTT_GUESS, got: 0.0, busy: 0.0, last: None, learned: false }
    }

    /// Takes in one completion.
    pub fn done(&mut self, sample: Sample) {
        let Sample { len, posted, ahead, now, more } = sample;
        let len = float(len);
        let elapsed = ns(posted, now);
        if ahead == 0 {
            // a link that lets bursts through carries a small piece faster than its rate
            let rtt = (elapsed - len / self.rate).max(elapsed / 4.0).max(RTT_FLOOR);
            // the shortest counts; it is forgotten slowly, for routes change
            self.rtt =
                if self.learned { rtt.min(self.rtt * RTT_FORGET) } else { rtt.min(self.rtt) };
        }
        let busy = match self.last {
            Some(last) if last >= posted || ahead > 0 => ns(last, now),
            _ => (elapsed - self.rtt).max(elapsed / 2.0),
        };
        self.got += len;
        self.busy += busy.max(1.0);
        self.last = more.then_some(now);
        let enough = if self.learned { LOOK_BYTES } else { LOOK_FIRST };
        if self.busy >= LOOK_NS || self.got >= enough {
            let seen = self.got / self.busy;
            self.rate = if self.learned { f64::midpoint(self.rate, seen) } else { seen };
            self.rate = self.rate.max(RATE_FLOOR);
            (self.got, self.busy, self.learned) = (0.0, 0.0, true);
        }
    }

    /// Everything in flight was taken away: what is measured next begins anew.
    pub fn interrupted(&mut self) {
        self.last = None;
    }

    /// Bytes per nanosecond; never zero.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Nanoseconds.
    pub fn rtt(&self) -> f64 {
        self.rtt
    }

    /// Whether the rate was measured and not guessed.
    pub fn is_learned(&self) -> bool {
        self.learned
    }

    /// Nanoseconds until a slice of `len` bytes posted behind `ahead` completes.
    pub fn predict(&self, ahead: u64, len: u64) -> f64 {
        float(ahead + len) / self.rate + self.rtt
    }
}

fn ns(from: Instant, to: Instant) -> f64 {
    float(to.0.saturating_sub(from.0))
}

#[expect(clippy::cast_precision_loss, reason = "figures of decisions, not of accounts")]
pub(super) fn float(n: u64) -> f64 {
    n as f64
}

/// Busy time after which the rate is looked at: 2 ms, as in the model behind D3.
const LOOK_NS: f64 = 2e6;
/// Bytes after which it is: a fast rail carries all there is within 2 ms.
const LOOK_BYTES: f64 = 2_097_152.0;
/// And the first time: any measurement is better than a guess.
const LOOK_FIRST: f64 = 131_072.0;
/// Round trip of a rail that has not been measured.
const RTT_GUESS: f64 = 2e5;
/// Shorter ones are a matter of the clock.
const RTT_FLOOR: f64 = 2e3;
/// How much longer the shortest round trip may look with each sample that is not shorter.
const RTT_FORGET: f64 = 1.002;
/// 100 kB/s: slower is as good as dead, and nothing may divide by zero.
const RATE_FLOOR: f64 = 1e-4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Serves pieces of `len` back to back at `rate` bytes/ns, `depth` in flight, with a round trip.
    fn feed(
        meter: &mut Meter,
        rate: f64,
        rtt: f64,
        len: u64,
        depth: u64,
        count: u64,
        from: u64,
    ) -> u64 {
        let service = float(len) / rate;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a test's times"
        )]
        let at = |k: u64| Instant(from + (float(k + 1) * service + rtt) as u64);
        for k in 0..count {
            let posted = if k < depth { Instant(from) } else { at(k - depth) };
            let ahead = k.min(depth - 1) * len;
            meter.done(Sample { len, posted, ahead, now: at(k), more: k + 1 < count });
        }
        at(count).0
    }

    #[test]
    fn the_rate_is_found_from_a_wrong_guess_and_a_change_followed() {
        let mut meter = Meter::new(1e9);
        let t = feed(&mut meter, 0.05, 4e5, 16 << 10, 4, 200, 1_000_000);
        assert!((meter.rate() / 0.05 - 1.0).abs() < 0.02, "{}", meter.rate());
        assert!(meter.rtt() < 6e5, "{}", meter.rtt());
        feed(&mut meter, 0.005, 4e5, 16 << 10, 4, 30, t);
        assert!((meter.rate() / 0.005 - 1.0).abs() < 0.1, "{}", meter.rate());
    }

    #[test]
    fn idle_time_is_not_busy_time() {
        let mut meter = Meter::new(1e8);
        let mut now = 1_000_000;
        for _ in 0..200 {
            now = feed(&mut meter, 0.1, 2e5, 64 << 10, 1, 1, now) + 5_000_000;
        }
        assert!((meter.rate() / 0.1 - 1.0).abs() < 0.3, "{}", meter.rate());
    }

    proptest! {
        #[test]
        fn whatever_comes_the_figures_are_usable(
            samples in prop::collection::vec((0_u64..1 << 40, 0_u64..1 << 40, 0_u64..1 << 50, 0_u64..1 << 50, any::<bool>()), 0..64),
        ) {
            let mut meter = Meter::new(1e9);
            for (len, ahead, posted, now, more) in samples {
                meter.done(Sample { len, posted: Instant(posted), ahead, now: Instant(now), more });
                prop_assert!(meter.rate().is_finite() && meter.rate() > 0.0);
                prop_assert!(meter.rtt().is_finite() && meter.rtt() > 0.0);
                prop_assert!(meter.predict(ahead, len).is_finite());
            }
        }
    }
}
