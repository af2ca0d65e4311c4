//! The engine without threads, sockets and clock (D13): the real driver, work, peers, batches, tasks and
//! deadlines, one call for each thing that a thread or a caller of the engine would do. Whoever holds the
//! rig says what time it is, and takes the turns.

use crate::config::Config;
use crate::engine::TaskStatus;
use crate::engine::batch::{Batch, Batches, Follow, OnEnd, Spec, Task, TaskRef};
use crate::engine::core::end_overdue;
use crate::engine::driver::{Driver, RailMaker, RailSpec, limits};
use crate::engine::lane::LaneShared;
use crate::engine::peer::{Link, Peer, RailFigures};
use crate::engine::progress::{Progress, Stop};
use crate::engine::report::Marks;
use crate::engine::submit::{Way, route};
use crate::error::Result;
use crate::event::{EventLog, RailEvent};
use crate::id::Incarnation;
use crate::sched::spray::{self, Limits};
use crate::segment::{Access, Buffer, HostIdentity, Permission, SegmentDesc, TentFacts};
use crate::slice::{Class, Op, Priority, TransportKind, TransportMask};
use crate::sync::lock;
use crate::time::Instant;
use crate::transport::{RailTarget, Transport};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// A rail that a lane makes to a peer.
#[derive(Debug, Clone)]
pub(crate) struct RigRail {
    pub(crate) lane: usize,
    pub(crate) name: String,
    /// 0 is best.
    pub(crate) tier: u8,
    pub(crate) target: RailTarget,
}

/// One range to move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) op: Op,
    pub(crate) class: Class,
    pub(crate) priority: Priority,
    /// As [`Rig::add_peer`] numbers it.
    pub(crate) peer: usize,
    pub(crate) local: usize,
    pub(crate) remote: u64,
    pub(crate) len: u64,
    pub(crate) timeout: Duration,
}

/// A submitted batch.
#[derive(Debug, Clone)]
pub(crate) struct Ticket(Arc<Batch>);

/// What the engine says of one rail.
#[derive(Debug, Clone)]
pub(crate) struct RigFigures(Arc<RailFigures>);

impl RigFigures {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it takes pieces.
    pub(crate) fn is_open(&self) -> bool {
        self.0.state().is_open()
    }

    /// Bytes posted and not completed, in one direction.
    pub(crate) fn in_flight(&self, op: Op) -> u64 {
        self.0.flows[op as usize].in_flight.load(Ordering::Relaxed)
    }

    /// Bytes that had to be sent again elsewhere.
    pub(crate) fn retried(&self) -> u64 {
        self.0.retried_bytes.load(Ordering::Relaxed)
    }

    /// Pieces that were sent over another rail too, for they were late.
    pub(crate) fn hedged(&self) -> u64 {
        self.0.hedged.load(Ordering::Relaxed)
    }
}

/// Knows the rails instead of network interfaces, and tells lanes without waking threads.
#[derive(Debug)]
struct Table {
    shared: Vec<LaneShared>,
    /// By peer.
    rails: Mutex<Vec<Vec<RigRail>>>,
    events: EventLog,
}

impl RailMaker for Table {
    fn rails(&self, lane: usize, peer: &Peer, _: &Link) -> Vec<RailSpec> {
        let rails = lock(&self.rails);
        let all = rails.get(peer.id as usize).map_or(&[][..], Vec::as_slice);
        let spec = |rail: &RigRail| RailSpec {
            interface: None,
            kind: TransportKind::Tcp,
            name: rail.name.clone(),
            tier: rail.tier,
            target: rail.target.clone(),
        };
        all.iter().filter(|rail| rail.lane == lane).map(spec).collect()
    }

    fn tell(&self, peer: &Arc<Peer>, _: TransportKind) {
        for (index, shared) in self.shared.iter().enumerate() {
            shared.tell(index, peer);
        }
    }

    fn event(&self, event: RailEvent) {
        self.events.add(event);
    }
}

/// No messages follow batches here.
#[derive(Debug)]
struct Silent;

