//! What each fault did to the transfers: when it was noticed, when the others made up for it, when the rail
//! was itself again. Functions of a record; no IO.

use serde::Serialize;

use super::record::{Applied, Record};
use super::script::Fault;
use crate::units;

/// Times are microseconds after the fault; None: did not happen before the next fault, or means nothing for
/// this kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Aftermath {
    pub(crate) what: String,
    pub(crate) at_us: u64,
    /// The engine called the rail suspect or down, or drained it.
    pub(crate) detect_us: Option<u64>,
    /// Why, in its words.
    pub(crate) why: String,
    /// Progress is at least 90 % of what the live rails can give.
    pub(crate) reroute_us: Option<u64>,
    /// The rail is up again and carries at least 90 % of its share.
    pub(crate) recover_us: Option<u64>,
    /// The longest time without progress until the next fault.
    pub(crate) stall_us: u64,
    /// The slowest request that was under way at the fault.
    pub(crate) slowest_us: Option<u64>,
    pub(crate) resent_slices: u64,
    pub(crate) resent_bytes: u64,
}

/// A stretch without news from the weather.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Phase {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
    pub(crate) weather: String,
    pub(crate) gb_per_s: f64,
    /// What the live rails can give.
    pub(crate) live_gb_per_s: f64,
    pub(crate) stall_us: u64,
}

/// One for each fault of the run.
pub(crate) fn of(record: &Record) -> Vec<Aftermath> {
    let reached = efficiency(record);
    let faults = record.applied.iter().enumerate();
    faults.map(|(at, fault)| one(record, fault, next_us(record, at), reached)).collect()
}

/// One for each stretch of the run.
pub(crate) fn phases(record: &Record) -> Vec<Phase> {
    let mut edges = vec![0];
    for us in record.applied.iter().map(|a| a.us).filter(|us| *us < record.end_us) {
        match edges.last_mut() {
            // faults of one moment begin one phase
            Some(last) if *last > 0 && us <= *last + SAME_US => *last = us,
            _ => edges.push(us),
        }
    }
    edges.push(record.end_us);
    edges.dedup();
    let phase = |pair: &[u64]| {
        let (from_us, to_us) = (pair[0], pair[1]);
        Phase {
            from_us,
            to_us,
            weather: describe(record, from_us),
            gb_per_s: record.rate(from_us, to_us) / 1e9,
            live_gb_per_s: record.live_rate(from_us) / 1e9,
            stall_us: record.longest_stall_us(from_us, to_us),
        }
    };
    edges.windows(2).map(phase).collect()
}

/// What the engine and this machine reached of the links' rates before the first fault, at most all. It is
/// the measure for what came after: a machine too slow for the rates is not the fault's doing.
pub(crate) fn efficiency(record: &Record) -> f64 {
    let first_us = record.applied.first().map_or(record.end_us, |fault| fault.us);
    if first_us < BASELINE_US {
        return 1.0;
    }
    // The first half is for the engine to learn.
    (record.rate(first_us / 2, first_us) / record.live_rate(0).max(1.0)).min(1.0)
}

fn one(record: &Record, fault: &Applied, until_us: u64, reached: f64) -> Aftermath {
    let (kind, rail, at_us) = (fault.entry.fault, fault.entry.rail, fault.us);
    let after = |events: &[&str]| {
        let is_it =
            |us: u64, event: &str| (at_us..until_us).contains(&us) && events.contains(&event);
        record.seen.iter().find(|seen| seen.rail == rail && is_it(seen.us, &seen.event))
    };
    let detected = match kind {
        Fault::Hole | Fault::Slow(_) | Fault::Rst | Fault::Down => after(&["suspect", "down"]),
        Fault::Drain => after(&["drained"]),
        Fault::Heal | Fault::Undrain => None,
    };
    let live = record.live_rate(at_us) * reached;
    let total = |from, to| record.rate(from, to);
    let share = record.rail_live_rate(rail, at_us) * reached;
    let own = |from, to| record.rail_rate(rail, from, to);
    let comes_back = matches!(kind, Fault::Heal | Fault::Undrain | Fault::Rst);
    let up = after(&["up"]).map(|seen| seen.us - at_us);
    let carries = reaches(own, share * ENOUGH, at_us, until_us, RAIL_WINDOW_US);
    // A rail that never went away has nothing to come back from, and tells no event.
    let recover_us = if comes_back { carries.map(|us| us.max(up.unwrap_or(0))) } else { None };
    let (before, end) = (record.look_at(at_us), record.look_at(until_us));
    let flying = record.requests.iter().filter(|r| (r.begin_us..r.end_us).contains(&at_us));
    Aftermath {
        what: fault.entry.to_string(),
        at_us,
        detect_us: detected.map(|seen| seen.us - at_us),
        why: detected.map_or_else(String::new, |seen| seen.why.clone()),
        reroute_us: reaches(total, live * ENOUGH, at_us, until_us, WINDOW_US),
        recover_us,
        stall_us: record.longest_stall_us(at_us, until_us),
        slowest_us: flying.map(|r| r.end_us - r.begin_us).max(),
        resent_slices: end.resent_slices.saturating_sub(before.resent_slices),
        resent_bytes: end.resent_bytes.saturating_sub(before.resent_bytes),
    }
}

