//! Scenarios of size, each by a policy, as rows of a table: how near to the fluid bound a load is carried,
//! and how long requests take.

use super::crowd;
use super::link::LinkState;
use super::plan::real;
use super::stage::{Ask, Ended, POLICIES, Stage, Wire};
use crate::config::{Config, Spray};
use crate::slice::{Class, Op};
use std::time::Duration;

/// Names of the scenarios.
pub const SCENARIOS: [&str; 5] = ["model", "grey", "hole", "kv", "thousand"];

/// Runs a scenario by one policy, or by each, and says the lines of its table as they come. `false`: there
/// is no such scenario or policy.
pub fn scenario(name: &str, policy: Option<&str>, say: &mut dyn FnMut(&str)) -> bool {
    let by: Vec<_> = POLICIES.iter().filter(|p| policy.is_none_or(|name| name == p.0)).collect();
    if by.is_empty() {
        return false;
    }
    match name {
        "model" => {
            say(
                "ratio to the fluid bound: the engine in the simulator / the model behind D3 (bench/spray_model.py)",
            );
            for case in &CASES {
                say(case.name);
                by.iter().for_each(|(policy, spray)| say(&row_of_case(case, policy, *spray)));
            }
        }
        "grey" => weather(
            &by,
            "one of four rails of 400 Mbit/s falls to a tenth from 1 s to 2 s",
            say,
            LinkState::Up,
            0.1,
        ),
        "hole" => weather(
            &by,
            "one of four rails of 400 Mbit/s is silent from 1 s to 2 s",
            say,
            LinkState::Hole,
            1.0,
        ),
        "kv" => crowd::kv(&by, say),
        "thousand" => crowd::thousand(&by, say),
        _ => return false,
    }
    true
}

/// What `spray_model.py` measures: one transfer over rails whose rates are known to the scheduler, or were
/// others until now.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Mbit/s.
    rates: &'static [f64],
    /// What the rates were while the scheduler learned them.
    before: Option<&'static [f64]>,
    /// A rail, and what its rate is multiplied by 40 ms into the transfer.
    change: Option<(usize, f64)>,
    rtt_ns: u64,
    quantum_ns: u64,
    pub(super) megabytes: &'static [u64],
    /// By policy, as far as the model has it.
    model: [(&'static str, &'static [f64]); 4],
}

impl Case {
    /// Ratio of the fluid bound to the time that a transfer takes.
    pub(super) fn ratio(&self, spray: Spray, megabytes: u64) -> f64 {
        let wire = |mbit: &f64| Wire { rate: mbit * MBIT, latency: self.rtt_ns / 2 };
        let wires: Vec<Wire> = self.before.unwrap_or(self.rates).iter().map(wire).collect();
        let ways = (0..wires.len()).map(|wire| vec![wire]).collect();
        let quantum = Duration::from_nanos(self.quantum_ns);
        let config = Config { spray, quantum, ..Config::default() };
        let mut stage = Stage::new(&wires, &[ways], 1, 1, &config);
        let ask = |len| Ask { peer: 0, op: Op::Write, class: Class::Bulk, len, tag: 0 };
        // what the rails carry is learned first, and by several transfers, as policies that push need
        let sum: f64 = wires.iter().map(|wire| wire.rate).sum();
        for _ in 0..WARM {
            stage.ask(ask(bytes(sum * WARM_S)));
            stage.drain(LIMIT);
        }
        for (at, (now, then)) in
            self.rates.iter().zip(self.before.unwrap_or(self.rates)).enumerate()
        {
            stage.set(at, LinkState::Up, now / then);
        }
        let len = megabytes << 20;
        let begin = stage.now;
        stage.ask(ask(len));
        let sum: f64 = self.rates.iter().map(|mbit| mbit * MBIT).sum();
        let mut fluid = real(len) / sum;
        if let Some((rail, factor)) = self.change {
            let until = begin.after(CHANGE);
            let mut ended = Vec::new();
            while stage.now < until && ended.is_empty() {
                ended = stage.step(until);
            }
            stage.set(rail, LinkState::Up, factor);
            let left = sum - self.rates[rail] * MBIT * (1.0 - factor);
            fluid = CHANGE.as_secs_f64() + (real(len) - CHANGE.as_secs_f64() * sum) / left;
        }
        let took = stage.drain(LIMIT).last().map_or(LIMIT, |ended| ended.took);
        (fluid + real(self.rtt_ns) / 1e9) / took.as_secs_f64()
    }

    /// Whether the rates are known before the transfer.
    #[cfg(test)]
    pub(super) fn is_known(&self) -> bool {
        self.before.is_none()
    }

    /// What the model says, if it knows the policy.
    pub(super) fn model(&self, policy: &str) -> Option<&'static [f64]> {
        self.model.iter().find(|(name, _)| *name == policy).map(|(_, figures)| *figures)
    }
}

