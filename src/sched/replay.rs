//! What the models of a rail would have said of pieces that were really sent: each is told of a recorded
//! run as it went and asked how long every piece will take (target M14).

use super::meter::{Meter, Sample};
use super::predict::{Gen2, Gen3, RailLoad};
use crate::slice::Op;
use crate::time::Instant;

/// One piece that landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Number of the rail, from 0 without gaps.
    pub rail: usize,
    /// Direction.
    pub op: Op,
    /// Bytes.
    pub len: u64,
    /// Bytes that were in flight before it on its rail, in its direction.
    pub ahead: u64,
    /// When it was posted and when it completed.
    pub posted: Instant,
    /// See `posted`.
    pub done: Instant,
}

/// How far a model was from the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Errors {
    /// The model.
    pub model: &'static str,
    /// |predicted - taken| / taken, a value per piece, sorted.
    pub values: Vec<f64>,
}

impl Errors {
    /// The value below which `share` of all are; 0 without any.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.values.len().saturating_sub(1) as f64;
        self.values.get((last * share).round() as usize).copied().unwrap_or(0.0)
    }
}

/// A model under test: seconds that a piece will take, and what it learns when it is over.
trait Model {
    fn name(&self) -> &'static str;
    fn predict(&self, piece: &Sent) -> f64;
    /// `more`: others are still in flight on the rail, in that direction.
    fn learn(&mut self, piece: &Sent, more: bool);
}

/// Ours: a meter per rail and direction.
struct Ours(Vec<[Meter; 2]>);

impl Model for Ours {
    fn name(&self) -> &'static str {
        "tent"
    }

    fn predict(&self, piece: &Sent) -> f64 {
        self.0[piece.rail][piece.op as usize].predict(piece.ahead, piece.len) / 1e9
    }

    fn learn(&mut self, piece: &Sent, more: bool) {
        let Sent { len, posted, ahead, done, .. } = *piece;
        self.0[piece.rail][piece.op as usize].done(Sample { len, posted, ahead, now: done, more });
    }
}

struct Second(Gen2);

impl Model for Second {
    fn name(&self) -> &'static str {
        "predict2"
    }

    fn predict(&self, piece: &Sent) -> f64 {
        self.0.predict(piece.rail, load(piece), piece.len)
    }

    fn learn(&mut self, piece: &Sent, _: bool) {
        self.0.observed(piece.rail, piece.len, piece.ahead, seconds(piece));
    }
}

/// Generation 3, as published, or told what the fastest rail carries instead of 400 Gbit/s.
struct Third(&'static str, Gen3);

impl Model for Third {
    fn name(&self) -> &'static str {
        self.0
    }

    fn predict(&self, piece: &Sent) -> f64 {
        self.1.predict(piece.rail, load(piece), piece.len)
    }

    fn learn(&mut self, piece: &Sent, _: bool) {
        self.1.observed(piece.rail, piece.len, seconds(piece));
    }
}

/// Every model's errors over a recorded run, ours first. The order of `run` does not matter; `guess` is what
/// an unmeasured rail of ours is taken to carry, bytes per second.
pub fn judge(run: &[Sent], guess: f64) -> Vec<Errors> {
    let rails = run.iter().map(|p| p.rail + 1).max().unwrap_or(0);
    let told = Gen3::new(rails, fastest(run, rails), SEED);
    let mut models: [Box<dyn Model>; 4] = [
        Box::new(Ours(vec![[Meter::new(guess); 2]; rails])),
        Box::new(Second(Gen2::new(rails))),
        Box::new(Third("predict3", Gen3::new(rails, 0.0, SEED))),
        Box::new(Third("predict3, told the rate", told)),
    ];
    // at one time, what ends comes before what begins
    let mut moments: Vec<(Instant, bool, usize)> = Vec::with_capacity(2 * run.len());
    for (at, piece) in run.iter().enumerate() {
        moments.extend([(piece.posted, true, at), (piece.done, false, at)]);
    }
    moments.sort_unstable();
    let mut errors = models.each_ref().map(|m| Errors { model: m.name(), values: Vec::new() });
    let mut said = vec![[0.0; 4]; run.len()];
    let mut in_flight = vec![[0_u32; 2]; rails];
    for (_, begins, at) in moments {
        let piece = &run[at];
        let count = &mut in_flight[piece.rail][piece.op as usize];
        if begins {
            *count += 1;
            said[at] = models.each_ref().map(|model| model.predict(piece));
            continue;
        }
        *count = count.saturating_sub(1);
        for (which, model) in models.iter_mut().enumerate() {
            let taken = seconds(piece);
            errors[which].values.push((said[at][which] - taken).abs() / taken);
            model.learn(piece, *count > 0);
        }
    }
    errors.iter_mut().for_each(|e| e.values.sort_unstable_by(f64::total_cmp));
    errors.into()
}

/// Bytes per second that the busiest rail carried over the whole run.
fn fastest(run: &[Sent], rails: usize) -> f64 {
    let mut bytes = vec![0.0; rails];
    run.iter().for_each(|p| bytes[p.rail] += p.len as f64);
    let begin = run.iter().map(|p| p.posted).min().unwrap_or_default();
    let end = run.iter().map(|p| p.done).max().unwrap_or_default();
    bytes.into_iter().fold(0.0, f64::max) / end.since(begin).as_secs_f64().max(1e-9)
}

fn load(piece: &Sent) -> RailLoad {
    RailLoad { in_flight: piece.ahead, tier: 0 }
}

fn seconds(piece: &Sent) -> f64 {
    piece.done.since(piece.posted).as_secs_f64().max(1e-9)
}

const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of 1 byte per nanosecond that answers after 100 us and is kept filled.
    fn steady(rail: usize, per_ns: u64, pieces: u64) -> Vec<Sent> {
        const LEN: u64 = 256 << 10;
        let piece = |n: u64| {
            let posted = Instant(n * LEN / per_ns);
            let ahead = 4.min(n) * LEN;
            Sent {
                rail,
                op: Op::Write,
                len: LEN,
                ahead,
                posted,
                done: Instant(posted.0 + (ahead + LEN) / per_ns + 100_000),
            }
        };
        (0..pieces).map(piece).collect()
    }

    #[test]
    fn a_steady_rail_is_foretold_three_times_better_than_by_generation_3() {
        let mut run = steady(0, 1, 400);
        run.extend(steady(1, 4, 400));
        let errors = judge(&run, 1.25e8);
        let median = |at: usize| errors[at].quantile(0.5);
        assert!(errors.iter().all(|e| e.values.len() == 800));
        assert!(median(0) < 0.1, "{}", median(0));
        assert!((2..4).all(|at| median(at) > 3.0 * median(0)), "{:?}", [0, 1, 2, 3].map(median));
    }

    #[test]
    fn nothing_sent_gives_no_errors() {
        assert!(judge(&[], 1e9).iter().all(|e| e.values.is_empty() && e.quantile(0.5) == 0.0));
    }
}
