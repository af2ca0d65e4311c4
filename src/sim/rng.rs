//! The one source of chance of a run: all of it follows from the seed.

/// SplitMix64: small, fast, and every seed gives a good stream.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x7e27_5eed))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `n`; 0 for 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(n)) >> 64).unwrap_or(0)
    }

    /// From `low` to `high`, both included.
    pub(super) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// As [`Rng::within`], but each power of two as likely as the next.
    pub(super) fn scale(&mut self, low: u64, high: u64) -> u64 {
        let bits = |n: u64| 64 - u64::from(n.leading_zeros());
        let top = self.within(bits(low), bits(high));
        let begin = if top == 0 { 0 } else { 1 << (top - 1) };
        let end = if top >= 64 { u64::MAX } else { (1 << top) - 1 };
        self.within(begin.max(low), end.min(high))
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.index(of.len()))
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.index(at + 1));
        }
    }
}

/// A number that looks like chance and depends on `n` alone.
pub(super) fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_ranges_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let all: Vec<u64> = (0..1000).map(|_| rng.within(3, 6)).collect();
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&3), Some(&6)));
        let all: Vec<u64> = (0..2000).map(|_| rng.scale(1, 1000)).collect();
        assert!(all.iter().all(|n| (1..=1000).contains(n)));
        assert!(all.iter().any(|n| *n < 4) && all.iter().any(|n| *n > 500));
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn one_seed_gives_one_stream() {
        let stream = |seed| {
            let mut rng = Rng::new(seed);
            (0..8).map(|_| rng.next()).collect::<Vec<_>>()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
    }
}
