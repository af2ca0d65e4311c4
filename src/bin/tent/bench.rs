//! `tent bench`: tebench's sweep and table over one library, with the CPU that was used, the submit time,
//! and a check of the bytes themselves.

use std::path::Path;

use clap::ValueEnum;
use serde_json::json;

use super::capi::{Library, Op};
use super::cli::{BenchArgs, OpType};
use super::drive::Layout;
use super::fail::{Fail, Result};
use super::host;
use super::memory::SEED_UNTOUCHED;
use super::node::{Node, Remote};
use super::os;
use super::peer::Peer;
use super::proto::{Command, Load, Outcome, Plan, Range, Touched};
use super::stats::Summary;
use super::units;

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let bench = Bench::start(args)?;
    if args.json {
        println!("{}", bench.heading());
    } else {
        println!("# {} | {}", bench.lib.path, host::line());
        println!("# {}", bench.describe());
        println!("{HEADER}\n{}", "-".repeat(132));
    }
    bench.sweep()
}

struct Bench<'a> {
    args: &'a BenchArgs,
    lib: &'static Library,
    node: Node,
    remotes: Vec<Remote>,
    /// The target, when it is ours.
    peer: Option<Peer>,
}

impl<'a> Bench<'a> {
    fn start(args: &'a BenchArgs) -> Result<Self> {
        let path = args.end.transport.lib.lib.as_deref();
        let lib = Library::load(path)?;
        if args.target_seg_name.is_empty() {
            return Self::start_local(args, lib, path);
        }
        let node = Node::start(lib, &args.end.spec(args.end.total_buffer_size, false)?)?;
        let known = args.target_addr.map(|at| (at, args.end.total_buffer_size));
        let mut remotes = Vec::new();
        for name in args.target_seg_name.split(',') {
            remotes.push(node.open(name.trim(), known)?.skip(args.target_offset));
        }
        Ok(Self { args, lib, node, remotes, peer: None })
    }

    fn start_local(
        args: &'a BenchArgs,
        lib: &'static Library,
        path: Option<&Path>,
    ) -> Result<Self> {
        if !args.end.is_p2p() {
            let cure = "start `tent target` and give --target_seg_name";
            return Err(Fail::usage("a target of its own works with --metadata_type p2p", cure));
        }
        let wanted = args.end.total_buffer_size;
        let bytes = host::fitting(wanted, 2, host::available_memory());
        if bytes < wanted {
            eprintln!(
                "little memory: buffers of {} instead of {}",
                units::size(bytes),
                units::size(wanted)
            );
        }
        let spec = args.end.spec(bytes, true)?;
        let mut peer = Peer::spawn(path, None)?;
        let theirs = peer.start_node(&spec)?;
        let node = Node::start(lib, &spec)?;
        let remote = node.open(&theirs.segment, Some((theirs.address, theirs.len)))?;
        Ok(Self { args, lib, node, remotes: vec![remote], peer: Some(peer) })
    }

    fn sweep(mut self) -> Result<()> {
        let a = self.args;
        let (mut seed, mut wrong, mut points) = (1, 0, 0);
        let mut worst: Option<(Summary, Plan)> = None;
        for threads in powers(a.start_num_threads, a.max_num_threads) {
            for block in powers(a.start_block_size.unwrap_or(START_BLOCK), a.max_block_size) {
                for batch in powers(a.start_batch_size, a.max_batch_size) {
                    let plan = self.plan(threads, block, batch);
                    let Some(layout) = Layout::new(self.usable(), &plan) else {
                        eprintln!(
                            "skipped {block} B x {batch} x {threads}: larger than the buffer"
                        );
                        continue;
                    };
                    seed += 1;
                    let (outcome, bad) = self.point(&plan, layout, seed)?;
                    self.print(&plan, &outcome, bad);
                    wrong += bad.unwrap_or(0);
                    points += 1;
                    if worst.as_ref().is_none_or(|(s, _)| s.p99 < outcome.submit.p99) {
                        worst = Some((outcome.submit, plan));
                    }
                }
            }
        }
        if let (false, Some((s, plan))) = (a.json, worst) {
            let (b, n) = (units::size(plan.block), plan.batch);
            println!(
                "# submit call, slowest point ({b} x {n}): p50 {:.1} us, p99 {:.1} us",
                s.p50, s.p99
            );
        }
        match (points, wrong) {
            (0, _) => Err(Fail::usage("no point fits the buffer", "a larger --total_buffer_size")),
            (_, 0) => Ok(()),
            _ => {
                let cure = "do not use this library; --transport tcp narrows it down";
                Err(Fail::transfer(format!("{wrong} bytes are wrong"), cure))
            }
        }
    }

