//! What must be true of every run, whatever the weather (D13): right bytes, nothing late, one end for each
//! task, books that agree, rails that work while work waits, and an end in time.

use super::memory::pattern;
use super::plan::{Kind, Mode, PATIENCE, Plan, real};
use super::world::{HOME, HOME_KEY, START, World, host_key};
use crate::config::Spray;
use crate::engine::TaskState;
use crate::engine::rig::{Rig, Ticket, Wish};
use crate::slice::Op;
use crate::time::Instant;
use std::time::Duration;

#[derive(Debug)]
struct Job {
    ticket: Ticket,
    index: usize,
    wish: Wish,
    submitted: Instant,
    /// Life of its peer then.
    life: u32,
    canceled: bool,
    killed: bool,
    end: Option<(Instant, TaskState, u64)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    plan: &'a Plan,
    jobs: Vec<Job>,
    /// Those that have not ended.
    open: Vec<usize>,
    looks: u64,
    /// By path: since when it is idle though it should work.
    idle: Vec<Option<Instant>>,
    /// By path and operation: the window at the last look.
    windows: Vec<[u64; 2]>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let idle = vec![None; plan.paths.len()];
        let windows = vec![[0; 2]; plan.paths.len()];
        Self { plan, jobs: Vec::new(), open: Vec::new(), looks: 0, idle, windows }
    }

    /// Tasks were submitted; the number of the first.
    pub(super) fn submitted(
        &mut self,
        ticket: &Ticket,
        wishes: &[Wish],
        world: &World,
        now: Instant,
    ) -> usize {
        let first = self.jobs.len();
        for (index, wish) in wishes.iter().enumerate() {
            self.open.push(self.jobs.len());
            let host = &world.hosts[wish.peer];
            self.jobs.push(Job {
                ticket: ticket.clone(),
                index,
                wish: *wish,
                submitted: now,
                life: host.life,
                canceled: false,
                killed: !host.alive || host.withdrawn,
                end: None,
            });
        }
        first
    }

    /// The task is to be given up, if it has not ended.
    pub(super) fn cancel(&mut self, task: usize) -> Option<(Ticket, usize)> {
        let job = self.jobs.get_mut(task).filter(|job| job.end.is_none())?;
        job.canceled = true;
        Some((job.ticket.clone(), job.index))
    }

    /// The process of a host has ended, or its memory was withdrawn, and with it what was asked of it.
    pub(super) fn killed(&mut self, host: usize) {
        for task in &self.open {
            let job = &mut self.jobs[*task];
            job.killed |= job.wish.peer == host;
        }
    }

    pub(super) fn all_ended(&self) -> bool {
        self.open.is_empty()
    }

    /// Completed, and ended otherwise.
    pub(super) fn counts(&self) -> (u64, u64) {
        let all = self.jobs.iter().filter_map(|job| job.end);
        let completed = all.clone().filter(|end| end.1 == TaskState::Completed).count() as u64;
        (completed, all.count() as u64 - completed)
    }

    /// Looks at everything after the lanes have come to rest.
    pub(super) fn look(&mut self, rig: &Rig, world: &mut World, now: Instant) {
        for task in std::mem::take(&mut self.open) {
            let status = rig.status(&self.jobs[task].ticket, self.jobs[task].index);
            match status.filter(|status| status.state.is_final()) {
                Some(status) => {
                    self.jobs[task].end = Some((now, status.state, status.bytes));
                    self.ended(task, rig, world);
                }
                None => self.open.push(task),
            }
        }
        if self.plan.spray == Spray::Pull {
            self.windows(rig, world);
        }
        self.looks += 1;
        if self.looks.is_multiple_of(BOOKS) {
            self.books(rig, world);
            if self.plan.spray == Spray::Pull {
                self.idling(rig, world, now);
            }
        }
    }

    /// A task has ended: its bytes are as its state says, and from now on nothing may touch them.
    fn ended(&self, task: usize, rig: &Rig, world: &mut World) {
        let job = &self.jobs[task];
        let Some((now, state, bytes)) = job.end else { return };
        let wish = job.wish;
        world.note(|| format!("TASK {task} {state:?} {bytes} of {} bytes", wish.len));
        if (state == TaskState::Completed) != (bytes == wish.len) {
            world.breach(format!("I2: task {task} is {state:?} with {bytes} of {}", wish.len));
        }
        if state != TaskState::Completed && self.must_complete(job, now) {
            let why = rig.failure(&job.ticket);
            let late = now.since(job.submitted);
            world.breach(format!("I10: task {task} {wish:?} is {state:?} after {late:?}: {why}"));
        }
        if job.wish.len > 0 {
            look_at_bytes(task, job, state, world);
        }
    }

    fn must_complete(&self, job: &Job, end: Instant) -> bool {
        let easy = job.wish.timeout >= Duration::from_nanos(PATIENCE);
        if job.canceled || job.killed || !easy || !self.plan.heals() {
            return false;
        }
        match self.plan.mode {
            Mode::Safety => self.plan.kept,
            // while there was no path it may have been given up
            Mode::Liveness => end > START.after(self.plan.calm + GRACE),
        }
    }

    /// What the engine believes to be in flight is what its transport holds (I5).
    fn books(&self, rig: &Rig, world: &mut World) {
        for host in 0..self.plan.hosts {
            for rail in rig.figures(host) {
                let Some(path) = path_of(rail.name()) else { continue };
                for op in [Op::Read, Op::Write] {
                    let (held, said) = (world.held[path as usize][op as usize], rail.in_flight(op));
                    if held != said {
                        world.breach(format!(
                            "I5: {op:?}s on path {path} hold {held} bytes, the engine says {said}"
                        ));
                    }
                }
            }
        }
    }

    /// Bulk pieces were posted only where the window had room (I5), give or take what a window changes
    /// between two looks.
    fn windows(&mut self, rig: &Rig, world: &mut World) {
        for host in 0..self.plan.hosts {
            for rail in rig.figures(host) {
                let Some(path) = path_of(rail.name()) else { continue };
                for op in [Op::Read, Op::Write] {
                    let window = rig.window(&rail, op, world.now);
                    let last = &mut self.windows[path as usize][op as usize];
                    let most = 2 * window.max(std::mem::replace(last, window)) + WINDOW_SLACK;
                    let ahead = std::mem::take(&mut world.ahead[path as usize][op as usize]);
                    if ahead > most {
                        world.breach(format!(
                            "I5: path {path} was given more {op:?}s though it held {ahead} bytes, its \
                             window being {window}"
                        ));
                    }
                }
            }
        }
    }

    /// A rail that is up, healthy and empty takes of the work that waits, unless the others would be done
    /// before it (I9).
    fn idling(&mut self, rig: &Rig, world: &mut World, now: Instant) {
        for host in 0..self.plan.hosts {
            let waits = rig.backlog(host).min(self.waiting(host));
            let runs = world.hosts[host].alive && world.hosts[host].stopped_until.is_none();
            let figures = rig.figures(host);
            for rail in &figures {
                let Some(path) = path_of(rail.name()) else { continue };
                let others = figures.iter().filter(|f| f.name() != rail.name() && f.is_open());
                let others: f64 =
                    others.filter_map(|f| path_of(f.name())).map(|p| world.speed(p)).sum();
                let held: u64 = world.held[path as usize].iter().sum();
                let alone = real(SMALL) / world.speed(path) + real(world.round_trip(path));
                let should = rail.is_open()
                    && runs
                    && world.is_live(path)
                    && held == 0
                    && waits > SMALL
                    && alone < real(waits) / others.max(1e-9) / 2.0;
                let since = self.idle[path as usize].get_or_insert(now);
                if !should {
                    self.idle[path as usize] = None;
                } else if now.since(*since)
                    > IDLE + Duration::from_nanos(4 * world.round_trip(path))
                {
                    world.breach(format!("I9: path {path} is idle while {waits} bytes wait"));
                    self.idle[path as usize] = Some(now);
                }
            }
        }
    }

    /// Bytes of tasks of a peer that have not ended: no backlog is larger.
    fn waiting(&self, host: usize) -> u64 {
        let open = self.open.iter().map(|task| &self.jobs[*task]);
        open.filter(|job| job.wish.peer == host && !job.canceled).map(|job| job.wish.len).sum()
    }

    /// The end of a run: nothing is under way, nothing has moved since, everything ended in time.
    pub(super) fn finish(&mut self, rig: &Rig, world: &mut World, now: Instant) {
        self.look(rig, world, now);
        self.books(rig, world);
        if !rig.is_quiet() {
            world.breach("I5: slices are in flight after every task has ended".to_owned());
        }
        for path in 0..self.plan.paths.len() {
            let held: u64 = world.held[path].iter().sum();
            if held > 0 {
                world.breach(format!("I5: path {path} holds {held} bytes at the end"));
            }
        }
        for task in 0..self.jobs.len() {
            self.still_as_it_ended(task, rig, world);
        }
        self.nothing_else_changed(world);
        self.in_time(world);
    }

    /// A task ends once (I2), and its ranges hold the stamp that was put there (I3).
    fn still_as_it_ended(&self, task: usize, rig: &Rig, world: &mut World) {
        let job = &self.jobs[task];
        let Some((_, state, bytes)) = job.end else {
            return world.breach(format!("I10: task {task} {:?} has not ended", job.wish));
        };
        let status = rig.status(&job.ticket, job.index);
        if status.is_none_or(|s| (s.state, s.bytes) != (state, bytes)) {
            world.breach(format!("I2: task {task} was {state:?} {bytes}, and is {status:?}"));
        }
        rig.free(&job.ticket).ok();
        if rig.free(&job.ticket).is_ok() {
            world.breach(format!("I7: the batch of task {task} could be freed twice"));
        }
        let (wish, stamp) = (job.wish, stamp_of(task));
        let local = world.home.differs(wish.local as u64, wish.len, stamp, 0);
        let host = &world.hosts[wish.peer];
        // another process has other memory there
        let known = host.life == job.life && host.alive;
        let remote = known.then(|| host.memory.differs(wish.remote, wish.len, stamp, 0)).flatten();
        if let Some(at) = local.or(remote) {
            world.breach(format!("I3: {at:#x} of task {task} changed after its end"));
        }
    }

    /// What belongs to no task is as it was.
    fn nothing_else_changed(&self, world: &mut World) {
        let mut ranges: Vec<_> =
            self.jobs.iter().map(|j| (j.wish.local as u64 - HOME, j)).collect();
        ranges.sort_by_key(|(at, _)| *at);
        let mut at = 0;
        let mut odd = Vec::new();
        for (begin, len) in
            ranges.iter().map(|(at, job)| (*at, job.wish.len)).chain([(self.plan.room, 0)])
        {
            let (gap, from) = (begin - at, HOME + at);
            odd.extend(world.home.differs(from, gap, HOME_KEY, 0));
            for (index, host) in world.hosts.iter().enumerate() {
                let key = host_key(index, host.life);
                odd.extend(host.memory.differs(host.memory.base() + at, gap, key, 0));
            }
            at = begin + len;
        }
        for at in odd {
            world.breach(format!("I1: {at:#x} belongs to no task and has changed"));
        }
    }

    /// How long it took, against what the links could have done.
    fn in_time(&self, world: &mut World) {
        let heals = self.plan.heals()
            && self.plan.spray == Spray::Pull
            && !self.plan.kinds.iter().any(|k| matches!(k, Kind::Kill | Kind::Withdraw));
        if !heals || (self.plan.mode == Mode::Safety && !self.plan.kept) {
            return;
        }
        let patient = |job: &&Job| job.wish.timeout >= Duration::from_nanos(PATIENCE);
        let ends = self.jobs.iter().filter(patient).filter_map(|job| job.end.map(|end| end.0));
        let Some(end) = ends.max() else { return };
        let begin = self.jobs.iter().map(|job| job.submitted).max().unwrap_or(START);
        let begin = begin.max(START.after(self.plan.calm));
        let slack = match self.plan.mode {
            Mode::Safety => SLACK,
            Mode::Liveness => SLACK_FIRST,
        };
        let bound = FLUIDS * self.fluid() + slack.as_secs_f64();
        let took = end.since(begin).as_secs_f64();
        if took > bound {
            world.breach(format!(
                "I10: took {took:.6} s from the last cause on, bound {bound:.6} s"
            ));
        }
    }

    /// Seconds that all bytes need, one peer after the other and each over the paths that are there in the
    /// end: never less than what can be reached.
    fn fluid(&self) -> f64 {
        let plan = self.plan;
        let rate = |links: &[u32]| {
            links.iter().map(|l| plan.links[*l as usize].0).fold(f64::INFINITY, f64::min)
        };
        let mut sum = 0.0;
        for host in 0..plan.hosts {
            let paths = plan.paths.iter().filter(|path| path.0 == host);
            let rates: Vec<f64> = paths.map(|path| rate(&path.1).min(rate(&path.2))).collect();
            let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let all: f64 = rates.iter().sum();
            let bytes: u64 =
                self.jobs.iter().filter(|j| j.wish.peer == host).map(|j| j.wish.len).sum();
            // after liveness weather one path is left, and it may be the slowest
            let rate = if plan.mode == Mode::Liveness { least } else { all };
            sum += real(bytes) / rate;
        }
        sum
    }
}

