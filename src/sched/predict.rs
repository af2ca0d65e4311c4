//! The opponents' formulas: how the C++ TENT chooses rails, generations 2 and 3, so that what pulling (D3)
//! gains is measured in one binary. Both push: told what is in flight and how long things took, they say
//! where the next bytes go. Quirks are kept on purpose and marked; mending one would flatter us less.
//!
//! Indices are rails. Bytes of other processes, priority slots and device masks are left out: one engine
//! measures them, and a rail that must not be used is [`RailLoad::OUT`].

/// What a decision is told of one rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RailLoad {
    /// Bytes given to the rail and not yet finished.
    pub in_flight: u64,
    /// 0 is nearest; from 2 on it crosses sockets; [`RailLoad::OUT`] is not to be used.
    pub tier: u8,
}

impl RailLoad {
    /// Tier of a rail that is down or drained. If all are, the formulas choose as if none were.
    pub const OUT: u8 = u8::MAX;

    fn weight(self, of_tiers: [f64; 3]) -> f64 {
        of_tiers[usize::from(self.tier).min(2)]
    }
}

/// Generation 2: per rail a fixed cost (beta0) and a stretch of the nominal time (beta1), learned twice,
/// once per thread and once per process; of all rails nearly as good as the best, each in turn.
#[derive(Debug, Clone)]
pub struct Gen2 {
    rails: Vec<Betas>,
    /// Scores of the rails that may be chosen; kept, so that a decision does not allocate.
    window: Vec<(f64, usize)>,
    turn: usize,
}

/// What generation 2 has learned of one rail. With one thread both copies see the same observations, but
/// the one of the process moves nine times more slowly, and a prediction mixes them.
#[derive(Debug, Clone, Copy)]
struct Betas {
    thread: (f64, f64),
    process: (f64, f64),
}

impl Gen2 {
    /// A model of `rails` rails, all taken for 200 Gbit/s.
    pub fn new(rails: usize) -> Self {
        let mut model = Self { rails: Vec::new(), window: Vec::new(), turn: 0 };
        model.grow(rails);
        model
    }

    /// Makes room for `rails` rails in all; those that it knows keep what was learned.
    pub fn grow(&mut self, rails: usize) {
        let fresh = Betas { thread: (0.0, 1.0), process: (0.0, 1.0) };
        self.rails.resize(rails.max(self.rails.len()), fresh);
        self.window.reserve(self.rails.len());
    }

    /// The rail for a slice of `len` bytes; `loads` has at least one rail, and is by rail.
    pub fn pick(&mut self, loads: &[RailLoad], len: u64) -> usize {
        let mut window = std::mem::take(&mut self.window);
        let near = loads.iter().take(self.rails.len()).any(|load| load.tier < 2);
        // across sockets only where there is nothing else
        candidates(loads, self.rails.len(), &mut window, |rail, load| {
            let score = load.weight(PENALTY2) * self.predict(rail, load, len);
            (!near || load.tier < 2).then_some(score)
        });
        let best = window[0].0;
        window.retain(|(score, _)| *score <= best * TOLERANCE);
        let (_, rail) = window[self.turn % window.len()];
        self.turn = self.turn.wrapping_add(1);
        self.window = window;
        rail
    }

    /// Learns that a slice of `len` bytes took `seconds`, posted behind `in_flight_at_post` bytes. (The
    /// published code leaves the queue out of what it compares with: 0 gives that.)
    pub fn observed(&mut self, rail: usize, len: u64, in_flight_at_post: u64, seconds: f64) {
        let load = RailLoad { in_flight: in_flight_at_post, tier: 0 };
        let predicted = self.predict(rail, load, len);
        let Some(betas) = self.rails.get_mut(rail).filter(|_| is_sample(seconds)) else { return };
        let error = seconds - predicted;
        let relative = if predicted > 1e-9 { error / predicted } else { 0.0 };
        let is_far = error.abs() > 0.05 * predicted;
        let alpha = if is_far { (ALPHA2 * 5.0).min(1.0) } else { ALPHA2 };
        for (betas, share) in [(&mut betas.thread, W), (&mut betas.process, 1.0 - W)] {
            betas.0 = (betas.0 + share * alpha * error).clamp(BETA0.0, BETA0.1);
            betas.1 = (betas.1 * (1.0 + share * alpha * relative)).clamp(BETA1.0, BETA1.1);
        }
    }

