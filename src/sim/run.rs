//! One run: the engine and the world in turn, until everything that was asked has ended and nothing that
//! was sent can still arrive. Nothing here sleeps; the clock is moved.

use super::check::Checker;
use super::plan::{Act, DEBTS, Plan};
use super::rng::Rng;
use super::transport::SimTransport;
use super::world::{START, World, host_base, host_key, index};
use crate::config::Config;
use crate::engine::rig::{Rig, RigRail};
use crate::event::RailEvent;
use crate::sync::lock;
use crate::time::Instant;
use crate::transport::{RailTarget, Transport};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What was broken, with the time; empty if all is well.
    pub breaches: Vec<String>,
    /// The same, where one of them is a known debt of the engine.
    pub debts: Vec<String>,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
    /// Tasks that completed.
    pub completed: u64,
    /// Tasks that ended otherwise.
    pub others: u64,
    /// Bytes placed in some memory, those that were sent again too.
    pub placed: u64,
    /// Bytes that came late, from attempts that had been given up.
    pub late: u64,
    /// The faults in it.
    pub faults: Vec<&'static str>,
}

/// Runs a plan.
pub(super) fn run(plan: &Plan, trace: bool) -> Outcome {
    Run::new(plan, trace).finish()
}

struct Run<'a> {
    plan: &'a Plan,
    world: Arc<Mutex<World>>,
    rig: Rig,
    check: Checker<'a>,
    rng: Rng,
    /// How far the weather and the jobs have come.
    act: usize,
    job: usize,
    /// Tasks to give up, with the time.
    cancels: Vec<(Instant, usize)>,
    /// Our own process does not run until then.
    frozen: Instant,
    steps: u64,
    /// The last event of the engine that is in the trace.
    told: u64,
}

