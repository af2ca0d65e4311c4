//! What lies beyond the engine in a simulated run: links, paths, hosts with their memories, and the queue of
//! events that moves the clock. The weather acts here; how bytes travel is in `wire`.

use super::link::{Link, LinkState};
use super::memory::Memory;
use super::rng::{Rng, mix};
use super::wire::{Conn, Flow, Item, Piece};
use crate::slice::{DownCause, SliceOp, TransportEvent};
use crate::time::Instant;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// What will happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// The item at the head of a link may be through, unless the link has changed since.
    Served {
        link: u32,
        version: u64,
    },
    /// An item has crossed its link.
    Crossed {
        flow: u32,
        item: Item,
    },
    /// A connection's retransmission timer has run out: its items go on.
    Resume {
        flow: u32,
    },
    /// The first packet of a connect arrives, for the n-th time.
    Knock {
        conn: u32,
        tries: u32,
    },
    /// The initiator's kernel learns that a connection is broken.
    Reset {
        conn: u32,
        cause: DownCause,
    },
    /// The peer's answer over some path, if that lives: the closed connection is fenced.
    Fenced {
        conn: u32,
        path: u32,
    },
    /// A request over another connection that a WRITE be placed no more, and the promise.
    Revoke {
        by: u32,
        piece: u64,
    },
    Revoked {
        by: u32,
        piece: u64,
    },
    /// What was sent on a connection before it was closed arrives after all.
    Ghost {
        conn: u32,
        op: Box<SliceOp>,
    },
    /// A host that was stopped goes on.
    Wake {
        host: usize,
    },
}

/// A happening with its time; the heap has the earliest on top, and among equals the oldest.
#[derive(Debug)]
struct Event {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

/// A way between the engine and a host: links that are crossed one after the other, each way.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) host: usize,
    pub(super) out: Vec<u32>,
    pub(super) back: Vec<u32>,
}

/// A peer.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) memory: Memory,
    /// What a request must carry; another one in each life.
    pub(super) key: u64,
    /// Grows when the process is started anew.
    pub(super) life: u32,
    pub(super) alive: bool,
    /// Nothing is registered there any more.
    pub(super) withdrawn: bool,
    /// The process does not run until then; its kernel takes what comes.
    pub(super) stopped_until: Option<Instant>,
    pub(super) held: VecDeque<(Instant, u32, Item)>,
}

/// What is broken on purpose, to see that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A closed connection's WRITEs are told lost at once, without a fence.
    NoFence,
    /// One WRITE in many is placed a byte further.
    Astray,
    /// One piece in many is told done though its bytes did not come.
    Empty,
    /// One completion in many is lost.
    Mute,
    /// One completion in many comes twice.
    Twice,
    /// Every third path takes no slices.
    Lazy,
}

impl Sabotage {
    /// All of them, with their names.
    pub const ALL: [(&str, Self); 6] = [
        ("no-fence", Self::NoFence),
        ("astray", Self::Astray),
        ("empty", Self::Empty),
        ("mute", Self::Mute),
        ("twice", Self::Twice),
        ("lazy", Self::Lazy),
    ];
}

/// How a run's world is, besides links and hosts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nature {
    /// Bytes of a head on the wire.
    pub(super) head: u64,
    /// Bytes that a rail takes before it refuses more; short counts are a transport's right.
    pub(super) queue: u64,
    /// One in so many WRITEs that were sent on a closed connection is placed late; 0 for none.
    pub(super) ghosts: u64,
    /// Whether memories hold bytes.
    pub(super) bytes: bool,
    pub(super) sabotage: Option<Sabotage>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) nature: Nature,
    pub(super) links: Vec<Link>,
    pub(super) paths: Vec<Path>,
    pub(super) hosts: Vec<Host>,
    pub(super) home: Memory,
    pub(super) conns: Vec<Conn>,
    pub(super) flows: Vec<Flow>,
    /// Bytes of uncompleted slices, by path and operation.
    pub(super) held: Vec<[u64; 2]>,
    /// The most of it that a path had when it was given more bulk, since somebody looked.
    pub(super) ahead: Vec<[u64; 2]>,
    pub(super) pieces: Vec<(u32, Option<Piece>)>,
    pub(super) free_pieces: Vec<u32>,
    /// By lane: what its transport will report, and the bytes that this moved.
    pub(super) inboxes: Vec<Vec<(TransportEvent, u64)>>,
    /// What the engine or a transport did against the contract.
    pub(super) breaches: Vec<String>,
    /// Bytes that were placed in some memory, twice if they came twice.
    pub(super) placed: u64,
    /// The same, placed after their attempt was given up.
    pub(super) ghosts: u64,
    events: BinaryHeap<Event>,
    order: u64,
    log: Option<Vec<String>>,
}

