//! Runs one load on several threads: warm-up, a common start, timed steps, samples. It knows neither the
//! engine nor the raw bounds; both are measured by this same code. `Layout` says which bytes a step moves.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::capi::Op;
use super::clock;
use super::fail::{Fail, Result};
use super::proto::{Load, Outcome, Plan, Range, Touched};
use super::stats::Samples;
use super::units;

/// What one step took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    pub(crate) tx_ns: u64,
    pub(crate) submit_ns: u64,
}

/// Which bytes of the buffer belong to which step: each thread has a span of its own and goes through its
/// slots in turn, so that large blocks come from memory and not from a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    load: Load,
    span: u64,
    slot: u64,
    slots: u64,
}

impl Layout {
    /// None when the buffer is too small for the point.
    pub(crate) fn new(total: u64, plan: &Plan) -> Option<Self> {
        let span = total.checked_div(plan.threads)?;
        let span = if span >= PAGE { span - span % PAGE } else { span };
        let slot = plan.block.checked_mul(plan.batch)?;
        let slots = span.checked_div(slot)?.min(plan.cycle.max(1));
        // A slot that is both read and written could not be checked afterwards.
        let fewest = if plan.load == Load::Mix { 2 } else { 1 };
        (slots >= fewest).then_some(Self { load: plan.load, span, slot, slots })
    }

    pub(crate) fn step(&self, thread: u64, step: u64) -> Touched {
        let slot = step % self.slots;
        let op = match self.load {
            Load::Read => Op::Read,
            Load::Write => Op::Write,
            Load::Mix if slot.is_multiple_of(2) => Op::Write,
            Load::Mix => Op::Read,
        };
        let range = Range { offset: thread * self.span + slot * self.slot, len: self.slot };
        Touched { op, thread, range }
    }

    /// All that `threads` may move: to be prepared before a checked run.
    pub(crate) fn all(&self, threads: u64) -> Vec<Touched> {
        (0..threads).flat_map(|t| self.first(t, self.slots)).collect()
    }

    fn first(&self, thread: u64, steps: u64) -> impl Iterator<Item = Touched> {
        let this = *self;
        (0..steps.min(this.slots)).map(move |step| this.step(thread, step))
    }
}

struct Tally {
    tx: Samples,
    submit: Samples,
    steps_in_all: u64,
    timed_ops: u64,
    elapsed_s: f64,
}

/// `cpu` tells the CPU time used so far by all processes that count; it is asked when every thread is
/// warm and waiting, and again at the end. `worker(thread)` makes the step function of a thread.
pub(crate) fn run<W, S>(
    total: u64,
    plan: &Plan,
    cpu: &mut dyn FnMut() -> Result<f64>,
    worker: W,
) -> Result<Outcome>
where
    W: Fn(u64) -> S + Sync,
    S: FnMut(Touched) -> Result<Took>,
{
    let layout = Layout::new(total, plan).ok_or_else(|| {
        Fail::usage("the point does not fit the buffer", "a larger --total_buffer_size")
    })?;
    let parties = usize::try_from(plan.threads).unwrap_or(usize::MAX).saturating_add(1);
    let (warm, go) = (Barrier::new(parties), Barrier::new(parties));
    let (tallies, cpu_s) = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|t| {
                let (warm, go, worker) = (&warm, &go, &worker);
                scope.spawn(move || one_thread(plan, t, layout, worker(t), warm, go))
            })
            .collect();
        warm.wait();
        let before = cpu();
        go.wait();
        let join = |t: thread::ScopedJoinHandle<'_, Result<Tally>>| {
            t.join().unwrap_or_else(|_| Err(Fail::transfer("a load thread panicked", "report it")))
        };
        let tallies: Result<Vec<Tally>> = threads.into_iter().map(join).collect();
        let cpu_s = before.and_then(|b| Ok(cpu()? - b));
        (tallies, cpu_s)
    });
    Ok(outcome(layout, tallies?, cpu_s?))
}

fn one_thread(
    plan: &Plan,
    thread: u64,
    layout: Layout,
    mut step: impl FnMut(Touched) -> Result<Took>,
    warm: &Barrier,
    go: &Barrier,
) -> Result<Tally> {
    let mut tally = Tally {
        tx: Samples::new(SAMPLES_MAX),
        submit: Samples::new(SAMPLES_MAX),
        steps_in_all: 0,
        timed_ops: 0,
        elapsed_s: 0.0,
    };
    let mut next = |tally: &mut Tally| {
        let took = step(layout.step(thread, tally.steps_in_all));
        tally.steps_in_all += 1;
        took
    };
    let warmup = clock::seconds(plan.warmup_s);
    let begin = clock::now();
    let mut failed = None;
    while failed.is_none() && clock::now().duration_since(begin) < warmup {
        failed = next(&mut tally).err();
    }
    // A thread that failed still comes to the barriers: the others would wait for ever.
    warm.wait();
    go.wait();
    if let Some(fail) = failed {
        return Err(fail);
    }
    let interval = Duration::from_micros(plan.interval_us);
    let start = clock::now();
    while tally.timed_ops == 0 || clock::s_since(start) < plan.run_s {
        let took = next(&mut tally)?;
        tally.tx.push(took.tx_ns);
        tally.submit.push(took.submit_ns);
        tally.timed_ops += 1;
        if !interval.is_zero() {
            clock::pause(interval);
        }
    }
    tally.elapsed_s = clock::s_since(start);
    Ok(tally)
}

