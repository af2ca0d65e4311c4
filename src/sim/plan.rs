//! What a seed means: the network, the hosts, what is asked of the engine and when, and the weather.

use super::link::{Link, LinkState};
use super::rng::Rng;
use super::world::{HOME, Nature, World, host_base};
use crate::config::Spray;
use crate::engine::rig::Wish;
use crate::slice::{Class, Op, Priority};
use std::time::Duration;

/// Which promise a run looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Faults come and go, and all heal in the end: nothing may be wrong, and no task may fail that always
    /// had a path.
    Safety,
    /// The weather stops and leaves one path to each peer: everything must end well within a bound.
    Liveness,
}

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Slow,
    Loss,
    Reset,
    Down,
    Hole,
    HalfHole,
    Stop,
    Kill,
    Freeze,
    Drain,
    Withdraw,
}

/// A kind of fault, and what the engine makes of it.
#[derive(Debug)]
pub(super) struct Trait {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    /// The engine heals it: with one path that stays healthy every task completes (I10), and soon. Where
    /// this is false tasks must still end by their deadline, with right bytes or none, and quietly.
    pub(super) heals: bool,
}

/// THE SWITCH: what the engine heals. A `false` here is a debt of the engine.
pub(super) const FAULTS: [Trait; 11] = [
    Trait { kind: Kind::Slow, name: "slow", heals: true },
    Trait { kind: Kind::Loss, name: "loss", heals: true },
    Trait { kind: Kind::Reset, name: "reset", heals: true },
    Trait { kind: Kind::Down, name: "down", heals: true },
    Trait { kind: Kind::Hole, name: "hole", heals: true },
    Trait { kind: Kind::HalfHole, name: "half-hole", heals: true },
    Trait { kind: Kind::Stop, name: "stop", heals: true },
    Trait { kind: Kind::Kill, name: "kill", heals: true },
    Trait { kind: Kind::Freeze, name: "freeze", heals: true },
    Trait { kind: Kind::Drain, name: "drain", heals: true },
    Trait { kind: Kind::Withdraw, name: "withdraw", heals: true },
];

/// DEBTS of the engine: what a breach says that is known and not mended yet. Such runs are counted apart.
pub(super) const DEBTS: [&str; 0] = [];

/// Something that the weather does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Act {
    Link {
        link: u32,
        state: LinkState,
        factor: f64,
    },
    Loss {
        link: u32,
    },
    Reset {
        path: u32,
    },
    Stop {
        host: usize,
        time: Duration,
    },
    Kill {
        host: usize,
    },
    Start {
        host: usize,
    },
    Freeze {
        time: Duration,
    },
    /// By hand, of our own rail.
    Drain {
        path: u32,
        on: bool,
    },
    /// The host's memory is registered no more; nobody is told (I11).
    Withdraw {
        host: usize,
    },
}

