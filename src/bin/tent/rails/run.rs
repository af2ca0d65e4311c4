//! One run: requests one after the other, some in flight, while the weather changes; progress is looked at
//! about every millisecond. What was seen goes into a `Record`; a `Screen` is shown some of it meanwhile.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::keeper::{self, Buffers, Place};
use super::rail::Rail;
use super::record::{Applied, Cpu, Look, Record, Seen, Span, Ways};
use super::script::Entry;
use super::stage::{self, Stage};
use super::weather;
use crate::capi::Progress;
use crate::clock;
use crate::fail::{Fail, Result};
use crate::node::{Node, Remote};
use crate::os;
use crate::proto::{Load, Vitals};
use crate::units;

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    /// Bytes of a request.
    pub(crate) block: u64,
    pub(crate) in_flight: usize,
    pub(crate) run_us: u64,
    pub(crate) script: Vec<Entry>,
}

impl Plan {
    pub(crate) fn ways(&self) -> Ways {
        if self.load == Load::Mix { Ways::Both } else { Ways::One }
    }

    /// Bytes that each end's buffer must have.
    pub(crate) fn buffer(&self) -> u64 {
        (keeper::places(self.in_flight) as u64).saturating_mul(self.block)
    }
}

/// What can be seen from outside at some moment; counts are from the start of the run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) us: u64,
    pub(crate) rails: Vec<Rail>,
    /// What each rail has carried.
    pub(crate) rail_bytes: Vec<u64>,
    pub(crate) longest_stall_us: u64,
    pub(crate) failed: u64,
}

/// Who is shown the run while it goes on.
pub(crate) trait Screen {
    fn show(&mut self, now: &Snapshot, applied: &[Applied]);
    /// Time between two shows.
    fn pace(&self) -> Duration;
}

/// Runs the plan to its end. Requests that fail are counted, and are no error here.
pub(crate) fn run(stage: &mut Stage, plan: &Plan, screen: &mut dyn Screen) -> Result<Record> {
    let cpu = cpu(stage)?;
    let rails = stage.rates_bps.len();
    let names: Vec<_> = stage.rails().into_iter().map(|rail| rail.rail).collect();
    let Stage { node, remote, target, relays, rates_bps, .. } = stage;
    let node: &Node = node;
    let applied = Mutex::new(Vec::new());
    let snapshot = Mutex::new(Snapshot::default());
    let ((ready, take), (give, used)) = (mpsc::channel(), mpsc::channel());
    let (going_on, stop) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();

    let mut record = thread::scope(|scope| {
        let keeper = scope.spawn(move || {
            let ends = Buffers { here: node.buffer(), there: target };
            keeper::keep(ends, plan.load, plan.block, plan.in_flight, &ready, &used)
        });
        // The clock starts when there is something to move.
        let first = take.recv().ok();
        let start_us = os::host_us();
        let weather = scope.spawn({
            let applied = &applied;
            let name = move |rail: usize| names.get(rail).cloned().unwrap_or_default();
            move || {
                weather::follow(&plan.script, start_us, relays, node.engine(), name, &stop, applied)
            }
        });
        let driver = scope.spawn({
            let snapshot = &snapshot;
            move || {
                let _done = done;
                let load = LoadRun::new(node, *remote, plan, rails, start_us, snapshot);
                load.drive(first, &take, &give)
            }
        });
        while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(screen.pace()) {
            let now = snapshot.lock().map(|now| now.clone()).unwrap_or_default();
            let applied = applied.lock().map(|list| list.clone()).unwrap_or_default();
            screen.show(&now, &applied);
        }
        drop(going_on);
        let mut record = joined(driver.join())?;
        joined(weather.join())?;
        let found = joined(keeper.join())?;
        (record.checked_bytes, record.wrong_bytes) = (found.checked_bytes, found.wrong_bytes);
        Ok::<_, Fail>(record)
    })?;
    record.applied = applied.into_inner().unwrap_or_default();
    record.rates_bps = rates_bps.clone();
    record.ways = plan.ways();
    let after = self::cpu(stage)?;
    record.cpu = Cpu {
        initiator_s: after.initiator_s - cpu.initiator_s,
        target_s: after.target_s - cpu.target_s,
        relays_s: after.relays_s - cpu.relays_s,
    };
    Ok(record)
}

fn joined<T>(of: thread::Result<Result<T>>) -> Result<T> {
    of.unwrap_or_else(|_| Err(Fail::transfer("a thread of the run panicked", "report it")))
}

