//! `tent demo`: two processes, a buffer each, all bytes there and back over the C API; every byte checked,
//! each side by its own process. The first screen answers: did it work, over what, how fast.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::capi::{Engine, Library, Op, Progress};
use super::cli::DemoArgs;
use super::clock;
use super::fail::{Fail, Result};
use super::host;
use super::node::{self, Node, P2P, Remote};
use super::peer::Peer;
use super::proto::{Command, NodeInfo, NodeSpec, Range};
use super::rails::rail::Rail;
use super::units;

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let path = args.transport.lib.lib.as_deref();
    let lib = Library::load(path)?;
    let bytes = host::fitting(args.size, 2, host::available_memory());
    if bytes < args.size {
        println!(
            "little memory: {} each way instead of {}",
            units::size(bytes),
            units::size(args.size)
        );
    }
    let mut demo = Demo::start(args, lib, path, bytes)?;
    println!(
        "A (pid {}) <-> B (pid {}), a buffer of {} each, {}",
        std::process::id(),
        demo.peer.pid(),
        units::size(bytes),
        lib.path
    );
    let write = demo.write()?;
    let read = demo.read()?;
    demo.report(write, read)
}

/// One direction: seconds of moving, and wrong bytes where they arrived.
#[derive(Debug, Clone, Copy)]
struct Leg {
    secs: f64,
    wrong: u64,
}

struct Demo<'a> {
    args: &'a DemoArgs,
    node: Node,
    remote: Remote,
    peer: Peer,
}

impl<'a> Demo<'a> {
    fn start(
        args: &'a DemoArgs,
        lib: &'static Library,
        path: Option<&std::path::Path>,
        bytes: u64,
    ) -> Result<Self> {
        let spec = NodeSpec {
            metadata: P2P.into(),
            name: host::LOOPBACK.into(),
            port: 0,
            bytes,
            memory: args.transport.memory(),
        };
        let mut peer = Peer::spawn(path, None)?;
        // Both sides take and touch their memory at the same time.
        peer.send(&Command::Node { spec: spec.clone() })?;
        let node = Node::start(lib, &spec)?;
        let theirs: NodeInfo = peer.answer()?;
        let remote = node.open(&theirs.segment, Some((theirs.address, theirs.len)))?;
        Ok(Self { args, node, remote, peer })
    }

    fn write(&mut self) -> Result<Leg> {
        let all = self.node.buffer().whole();
        self.node.buffer().fill(SEED_WRITE, &[all])?;
        let secs = self.move_bytes(Op::Write, "A -> B  WRITE")?;
        let wrong = self.peer.ask(&Command::Check { seed: SEED_WRITE, ranges: vec![all] })?;
        Ok(Leg { secs, wrong })
    }

    fn read(&mut self) -> Result<Leg> {
        let all = self.node.buffer().whole();
        self.peer.ask::<()>(&Command::Fill { seed: SEED_READ, ranges: vec![all] })?;
        let secs = self.move_bytes(Op::Read, "A <- B  READ ")?;
        let wrong = self.node.buffer().wrong(SEED_READ, &[all])?;
        Ok(Leg { secs, wrong })
    }

    /// All bytes in one direction, some requests in flight; the seconds it took.
    fn move_bytes(&self, op: Op, name: &str) -> Result<f64> {
        let all = self.node.buffer().whole();
        let block = self.args.block.unwrap_or(BLOCK).min(all.len.div_ceil(4));
        let mut waiting = node::pieces(all, block).peekable();
        let mut flying = VecDeque::new();
        let mut screen = Screen::new(name, all.len);
        let (begin, mut done) = (clock::now(), 0);
        let mut last_news = (begin, 0);
        while waiting.peek().is_some() || !flying.is_empty() {
            while (flying.len() as u64) < self.args.in_flight
                && let Some(range) = waiting.next()
            {
                flying.push_back((self.submit(op, range)?, range.len));
            }
            if let Some((batch, _)) = flying.front() {
                wait_a_little(self.node.engine(), *batch)?;
            }
            let mut moving = 0;
            let mut still = VecDeque::new();
            for (batch, len) in flying {
                match self.node.engine().poll(batch, 0)? {
                    Progress::Moving(bytes) => {
                        moving += bytes.min(len);
                        still.push_back((batch, len));
                    }
                    Progress::Completed => {
                        done += len;
                        self.node.engine().free_batch(batch)?;
                    }
                    Progress::Failed(status) => return Err(self.node.engine().task_failed(status)),
                }
            }
            flying = still;
            screen.show(done + moving);
            last_news = stalled(last_news, done + moving)?;
        }
        let secs = clock::s_since(begin);
        screen.end(all.len, secs);
        Ok(secs)
    }

