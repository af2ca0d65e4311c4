//! Seeds on every push. A failure prints the line that repeats it.

use super::link::LinkState;
use super::scenario::{CASES, Weathered, weathered};
use super::{Mode, Sabotage, replay, run, run_broken};
use crate::config::Spray;
use std::panic::catch_unwind;

/// Runs seeds and tells of the first ones that break something.
fn seeds(mode: Mode, from: u64, count: u64) {
    let mut failed = Vec::new();
    let (mut completed, mut late) = (0, 0);
    for seed in from..from + count {
        let outcome = run(seed, mode, false);
        completed += outcome.completed;
        late += outcome.late;
        if !outcome.breaches.is_empty() {
            failed.push(format!("{}: {}", replay(seed, mode), outcome.breaches.join("; ")));
        }
    }
    assert!(failed.is_empty(), "{} of {count} seeds:\n{}", failed.len(), failed.join("\n"));
    assert!(completed > count, "so few tasks prove nothing: {completed}");
    assert!(late > 0, "nothing ever came late: the fence was not tried");
}

#[test]
fn safety_holds_for_every_seed() {
    seeds(Mode::Safety, 0, 1200);
}

#[test]
fn everything_ends_once_the_weather_is_over() {
    seeds(Mode::Liveness, 0, 800);
}

/// Breaks the world and returns what the checks say over some seeds; a panic of the engine counts as said.
fn sabotaged(how: Sabotage) -> Vec<String> {
    let mut said = Vec::new();
    for seed in 0..60 {
        match catch_unwind(|| run_broken(seed, Mode::Safety, how, false)) {
            Ok(outcome) => said.extend(outcome.breaches),
            Err(panic) => said.extend(panic.downcast::<&str>().map(|text| (*text).to_owned())),
        }
    }
    said
}

#[test]
fn the_checks_find_what_is_broken_on_purpose() {
    for (how, finds) in [
        (Sabotage::NoFence, "I3: "),
        (Sabotage::Astray, "I1: "),
        (Sabotage::Empty, "I1: "),
        (Sabotage::Mute, "I5: "),
        (Sabotage::Twice, "a slice completed twice"),
        (Sabotage::Lazy, "I9: "),
    ] {
        let said = sabotaged(how);
        assert!(said.iter().any(|text| text.contains(finds)), "{how:?} is not found: {said:?}");
    }
}

#[test]
fn a_seed_is_a_run() {
    let one = run(5, Mode::Safety, true);
    let two = run(5, Mode::Safety, true);
    assert!(!one.trace.is_empty());
    assert_eq!(one.trace, two.trace);
}

/// The policy that is meant reaches what the model behind D3 says it can.
#[test]
fn pull_reaches_the_model() {
    let mut short = Vec::new();
    for case in &CASES {
        let model = case.model("pull").unwrap();
        for (megabytes, wanted) in case.megabytes.iter().zip(model) {
            let ratio = case.ratio(Spray::Pull, *megabytes);
            // a machine may be busy for 2 ms before a piece counts as late, of which the model knows nothing
            let slack = if case.is_known() { 0.01 } else { 0.03 };
            if ratio < wanted - slack {
                short.push(format!("{}, {megabytes} MB: {ratio:.3}, not {wanted}", case.name));
            }
        }
    }
    assert!(short.is_empty(), "{short:#?}");
}

/// And the bound is one: whoever deals out equal shares gets what the model says, and no more.
#[test]
fn equal_shares_get_what_the_slowest_rail_gives() {
    let unequal = &CASES[0];
    let model = unequal.model("round_robin").unwrap();
    for (megabytes, wanted) in unequal.megabytes.iter().zip(model).take(3) {
        let ratio = unequal.ratio(Spray::RoundRobin, *megabytes);
        assert!((ratio - wanted).abs() < 0.01, "{megabytes} MB: {ratio:.3}, not {wanted}");
    }
}

#[test]
fn a_rail_that_falls_ill_costs_what_it_carried_and_no_more() {
    for (state, factor) in [(LinkState::Up, 0.1), (LinkState::Hole, 1.0), (LinkState::Down, 1.0)] {
        let Weathered { ratio, gap, faults, .. } = weathered(Spray::Pull, state, factor);
        assert!(faults.is_empty(), "{state:?}: {faults}");
        assert!(ratio > 0.98, "{state:?}: {ratio:.3} of the bound");
        assert!(gap < 20.0, "{state:?}: nothing landed for {gap} ms");
    }
}