    fn plan(&self, threads: u64, block: u64, batch: u64) -> Plan {
        let a = self.args;
        let load = match a.op_type {
            OpType::Read | OpType::ReadVerify => Load::Read,
            OpType::Write | OpType::WriteSeed => Load::Write,
            OpType::Mix => Load::Mix,
        };
        Plan {
            load,
            block,
            batch,
            threads,
            cycle: a.cycle,
            warmup_s: a.warmup,
            run_s: a.duration.unwrap_or(RUN_S),
            interval_us: a.request_interval_us,
            wait: a.wait,
        }
    }

    fn usable(&self) -> u64 {
        self.remotes.iter().map(|r| r.len).min().unwrap_or(0).min(self.node.info.len)
    }

    /// One point; the number of wrong bytes when they were checked.
    fn point(&mut self, plan: &Plan, layout: Layout, seed: u64) -> Result<(Outcome, Option<u64>)> {
        let seeded = matches!(self.args.op_type, OpType::WriteSeed | OpType::ReadVerify);
        let check = self.args.check || self.args.op_type == OpType::ReadVerify;
        let seed = if seeded { SEED_FIXED } else { seed };
        if check || seeded {
            self.prepare(&layout.all(plan.threads), seed)?;
        }
        let peer = &mut self.peer;
        let mut cpu = || {
            let far = peer.as_mut().map_or(Ok(0.0), |p| p.vitals().map(|v| v.cpu_s))?;
            Ok(far + os::cpu_s())
        };
        let outcome = self.node.run(&self.remotes, plan, &mut cpu)?;
        if self.args.op_type == OpType::WriteSeed {
            let all = [Range { offset: 0, len: self.usable() }];
            self.node.buffer().fill(seed, &all)?;
            for remote in &self.remotes {
                self.node.move_all(remote, Op::Write, &all)?;
            }
        }
        let bad = if check { Some(self.verify(&outcome.touched, seed)?) } else { None };
        Ok((outcome, bad))
    }

    /// The pattern where bytes come from, something else where they go to.
    fn prepare(&mut self, all: &[Touched], seed: u64) -> Result<()> {
        let (writes, reads) = (ranges(all, Op::Write), ranges(all, Op::Read));
        let verify_only = self.args.op_type == OpType::ReadVerify;
        if let Some(peer) = &mut self.peer {
            let untouched = Command::Fill { seed: SEED_UNTOUCHED, ranges: writes.clone() };
            peer.ask::<()>(&untouched)?;
            peer.ask::<()>(&Command::Fill { seed, ranges: reads.clone() })?;
        } else if !verify_only {
            self.node.buffer().fill(seed, &reads)?;
            self.far(all, Op::Read, Op::Write)?;
        }
        self.node.buffer().fill(seed, &writes)?;
        self.node.buffer().fill(SEED_UNTOUCHED, &reads)
    }

    /// Wrong bytes at both ends. A target that is not ours cannot be asked, so what was written is read
    /// back, over other bytes.
    fn verify(&mut self, touched: &[Touched], seed: u64) -> Result<u64> {
        let (writes, reads) = (ranges(touched, Op::Write), ranges(touched, Op::Read));
        let mut wrong = self.node.buffer().wrong(seed, &reads)?;
        match &mut self.peer {
            Some(peer) => wrong += peer.ask::<u64>(&Command::Check { seed, ranges: writes })?,
            None => {
                self.node.buffer().fill(SEED_UNTOUCHED, &writes)?;
                self.far(touched, Op::Write, Op::Read)?;
                wrong += self.node.buffer().wrong(seed, &writes)?;
            }
        }
        Ok(wrong)
    }