impl OnEnd for Silent {
    fn send(&self, _: Follow) {}
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rig {
    table: Arc<Table>,
    drivers: Vec<Driver>,
    peers: Vec<Arc<Peer>>,
    batches: Batches,
    on_end: Arc<dyn OnEnd>,
    /// When the deadlines are looked at next.
    look: Instant,
    limits: Limits,
}

impl Rig {
    /// An engine whose lane `i` owns `transports[i]`.
    pub(crate) fn new(config: &Config, transports: Vec<Vec<Box<dyn Transport>>>) -> Self {
        let shared = transports.iter().map(|_| LaneShared::default()).collect();
        let (rails, events) = (Mutex::default(), EventLog::default());
        let table = Arc::new(Table { shared, rails, events });
        let maker: Arc<dyn RailMaker> = Arc::<Table>::clone(&table);
        let driver =
            |(lane, transports)| Driver::new(lane, 1, transports, Arc::downgrade(&maker), config);
        let drivers = transports.into_iter().enumerate().map(driver).collect();
        let (batches, on_end) = (Batches::new(1), Arc::new(Silent));
        let (peers, look, limits) = (Vec::new(), Instant::NEVER, limits(config, u64::MAX));
        Self { table, drivers, peers, batches, on_end, look, limits }
    }

    /// A peer whose memory from `base` on, `len` bytes, may be read and written with `key`.
    pub(crate) fn add_peer(&mut self, base: u64, len: u64, key: u64, rails: Vec<RigRail>) -> usize {
        let index = self.peers.len();
        let id = u32::try_from(index).unwrap_or(u32::MAX);
        let name = format!("peer-{index}");
        lock(&self.table.rails).push(rails);
        let desc = describe(&name, 0, (base, len, key));
        let peer = Peer::new(id, &name, desc, Link::Remote, self.drivers.len());
        self.peers.push(Arc::new(peer));
        index
    }

    /// The description of a peer that started anew has come: another life, another key, other rails.
    pub(crate) fn renew_peer(
        &self,
        peer: usize,
        life: u32,
        region: (u64, u64, u64),
        rails: Vec<RigRail>,
    ) {
        lock(&self.table.rails)[peer] = rails;
        let peer = &self.peers[peer];
        peer.update(describe(&peer.name, life, region), |_| Link::Remote);
        self.table.tell(peer, TransportKind::Tcp);
    }

    /// Submits a batch, as `Engine::submit` does after its checks.
    ///
    /// # Errors
    /// When there are too many batches.
    pub(crate) fn submit(&mut self, wishes: &[Wish], now: Instant) -> Result<Ticket> {
        let batch = self.batches.allocate(wishes.len(), &self.on_end)?;
        let tasks = batch.push(wishes.iter().map(|wish| self.task(wish, now)));
        for task in &tasks {
            let peer = &task.task().spec.peer;
            if task.task().spec.len == 0 {
                task.piece_over(0, true); // nothing to land: it has completed
                continue;
            }
            if let Way::By(way) = route(&task.task().spec, now) {
                task.task().spec.route.set(way).ok();
                peer.work.push(std::slice::from_ref(task));
                self.table.tell(peer, TransportKind::Tcp);
            } else {
                task.stop(Stop::Fail, || "no way".into());
            }
        }
        self.look = self.look.min(Instant(batch.deadline.load(Ordering::Acquire)));
        Ok(Ticket(batch))
    }

    fn task(&self, wish: &Wish, now: Instant) -> Task {
        let spec = Spec {
            op: wish.op,
            class: wish.class,
            priority: wish.priority,
            local: wish.local,
            remote: wish.remote,
            len: wish.len,
            peer: Arc::clone(&self.peers[wish.peer]),
            allowed: TransportMask::ALL,
            first: None,
            route: OnceLock::new(),
            deadline: now.after(wish.timeout),
            due: now.after(wish.timeout),
            pin: Mutex::new(None),
        };
        Task { spec, progress: Progress::new(wish.len), marks: Marks::default() }
    }