/// The first time, after `from_us`, from which `rate` is at least `wanted`: over one window, over some more
/// and over all that follows, so that neither a burst nor what was still under way is taken for the flow.
fn reaches(
    rate: impl Fn(u64, u64) -> f64,
    wanted: f64,
    from_us: u64,
    until_us: u64,
    window_us: u64,
) -> Option<u64> {
    // What holds only for the last moments is not settled, unless there is hardly more.
    let settled_us = (SETTLED * window_us).min((until_us - from_us) / 2).max(window_us);
    let last = until_us.checked_sub(settled_us)?;
    let is_reached = |at: &u64| {
        let some = (at + SETTLED * window_us).min(until_us);
        [at + window_us, some, until_us].into_iter().all(|to| rate(*at, to) >= wanted)
    };
    let mut starts = (0..).map(|step| from_us + step * STEP_US).take_while(|at| *at <= last);
    starts.find(is_reached).map(|at| at - from_us)
}

/// Where the effects of a fault are mixed with those of the next one, or the run has ended. Faults of one
/// moment have one aftermath.
fn next_us(record: &Record, at: usize) -> u64 {
    let begin = record.applied[at].us;
    let later = record.applied[at..].iter().map(|a| a.us).find(|us| *us > begin + SAME_US);
    later.unwrap_or(record.end_us).max(begin)
}

fn describe(record: &Record, us: u64) -> String {
    let weather = record.weather_at(us);
    let clear = record.weather_at(0);
    let changed =
        (0..record.rails()).filter(|rail| us > 0 && weather.link(*rail) != clear.link(*rail));
    let one = |rail: usize| match weather.link(rail) {
        Some(link) => format!("r{rail} {}", link.describe()),
        None => String::new(),
    };
    let text = changed.map(one).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "as built".into() } else { text }
}

/// `12.3`, or `-`.
pub(crate) fn ms(us: Option<u64>) -> String {
    us.map_or_else(|| "-".into(), |us| format!("{:.1}", units::as_f64(us) / 1e3))
}