fn row_of_case(case: &Case, policy: &str, spray: Spray) -> String {
    let mut row = format!("   {policy:<12}");
    for (at, megabytes) in case.megabytes.iter().enumerate() {
        let ratio = case.ratio(spray, *megabytes);
        let model =
            case.model(policy).map_or_else(|| "  -  ".to_owned(), |m| format!("{:.3}", m[at]));
        row += &format!("  {megabytes} MB {ratio:.3} / {model}");
    }
    row
}

/// What came of a stream of requests while a rail was ill for a second.
#[derive(Debug)]
pub(super) struct Weathered {
    /// Fluid bound to time.
    pub(super) ratio: f64,
    /// 50, 90 and 99 % of the requests' times, ms.
    pub(super) times: [f64; 3],
    /// Longest time in which no byte landed, ms.
    pub(super) gap: f64,
    /// MiB that were sent again; pieces that were sent twice for they were late.
    pub(super) again: (f64, u64),
    /// What must not be; empty if all is well.
    pub(super) faults: String,
}

fn weather(
    by: &[&(&str, Spray)],
    title: &str,
    say: &mut dyn FnMut(&str),
    state: LinkState,
    factor: f64,
) {
    say(&format!("{title}; {REQUESTS} WRITEs of 16 MiB, {DEPTH} in flight"));
    say(
        "   policy        bound/time    p50     p90     p99 ms   longest gap ms   sent again MiB   hedged",
    );
    for (policy, spray) in by {
        let Weathered { ratio, times: [p50, p90, p99], gap, again, faults } =
            weathered(*spray, state, factor);
        let (again, hedged) = again;
        say(&format!(
            "   {policy:<12}  {ratio:.3}       {p50:>7.1} {p90:>7.1} {p99:>7.1}       {gap:>8.1}         {again:>8.2}      {hedged:>5}{faults}"
        ));
    }
}

/// A stream of requests, one after the other with some in flight, over four rails of 400 Mbit/s; from 1 s to
/// 2 s the last of them is as `state` and `factor` say.
pub(super) fn weathered(spray: Spray, state: LinkState, factor: f64) -> Weathered {
    let wires = [Wire { rate: 400.0 * MBIT, latency: 200_000 }; 4];
    let ways = (0..4).map(|wire| vec![wire]).collect();
    let mut stage = Stage::new(&wires, &[ways], 1, 1, &Config { spray, ..Config::default() });
    let begin = stage.now;
    let (mut asked, mut ended): (u64, Vec<Ended>) = (0, Vec::new());
    let mut turns = [(ILL, state, factor), (HEALED, LinkState::Up, 1.0)].into_iter().peekable();
    let (mut placed, mut since, mut gap) = (0, begin, Duration::ZERO);
    while (ended.len() as u64) < REQUESTS && stage.now.since(begin) < LIMIT {
        while stage.open() < DEPTH && asked < REQUESTS {
            stage.ask(Ask { peer: 0, op: Op::Write, class: Class::Bulk, len: 16 << 20, tag: 0 });
            asked += 1;
        }
        let until = turns.peek().map_or_else(|| begin.after(LIMIT), |turn| begin.after(turn.0));
        ended.extend(stage.step(until));
        if let Some((_, state, factor)) = turns.next_if(|turn| stage.now >= begin.after(turn.0)) {
            stage.set(3, state, factor);
        }
        if stage.placed() != placed {
            gap = gap.max(stage.now.since(since));
            (placed, since) = (stage.placed(), stage.now);
        }
    }
    let total = real(REQUESTS * (16 << 20));
    let ill = if state == LinkState::Up { 3.0 + factor } else { 3.0 } * 400.0 * MBIT;
    let all = 4.0 * 400.0 * MBIT;
    // as much as the links carry before, during and after
    let during = all * ILL.as_secs_f64() + ill * (HEALED - ILL).as_secs_f64();
    let fluid = HEALED.as_secs_f64() + (total - during) / all;
    let end = ended.last().map_or(LIMIT, |e| e.at.since(begin)).as_secs_f64();
    let (again, hedged) = stage.again();
    Weathered {
        ratio: fluid / end,
        times: percentiles(&ended, |_| true),
        gap: gap.as_secs_f64() * 1e3,
        again: (real(again) / real(1 << 20), hedged),
        faults: faults(&ended, &stage),
    }
}

/// What must not be: requests that did not complete, and breaches.
pub(super) fn faults(ended: &[Ended], stage: &Stage) -> String {
    let failed = ended.iter().filter(|e| !e.completed).count() + stage.open();
    let breaches = stage.breaches();
    let mut text = String::new();
    if failed > 0 {
        text += &format!("   {failed} DID NOT COMPLETE");
    }
    if let Some(first) = breaches.first() {
        text += &format!("   {} BREACHES, {first}", breaches.len());
    }
    text
}

