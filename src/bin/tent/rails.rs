//! Runs with weather: `tent demo --rails` and `tent bench --rails`. Links of loopback with rates of their
//! own (`relay`), faults by a script (`script`, `weather`), requests that go on through it all (`run`,
//! `keeper`), and what it came to (`record`, `aftermath`, `report`, `svg`, `series`).

mod aftermath;
pub(crate) mod args;
mod keeper;
mod net;
pub(crate) mod rail;
mod record;
pub(crate) mod relay;
mod report;
mod run;
pub(crate) mod script;
mod series;
mod shape;
mod stage;
mod svg;
mod table;
mod weather;

use std::time::Duration;

use super::cli::{BenchArgs, DemoArgs, OpType, TransportArgs};
use super::fail::{Fail, Result};
use super::host;
use super::proto::Load;
use super::units;
use args::RailsArgs;
use record::{Applied, Record, Ways};
use run::{Plan, Screen, Snapshot};
use script::{Entry, Fault};
use stage::{Stage, Wish};
use table::Table;

/// `tent demo --rails N`.
pub(crate) fn demo(args: &DemoArgs) -> Result<()> {
    let rates_bps = args.rails.rates_bps()?;
    let mut script = args.rails.script(rates_bps.len())?;
    for (flag, list, fault) in [
        ("--slow-rail", &args.slow_rail, Fault::Slow(0.1)),
        ("--kill-rail", &args.kill_rail, Fault::Hole),
        ("--heal", &args.heal, Fault::Heal),
    ] {
        for text in list {
            script.push(script::parse_at(flag, text, fault, rates_bps.len())?);
        }
    }
    script.sort_by_key(|entry| entry.at_us);
    let plan = Plan {
        load: Load::Write,
        block: args.block.unwrap_or(BLOCK),
        in_flight: usize::try_from(args.in_flight).unwrap_or(1),
        run_us: args.duration.map_or_else(|| run_us(&script, DEMO_US), |s| units::round(s * 1e6)),
        script,
    };
    let mut stage = start(&args.transport, &rates_bps, &plan, false)?;
    println!("{}", heading(&stage, &plan));
    let mut table = Table::new(&rates_bps, plan.ways());
    let record = run::run(&mut stage, &plan, &mut table)?;
    println!("\n{}", report::text(&record));
    finish(&args.rails, &record, &plan)
}

/// `tent bench --rails N`.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    if !args.target_seg_name.is_empty() || !args.end.is_p2p() {
        let cause = "--rails shapes links to a target of its own";
        return Err(Fail::usage(cause, "leave out --target_seg_name and --metadata_type"));
    }
    let load = match args.op_type {
        OpType::Read => Load::Read,
        OpType::Write => Load::Write,
        OpType::Mix => Load::Mix,
        OpType::WriteSeed | OpType::ReadVerify => {
            let cause = "--rails checks every byte with patterns of its own";
            return Err(Fail::usage(cause, "use --op_type read, write or mix"));
        }
    };
    let rates_bps = args.rails.rates_bps()?;
    let script = args.rails.script(rates_bps.len())?;
    let plan = Plan {
        load,
        block: args.start_block_size.unwrap_or(BLOCK),
        in_flight: usize::try_from(args.in_flight).unwrap_or(1),
        run_us: args.duration.map_or_else(|| run_us(&script, BENCH_US), |s| units::round(s * 1e6)),
        script,
    };
    let with_faults = !plan.script.is_empty();
    let mut stage = start(&args.end.transport, &rates_bps, &plan, with_faults)?;
    if !args.json {
        println!("# {} | {}", stage.library.path, host::line());
        println!("# {}", heading(&stage, &plan));
    }
    let record = run::run(&mut stage, &plan, &mut Nobody)?;
    if args.json {
        report::json(&record).iter().for_each(|line| println!("{line}"));
    } else {
        println!("{}", report::text(&record));
    }
    finish(&args.rails, &record, &plan)
}

fn start(transport: &TransportArgs, rates_bps: &[u64], plan: &Plan, events: bool) -> Result<Stage> {
    if transport.transports().is_some_and(|list| list != "tcp") {
        return Err(Fail::usage("--rails are rails of TCP", "leave out --transport"));
    }
    if plan.run_us == 0 || plan.run_us > LONGEST_US {
        let cure = format!("from a millisecond to {} s", LONGEST_US / 1_000_000);
        return Err(Fail::usage("--duration is out of range", cure));
    }
    let bytes = plan.buffer();
    if host::fitting(bytes, 2, host::available_memory()) < bytes {
        let cause = format!("two buffers of {} do not fit into memory", units::size(bytes));
        return Err(Fail::usage(cause, "smaller requests, or fewer --in-flight"));
    }
    let is_drain = |entry: &Entry| matches!(entry.fault, Fault::Drain | Fault::Undrain);
    let drain = plan.script.iter().any(is_drain);
    Stage::start(&Wish { lib: transport.lib.lib.as_deref(), rates_bps, bytes, events, drain })
}

/// Files, and the verdict; a file that cannot be written does not hide what was measured.
fn finish(args: &RailsArgs, record: &Record, plan: &Plan) -> Result<()> {
    if let Some(path) = &args.series {
        series::write(path, record)?;
    }
    if let Some(path) = &args.svg {
        let title = report::title(record, word(plan.load));
        series::save(path, &svg::draw(record, &title))?;
    }
    report::judge(record)
}

fn heading(stage: &Stage, plan: &Plan) -> String {
    let rates = &stage.rates_bps;
    let sum: u64 = rates.iter().sum();
    let list = match rates.split_first() {
        Some((first, rest)) if rest.iter().all(|rate| rate == first) => {
            format!("{} x {}", rates.len(), units::rate_bps(*first))
        }
        _ => rates.iter().map(|rate| units::rate_bps(*rate)).collect::<Vec<_>>().join(" + "),
    };
    let both = if plan.ways() == Ways::Both { " each way" } else { "" };
    format!(
        "{} of {} each, {} in flight, over {list} = {:.3} GB/s{both}; pids: initiator {}, target {}, relays {}",
        word(plan.load),
        units::size(plan.block),
        plan.in_flight,
        units::as_f64(sum) / 8e9,
        std::process::id(),
        stage.target.pid(),
        stage.relays.pid(),
    )
}

fn word(load: Load) -> &'static str {
    match load {
        Load::Read => "READ",
        Load::Write => "WRITE",
        Load::Mix => "READ and WRITE",
    }
}

/// Long enough to see what the last fault does.
fn run_us(script: &[Entry], least_us: u64) -> u64 {
    script.last().map_or(least_us, |last| (last.at_us + AFTER_US).max(least_us))
}

/// A run that nobody watches.
struct Nobody;

impl Screen for Nobody {
    fn show(&mut self, _: &Snapshot, _: &[Applied]) {}

    fn pace(&self) -> Duration {
        Duration::from_secs(1)
    }
}

const BLOCK: u64 = 8 * units::MIB;
const DEMO_US: u64 = 8_000_000;
const BENCH_US: u64 = 5_000_000;
const AFTER_US: u64 = 2_000_000;
/// A look each millisecond is kept in memory.
const LONGEST_US: u64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_outlasts_its_script() {
        assert_eq!(run_us(&[], DEMO_US), 8_000_000);
        let script = |text| script::parse(text, 4).unwrap();
        assert_eq!(run_us(&script("2s hole r1; 3s heal r1"), BENCH_US), 5_000_000);
        assert_eq!(run_us(&script("20s hole r1"), BENCH_US), 22_000_000);
    }
}
