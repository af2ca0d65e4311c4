//! Samples and what they say. Exact percentiles of what was kept; bounded memory. No IO.

use serde::{Deserialize, Serialize};

use super::units;

/// Nanosecond samples: all of them up to a limit, then a fair choice of that many.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    kept: Vec<u64>,
    limit: usize,
    seen: u64,
    sum: u64,
    max: u64,
    random: u64,
}

impl Samples {
    /// Memory is taken and touched here, so that no page fault falls into the measurement.
    pub(crate) fn new(limit: usize) -> Self {
        let mut kept = vec![1; limit];
        kept.clear();
        Self { kept, limit, seen: 0, sum: 0, max: 0, random: 0x2545_f491_4f6c_dd1d }
    }

    pub(crate) fn push(&mut self, ns: u64) {
        self.seen += 1;
        self.sum = self.sum.saturating_add(ns);
        self.max = self.max.max(ns);
        if self.kept.len() < self.limit {
            self.kept.push(ns);
            return;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let at = usize::try_from(self.random % self.seen).unwrap_or(usize::MAX);
        if let Some(old) = self.kept.get_mut(at) {
            *old = ns;
        }
    }

    /// Joins the samples of several threads, which ran for the same time.
    pub(crate) fn merge(all: impl IntoIterator<Item = Self>) -> Summary {
        let (mut kept, mut seen, mut sum, mut max) = (Vec::new(), 0u64, 0u64, 0u64);
        for one in all {
            kept.extend(one.kept);
            seen += one.seen;
            sum = sum.saturating_add(one.sum);
            max = max.max(one.max);
        }
        kept.sort_unstable();
        let mean = if seen == 0 { 0.0 } else { us(sum) / units::as_f64(seen) };
        let p = |p| percentile(&kept, p) / 1e3;
        Summary { n: seen, mean, p50: p(0.5), p99: p(0.99), p999: p(0.999), max: us(max) }
    }
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) n: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Median, smallest and largest of some repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// None when there is nothing to tell.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let mut v = values.to_vec();
    v.sort_unstable_by(f64::total_cmp);
    let (min, max) = (*v.first()?, *v.last()?);
    let mid = v.len() / 2;
    let median = if v.len() % 2 == 1 { v[mid] } else { f64::midpoint(v[mid - 1], v[mid]) };
    Some(Spread { median, min, max })
}

/// Between the two nearest ranks, as tebench does it; `sorted` ascending, 0 when empty.
fn percentile(sorted: &[u64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = p * units::as_f64(last as u64);
    let low = usize::try_from(units::round(rank.floor())).unwrap_or(last).min(last);
    let (a, b) = (sorted[low], sorted[(low + 1).min(last)]);
    let share = rank - rank.floor();
    units::as_f64(a) * (1.0 - share) + units::as_f64(b) * share
}

fn us(ns: u64) -> f64 {
    units::as_f64(ns) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn percentiles_are_exact() {
        let mut s = Samples::new(2000);
        for n in (1..=1001).rev() {
            s.push(n * 1000);
        }
        let sum = Samples::merge([s]);
        assert_eq!(sum.n, 1001);
        assert!(near(sum.p50, 501.0) && near(sum.p99, 991.0) && near(sum.p999, 1000.0));
        assert!(near(sum.mean, 501.0) && near(sum.max, 1001.0));
    }

    #[test]
    fn few_or_no_samples_are_fine() {
        assert_eq!(Samples::merge([]), Summary::default());
        let mut s = Samples::new(4);
        s.push(5000);
        let sum = Samples::merge([s, Samples::new(4)]);
        assert!(near(sum.p50, 5.0) && near(sum.p999, 5.0));
        assert!(near(percentile(&[10, 20], 0.5), 15.0));
    }

    #[test]
    fn beyond_the_limit_the_choice_is_fair_and_the_mean_exact() {
        let mut s = Samples::new(1000);
        for n in 0..100_000 {
            s.push(n);
        }
        assert_eq!(s.kept.len(), 1000);
        let sum = Samples::merge([s]);
        assert!(near(sum.mean, 49.9995) && near(sum.max, 99.999));
        assert!((sum.p50 - 50.0).abs() < 8.0, "{}", sum.p50);
    }

    #[test]
    fn spread_of_repetitions() {
        assert_eq!(spread(&[]), None);
        let s = spread(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert!(near(s.median, 2.5) && near(s.min, 1.0) && near(s.max, 10.0));
    }
}