/// A batch to submit.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) at: Duration,
    pub(super) wishes: Vec<Wish>,
    /// Each task is given up so long after it was submitted.
    pub(super) cancel: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    pub(super) spray: Spray,
    pub(super) lanes: usize,
    pub(super) nature: Nature,
    /// Bytes of each memory.
    pub(super) room: u64,
    /// Rate in bytes per second, latency and jitter in nanoseconds.
    pub(super) links: Vec<(f64, u64, u64)>,
    /// Host, links there, links back.
    pub(super) paths: Vec<(usize, Vec<u32>, Vec<u32>)>,
    pub(super) hosts: usize,
    pub(super) jobs: Vec<Job>,
    /// In the order of time.
    pub(super) weather: Vec<(Duration, Act)>,
    pub(super) kinds: Vec<Kind>,
    /// Every peer has a path that no fault touches, from the beginning on.
    pub(super) kept: bool,
    /// When the weather stops.
    pub(super) calm: Duration,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn of(seed: u64, mode: Mode) -> Self {
        let mut rng = Rng::new(seed ^ if mode == Mode::Safety { 0 } else { 0x11fe });
        let hosts = index(rng.scale(1, 4));
        let nature = Nature {
            head: 32,
            queue: if rng.one_in(4) { rng.scale(1 << 14, 1 << 20) } else { u64::MAX },
            ghosts: rng.within(1, 3),
            bytes: true,
            sabotage: None,
        };
        let mut plan = Self {
            seed,
            mode,
            spray: if rng.one_in(6) {
                *rng.pick(&OTHERS).unwrap_or(&Spray::Pull)
            } else {
                Spray::Pull
            },
            lanes: index(rng.within(1, 3)),
            nature,
            room: 0,
            links: Vec::new(),
            paths: Vec::new(),
            hosts,
            jobs: Vec::new(),
            weather: Vec::new(),
            kinds: Vec::new(),
            kept: mode == Mode::Liveness || !rng.one_in(4),
            calm: Duration::ZERO,
        };
        plan.make_network(&mut rng);
        plan.make_jobs(&mut rng);
        plan.make_weather(&mut rng);
        plan
    }

    /// A few network cards that all peers share, and for some paths links of their own behind them.
    fn make_network(&mut self, rng: &mut Rng) {
        let cards = index(rng.scale(1, 6));
        let alike = rng.one_in(2);
        let (rate, latency) = (rng.scale(20_000_000, 2_000_000_000), rng.scale(2_000, 1_000_000));
        let link = |rng: &mut Rng| {
            let rate = if alike { rate } else { rng.scale(rate / 16, rate) };
            let jitter = if rng.one_in(2) { rng.below(latency) } else { 0 };
            (real(rate), latency, jitter)
        };
        for _ in 0..2 * cards {
            let made = link(rng);
            self.links.push(made);
        }
        for host in 0..self.hosts {
            let mut used: Vec<usize> = (0..cards).collect();
            rng.shuffle(&mut used);
            used.truncate(1 + index(rng.below(cards as u64)).max(cards / 2).min(cards - 1));
            for card in used {
                let (mut out, mut back) = (vec![narrow(2 * card)], vec![narrow(2 * card + 1)]);
                if rng.one_in(4) {
                    for side in [&mut out, &mut back] {
                        side.push(narrow(self.links.len()));
                        let made = link(rng);
                        self.links.push(made);
                    }
                    back.reverse();
                }
                self.paths.push((host, out, back));
            }
        }
    }

    /// Batches of requests with ranges of their own, of any size and at any address.
    fn make_jobs(&mut self, rng: &mut Rng) {
        // most runs are small, so that there can be many
        let most = if rng.one_in(40) { 16 << 20 } else { 2 << 20 };
        let mut budget = rng.scale(64 << 10, most);
        let span = rng.scale(1, 50_000_000);
        let mut at = 0;
        let short = rng.one_in(4);
        while budget > 0 && self.jobs.len() < MAX_JOBS {
            let mut wishes = Vec::new();
            let hurry = short && rng.one_in(4);
            for _ in 0..rng.scale(1, 8) {
                let len = rng.scale(1, budget.max(1)).min(budget);
                budget -= len;
                at += rng.below(200);
                let peer = rng.index(self.hosts);
                let time = if hurry { rng.scale(1_000_000, 100_000_000) } else { PATIENCE };
                wishes.push(Wish {
                    op: if rng.one_in(2) { Op::Read } else { Op::Write },
                    class: if len <= 64 << 10 || rng.one_in(8) {
                        Class::Urgent
                    } else {
                        Class::Bulk
                    },
                    priority: match rng.below(3) {
                        0 => Priority::High,
                        1 => Priority::Medium,
                        _ => Priority::Low,
                    },
                    peer,
                    local: index(HOME + at),
                    remote: host_base(peer) + at,
                    len,
                    timeout: Duration::from_nanos(time),
                });
                at += len;
            }
            let cancel =
                rng.one_in(10).then(|| Duration::from_nanos(rng.scale(1_000, span.max(2_000))));
            self.jobs.push(Job { at: Duration::from_nanos(rng.below(span)), wishes, cancel });
        }
        self.jobs.sort_by_key(|job| job.at);
        self.room = at + 256;
    }

    /// Up to three kinds of fault, at times when there is likely to be work.
    fn make_weather(&mut self, rng: &mut Rng) {
        let mut kinds: Vec<Kind> = FAULTS.iter().map(|f| f.kind).collect();
        rng.shuffle(&mut kinds);
        kinds.truncate(index(rng.below(4)));
        let span = self.busy_time() * 2 + 1_000_000;
        let mut spared: Vec<u32> = Vec::new();
        if self.kept {
            for host in 0..self.hosts {
                let paths: Vec<_> = self.paths.iter().filter(|p| p.0 == host).collect();
                let kept = rng.pick(&paths);
                spared.extend(kept.iter().flat_map(|p| p.1.iter().chain(&p.2)));
            }
        }
        let all: Vec<u32> = (0..narrow(self.links.len())).collect();
        let others: Vec<u32> = all.iter().copied().filter(|l| !spared.contains(l)).collect();
        // what is spared is so in the end; in liveness weather it is hit before
        let links = if self.mode == Mode::Liveness { &all } else { &others };
        for kind in &kinds {
            for _ in 0..rng.scale(1, 6) {
                let at = Duration::from_nanos(rng.below(span));
                let time = Duration::from_nanos(rng.scale(50_000, 1_000_000_000));
                self.add_fault(*kind, at, time, links, rng);
            }
        }
        self.weather.sort_by_key(|(at, _)| *at);
        let lasts = |act: &Act| match act {
            Act::Stop { time, .. } | Act::Freeze { time } => *time,
            _ => Duration::ZERO,
        };
        let ends = self.weather.iter().map(|(at, act)| *at + lasts(act));
        self.calm = ends.max().unwrap_or_default();
        if self.mode == Mode::Liveness {
            // what is not spared does not come back
            let gone = |link: u32| {
                let state =
                    if seed_bit(self.seed, link) { LinkState::Hole } else { LinkState::Down };
                (self.calm, Act::Link { link, state, factor: 1.0 })
            };
            let gone: Vec<_> = others.iter().map(|link| gone(*link)).collect();
            self.weather.extend(gone);
            if !others.is_empty() && !kinds.contains(&Kind::Hole) {
                kinds.push(Kind::Hole);
            }
            for job in &mut self.jobs {
                if rng.one_in(3) {
                    job.at = self.calm + Duration::from_nanos(rng.below(AFTER));
                }
            }
            self.jobs.sort_by_key(|job| job.at);
        }
        self.kinds = kinds;
    }

    fn add_fault(
        &mut self,
        kind: Kind,
        at: Duration,
        time: Duration,
        links: &[u32],
        rng: &mut Rng,
    ) {
        let host = rng.index(self.hosts);
        let mut add = |after: Duration, act| self.weather.push((at + after, act));
        let link = rng.pick(links).copied();
        let set = |link, state, factor| Act::Link { link, state, factor };
        match (kind, link) {
            (Kind::Slow, Some(link)) => {
                let factor = 1.0 / real(rng.within(2, 20));
                add(Duration::ZERO, set(link, LinkState::Up, factor));
                add(time, set(link, LinkState::Up, 1.0));
            }
            (Kind::Loss, Some(link)) => add(Duration::ZERO, Act::Loss { link }),
            (Kind::Down, Some(link)) => {
                add(Duration::ZERO, set(link, LinkState::Down, 1.0));
                add(time, set(link, LinkState::Up, 1.0));
            }
            (Kind::Hole | Kind::HalfHole, Some(link)) => {
                // links come in pairs, there and back
                let both = if kind == Kind::Hole { vec![link & !1, link | 1] } else { vec![link] };
                for link in both.into_iter().filter(|l| links.contains(l)) {
                    add(Duration::ZERO, set(link, LinkState::Hole, 1.0));
                    add(time, set(link, LinkState::Up, 1.0));
                }
            }
            (Kind::Reset | Kind::Drain, _) => {
                let path = narrow(rng.index(self.paths.len()));
                let way = &self.paths[path as usize];
                // the path that stays healthy has no broken connections either
                if !way.1.iter().chain(&way.2).any(|l| links.contains(l)) {
                    return;
                }
                if kind == Kind::Reset {
                    return self.weather.push((at, Act::Reset { path }));
                }
                self.weather.push((at, Act::Drain { path, on: true }));
                self.weather.push((at + time, Act::Drain { path, on: false }));
            }
            (Kind::Withdraw, _) => add(Duration::ZERO, Act::Withdraw { host }),
            (Kind::Stop, _) => add(Duration::ZERO, Act::Stop { host, time }),
            (Kind::Kill, _) => {
                add(Duration::ZERO, Act::Kill { host });
                if self.mode == Mode::Liveness || rng.one_in(2) {
                    add(time, Act::Start { host });
                }
            }
            (Kind::Freeze, _) => add(Duration::ZERO, Act::Freeze { time: time.min(FREEZE) }),
            (Kind::Slow | Kind::Loss | Kind::Down | Kind::Hole | Kind::HalfHole, None) => {}
        }
    }

    /// About how long the work takes on all paths, in nanoseconds.
    fn busy_time(&self) -> u64 {
        let bytes: u64 = self.jobs.iter().flat_map(|job| &job.wishes).map(|wish| wish.len).sum();
        let rate: f64 = self.links.iter().map(|link| link.0).sum::<f64>() / 2.0;
        Duration::from_secs_f64(real(bytes) / rate).as_nanos().try_into().unwrap_or(u64::MAX)
    }

    /// The world of the plan.
    pub(super) fn build(&self, trace: bool) -> World {
        let mut world = World::new(self.seed, self.lanes, self.room, self.nature, trace);
        for (rate, latency, jitter) in &self.links {
            world.add_link(Link::new(*rate, *latency, *jitter));
        }
        for _ in 0..self.hosts {
            world.add_host(self.room);
        }
        for (host, out, back) in &self.paths {
            world.add_path(*host, out.clone(), back.clone());
        }
        world
    }

    /// Whether the engine heals every kind of fault in it.
    pub(super) fn heals(&self) -> bool {
        let heals = |kind: &Kind| FAULTS.iter().any(|f| f.kind == *kind && f.heals);
        self.kinds.iter().all(heals)
    }

    /// Names of the faults in it.
    pub(super) fn fault_names(&self) -> Vec<&'static str> {
        FAULTS.iter().filter(|f| self.kinds.contains(&f.kind)).map(|f| f.name).collect()
    }
}

fn seed_bit(seed: u64, link: u32) -> bool {
    super::rng::mix(seed ^ u64::from(link)) & 1 == 0
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "bytes and rates of a scenario")]
pub(super) fn real(n: u64) -> f64 {
    n as f64
}

/// Policies besides the one that is meant: they have to be right too.
const OTHERS: [Spray; 4] = [Spray::Predict2, Spray::Predict3, Spray::RoundRobin, Spray::Static];
/// Batches in a run.
const MAX_JOBS: usize = 24;
/// Deadline of a task that is not in a hurry, nanoseconds.
pub(super) const PATIENCE: u64 = 30_000_000_000;
/// In liveness runs some work comes up to so long after the weather, nanoseconds.
const AFTER: u64 = 20_000_000;
/// Our own process is not stopped for longer: a deadline is looked at only while it runs.
const FREEZE: Duration = Duration::from_millis(300);