    /// Moves with `op` the ranges that the load moves with `of`, each to or from its own target.
    fn far(&self, touched: &[Touched], of: Op, op: Op) -> Result<()> {
        for t in touched.iter().filter(|t| t.op == of) {
            let many = self.remotes.len().max(1) as u64;
            let at = usize::try_from(t.thread % many).unwrap_or(0);
            if let Some(remote) = self.remotes.get(at) {
                self.node.move_all(remote, op, &[t.range])?;
            }
        }
        Ok(())
    }

    fn print(&self, plan: &Plan, o: &Outcome, wrong: Option<u64>) {
        let per_gb = o.cpu_s / (units::as_f64(o.bytes.max(1)) / 1e9);
        if self.args.json {
            println!("{}", self.record(plan, o, wrong, per_gb));
            return;
        }
        let check = match wrong {
            None => "-".to_string(),
            Some(0) => "ok".to_string(),
            Some(n) => format!("{n} WRONG"),
        };
        println!(
            "{:<14}{:<8}{:<14.6}{:<14.1}{:<14.1}{:<14.1}{:<14.1}{:<12.3}{:<9}{check}",
            plan.block,
            plan.batch,
            o.gb_per_s,
            o.avg_lat_us,
            o.tx.mean,
            o.tx.p99,
            o.tx.p999,
            per_gb,
            plan.threads,
        );
    }

    fn record(
        &self,
        plan: &Plan,
        o: &Outcome,
        wrong: Option<u64>,
        cpu_s_per_gb: f64,
    ) -> serde_json::Value {
        json!({
            "kind": "point", "op": plan.load, "block": plan.block, "batch": plan.batch,
            "threads": plan.threads, "wait": plan.wait, "duration_s": plan.run_s,
            "bytes": o.bytes, "ops": o.ops, "bw_gb_per_s": o.gb_per_s, "avg_lat_us": o.avg_lat_us,
            "tx_us": o.tx, "submit_us": o.submit, "cpu_s_per_gb": cpu_s_per_gb,
            "cpu_ends": if self.peer.is_some() { 2 } else { 1 },
            "wrong_bytes": wrong, "rails": self.node.engine().rails(),
        })
    }

    fn heading(&self) -> serde_json::Value {
        json!({
            "kind": "machine", "lib": self.lib.path, "machine": host::facts(),
            "transport": self.args.end.transport.transport, "buffer": self.args.end.transport.memory(),
            "buffer_bytes": self.usable(), "target": self.target(),
            "start_us": self.node.info.start_us, "register_us": self.node.info.register_us,
        })
    }

    fn describe(&self) -> String {
        let a = self.args;
        format!(
            "{}, transport {}, memory {}, buffers {}, wait {}, target {}, CPU of {}",
            flag(&a.op_type),
            a.end.transport.transport,
            flag(&a.end.transport.memory()),
            units::size(self.usable()),
            flag(&a.wait),
            self.target(),
            if self.peer.is_some() { "both ends" } else { "this end" },
        )
    }

    fn target(&self) -> String {
        match &self.peer {
            Some(peer) => format!("own process {}", peer.pid()),
            None => self.args.target_seg_name.clone(),
        }
    }
}

/// A choice as the user wrote it.
fn flag(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
}

fn ranges(touched: &[Touched], op: Op) -> Vec<Range> {
    touched.iter().filter(|t| t.op == op).map(|t| t.range).collect()
}

/// start, twice that, ..., at most max.
fn powers(start: u64, max: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(start), |n| n.checked_mul(2)).take_while(move |n| *n <= max)
}

const HEADER: &str = "BlkSize (B)   Batch   BW (GB/s)     Avg Lat (us)  Avg Tx (us)   P99 Tx (us)   \
                      P999 Tx (us)  CPU s/GB    Threads  Check";
const START_BLOCK: u64 = 4 << 10;
const RUN_S: f64 = 5.0;
/// What `write_seed` leaves and `read_verify` expects, in any run.
const SEED_FIXED: u64 = 0x7e57;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_double_and_end() {
        assert_eq!(powers(4096, 20_000).collect::<Vec<_>>(), [4096, 8192, 16_384]);
        assert_eq!(powers(3, 3).collect::<Vec<_>>(), [3]);
        assert_eq!(powers(8, 4).count(), 0);
        assert_eq!(powers(u64::MAX / 2, u64::MAX).count(), 2);
    }
}
