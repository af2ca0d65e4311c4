//! `tent sim`: runs of the simulator by seed. It needs no engine library: the parts of the engine that are
//! simulated are linked into this command.

use std::io::Write;

use tent::sim::{self, Mode, Outcome};

use super::cli::{SimArgs, SimMode};
use super::fail::{Fail, Result};

pub(crate) fn run(args: &SimArgs) -> Result<()> {
    if let Some(name) = &args.scenario {
        let known = sim::scenario(name, args.policy.as_deref(), &mut |line| {
            println!("{line}");
            std::io::stdout().flush().ok();
        });
        let cause = format!("no policy `{}`", args.policy.as_deref().unwrap_or(""));
        return if known { Ok(()) } else { Err(Fail::usage(cause, "see tent sim --help")) };
    }
    let mode = match args.mode {
        SimMode::Safety => Mode::Safety,
        SimMode::Liveness => Mode::Liveness,
    };
    let begin = args.seed.unwrap_or(0);
    let run = |seed| match args.sabotage {
        Some(how) => sim::run_broken(seed, mode, how, args.trace),
        None => sim::run(seed, mode, args.trace),
    };
    if args.seed.is_some() && args.runs.is_none() {
        return one(begin, &run(begin));
    }
    many(begin, args.runs.unwrap_or(RUNS), mode, run)
}

fn one(seed: u64, outcome: &Outcome) -> Result<()> {
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("seed {seed}: {}", summary(outcome));
    for breach in &outcome.breaches {
        println!("  {breach}");
    }
    for debt in &outcome.debts {
        println!("  known: {debt}");
    }
    verdict(u64::from(!outcome.breaches.is_empty()), 1)
}

fn many(begin: u64, runs: u64, mode: Mode, run: impl Fn(u64) -> Outcome) -> Result<()> {
    let (mut failed, mut known, mut all) = (0, 0, Outcome::default());
    for seed in begin..begin.saturating_add(runs) {
        let outcome = run(seed);
        all.completed += outcome.completed;
        all.others += outcome.others;
        all.placed += outcome.placed;
        all.late += outcome.late;
        known += u64::from(!outcome.debts.is_empty());
        if let Some(first) = outcome.breaches.first() {
            failed += 1;
            let faults = outcome.faults.join(",");
            println!("{}   # {faults}: {first}", sim::replay(seed, mode));
            std::io::stdout().flush().ok();
        }
    }
    println!(
        "{runs} seeds from {begin}: {failed} broke something, {known} what is known; {}",
        summary(&all)
    );
    verdict(failed, runs)
}

fn summary(outcome: &Outcome) -> String {
    format!(
        "{} tasks completed, {} ended otherwise; {} bytes placed, {} of them late",
        outcome.completed, outcome.others, outcome.placed, outcome.late
    )
}

fn verdict(failed: u64, of: u64) -> Result<()> {
    if failed == 0 {
        return Ok(());
    }
    Err(Fail::transfer(
        format!("{failed} of {of} runs broke an invariant"),
        "repeat one with --trace",
    ))
}

/// Seeds without --runs and --seed.
const RUNS: u64 = 2000;
