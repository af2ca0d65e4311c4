//! The rate of a link: how many bytes may pass now, and when more may. A token bucket kept as one time,
//! so that no remainder is lost. No IO, no clock.

/// One direction of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    rate_bps: u64,
    /// When the link will have carried all that was let through.
    free_at_ns: u64,
}

impl Shape {
    /// At least 1 bit/s.
    pub(crate) fn new(rate_bps: u64) -> Self {
        Self { rate_bps: rate_bps.max(1), free_at_ns: 0 }
    }

    pub(crate) fn set_rate(&mut self, rate_bps: u64) {
        self.rate_bps = rate_bps.max(1);
    }

    /// Bytes that may pass now.
    pub(crate) fn allowed(&self, now_ns: u64) -> u64 {
        let idle_ns = now_ns.saturating_sub(self.begin_ns(now_ns));
        narrow(u128::from(idle_ns) * u128::from(self.rate_bps) / BIT_NS)
    }

    /// `bytes` pass now.
    pub(crate) fn take(&mut self, now_ns: u64, bytes: u64) {
        self.free_at_ns = self.begin_ns(now_ns).saturating_add(self.time_ns(bytes));
    }

    /// When `bytes`, no more than the burst, may pass at once.
    pub(crate) fn ready_at_ns(&self, bytes: u64) -> u64 {
        self.free_at_ns.saturating_add(self.time_ns(bytes))
    }

    /// Bytes worth waking up for: few enough to be smooth, enough to be cheap.
    pub(crate) fn quantum(&self) -> u64 {
        narrow(u128::from(QUANTUM_NS) * u128::from(self.rate_bps) / BIT_NS)
            .clamp(QUANTUM_MIN, QUANTUM_MAX)
    }

    /// What a link that stood idle is owed is bounded: a real one cannot catch up either. The bound is
    /// there because this process does not always run when it should.
    fn begin_ns(&self, now_ns: u64) -> u64 {
        let burst_ns = BURST_NS.max(self.time_ns(2 * self.quantum()));
        self.free_at_ns.max(now_ns.saturating_sub(burst_ns))
    }

    /// Rounded up: the link is never faster than it says.
    fn time_ns(&self, bytes: u64) -> u64 {
        narrow((u128::from(bytes) * BIT_NS).div_ceil(u128::from(self.rate_bps)))
    }
}

fn narrow(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Nanoseconds per second, for eight bits.
const BIT_NS: u128 = 8_000_000_000;
const BURST_NS: u64 = 2_000_000;
const QUANTUM_NS: u64 = 500_000;
const QUANTUM_MIN: u64 = 4 << 10;
const QUANTUM_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 10_000_000_000;

    #[test]
    fn a_full_link_carries_its_rate() {
        let mut shape = Shape::new(400_000_000);
        let (mut now, mut bytes) = (START, 0);
        while now < START + 1_000_000_000 {
            let n = shape.allowed(now).min(9000);
            shape.take(now, n);
            bytes += n;
            now += 150_000;
        }
        // 50 MB and what was saved up before
        assert!((50_000_000..=50_110_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn an_idle_link_saves_up_two_milliseconds_and_no_more() {
        let shape = Shape::new(800_000_000);
        assert_eq!(shape.allowed(START), 200_000);
        // a slow one at least two quanta, or it would never wake up
        let slow = Shape::new(80_000);
        assert_eq!(slow.allowed(START), 8192);
    }

    #[test]
    fn it_wakes_when_a_quantum_is_there() {
        for rate in [80_000, 1_000_000, 400_000_000, 40_000_000_000] {
            let mut shape = Shape::new(rate);
            shape.take(START, shape.allowed(START));
            let at = shape.ready_at_ns(shape.quantum());
            assert!(at > START, "{rate}");
            assert!(shape.allowed(at) >= shape.quantum(), "{rate}");
            assert!(shape.allowed(at - 2000) < shape.quantum(), "{rate}");
        }
    }

    proptest! {
        #[test]
        fn never_faster_than_it_says(
            rate in 8_000u64..100_000_000_000,
            steps in prop::collection::vec((0u64..5_000_000, 0u64..200_000), 1..200),
        ) {
            let mut shape = Shape::new(rate);
            let (mut now, mut bytes) = (START, 0u128);
            let saved = u128::from(shape.allowed(START));
            for (wait, wish) in steps {
                now += wait;
                let n = wish.min(shape.allowed(now));
                shape.take(now, n);
                bytes += u128::from(n);
            }
            let possible = u128::from(now - START) * u128::from(rate) / BIT_NS;
            prop_assert!(bytes <= possible + saved + 1, "{bytes} > {possible} + {saved}");
        }
    }
}