/// An event of the engine in the trace.
struct Told<'a>(&'a RailEvent);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RailEvent { peer, rail, what, why, .. } = self.0;
        write!(f, "{peer} {rail}: {what}{}{why}", if why.is_empty() { "" } else { ", " })
    }
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, trace: bool) -> Self {
        let world = Arc::new(Mutex::new(plan.build(trace)));
        let transport = |lane| {
            let sim: Box<dyn Transport> = Box::new(SimTransport::new(lane, Arc::clone(&world)));
            vec![sim]
        };
        let config = Config { spray: plan.spray, ..Config::default() };
        let mut rig = Rig::new(&config, (0..plan.lanes).map(transport).collect());
        for host in 0..plan.hosts {
            let rails = rails(plan, host, 0);
            rig.add_peer(host_base(host), plan.room, host_key(host, 0), rails);
        }
        let check = Checker::new(plan);
        let rng = Rng::new(plan.seed ^ 0x7ea5);
        let (cancels, frozen) = (Vec::new(), Instant(0));
        Self { plan, world, rig, check, rng, act: 0, job: 0, cancels, frozen, steps: 0, told: 0 }
    }

    fn finish(mut self) -> Outcome {
        let plan = self.plan;
        lock(&self.world).note(|| format!("plan {plan:#?}"));
        let mut now = START;
        let mut quiet_since = None;
        let limit = START.after(plan.calm + LIMIT);
        loop {
            self.submit_and_weather(now);
            if now >= self.frozen {
                self.turns(now);
                let mut world = lock(&self.world);
                let news = if world.is_traced() { self.rig.events(self.told) } else { Vec::new() };
                for event in news {
                    self.told = event.seq;
                    world.note(|| format!("ENGINE {}", Told(&event)));
                }
                self.check.look(&self.rig, &mut world, now);
            }
            let done = self.job == plan.jobs.len()
                && self.act == plan.weather.len()
                && self.check.all_ended();
            let since = *quiet_since.get_or_insert(now);
            if !done {
                quiet_since = None;
            } else if now >= since.after(AFTERMATH) && now >= self.frozen {
                break;
            }
            let next = self.next(now, done.then(|| since.after(AFTERMATH)));
            if next > limit {
                let text = "I10: tasks are pending and nothing ends them".to_owned();
                lock(&self.world).breach(text);
                break;
            }
            lock(&self.world).advance(next);
            now = next;
            self.steps += 1;
            if self.steps > MAX_STEPS {
                lock(&self.world).breach("the run does not end".to_owned());
                break;
            }
        }
        self.outcome(now)
    }

    /// When the next thing is due.
    fn next(&mut self, now: Instant, end: Option<Instant>) -> Instant {
        let plan = self.plan;
        let job = plan.jobs.get(self.job).map(|job| START.after(job.at));
        let act = plan.weather.get(self.act).map(|(at, _)| START.after(*at));
        let cancel = self.cancels.iter().map(|(at, _)| *at).min();
        // who does not run submits nothing
        let own = [job, cancel].into_iter().flatten().map(|at| at.max(self.frozen));
        let due = own.chain([act, end].into_iter().flatten()).min();
        let wake = if now < self.frozen { self.frozen } else { self.rig.next_wake() };
        let next = lock(&self.world).next().min(due.unwrap_or(Instant::NEVER)).min(wake);
        // an engine that wants to be woken at once is given a moment all the same
        next.max(Instant(now.0 + 1))
    }

    fn submit_and_weather(&mut self, now: Instant) {
        while let Some((at, act)) = self.plan.weather.get(self.act)
            && START.after(*at) <= now
        {
            self.act += 1;
            self.weather(*act, now);
        }
        if now < self.frozen {
            return;
        }
        while let Some(job) = self.plan.jobs.get(self.job)
            && START.after(job.at) <= now
        {
            self.job += 1;
            match self.rig.submit(&job.wishes, now) {
                Ok(ticket) => {
                    let first = self.check.submitted(&ticket, &job.wishes, &lock(&self.world), now);
                    if let Some(after) = job.cancel {
                        let tasks = first..first + job.wishes.len();
                        self.cancels.extend(tasks.map(|task| (now.after(after), task)));
                    }
                }
                Err(e) => lock(&self.world).breach(format!("a batch was refused: {e}")),
            }
        }
        let due = |(at, _): &(Instant, usize)| *at <= now;
        for (_, task) in self.cancels.extract_if(.., |c| due(c)).collect::<Vec<_>>() {
            if let Some((ticket, index)) = self.check.cancel(task) {
                self.rig.cancel(&ticket, index);
            }
        }
    }

    fn weather(&mut self, act: Act, now: Instant) {
        let mut world = lock(&self.world);
        world.note(|| format!("WEATHER {act:?}"));
        match act {
            Act::Link { link, state, factor } => world.set_link(link, state, factor),
            Act::Loss { link } => world.lose(link),
            Act::Reset { path } => world.break_path(path),
            Act::Stop { host, time } => world.stop_host(host, time),
            Act::Kill { host } => {
                world.kill_host(host);
                self.check.killed(host);
            }
            Act::Start { host } if world.hosts[host].alive => {}
            Act::Start { host } => {
                world.start_host(host);
                let life = world.hosts[host].life;
                let region = (host_base(host), self.plan.room, host_key(host, life));
                drop(world);
                self.rig.renew_peer(host, life, region, rails(self.plan, host, life));
            }
            Act::Withdraw { host } => {
                world.hosts[host].withdrawn = true;
                self.check.killed(host);
            }
            Act::Drain { path, on } => {
                let host = self.plan.paths[path as usize].0;
                drop(world);
                self.rig.drain(host, &rail_name(path), on);
            }
            Act::Freeze { time } => self.frozen = self.frozen.max(now.after(time)),
        }
    }

    /// The lanes take turns, in any order, until none has anything to do.
    fn turns(&mut self, now: Instant) {
        self.rig.look(now);
        let mut order: Vec<usize> = (0..self.rig.lanes()).collect();
        for _ in 0..MAX_TURNS {
            self.rng.shuffle(&mut order);
            let moved: usize = order.iter().map(|lane| self.rig.turn(*lane, now)).sum();
            if moved == 0 {
                return;
            }
        }
        lock(&self.world).breach("a lane does not come to rest".to_owned());
    }

    fn outcome(mut self, now: Instant) -> Outcome {
        let mut world = lock(&self.world);
        self.check.finish(&self.rig, &mut world, now);
        let (completed, others) = self.check.counts();
        let (mut breaches, mut debts) = (std::mem::take(&mut world.breaches), Vec::new());
        if breaches.iter().any(|breach| DEBTS.iter().any(|debt| breach.contains(debt))) {
            std::mem::swap(&mut breaches, &mut debts);
        }
        Outcome {
            breaches,
            debts,
            trace: world.take_log(),
            completed,
            others,
            placed: world.placed,
            late: world.ghosts,
            faults: self.plan.fault_names(),
        }
    }
}

/// What the engine calls the rail over a path.
fn rail_name(path: u32) -> String {
    format!("path {path}")
}

/// The rails to a host in its n-th life, dealt over the lanes as the engine does.
pub(super) fn rails(plan: &Plan, host: usize, life: u32) -> Vec<RigRail> {
    let paths = plan.paths.iter().enumerate().filter(|(_, path)| path.0 == host);
    let rail = |(at, (path, _)): (usize, (usize, _))| RigRail {
        lane: (host + at) % plan.lanes,
        name: rail_name(index(path)),
        tier: 0,
        target: RailTarget::Sim { path: index(path), life },
    };
    paths.enumerate().map(rail).collect()
}

/// Simulated time after the last deadline that could end a task.
const LIMIT: Duration = Duration::from_secs(120);
/// How long is waited after the end for what may land late.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Turns in a row that may find something to do without the clock moving.
const MAX_TURNS: usize = 2_000;
/// Steps of the clock in a run.
const MAX_STEPS: u64 = 2_000_000;