    fn submit(&self, op: Op, range: Range) -> Result<u64> {
        let engine = self.node.engine();
        let batch = engine.allocate_batch(1)?;
        engine.submit(batch, &mut [self.node.request(&self.remote, op, range)?])?;
        Ok(batch)
    }

    fn report(&self, write: Leg, read: Leg) -> Result<()> {
        let rails = self.node.engine().rails();
        let used = rails.as_deref().map(used);
        match &used {
            Some(used) => print_rails(used),
            None => println!("rails   unknown: this library has no tent_rails_json"),
        }
        let (moved, secs) = (self.node.info.len * 2, write.secs + read.secs);
        let wrong = write.wrong + read.wrong;
        let route = used.map_or_else(String::new, |used| {
            let retries: u64 = used.iter().map(|r| r.retried_slices).sum();
            let s = if used.len() == 1 { "" } else { "s" };
            format!(", {} rail{s}, {retries} retries", used.len())
        });
        println!(
            "moved {} in {secs:.2} s = {:.1} GB/s{route}, {wrong} wrong bytes",
            units::size(moved),
            units::gb_per_s(moved, secs),
        );
        if wrong == 0 {
            return Ok(());
        }
        let where_ = format!("{} after WRITE, {} after READ", write.wrong, read.wrong);
        let cure = "do not use this library; run again with --transport tcp to narrow it down";
        Err(Fail::transfer(format!("{wrong} bytes are wrong ({where_})"), cure))
    }
}

/// Sleeps while the oldest batch moves, at most one step of the display.
fn wait_a_little(engine: &Engine, batch: u64) -> Result<()> {
    if engine.can_wait() {
        engine.wait(batch, STEP_MS)?;
    } else {
        clock::pause(Duration::from_micros(100));
    }
    Ok(())
}

/// Remembers when bytes last moved; an engine that hangs must not hang the demo.
fn stalled(last: (Instant, u64), bytes: u64) -> Result<(Instant, u64)> {
    if bytes != last.1 {
        return Ok((clock::now(), bytes));
    }
    if clock::s_since(last.0) > STALL_S {
        return Err(Fail::transfer(
            format!("nothing moved for {STALL_S} s"),
            "try --transport tcp; is the second process stopped?",
        ));
    }
    Ok(last)
}

fn used(rails: &[Rail]) -> Vec<Rail> {
    rails.iter().filter(|r| r.bytes() > 0).cloned().collect()
}

fn print_rails(used: &[Rail]) {
    let total: u64 = used.iter().map(|r| r.bytes()).sum();
    println!(
        "{:<28}{:<10}{:>12}{:>12}{:>8}{:>9}",
        "rail", "transport", "written", "read", "share", "retries"
    );
    for r in used {
        let share = units::as_f64(r.bytes()) / units::as_f64(total.max(1));
        println!(
            "{:<28}{:<10}{:>12}{:>12}{:>7.1}%{:>9}",
            r.rail,
            r.transport,
            units::size(r.write_bytes),
            units::size(r.read_bytes),
            share * 100.0,
            r.retried_slices
        );
    }
}

/// A bar on a terminal; elsewhere a line per quarter.
struct Screen {
    name: String,
    total: u64,
    bar: Option<ProgressBar>,
    begin: Instant,
    quarter: u64,
}

impl Screen {
    fn new(name: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let style = ProgressStyle::with_template(BAR);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_string());
            bar
        });
        Self { name: name.into(), total, bar, begin: clock::now(), quarter: 1 }
    }

    fn show(&mut self, bytes: u64) {
        let rate = units::gb_per_s(bytes, clock::s_since(self.begin));
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{rate:.2} GB/s"));
            bar.set_position(bytes);
            return;
        }
        let reached = (bytes.saturating_mul(4) / self.total.max(1)).min(3);
        if reached >= self.quarter {
            println!("{}  {:>3} %  {rate:.2} GB/s", self.name, reached * 25);
            self.quarter = reached + 1;
        }
    }

    fn end(self, bytes: u64, secs: f64) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let rate = units::gb_per_s(bytes, secs);
        println!("{}  {} in {secs:.3} s = {rate:.2} GB/s", self.name, units::size(bytes));
    }
}

const BAR: &str = "{prefix}  [{bar:32}] {bytes}/{total_bytes}  {msg}  eta {eta}";
const BLOCK: u64 = 64 * units::MIB;
const SEED_WRITE: u64 = 0xa;
const SEED_READ: u64 = 0xb;
const STEP_MS: u64 = 20;
const STALL_S: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rails_that_carried_nothing_are_not_counted() {
        let rail = |bytes| Rail { write_bytes: bytes, ..Rail::default() };
        assert_eq!(used(&[rail(0), rail(5), rail(0)]).len(), 1);
        assert!(used(&[]).is_empty());
    }

    #[test]
    fn the_bar_template_is_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
