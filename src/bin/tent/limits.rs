//! `tent limits`: the engine against what this machine can do, both measured in one run and in turn
//! (A B A B), so that the ratio holds on a busy machine too. Each process is a worker of its own; this one
//! only asks and compares.

use std::path::PathBuf;
use std::time::Duration;

use super::capi::Library;
use super::cli::{BenchArgs, LimitsArgs, LimitsOnly};
use super::clock;
use super::duo::{self, Duo, Plain};
use super::fail::{Fail, Kind, Result};
use super::host;
use super::os::Way;
use super::peer::Peer;
use super::proto::{Command, Load, Memory, Outcome, Plan, Wait};
use super::units;
use super::verdict::{self, Row, Want};

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    lib: Option<PathBuf>,
    bytes: u64,
    json: bool,
    only: LimitsOnly,
}

impl From<&BenchArgs> for Wish {
    fn from(a: &BenchArgs) -> Self {
        let lib = a.end.transport.lib.lib.clone();
        Self { lib, bytes: a.end.total_buffer_size, json: a.json, only: a.limits.clone() }
    }
}

impl From<&LimitsArgs> for Wish {
    fn from(a: &LimitsArgs) -> Self {
        let (lib, only) = (a.lib.lib.clone(), a.limits.clone());
        Self { lib, bytes: a.total_buffer_size, json: a.json, only }
    }
}

type Item = fn(&Wish) -> Result<Vec<Row>>;

pub(crate) fn run(wish: &Wish) -> Result<()> {
    let bytes = host::fitting(wish.bytes, 5, host::available_memory());
    if bytes < wish.bytes {
        eprintln!(
            "little memory: buffers of {} instead of {}",
            units::size(bytes),
            units::size(wish.bytes)
        );
    }
    let wish = Wish { bytes, lib: wish.lib.clone(), only: wish.only.clone(), ..*wish };
    if let Some(odd) = wish.only.only.iter().find(|o| !ITEMS.iter().any(|(name, ..)| name == o)) {
        let names: Vec<_> = ITEMS.iter().map(|(name, ..)| *name).collect();
        return Err(Fail::usage(format!("no comparison `{odd}`"), names.join(",")));
    }
    if wish.json {
        let head = serde_json::json!({
            "kind": "machine", "machine": host::facts(), "buffer_bytes": bytes,
            "reps": wish.only.reps, "rep_secs": wish.only.rep_secs,
        });
        println!("{head}");
    } else {
        println!(
            "# {} | buffers {} | {} repetitions of {} s, ours and bound in turn",
            host::line(),
            units::size(bytes),
            wish.only.reps,
            wish.only.rep_secs
        );
        println!("{}", verdict::heading());
    }
    let mut missed = Vec::new();
    for (name, what, item) in ITEMS {
        if !wish.only.only.is_empty() && !wish.only.only.iter().any(|o| o == name) {
            continue;
        }
        let rows = item(&wish).unwrap_or_else(|fail| vec![Row::missing(what, &fail.to_string())]);
        for row in rows {
            if wish.json {
                println!("{}", row.record());
            } else {
                println!("{}", row.line());
            }
            if row.ok() == Some(false) {
                missed.push(row.name);
            }
        }
    }
    if wish.only.strict && !missed.is_empty() {
        let (cause, cure) = (format!("missed: {}", missed.join("; ")), String::new());
        return Err(Fail { kind: Kind::Missed, cause, cure });
    }
    Ok(())
}

const ITEMS: [(&str, &str, Item); 7] = [
    ("cma", "64 MiB WRITE, cma", cma_large),
    ("tcp", "64 MiB over one loopback TCP rail", tcp_large),
    ("small-tcp", "4 KiB READ, tcp", tcp_small),
    ("small-cma", "4 KiB READ, cma", cma_small),
    ("shm", "16 MiB WRITE, shm, 2 callers", shm_large),
    ("idle", "idle engine", idle),
    ("start", "engine start", start),
];

/// Any memory of two processes, two copying threads on both sides of the comparison.
fn cma_large(wish: &Wish) -> Result<Vec<Row>> {
    let mut ours = wish.duo("cma", Memory::Any)?;
    let mut raw = wish.plain(false)?;
    let two = wish.plan(Load::Write, LARGE, 2);
    let one = wish.plan(Load::Write, LARGE, 1);
    ours.check(&two)?;
    ours.run(&two)?;
    raw.copy(Way::Out, &two)?;
    let mut both = Row::new("64 MiB WRITE, cma, 2 callers", "GB/s", Want::RatioAtLeast(0.80));
    let mut alone = Row::new("64 MiB WRITE, cma, 1 caller", "GB/s", Want::Nothing);
    let mut submit = Submit::new("cma");
    for _ in 0..wish.only.reps {
        let a = ours.run(&two)?;
        let b = raw.copy(Way::Out, &two)?.gb_per_s;
        let c = ours.run(&one)?;
        both.pair(a.gb_per_s, b);
        alone.pair(c.gb_per_s, b);
        submit.add(&c);
    }
    both.note = ours.note("cma")?;
    alone.note = "bound: 2 threads".into();
    let [p50, p99] = submit.rows();
    Ok(vec![both, alone, p50, p99])
}