    /// Gives a task up, as `Engine::cancel` does.
    pub(crate) fn cancel(&self, ticket: &Ticket, index: usize) {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let task = TaskRef { batch: Arc::clone(&ticket.0), index };
        task.stop(Stop::Cancel, || "canceled by the caller".into());
        task.task().spec.peer.work.purge();
    }

    /// Takes a rail out of use by hand, or back, as `Engine::drain_rail` does.
    pub(crate) fn drain(&self, peer: usize, rail: &str, on: bool) {
        for figures in self.peers[peer].figures().iter().filter(|f| f.name == rail) {
            figures.drained.store(on, Ordering::Relaxed);
            self.table.tell(&self.peers[peer], TransportKind::Tcp);
        }
    }

    /// State of a task.
    pub(crate) fn status(&self, ticket: &Ticket, index: usize) -> Option<TaskStatus> {
        let progress = &ticket.0.task(index)?.progress;
        Some(TaskStatus { state: progress.state(), bytes: progress.landed() })
    }

    /// Why tasks of the batch did not complete; empty if none failed.
    pub(crate) fn failure(&self, ticket: &Ticket) -> String {
        ticket.0.failure()
    }

    /// Frees a batch whose tasks have ended.
    ///
    /// # Errors
    /// `Busy` while one has not; `Stale` the second time.
    pub(crate) fn free(&self, ticket: &Ticket) -> Result<()> {
        self.batches.free(ticket.0.id)
    }

    /// A turn of one lane; 0 if nothing happened.
    pub(crate) fn turn(&mut self, lane: usize, now: Instant) -> usize {
        self.drivers[lane].turn(&self.table.shared[lane], now)
    }

    pub(crate) fn lanes(&self) -> usize {
        self.drivers.len()
    }

    /// What the control thread does when a deadline may have come.
    pub(crate) fn look(&mut self, now: Instant) {
        if now < self.look {
            return;
        }
        let (overdue, next) = end_overdue(&self.batches, now);
        self.look = next;
        if overdue.is_empty() {
            return;
        }
        for peer in &self.peers {
            peer.work.purge();
        }
        for shared in &self.table.shared {
            shared.overdue();
        }
    }

    /// When something is to be done though nothing happens.
    pub(crate) fn next_wake(&mut self) -> Instant {
        self.drivers
            .iter_mut()
            .map(Driver::next_wake)
            .min()
            .unwrap_or(Instant::NEVER)
            .min(self.look)
    }

    /// Whether nothing is posted on any lane.
    pub(crate) fn is_quiet(&self) -> bool {
        self.drivers.iter().all(Driver::is_quiet)
    }

    /// About how many bytes to the peer nobody has claimed.
    pub(crate) fn backlog(&self, peer: usize) -> u64 {
        self.peers[peer].work.backlog()
    }

    /// What the engine says of the rails to a peer.
    pub(crate) fn figures(&self, peer: usize) -> Vec<RigFigures> {
        self.peers[peer].figures().iter().map(|f| RigFigures(Arc::clone(f))).collect()
    }

    /// Bytes in one direction at which a rail stops to claim (I5).
    pub(crate) fn window(&self, rail: &RigFigures, op: Op, now: Instant) -> u64 {
        spray::window(&rail.0.view(op, rail.0.lane, now), &self.limits)
    }

    /// What has happened to rails after event number `seq`.
    pub(crate) fn events(&self, seq: u64) -> Vec<RailEvent> {
        self.table.events.since(seq)
    }
}

/// What a peer says of itself: one region.
fn describe(name: &str, life: u32, (addr, len, key): (u64, u64, u64)) -> SegmentDesc {
    let access = Access { key, permission: Permission::ReadWrite, slot: 0, shm: None };
    let buffer = Buffer { addr, len, location: "*".into(), access: Some(access) };
    let facts = TentFacts {
        incarnation: Incarnation(u128::from(life) + 1),
        host: HostIdentity::default(),
        rails: Vec::new(),
        guard: None,
    };
    SegmentDesc {
        name: name.to_owned(),
        tcp_data_port: 1,
        buffers: vec![buffer],
        tent: Some(facts),
        ..SegmentDesc::default()
    }
}