impl World {
    /// An empty world for an engine with `lanes` lanes and `len` bytes of memory.
    pub(super) fn new(seed: u64, lanes: usize, len: u64, nature: Nature, trace: bool) -> Self {
        Self {
            now: START,
            rng: Rng::new(mix(seed)),
            nature,
            links: Vec::new(),
            paths: Vec::new(),
            hosts: Vec::new(),
            home: Memory::new(HOME, len, HOME_KEY, nature.bytes),
            conns: Vec::new(),
            flows: Vec::new(),
            held: Vec::new(),
            ahead: Vec::new(),
            pieces: Vec::new(),
            free_pieces: Vec::new(),
            inboxes: vec![Vec::new(); lanes],
            breaches: Vec::new(),
            placed: 0,
            ghosts: 0,
            events: BinaryHeap::new(),
            order: 0,
            log: trace.then(Vec::new),
        }
    }

    pub(super) fn add_link(&mut self, link: Link) -> u32 {
        self.links.push(link);
        index(self.links.len() - 1)
    }

    pub(super) fn add_host(&mut self, len: u64) -> usize {
        let host = self.hosts.len();
        self.hosts.push(Host {
            memory: Memory::new(host_base(host), len, host_key(host, 0), self.nature.bytes),
            key: host_key(host, 0),
            life: 0,
            alive: true,
            withdrawn: false,
            stopped_until: None,
            held: VecDeque::new(),
        });
        host
    }

    pub(super) fn add_path(&mut self, host: usize, out: Vec<u32>, back: Vec<u32>) -> u32 {
        self.paths.push(Path { host, out, back });
        self.held.push([0; 2]);
        self.ahead.push([0; 2]);
        index(self.paths.len() - 1)
    }

    /// The time of a run so far.
    pub(super) fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    pub(super) fn is_traced(&self) -> bool {
        self.log.is_some()
    }