/// Rate and CPU of both ends, callers asleep while the bytes move, as the plain loop's are. The loop runs
/// with the system's congestion control and with one that does not pace: on loopback pacing (bbr) halves
/// the rate, so the first says "as good as a plain program", the second "as good as this machine".
fn tcp_large(wish: &Wish) -> Result<Vec<Row>> {
    let mut ours = wish.duo("tcp", Memory::Any)?;
    let mut raw = wish.plain(false)?;
    raw.connect(None)?;
    raw.connect(Some(UNPACED))?;
    let wait = wish.sleeping()?;
    let mut rows = Vec::new();
    let mut submit = Submit::new("tcp");
    for (load, name) in [(Load::Write, "WRITE"), (Load::Read, "READ")] {
        let plan = Plan { wait, ..wish.plan(load, LARGE, 1) };
        ours.check(&plan)?;
        ours.run(&plan)?;
        let warm = [raw.stream(0, LARGE, 4)?.rate, raw.stream(1, LARGE, 4)?.rate];
        let counts =
            warm.map(|r| units::round(r * wish.only.rep_secs * 1e9 / units::as_f64(LARGE)).max(2));
        let rate_row = |title| Row::new(title, "GB/s", Want::RatioAtLeast(0.9));
        let cpu_row = |title| Row::new(title, "s/GB", Want::RatioAtMost(1.0 / 0.9));
        let mut rate = rate_row(format!("64 MiB {name}, one tcp rail"));
        let mut cpu = cpu_row(format!("CPU of both ends, tcp {name}"));
        let mut best = rate_row(format!("64 MiB {name}, one tcp rail / {UNPACED}"));
        let mut best_cpu = cpu_row(format!("CPU of both ends, tcp {name} / {UNPACED}"));
        for _ in 0..wish.only.reps {
            let (a, a_cpu) = ours.run_with_cpu(&plan)?;
            let b = raw.stream(0, LARGE, counts[0])?;
            let c = raw.stream(1, LARGE, counts[1])?;
            rate.pair(a.gb_per_s, b.rate);
            cpu.pair(a_cpu, b.cpu_s_per_gb);
            best.pair(a.gb_per_s, c.rate);
            best_cpu.pair(a_cpu, c.cpu_s_per_gb);
            submit.add(&a);
        }
        rate.note = ours.note("tcp")?;
        rows.extend([rate, cpu, best, best_cpu]);
    }
    rows.extend(submit.rows());
    Ok(rows)
}

fn tcp_small(wish: &Wish) -> Result<Vec<Row>> {
    let mut ours = wish.duo("tcp", Memory::Any)?;
    let mut raw = wish.plain(false)?;
    raw.connect(None)?;
    let plan = wish.plan(Load::Read, SMALL, 1);
    ours.check(&plan)?;
    ours.run(&plan)?;
    raw.ping(&plan)?;
    let mut p50 = Row::new("4 KiB READ p50, tcp, polling caller", "us", Want::RatioAtMost(1.5));
    let mut p99 = Row::new("4 KiB READ p99, tcp, polling caller", "us", Want::Nothing);
    for _ in 0..wish.only.reps {
        let (a, b) = (ours.run(&plan)?, raw.ping(&plan)?);
        p50.pair(a.tx.p50, b.tx.p50);
        p99.pair(a.tx.p99, b.tx.p99);
    }
    p50.note = ours.note("tcp")?;
    Ok(vec![p50, p99])
}

fn cma_small(wish: &Wish) -> Result<Vec<Row>> {
    let mut ours = wish.duo("cma", Memory::Any)?;
    let mut raw = wish.plain(false)?;
    let plan = wish.plan(Load::Read, SMALL, 1);
    ours.check(&plan)?;
    ours.run(&plan)?;
    raw.copy(Way::In, &plan)?;
    let mut p50 = Row::new("4 KiB READ p50, cma, polling caller", "us", Want::RatioAtMost(2.0));
    for _ in 0..wish.only.reps {
        let (a, b) = (ours.run(&plan)?, raw.copy(Way::In, &plan)?);
        p50.pair(a.tx.p50, b.tx.p50);
    }
    p50.note = ours.note("cma")?;
    Ok(vec![p50])
}