/// Compares what a task moved with what it should have, then stamps both ranges as an application would
/// that uses its memory again.
fn look_at_bytes(task: usize, job: &Job, state: TaskState, world: &mut World) {
    let (wish, host) = (job.wish, &world.hosts[job.wish.peer]);
    let same_life = host.life == job.life;
    let peer_key = host_key(wish.peer, job.life);
    let (local, remote, len) = (wish.local as u64, wish.remote, wish.len);
    let (memory, at, new, old) = match wish.op {
        Op::Write => (&host.memory, remote, (HOME_KEY, local), (peer_key, remote)),
        Op::Read => (&world.home, local, (peer_key, remote), (HOME_KEY, local)),
    };
    let odd = match state {
        _ if wish.op == Op::Write && !same_life => None,
        TaskState::Completed => memory.differs(at, len, new.0, new.1.wrapping_sub(at)),
        // what did not come is as it was; nothing else may be there
        _ => (0..len).map(|i| at + i).zip(memory.slice(at, len)).find_map(|(addr, byte)| {
            let i = addr - at;
            let known = [pattern(new.0, new.1 + i), pattern(old.0, old.1 + i)];
            (!known.contains(byte)).then_some(addr)
        }),
    };
    if let Some(addr) = odd {
        world.breach(format!("I1: task {task} {wish:?} is {state:?}, and {addr:#x} is wrong"));
    }
    let stamp = stamp_of(task);
    world.home.fill(local, len, stamp);
    world.home.close(local, len);
    if same_life {
        let memory = &mut world.hosts[wish.peer].memory;
        memory.fill(remote, len, stamp);
        memory.close(remote, len);
    }
}

fn stamp_of(task: usize) -> u64 {
    0x57a3_0000 + task as u64
}

/// The path behind a rail's name, as `run` gives it.
fn path_of(name: &str) -> Option<u32> {
    name.strip_prefix("path ")?.parse().ok()
}

/// How many times the fluid bound a run may take, and how much longer: a lost packet costs 200 ms where there
/// is one rail.
const FLUIDS: f64 = 2.0;
const SLACK: Duration = Duration::from_millis(300);
/// The same where a first connect may have been lost, which the kernel repeats after a second.
const SLACK_FIRST: Duration = Duration::from_millis(1800);
/// After the weather a verdict may still come that began in it.
const GRACE: Duration = Duration::from_secs(2);
/// What a window may be exceeded by.
const WINDOW_SLACK: u64 = 64 << 10;
/// The books are compared at every so manyth look.
const BOOKS: u64 = 8;
/// A backlog of so few bytes says nothing about an idle rail.
const SMALL: u64 = 256 << 10;
/// How long a rail may be found idle beside a backlog.
const IDLE: Duration = Duration::from_millis(30);