fn cpu(stage: &mut Stage) -> Result<Cpu> {
    let (target, relays): (Vitals, Vitals) = (stage.target.vitals()?, stage.relays.vitals()?);
    Ok(Cpu { initiator_s: os::cpu_s(), target_s: target.cpu_s, relays_s: relays.cpu_s })
}

/// A request under way.
struct Flight {
    batch: u64,
    place: Place,
    begin_us: u64,
    moved: u64,
}

struct LoadRun<'a> {
    node: &'a Node,
    remote: Remote,
    plan: &'a Plan,
    rails: usize,
    start_us: u64,
    snapshot: &'a Mutex<Snapshot>,
    flying: VecDeque<Flight>,
    /// Of requests that have ended.
    landed: u64,
    record: Record,
    /// What the rails had carried and resent before.
    before: Vec<Rail>,
    last_event: u64,
    next_events_us: u64,
    next_snapshot_us: u64,
    /// When bytes landed last, as far as was seen.
    news_us: u64,
    longest_stall_us: u64,
}

impl<'a> LoadRun<'a> {
    fn new(
        node: &'a Node,
        remote: Remote,
        plan: &'a Plan,
        rails: usize,
        start_us: u64,
        snapshot: &'a Mutex<Snapshot>,
    ) -> Self {
        let events = node.engine().events(0);
        let record = Record { has_events: events.is_some(), ..Record::default() };
        Self {
            node,
            remote,
            plan,
            rails,
            start_us,
            snapshot,
            flying: VecDeque::new(),
            landed: 0,
            record,
            before: ordered(node, rails),
            // What led to the start is not of the run.
            last_event: events.and_then(|list| list.last().map(|e| e.seq)).unwrap_or(0),
            next_events_us: 0,
            next_snapshot_us: 0,
            news_us: 0,
            longest_stall_us: 0,
        }
    }

    fn now_us(&self) -> u64 {
        os::host_us().saturating_sub(self.start_us)
    }

    fn drive(
        mut self,
        first: Option<Place>,
        ready: &Receiver<Place>,
        used: &Sender<(Place, bool)>,
    ) -> Result<Record> {
        if let Some(place) = first {
            self.submit(place)?;
        }
        loop {
            let now_us = self.now_us();
            let is_over = now_us >= self.plan.run_us || self.record.failed >= MAX_FAILED;
            if is_over && self.record.end_us == 0 {
                self.record.end_us = now_us;
            }
            if is_over && self.flying.is_empty() {
                break;
            }
            if !is_over && !self.refill(ready)? {
                break;
            }
            self.wait()?;
            self.collect(used)?;
            self.look();
            self.give_up()?;
        }
        if self.record.end_us == 0 {
            self.record.end_us = self.now_us();
        }
        // What came with the last bytes and right after them.
        clock::pause(STEP);
        self.next_events_us = 0;
        self.look();
        Ok(self.record)
    }

    /// False when there will be no more prepared places: the keeper has an error to tell.
    fn refill(&mut self, ready: &Receiver<Place>) -> Result<bool> {
        while self.flying.len() < self.plan.in_flight {
            let begin_us = self.now_us();
            // Without a place nothing else is worth doing than waiting a moment for one.
            match ready.recv_timeout(STEP) {
                Ok(place) => self.submit(place)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {
                    self.record.starved_us += self.now_us() - begin_us;
                    break;
                }
            }
        }
        Ok(true)
    }

    fn submit(&mut self, place: Place) -> Result<()> {
        let engine = self.node.engine();
        let batch = engine.allocate_batch(1)?;
        let mut request = [self.node.request(&self.remote, place.op, place.range)?];
        let begin_us = self.now_us();
        engine.submit(batch, &mut request)?;
        self.flying.push_back(Flight { batch, place, begin_us, moved: 0 });
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let engine = self.node.engine();
        match self.flying.front() {
            Some(flight) if engine.can_wait() => {
                engine.wait(flight.batch, STEP_MS)?;
            }
            _ => clock::pause(STEP / 4),
        }
        Ok(())
    }