/// 50, 90 and 99 % of the times of some requests, in milliseconds.
pub(super) fn percentiles(ended: &[Ended], which: impl Fn(&Ended) -> bool) -> [f64; 3] {
    let mut times: Vec<Duration> = ended.iter().filter(|e| which(e)).map(|e| e.took).collect();
    times.sort_unstable();
    [50, 90, 99].map(|percent| {
        let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
fn bytes(n: f64) -> u64 {
    n as u64
}

const SIZES: &[u64] = &[1, 4, 16, 64, 256];
/// The cases of `spray_model.py` with its figures; its generation 3 is our predict3.
pub(super) const CASES: [Case; 6] = [
    Case {
        name: "100/200/400/800 Mbit/s",
        rates: &[100.0, 200.0, 400.0, 800.0],
        before: None,
        change: None,
        rtt_ns: 400_000,
        quantum_ns: 1_000_000,
        megabytes: SIZES,
        model: [
            ("pull", &[0.977, 0.997, 0.999, 0.999, 1.000]),
            ("predict3", &[0.951, 0.949, 0.948, 0.948, 0.948]),
            ("round_robin", &[0.280, 0.270, 0.268, 0.267, 0.267]),
            ("static", &[0.280, 0.270, 0.268, 0.267, 0.267]),
        ],
    },
    Case {
        name: "4 x 400 Mbit/s",
        rates: EQUAL,
        before: None,
        change: None,
        rtt_ns: 400_000,
        quantum_ns: 1_000_000,
        megabytes: SIZES,
        model: [
            ("pull", &[1.0; 5]),
            ("predict3", &[1.0; 5]),
            ("round_robin", &[1.0; 5]),
            ("static", &[1.0; 5]),
        ],
    },
    Case {
        name: "one at a tenth, known",
        rates: TENTH,
        before: None,
        change: None,
        rtt_ns: 400_000,
        quantum_ns: 1_000_000,
        megabytes: SIZES,
        model: [
            ("pull", &[0.984, 0.995, 0.998, 0.999, 1.000]),
            ("predict3", &[0.867, 0.939, 0.939, 0.938, 0.938]),
            ("round_robin", &[0.136, 0.131, 0.129, 0.129, 0.129]),
            ("static", &[0.136, 0.131, 0.129, 0.129, 0.129]),
        ],
    },
    Case {
        name: "one at a tenth, not known yet",
        rates: TENTH,
        before: Some(EQUAL),
        change: None,
        rtt_ns: 400_000,
        quantum_ns: 1_000_000,
        megabytes: SIZES,
        model: [
            ("pull", &[0.887, 0.995, 0.998, 0.999, 1.000]),
            ("predict3", &[0.136, 0.131, 0.129, 0.129, 0.129]),
            ("round_robin", &[0.136, 0.131, 0.129, 0.129, 0.129]),
            ("static", &[0.136, 0.131, 0.129, 0.129, 0.129]),
        ],
    },
    Case {
        name: "8 x 200 Gbit/s",
        rates: &[200_000.0; 8],
        before: None,
        change: None,
        rtt_ns: 10_000,
        quantum_ns: 20_000,
        megabytes: &[1, 16, 128],
        model: [
            ("pull", &[0.949, 0.976, 0.996]),
            ("predict3", &[1.0; 3]),
            ("round_robin", &[1.0; 3]),
            ("static", &[1.0; 3]),
        ],
    },
    Case {
        name: "4 x 400 Mbit/s, one falls to a tenth 40 ms into it",
        rates: EQUAL,
        before: None,
        change: Some((3, 0.1)),
        rtt_ns: 400_000,
        quantum_ns: 1_000_000,
        megabytes: &[64],
        model: [
            ("pull", &[1.000]),
            ("predict3", &[0.141]),
            ("round_robin", &[0.141]),
            ("static", &[0.141]),
        ],
    },
];
const EQUAL: &[f64] = &[400.0; 4];
const TENTH: &[f64] = &[400.0, 400.0, 400.0, 40.0];
/// Bytes per second.
const MBIT: f64 = 1e6 / 8.0;
/// Transfers before the one that is measured, and how long each takes at full rate, in seconds.
const WARM: usize = 8;
const WARM_S: f64 = 0.05;
/// When a rate changes within a transfer.
const CHANGE: Duration = Duration::from_millis(40);
/// When a rail of a weather scenario falls ill and heals.
const ILL: Duration = Duration::from_secs(1);
const HEALED: Duration = Duration::from_secs(2);
/// About 3.3 s of work.
const REQUESTS: u64 = 40;
const DEPTH: usize = 4;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(300);