const ENOUGH: f64 = 0.9;
const WINDOW_US: u64 = 20_000;
/// One rail's pieces are fewer.
const RAIL_WINDOW_US: u64 = 50_000;
/// In windows.
const SETTLED: u64 = 5;
const STEP_US: u64 = 500;
const BASELINE_US: u64 = 300_000;
/// Faults of one script line cannot take effect at the very same time.
const SAME_US: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::super::record::tests::made;
    use super::super::record::{Seen, Span};
    use super::super::script;
    use super::*;

    const RATES: [u64; 2] = [80_000_000, 80_000_000];

    /// Two links of 10 MB/s; r1 swallows from 1 s to 2 s. The engine sees it after 15 ms; until then r0 too
    /// stands still for 10 ms. After the heal r1 comes back in 60 ms.
    fn holed() -> Record {
        let mut record = made(&RATES, 3000, |rail, ms| match (rail, ms) {
            (0, 1000..1010) | (1, 1000..2060) => 0,
            _ => 10_000,
        });
        let script = script::parse("1s hole r1; 2s heal r1", 2).unwrap();
        record.applied = script.iter().map(|e| Applied { entry: *e, us: e.at_us }).collect();
        let seen =
            |us, event: &str, why: &str| Seen { us, rail: 1, event: event.into(), why: why.into() };
        record.seen = vec![
            seen(1_015_000, "suspect", "silent for 15 ms"),
            seen(1_100_000, "down", "no answer"),
            seen(2_005_000, "probing", ""),
            seen(2_080_000, "up", "answered"),
        ];
        record.requests = vec![
            Span { begin_us: 900_000, end_us: 990_000 },
            Span { begin_us: 980_000, end_us: 1_030_000 },
            Span { begin_us: 990_000, end_us: 1_080_000 },
        ];
        for look in record.looks.iter_mut().filter(|look| look.us > 1_015_000) {
            (look.resent_slices, look.resent_bytes) = (3, 4096);
        }
        record
    }

    #[test]
    fn a_hole_is_detected_and_made_up_for() {
        let all = of(&holed());
        let hole = &all[0];
        assert_eq!((hole.what.as_str(), hole.at_us), ("hole r1", 1_000_000));
        assert_eq!((hole.detect_us, hole.why.as_str()), (Some(15_000), "silent for 15 ms"));
        // nothing for 10 ms, then 10 MB/s of 10: a window that begins 2 ms before that has 90 %
        assert_eq!(hole.reroute_us, Some(8_000));
        assert_eq!(hole.recover_us, None);
        assert_eq!((hole.stall_us, hole.slowest_us), (11_000, Some(90_000)));
        assert_eq!((hole.resent_slices, hole.resent_bytes), (3, 4096));
    }

    #[test]
    fn a_heal_is_over_when_the_rail_is_up_and_carries_its_share() {
        let all = of(&holed());
        let heal = &all[1];
        assert_eq!((heal.detect_us, heal.why.as_str()), (None, ""));
        // it carries its share from about 55 ms on, and is called up after 80 ms
        assert_eq!(heal.recover_us, Some(80_000));
        assert_eq!(heal.resent_slices, 0);
        let mut early = holed();
        early.seen[3].us = 2_001_000;
        assert_eq!(of(&early)[1].recover_us, Some(55_000));
    }

    #[test]
    fn what_never_comes_back_is_not_told_to() {
        let mut record =
            made(&RATES, 3000, |rail, ms| if rail == 1 && ms >= 1000 { 0 } else { 10_000 });
        let script = script::parse("1s hole r1; 2s heal r1", 2).unwrap();
        record.applied = script.iter().map(|e| Applied { entry: *e, us: e.at_us }).collect();
        let all = of(&record);
        assert_eq!((all[0].detect_us, all[0].reroute_us), (None, Some(0)));
        assert_eq!((all[1].reroute_us, all[1].recover_us), (None, None));
    }

    #[test]
    fn a_burst_is_not_the_flow() {
        // 2 ms of plenty, then nothing for long, then the flow
        let rate = |from: u64, to: u64| {
            let landed = |us: u64| match us {
                0..2_000 => us * 100,
                2_000..80_000 => 200_000,
                _ => 200_000 + (us - 80_000) * 10,
            };
            units::as_f64(landed(to) - landed(from)) / units::as_f64(to - from) * 1e6
        };
        let at = reaches(rate, 9e6, 0, 1_000_000, 20_000).unwrap();
        assert!((60_000..=80_000).contains(&at), "{at}");
        assert_eq!(reaches(rate, 9e6, 0, 10_000, 20_000), None);
    }

    #[test]
    fn a_slump_that_comes_later_is_not_rerouted() {
        // what was in flight carries on for 200 ms, then hardly anything moves
        let mut record = made(&RATES, 3000, |_, ms| if ms < 1200 { 10_000 } else { 1_000 });
        let script = script::parse("1s slow r1 0.1", 2).unwrap();
        record.applied = vec![Applied { entry: script[0], us: 1_000_000 }];
        assert_eq!(of(&record)[0].reroute_us, None);
    }

    #[test]
    fn a_machine_that_is_too_slow_is_measured_by_itself() {
        let record = made(&RATES, 1000, |_, _| 8_000);
        assert!((efficiency(&record) - 0.8).abs() < 1e-3);
        let fast = made(&RATES, 1000, |_, _| 12_000);
        assert!((efficiency(&fast) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn faults_of_one_moment_share_what_follows() {
        let mut record = made(&RATES, 2000, |_, _| 10_000);
        let script = script::parse("1s rst r0; 1s rst r1", 2).unwrap();
        record.applied = vec![
            Applied { entry: script[0], us: 1_000_000 },
            Applied { entry: script[1], us: 1_000_200 },
        ];
        let all = of(&record);
        assert_eq!((all[0].reroute_us, all[1].recover_us), (Some(0), Some(0)));
        let edges: Vec<_> = phases(&record).iter().map(|p| (p.from_us, p.to_us)).collect();
        assert_eq!(edges, [(0, 1_000_200), (1_000_200, 2_000_000)]);
    }

    #[test]
    fn phases_lie_between_faults_and_know_the_bound() {
        let phases = phases(&holed());
        let weather: Vec<_> = phases.iter().map(|p| p.weather.as_str()).collect();
        assert_eq!(weather, ["as built", "r1 hole", "as built"]);
        assert!((phases[0].gb_per_s - 0.02).abs() < 1e-6);
        assert!((phases[1].live_gb_per_s - 0.01).abs() < 1e-9);
        assert_eq!(
            (phases[1].from_us, phases[1].to_us, phases[1].stall_us),
            (1_000_000, 2_000_000, 11_000)
        );
    }
}