    /// Writes a line of the trace, if there is one.
    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>12.6} ms  {}", ms(self.now.since(START)), text()));
        }
    }

    /// Takes the trace out.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    pub(super) fn breach(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.note(|| format!("BREACH {text}"));
        if self.breaches.len() < MAX_BREACHES {
            self.breaches.push(format!("at {:.6} ms: {text}", ms(self.elapsed())));
        }
    }

    /// Something will happen after so many nanoseconds.
    pub(super) fn plan(&mut self, after: u64, what: Happening) {
        self.plan_at(Instant(self.now.0.saturating_add(after)), what);
    }

    pub(super) fn plan_at(&mut self, at: Instant, what: Happening) {
        self.order += 1;
        self.events.push(Event { at, order: self.order, what });
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Instant {
        self.events.peek().map_or(Instant::NEVER, |event| event.at)
    }

    /// Lets everything happen up to a time.
    pub(super) fn advance(&mut self, to: Instant) {
        while let Some(event) = self.events.peek().filter(|event| event.at <= to) {
            self.now = self.now.max(event.at);
            if let Some(event) = self.events.pop() {
                self.happen(event.what);
            }
        }
        self.now = self.now.max(to);
    }

    /// Whether everything that is sent now comes through, both ways.
    pub(super) fn is_live(&self, path: u32) -> bool {
        let path = &self.paths[path as usize];
        path.out.iter().chain(&path.back).all(|link| self.links[*link as usize].is_up())
    }

    /// Whether connects and connections break at once on that path.
    pub(super) fn is_loud(&self, path: u32) -> bool {
        let path = &self.paths[path as usize];
        let mut links = path.out.iter().chain(&path.back);
        links.any(|link| self.links[*link as usize].state() == LinkState::Down)
    }

    /// The shortest time there and back, in nanoseconds.
    pub(super) fn round_trip(&self, path: u32) -> u64 {
        let path = &self.paths[path as usize];
        path.out.iter().chain(&path.back).map(|link| self.links[*link as usize].latency).sum()
    }

    /// Bytes per nanosecond that the path carries now, if nobody else uses its links.
    pub(super) fn speed(&self, path: u32) -> f64 {
        let path = &self.paths[path as usize];
        let links = path.out.iter().chain(&path.back);
        links.map(|link| self.links[*link as usize].speed()).fold(f64::INFINITY, f64::min)
    }

    /// Breaks the connections of a path, whose links stay as they are.
    pub(super) fn break_path(&mut self, path: u32) {
        for conn in 0..index(self.conns.len()) {
            if self.conns[conn as usize].path == path {
                self.plan(0, Happening::Reset { conn, cause: DownCause::Reset });
            }
        }
    }

    /// The paths to a host.
    pub(super) fn ways_to(&self, host: usize) -> Vec<u32> {
        (0..index(self.paths.len())).filter(|p| self.paths[*p as usize].host == host).collect()
    }

    /// Changes a link. A link that comes back lets its connections go on when their retransmission timers
    /// run out; one that goes down breaks them.
    pub(super) fn set_link(&mut self, link: u32, state: LinkState, factor: f64) {
        let at = link as usize;
        let before = self.links[at].state();
        let silent = self.now.since(self.links[at].since());
        self.links[at].set(state, factor, self.now);
        if before != LinkState::Up && state == LinkState::Up {
            let held = self.links[at].remove(self.now, |_| true);
            for (flow, left) in held {
                self.flows[flow as usize].left = Some(left);
                let most = u64::try_from(silent.as_nanos()).unwrap_or(RTO).min(RTO);
                let wait = self.rng.below(most + 1);
                self.plan(wait, Happening::Resume { flow });
            }
        }
        if state == LinkState::Down && before != LinkState::Down {
            for conn in self.conns_over(link) {
                let wait = self.rng.below(LOUD);
                self.plan(wait, Happening::Reset { conn, cause: DownCause::Reset });
            }
        }
        self.replan(link);
    }

    /// A packet is lost on one of the connections that are sending over the link: they wait for its
    /// retransmission timer.
    pub(super) fn lose(&mut self, link: u32) {
        let flows = self.links[link as usize].flows();
        let Some(&flow) = self.rng.pick(&flows) else { return };
        for (flow, left) in self.links[link as usize].remove(self.now, |f| f == flow) {
            self.flows[flow as usize].left = Some(left);
            self.plan(RTO, Happening::Resume { flow });
        }
        self.note(|| format!("loss on link {link}"));
        self.replan(link);
    }

    /// The process of a host does not run for a while.
    pub(super) fn stop_host(&mut self, host: usize, time: Duration) {
        if self.hosts[host].alive {
            let until = self.now.after(time);
            self.hosts[host].stopped_until = Some(until);
            self.plan_at(until, Happening::Wake { host });
        }
    }

    /// The process of a host ends; its kernel closes its connections.
    pub(super) fn kill_host(&mut self, host: usize) {
        let dead = &mut self.hosts[host];
        dead.alive = false;
        dead.stopped_until = None;
        dead.held.clear();
        for conn in 0..index(self.conns.len()) {
            let path = self.conns[conn as usize].path;
            if self.paths[path as usize].host == host && self.is_live(path) {
                let wait = self.round_trip(path) / 2;
                self.plan(wait, Happening::Reset { conn, cause: DownCause::Reset });
            }
        }
    }

    /// Another process starts in the place of one that ended: with other memory and another key.
    pub(super) fn start_host(&mut self, at: usize) {
        let (bytes, host) = (self.nature.bytes, &mut self.hosts[at]);
        host.life += 1;
        (host.alive, host.withdrawn) = (true, false);
        host.key = host_key(at, host.life);
        host.memory = Memory::new(host.memory.base(), host.memory.len(), host.key, bytes);
    }

    pub(super) fn wake_host(&mut self, host: usize) {
        let due = self.hosts[host].stopped_until.is_some_and(|until| until <= self.now);
        if !due {
            return;
        }
        self.hosts[host].stopped_until = None;
        self.note(|| format!("host {host} runs again"));
        for (since, conn, item) in std::mem::take(&mut self.hosts[host].held) {
            if self.now.since(since) > PEER_RULE {
                // the peer's own rule (D5): what has lain for so long is dropped, and its connection closed
                self.plan(0, Happening::Reset { conn, cause: DownCause::Reset });
            } else {
                self.at_host(conn, item);
            }
        }
    }

    /// Plans the next event of a link anew.
    pub(super) fn replan(&mut self, link: u32) {
        let state = &self.links[link as usize];
        if let Some(at) = state.next() {
            let version = state.version;
            self.plan_at(at, Happening::Served { link, version });
        }
    }
}

pub(super) fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) fn host_base(host: usize) -> u64 {
    HOSTS + host as u64 * HOST_ROOM
}

pub(super) fn host_key(host: usize, life: u32) -> u64 {
    mix((host as u64 + 1) << 32 | u64::from(life))
}

/// Runs begin here; a clock that starts at 0 would hide mistakes.
pub(super) const START: Instant = Instant(1_000_000_000);
/// Where the engine's own memory begins, and the key of its pattern.
pub(super) const HOME: u64 = 1 << 32;
pub(super) const HOME_KEY: u64 = 0x0041_0e5e;
/// Where the memories of hosts begin, and how far they are apart.
const HOSTS: u64 = 1 << 44;
const HOST_ROOM: u64 = 1 << 36;
/// A peer places nothing that has lain in its kernel for longer (`frame::SILENCE`).
pub(super) const PEER_RULE: Duration = Duration::from_secs(2);
/// Shortest retransmission timeout of Linux, nanoseconds.
const RTO: u64 = 200_000_000;
/// A link that goes down is noticed within this time, nanoseconds.
const LOUD: u64 = 1_000_000;
/// More are not kept: the first says enough.
const MAX_BREACHES: usize = 20;