    /// Seconds until `len` more bytes are through, before the penalty of the tier; infinite for a rail
    /// that it does not know.
    pub fn predict(&self, rail: usize, load: RailLoad, len: u64) -> f64 {
        let Some(betas) = self.rails.get(rail) else { return f64::INFINITY };
        let mix = |thread: f64, process: f64| W * thread + (1.0 - W) * process;
        let beta0 = mix(betas.thread.0, betas.process.0);
        let beta1 = mix(betas.thread.1, betas.process.1);
        // what is in flight of the thread and of the process is the same here, and so is their mix
        (load.in_flight as f64 + len as f64) / BYTES_PER_S2 * beta1 + beta0
    }
}

/// Generation 3: a rate per rail; the slices of a large request are shared out by the inverse of the
/// predicted time, those of a small one go to the best rail of the moment, one by one.
#[derive(Debug, Clone)]
pub struct Gen3 {
    /// Bytes per second, by rail.
    rates: Vec<f64>,
    theoretical: f64,
    /// Rails by score, best first; kept, so that a decision does not allocate.
    order: Vec<(f64, usize)>,
    /// Bytes given to each rail earlier in the same call, which `loads` does not know of.
    added: Vec<u64>,
    /// Large requests so far.
    deals: u64,
    chance: u64,
}

impl Gen3 {
    /// A model of `rails` rails of `theoretical_bytes_per_s` each (400 Gbit/s if that is not a rate, as
    /// the C++ has it always); `seed` makes the jitter of its scores.
    pub fn new(rails: usize, theoretical_bytes_per_s: f64, seed: u64) -> Self {
        let is_rate = theoretical_bytes_per_s.is_normal() && theoretical_bytes_per_s > 0.0;
        let theoretical = if is_rate { theoretical_bytes_per_s } else { BYTES_PER_S3 };
        let (rates, order, added) = (Vec::new(), Vec::new(), Vec::new());
        let mut model = Self { rates, theoretical, order, added, deals: 0, chance: seed };
        model.grow(rails);
        model
    }

    /// Makes room for `rails` rails in all; those that it knows keep what was learned.
    pub fn grow(&mut self, rails: usize) {
        self.rates.resize(rails.max(self.rates.len()), self.theoretical);
        self.order.reserve(self.rates.len());
        self.added.resize(self.rates.len(), 0);
    }

    /// Cuts `len` bytes into slices and gives each a rail: `out` is the rail and length of each slice, in
    /// the order of the bytes, which they cover exactly (I1). Never more than [`MAX_SLICES`]; `loads` has
    /// at least one rail, and is by rail.
    pub fn split(
        &mut self,
        len: u64,
        write: bool,
        loads: &[RailLoad],
        out: &mut Vec<(usize, u64)>,
    ) {
        out.clear();
        self.added.fill(0);
        let most = if write { MAX_SLICES / 2 } else { MAX_SLICES };
        let (slice, count) = slices(len, most);
        if count >= most / 2 {
            self.deal(slice, count, loads, out);
            // the last slice takes what is left, a tail too short for a slice of its own included
            if let Some((last, before)) = out.split_last_mut() {
                last.1 = len - before.len() as u64 * slice;
            }
        } else {
            let mut left = len;
            for at in 1..=count {
                let len = if at == count { left } else { slice };
                self.rank(len, loads);
                let rail = self.order[0].1;
                self.added[rail] += len;
                out.push((rail, len));
                left -= len;
            }
        }
    }

    /// A large request: shares of the slices by the inverse of the score.
    fn deal(&mut self, slice: u64, count: usize, loads: &[RailLoad], out: &mut Vec<(usize, u64)>) {
        self.rank(slice, loads);
        let mut give = |rail, slices: usize| out.extend((0..slices).map(|_| (rail, slice)));
        self.deals += 1;
        if self.deals.is_multiple_of(PROBE_EVERY) {
            // all in turn, so that a rail that is given nothing is looked at now and then
            return (0..count).for_each(|at| give(self.order[at % self.order.len()].1, 1));
        }
        let total: f64 = self.order.iter().map(|(score, _)| 1.0 / (score + EPSILON)).sum();
        let mut rest = count;
        for (score, rail) in &self.order {
            let weight = 1.0 / (score + EPSILON) / total;
            let share = floor(weight * count as f64).min(rest);
            give(*rail, share);
            rest -= share;
        }
        // whatever rounding left over, all to one
        give(self.order[0].1, rest);
    }

