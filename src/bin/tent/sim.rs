//! `tent sim`: runs of the simulator by seed. It needs no engine library: the parts of the engine that are
//! simulated are linked into this command.

use std::io::Write;
use std::path::Path;

use tent::engine::PIECE_LOG_HEADER;
use tent::sched::replay::{Sent, judge};
use tent::sim::{self, Mode, Outcome};
use tent::slice::Op;
use tent::time::Instant;

use super::cli::{SimArgs, SimMode};
use super::fail::{Fail, Result};

pub(crate) fn run(args: &SimArgs) -> Result<()> {
    if let Some(path) = &args.replay {
        return replay(path);
    }
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

/// Prints how far each model was from the times of a recorded run.
fn replay(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Fail::usage(format!("{}: {e}", path.display()), "name a file of TENT_PIECE_LOG")
    })?;
    let mut rails = Vec::new();
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, line)| line != PIECE_LOG_HEADER) {
        let cause = format!("{}: the first line is not {PIECE_LOG_HEADER}", path.display());
        return Err(Fail::usage(cause, "name a file of TENT_PIECE_LOG"));
    }
    let mut run = Vec::new();
    for (at, line) in lines {
        let Some(piece) = piece(line, &mut rails) else {
            // the last line of a process that was ended is cut
            println!("line {}: left out: {line}", at + 1);
            continue;
        };
        run.push(piece);
    }
    println!("{} pieces over {} rails; |predicted - taken| / taken", run.len(), rails.len());
    println!("{:<24} {:>8} {:>8} {:>8}", "model", "median", "p90", "p99");
    for errors in judge(&run, RATE_GUESS) {
        let at = |share| format!("{:.3}", errors.quantile(share));
        println!("{:<24} {:>8} {:>8} {:>8}", errors.model, at(0.5), at(0.9), at(0.99));
    }
    Ok(())
}

fn piece<'a>(line: &'a str, rails: &mut Vec<&'a str>) -> Option<Sent> {
    let mut fields = line.split(',');
    let name = fields.next()?;
    let op = match fields.next()? {
        "read" => Op::Read,
        "write" => Op::Write,
        _ => return None,
    };
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (len, ahead, posted, done) = (number()?, number()?, number()?, number()?);
    let rail = rails.iter().position(|r| *r == name).unwrap_or_else(|| {
        rails.push(name);
        rails.len() - 1
    });
    Some(Sent { rail, op, len, ahead, posted: Instant(posted), done: Instant(done) })
}

/// What the engine takes an unmeasured rail to carry, bytes per second.
const RATE_GUESS: f64 = 1.25e8;
