//! The engine and a world for scenarios of size: no bytes are kept, requests are timed, and what the links
//! could have done is known.

use super::link::{Link, LinkState};
use super::transport::SimTransport;
use super::world::{HOME, Nature, START, World, host_base, host_key, index};
use crate::config::{Config, Spray};
use crate::engine::TaskState;
use crate::engine::rig::{Rig, RigRail, Ticket, Wish};
use crate::slice::{Class, Op, Priority};
use crate::sync::lock;
use crate::time::Instant;
use crate::transport::{RailTarget, Transport};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A pair of links, there and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    /// Bytes per second, each way.
    pub(super) rate: f64,
    /// Each way, nanoseconds.
    pub(super) latency: u64,
}

/// Which wires lead to a peer: for each rail those that are crossed one after the other.
pub(super) type Ways = Vec<Vec<usize>>;

/// What a scenario asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) peer: usize,
    pub(super) op: Op,
    pub(super) class: Class,
    pub(super) len: u64,
    /// For the scenario's own accounts.
    pub(super) tag: usize,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) ask: Ask,
    pub(super) took: Duration,
    pub(super) at: Instant,
    pub(super) completed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stage {
    world: Arc<Mutex<World>>,
    rig: Rig,
    pub(super) now: Instant,
    /// A turn is taken no sooner after the last: a lane is no faster.
    tick: u64,
    open: Vec<(Ticket, Ask, Instant)>,
    peers: usize,
}

impl Stage {
    pub(super) fn new(
        wires: &[Wire],
        peers: &[Ways],
        lanes: usize,
        tick: u64,
        config: &Config,
    ) -> Self {
        let nature = Nature { head: 0, queue: u64::MAX, ghosts: 0, bytes: false, sabotage: None };
        let mut world = World::new(1, lanes, ROOM, nature, false);
        for wire in wires {
            world.add_link(Link::new(wire.rate, wire.latency, 0));
            world.add_link(Link::new(wire.rate, wire.latency, 0));
        }
        for (host, ways) in peers.iter().enumerate() {
            world.add_host(ROOM);
            for way in ways {
                let out = way.iter().map(|wire| index(2 * wire)).collect();
                let back = way.iter().rev().map(|wire| index(2 * wire + 1)).collect();
                world.add_path(host, out, back);
            }
        }
        let world = Arc::new(Mutex::new(world));
        let transport = |lane| {
            let sim: Box<dyn Transport> = Box::new(SimTransport::new(lane, Arc::clone(&world)));
            vec![sim]
        };
        let mut rig = Rig::new(config, (0..lanes).map(transport).collect());
        let mut path = 0;
        for (host, ways) in peers.iter().enumerate() {
            let rail = |at: usize| RigRail {
                lane: (host + at) % lanes,
                name: format!("path {}", path + at),
                tier: 0,
                target: RailTarget::Sim { path: index(path + at), life: 0 },
            };
            rig.add_peer(
                host_base(host),
                ROOM,
                host_key(host, 0),
                (0..ways.len()).map(rail).collect(),
            );
            path += ways.len();
        }
        Self { world, rig, now: START, tick, open: Vec::new(), peers: peers.len() }
    }

    /// Submits requests as one batch each.
    pub(super) fn ask(&mut self, ask: Ask) {
        let wish = Wish {
            op: ask.op,
            class: ask.class,
            priority: Priority::Medium,
            peer: ask.peer,
            local: usize::try_from(HOME).unwrap_or(0),
            remote: host_base(ask.peer),
            len: ask.len,
            timeout: PATIENCE,
        };
        if let Ok(ticket) = self.rig.submit(&[wish], self.now) {
            self.open.push((ticket, ask, self.now));
        }
    }

    /// Requests that have not ended.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Changes a wire, both ways.
    pub(super) fn set(&mut self, wire: usize, state: LinkState, factor: f64) {
        let mut world = lock(&self.world);
        world.advance(self.now);
        world.set_link(index(2 * wire), state, factor);
        world.set_link(index(2 * wire + 1), state, factor);
    }

    /// Lets time pass to the next thing that happens, but no further than `until`; what has ended since.
    pub(super) fn step(&mut self, until: Instant) -> Vec<Ended> {
        self.rig.look(self.now);
        for _ in 0..MAX_TURNS {
            let lanes = 0..self.rig.lanes();
            let moved: usize = lanes.map(|lane| self.rig.turn(lane, self.now)).sum();
            if moved == 0 {
                break;
            }
        }
        let ended = self.collect();
        let mut world = lock(&self.world);
        let next = world.next().min(self.rig.next_wake()).max(Instant(self.now.0 + self.tick));
        self.now = next.min(until).max(self.now);
        world.advance(self.now);
        ended
    }

    fn collect(&mut self) -> Vec<Ended> {
        let (rig, now) = (&self.rig, self.now);
        let mut ended = Vec::new();
        self.open.retain(|(ticket, ask, since)| {
            let state = rig.status(ticket, 0).map_or(TaskState::Failed, |status| status.state);
            if state.is_final() {
                let completed = state == TaskState::Completed;
                ended.push(Ended { ask: *ask, took: now.since(*since), at: now, completed });
                rig.free(ticket).ok();
            }
            !state.is_final()
        });
        ended
    }

    /// Runs until nothing is open, at most until `limit`.
    pub(super) fn drain(&mut self, limit: Duration) -> Vec<Ended> {
        let until = self.now.after(limit);
        let mut ended = Vec::new();
        while !self.open.is_empty() && self.now < until {
            ended.extend(self.step(until));
        }
        ended
    }

    /// Bytes that have been placed.
    pub(super) fn placed(&self) -> u64 {
        lock(&self.world).placed
    }

    /// Bytes that were sent again, and pieces that were sent twice because they were late.
    pub(super) fn again(&self) -> (u64, u64) {
        let rails = (0..self.peers).flat_map(|peer| self.rig.figures(peer));
        rails.fold((0, 0), |sum, rail| (sum.0 + rail.retried(), sum.1 + rail.hedged()))
    }

    /// What the engine did against the contract.
    pub(super) fn breaches(&self) -> Vec<String> {
        lock(&self.world).breaches.clone()
    }
}

/// The policies by their names in configuration, the one that is meant first.
pub(super) const POLICIES: [(&str, Spray); 5] = [
    ("pull", Spray::Pull),
    ("predict2", Spray::Predict2),
    ("predict3", Spray::Predict3),
    ("round_robin", Spray::RoundRobin),
    ("static", Spray::Static),
];
/// Room of every memory: ranges may overlap, for nobody looks at the bytes.
const ROOM: u64 = 32 << 30;
/// No request is given up for its time.
const PATIENCE: Duration = Duration::from_secs(600);
const MAX_TURNS: usize = 10_000;