fn shm_large(wish: &Wish) -> Result<Vec<Row>> {
    let mut ours = wish.duo("shm", Memory::Engine)?;
    let mut raw = wish.plain(true)?;
    let plan = wish.plan(Load::Write, MIDDLE, 2);
    ours.check(&plan)?;
    ours.run(&plan)?;
    raw.memcpy(&plan)?;
    let mut row = Row::new("16 MiB WRITE, shm, 2 callers", "GB/s", Want::RatioAtLeast(0.85));
    for _ in 0..wish.only.reps {
        row.pair(ours.run(&plan)?.gb_per_s, raw.memcpy(&plan)?.gb_per_s);
    }
    row.note = ours.note("shm")?;
    Ok(vec![row])
}

/// After traffic: an engine that never moved anything is idle too easily.
fn idle(wish: &Wish) -> Result<Vec<Row>> {
    let mut ours = wish.duo("", Memory::Any)?;
    ours.run(&wish.plan(Load::Write, LARGE, 2))?;
    ours.run(&wish.plan(Load::Read, SMALL, 1))?;
    clock::pause(Duration::from_millis(300));
    let mut threads = Row::new("threads of an engine", "", Want::AtMost(4.0));
    let mut cpu = Row::new("CPU of an idle engine in 1 s", "ms", Want::AtMost(IDLE_CPU_MS));
    for _ in 0..wish.only.reps.min(3) {
        let before = ours.vitals()?;
        clock::pause(Duration::from_secs(1));
        let after = ours.vitals()?;
        for (b, a) in before.iter().zip(&after) {
            cpu.ours.push((a.cpu_s - b.cpu_s) * 1e3);
            // The worker itself is one thread.
            threads.ours.push(units::as_f64(a.threads.saturating_sub(1)));
        }
    }
    "both ends; asking costs a little itself".clone_into(&mut cpu.note);
    Ok(vec![threads, cpu])
}

fn start(wish: &Wish) -> Result<Vec<Row>> {
    let mut start = Row::new("engine start", "ms", Want::AtMost(5.0));
    let mut register = Row::new("register touched memory", "us", Want::AtMost(50.0));
    for _ in 0..wish.only.reps {
        let mut peer = Peer::spawn(wish.lib.as_deref(), None)?;
        let info = peer.start_node(&duo::spec(wish.bytes, Memory::Any))?;
        start.ours.push(info.start_us / 1e3);
        register.ours.push(info.register_us);
        for _ in 0..2 {
            register.ours.push(peer.ask(&Command::Reregister)?);
        }
    }
    start.note = "each in a new process".into();
    register.note = units::size(wish.bytes);
    Ok(vec![start, register])
}

impl Wish {
    fn plan(&self, load: Load, block: u64, threads: u64) -> Plan {
        let (cycle, run_s) = (duo::CYCLE, self.only.rep_secs);
        let (wait, interval_us) = (Wait::Poll, 0);
        Plan { load, block, batch: 1, threads, cycle, warmup_s: WARMUP_S, run_s, interval_us, wait }
    }

    fn duo(&self, transports: &str, memory: Memory) -> Result<Duo> {
        let transports = (!transports.is_empty()).then_some(transports);
        Duo::start(self.lib.as_deref(), transports, self.bytes, memory)
    }

    fn plain(&self, shared: bool) -> Result<Plain> {
        Plain::start(self.bytes, shared)
    }

    /// Asleep while bytes move, where the library can.
    fn sleeping(&self) -> Result<Wait> {
        let lib = Library::load(self.lib.as_deref())?;
        Ok(if lib.can_wait() { Wait::Block } else { Wait::Poll })
    }
}

/// The submit call's own time, over all repetitions of a comparison.
struct Submit(Row, Row);

impl Submit {
    fn new(over: &str) -> Self {
        let row = |p| Row::new(format!("submit of 64 MiB {p}, {over}"), "us", Want::AtMost(50.0));
        Self(row("p50"), row("p99"))
    }

    fn add(&mut self, outcome: &Outcome) {
        self.0.ours.push(outcome.submit.p50);
        self.1.ours.push(outcome.submit.p99);
    }

    fn rows(self) -> [Row; 2] {
        [self.0, self.1]
    }
}

const LARGE: u64 = 64 * units::MIB;
const MIDDLE: u64 = 16 * units::MIB;
const SMALL: u64 = 4 * units::KIB;
/// Always there, for everybody, and without pacing.
const UNPACED: &str = "reno";
const WARMUP_S: f64 = 0.1;
/// What asking two processes for their CPU time costs, with room to spare.
const IDLE_CPU_MS: f64 = 1.0;