    fn collect(&mut self, used: &Sender<(Place, bool)>) -> Result<()> {
        // Where a place cannot be returned, the keeper has an error to tell.
        let engine = self.node.engine();
        let mut still = VecDeque::with_capacity(self.flying.len());
        for mut flight in std::mem::take(&mut self.flying) {
            match engine.poll(flight.batch, 0)? {
                Progress::Moving(bytes) => {
                    flight.moved = flight.moved.max(bytes.min(flight.place.range.len));
                    still.push_back(flight);
                    continue;
                }
                Progress::Completed => {
                    self.landed += flight.place.range.len;
                    let (begin_us, end_us) = (flight.begin_us, self.now_us());
                    self.record.requests.push(Span { begin_us, end_us });
                    let _ = used.send((flight.place, true));
                }
                Progress::Failed(status) => {
                    let _ = used.send((flight.place, false));
                    // What it had moved stays counted as progress.
                    self.landed += flight.moved;
                    self.record.failed += 1;
                    if self.record.why_failed.is_empty() {
                        let s = units::as_f64(self.now_us()) / 1e6;
                        let why = engine.task_failed(status).cause;
                        self.record.why_failed = format!("after {s:.3} s {why}");
                    }
                }
            }
            engine.free_batch(flight.batch)?;
        }
        self.flying = still;
        Ok(())
    }

    fn look(&mut self) {
        let us = self.now_us();
        if us >= self.next_events_us {
            self.take_events(us);
        }
        let last = self.record.looks.last().copied();
        if last.is_some_and(|last| us < last.us + LOOK_US) {
            return;
        }
        let rails = ordered(self.node, self.rails);
        let gain = |of: fn(&Rail) -> u64| {
            rails.iter().zip(&self.before).map(|(r, b)| of(r).saturating_sub(of(b))).sum()
        };
        let moving: u64 = self.flying.iter().map(|flight| flight.moved).sum();
        let seen_before = last.map_or(0, |last| last.bytes);
        let look = Look {
            us,
            bytes: (self.landed + moving).max(seen_before),
            resent_slices: gain(|r| r.retried_slices),
            resent_bytes: gain(|r| r.retried_bytes.unwrap_or(0)),
        };
        if look.bytes > seen_before {
            self.longest_stall_us = self.longest_stall_us.max(us - self.news_us);
            self.news_us = us;
        }
        let carried = self.carried(&rails);
        self.record.rail_bytes.extend(&carried);
        self.record.looks.push(look);
        self.tell(rails, carried, look);
    }

    /// Bytes of each rail since the start. A rail that was made anew counts from zero again; what it had
    /// carried before is kept.
    fn carried(&self, rails: &[Rail]) -> Vec<u64> {
        let base = self.record.rail_bytes.len().saturating_sub(self.rails);
        let earlier = self.record.rail_bytes[base..].iter().copied().chain(std::iter::repeat(0));
        let gains =
            rails.iter().zip(&self.before).map(|(r, b)| r.bytes().saturating_sub(b.bytes()));
        gains.zip(earlier).map(|(gain, earlier)| gain.max(earlier)).collect()
    }

    fn take_events(&mut self, us: u64) {
        self.next_events_us = us + EVENTS_US;
        for event in self.node.engine().events(self.last_event).unwrap_or_default() {
            self.last_event = self.last_event.max(event.seq);
            if let Some(rail) = stage::number_of(&event.rail, self.rails) {
                let us = event.us.saturating_sub(self.start_us);
                self.record.seen.push(Seen { us, rail, event: event.event, why: event.why });
            }
        }
    }

    fn tell(&mut self, rails: Vec<Rail>, rail_bytes: Vec<u64>, look: Look) {
        if look.us < self.next_snapshot_us {
            return;
        }
        self.next_snapshot_us = look.us + SNAPSHOT_US;
        // A screen that is slow misses one; the load does not wait for it.
        if let Ok(mut snapshot) = self.snapshot.try_lock() {
            *snapshot = Snapshot {
                us: look.us,
                rails,
                rail_bytes,
                longest_stall_us: self.longest_stall_us.max(look.us - self.news_us),
                failed: self.record.failed,
            };
        }
    }

    /// An engine that hangs must not hang the run.
    fn give_up(&self) -> Result<()> {
        let idle_us = self.now_us().saturating_sub(self.news_us);
        if idle_us < HANG_US || self.flying.is_empty() {
            return Ok(());
        }
        let cause =
            format!("nothing landed for {} s, and no request has ended", HANG_US / 1_000_000);
        Err(Fail::transfer(cause, "leave one rail alive; see the library's log (TENT_LOG=info)"))
    }
}

fn ordered(node: &Node, rails: usize) -> Vec<Rail> {
    stage::in_order(node.engine().rails().unwrap_or_default(), rails)
}

const STEP: Duration = Duration::from_millis(STEP_MS);
const STEP_MS: u64 = 1;
const LOOK_US: u64 = 900;
const EVENTS_US: u64 = 50_000;
const SNAPSHOT_US: u64 = 50_000;
/// So many failures are no accident: the run has shown what it can.
const MAX_FAILED: u64 = 16;
/// Longer than the library's own limit for a task, by far.
const HANG_US: u64 = 120_000_000;