fn outcome(layout: Layout, tallies: Vec<Tally>, cpu_s: f64) -> Outcome {
    let mut out = Outcome { cpu_s, ..Outcome::default() };
    let threads = tallies.len() as u64;
    let mut time_s = 0.0;
    for (thread, t) in (0..).zip(&tallies) {
        let bytes = t.timed_ops * layout.slot;
        out.bytes += bytes;
        out.ops += t.timed_ops;
        out.gb_per_s += units::gb_per_s(bytes, t.elapsed_s);
        time_s += t.elapsed_s;
        out.touched.extend(layout.first(thread, t.steps_in_all));
    }
    if threads > 0 && out.ops > 0 {
        out.avg_lat_us = time_s * 1e6 / units::as_f64(out.ops);
    }
    let (tx, submit): (Vec<_>, Vec<_>) = tallies.into_iter().map(|t| (t.tx, t.submit)).unzip();
    out.tx = Samples::merge(tx);
    out.submit = Samples::merge(submit);
    out
}

const PAGE: u64 = 4096;
/// Per thread and kind; 4 MiB each.
const SAMPLES_MAX: usize = 1 << 19;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::proto::Wait;
    use super::*;

    fn plan(load: Load, block: u64, batch: u64, threads: u64) -> Plan {
        Plan {
            load,
            block,
            batch,
            threads,
            cycle: 64,
            warmup_s: 0.0,
            run_s: 0.0,
            interval_us: 0,
            wait: Wait::Poll,
        }
    }

    #[test]
    fn slots_stay_inside_and_apart() {
        for (total, block, batch, threads) in
            [(1 << 30, 64 << 20, 1, 2), (1 << 20, 4096, 7, 3), (100_000, 999, 3, 4), (10, 10, 1, 1)]
        {
            let plan = plan(Load::Write, block, batch, threads);
            let all = Layout::new(total, &plan).unwrap().all(threads);
            let mut ranges: Vec<_> = all.iter().map(|t| t.range).collect();
            ranges.sort_by_key(|r| r.offset);
            for pair in ranges.windows(2) {
                assert!(pair[0].offset + pair[0].len <= pair[1].offset);
            }
            assert!(ranges.last().is_some_and(|r| r.offset + r.len <= total));
        }
    }

    #[test]
    fn points_that_do_not_fit_are_refused() {
        assert!(Layout::new(1000, &plan(Load::Read, 501, 2, 1)).is_none());
        assert!(Layout::new(1000, &plan(Load::Read, 1000, 1, 1)).is_some());
        assert!(Layout::new(1000, &plan(Load::Mix, 1000, 1, 1)).is_none());
        assert!(Layout::new(1000, &plan(Load::Read, 0, 1, 1)).is_none());
        assert!(Layout::new(1000, &plan(Load::Read, 1, 1, 0)).is_none());
        assert!(Layout::new(1000, &plan(Load::Read, u64::MAX, 2, 1)).is_none());
    }

    #[test]
    fn a_mixed_slot_is_only_read_or_only_written() {
        let layout = Layout::new(1 << 20, &plan(Load::Mix, 1 << 16, 1, 1)).unwrap();
        let mut seen = HashSet::new();
        for step in 0..100 {
            let t = layout.step(0, step);
            seen.insert((t.range.offset, t.op == Op::Read));
        }
        assert_eq!(seen.len(), 16);
    }

    #[test]
    fn every_thread_steps_and_the_sum_is_right() {
        let mut plan = plan(Load::Write, 4096, 2, 3);
        plan.run_s = 0.02;
        let steps = AtomicU64::new(0);
        let mut cpu = 1.0;
        let mut edge = || {
            cpu += 1.0;
            Ok(cpu)
        };
        let out = run(1 << 20, &plan, &mut edge, |_| {
            |_: Touched| {
                steps.fetch_add(1, Ordering::Relaxed);
                Ok(Took { tx_ns: 1000, submit_ns: 10 })
            }
        })
        .unwrap();
        assert_eq!(out.ops, steps.load(Ordering::Relaxed));
        assert_eq!(out.bytes, out.ops * 8192);
        assert!((out.tx.p50 - 1.0).abs() < 1e-9 && (out.cpu_s - 1.0).abs() < 1e-9);
        assert!(!out.touched.is_empty());
    }

    #[test]
    fn one_failing_thread_ends_the_run() {
        let mut plan = plan(Load::Read, 4096, 1, 2);
        plan.warmup_s = 0.01;
        let fail = run(1 << 20, &plan, &mut || Ok(0.0), |thread| {
            move |_: Touched| {
                if thread == 1 { Err(Fail::transfer("broken", "")) } else { Ok(Took::default()) }
            }
        });
        assert_eq!(fail.unwrap_err().cause, "broken");
    }
}