    /// Puts the rails in the order of their scores for `len` more bytes.
    fn rank(&mut self, len: u64, loads: &[RailLoad]) {
        let (mut order, mut chance) = (std::mem::take(&mut self.order), self.chance);
        candidates(loads, self.rates.len(), &mut order, |rail, load| {
            let in_flight = load.in_flight.saturating_add(self.added[rail]);
            let jitter = (random(&mut chance) % 10) as f64 * JITTER;
            let time = self.predict(rail, RailLoad { in_flight, ..load }, len);
            Some(time * load.weight(PENALTY3) + jitter)
        });
        (self.order, self.chance) = (order, chance);
    }

    /// Learns that a slice of `len` bytes took `seconds` from when it was queued: on a busy rail that is
    /// mostly waiting, so the rate falls as the queue grows, down to the clamp.
    pub fn observed(&mut self, rail: usize, len: u64, seconds: f64) {
        let Some(rate) = self.rates.get_mut(rail).filter(|_| is_sample(seconds)) else { return };
        // as published: the weight of the newest sample is 0.99, which smooths nothing
        let learned = ALPHA3 * *rate + (1.0 - ALPHA3) * (len as f64 / seconds);
        *rate = learned.clamp(0.1 * self.theoretical, 10.0 * self.theoretical);
    }

    /// Seconds until `len` more bytes are through, before the weight of the tier; infinite for a rail
    /// that it does not know.
    pub fn predict(&self, rail: usize, load: RailLoad, len: u64) -> f64 {
        let bytes = load.in_flight as f64 + len as f64;
        self.rates.get(rail).map_or(f64::INFINITY, |rate| bytes / rate)
    }
}

/// Fills `into` with score and index of the rails that may be chosen, best first; never empty.
fn candidates(
    loads: &[RailLoad],
    rails: usize,
    into: &mut Vec<(f64, usize)>,
    mut score: impl FnMut(usize, RailLoad) -> Option<f64>,
) {
    let loads = &loads[..rails.min(loads.len())];
    assert!(!loads.is_empty(), "no rail to choose from: the bytes would go nowhere");
    let all_out = loads.iter().all(|load| load.tier == RailLoad::OUT);
    into.clear();
    for (rail, load) in loads.iter().enumerate() {
        if all_out || load.tier != RailLoad::OUT {
            into.extend(score(rail, *load).map(|score| (score, rail)));
        }
    }
    into.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
}

/// How generation 3 cuts `len` bytes: length of a slice and how many; the last takes what is left.
fn slices(len: u64, most: usize) -> (u64, usize) {
    let count = len.div_ceil(BLOCK).clamp(1, most as u64);
    let slice = len.div_ceil(count).div_ceil(BLOCK).saturating_mul(BLOCK).max(BLOCK);
    // rounded up they are fewer than were asked for
    let count = len.div_ceil(slice);
    let tail = len - count.saturating_sub(1) * slice;
    let is_crumb = count > 1 && tail < BLOCK / 4;
    (slice, usize::try_from(count - u64::from(is_crumb)).unwrap_or(most))
}

/// Whether a time can be learned from: cancelled and failed slices are reported without one.
fn is_sample(seconds: f64) -> bool {
    seconds.is_finite() && seconds > 0.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, 0 to 64")]
fn floor(count: f64) -> usize {
    count as usize
}

/// splitmix64: enough to break ties.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Most slices of one split; half of it for WRITE. An `out` of this capacity never grows.
pub const MAX_SLICES: usize = 64;

/// Weight of the thread's own copy against the one of the process.
const W: f64 = 0.9;
const ALPHA2: f64 = 0.01;
const BETA0: (f64, f64) = (0.0, 5e-4);
const BETA1: (f64, f64) = (0.5, 20.0);
const TOLERANCE: f64 = 1.05;
const PENALTY2: [f64; 3] = [1.0, 3.0, 10.0];
const BYTES_PER_S2: f64 = 200e9 / 8.0;

const ALPHA3: f64 = 0.01;
const PENALTY3: [f64; 3] = [1.0, 5.0, 10.0];
const BYTES_PER_S3: f64 = 400e9 / 8.0;
const BLOCK: u64 = 64 << 10;
const JITTER: f64 = 1e-9;
const EPSILON: f64 = 1e-12;
const PROBE_EVERY: u64 = 100;

#[cfg(test)]
mod tests;
