//! The safe API of the runtime: validate, look up, enqueue. The work is done in the lanes.

mod batch;
mod buffer;
mod chores;
mod core;
mod directory;
mod driver;
mod errands;
mod export;
mod lane;
mod lanes;
mod map;
mod notify;
mod peer;
mod piece;
mod piece_log;
mod progress;
mod publish;
mod report;
#[cfg(any(test, feature = "cli"))]
#[cfg(not(loom))]
pub(crate) mod rig;
mod submit;
mod work;

pub use self::buffer::Buffer;
pub use self::map::{Map, Place, WayTo};
pub use self::piece_log::HEADER as PIECE_LOG_HEADER;
pub use self::report::{BatchReport, RailShare, TaskReport};

use self::batch::{Follow, TaskRef};
use self::core::Core;
use self::lanes::Family;
use self::progress::Stop;
use crate::config::Config;
use crate::control::wire::{self, FrameKind};
use crate::engine::peer::RailFigures;
use crate::error::{Error, ErrorKind, Result};
use crate::event::RailEvent;
use crate::id::{BatchId, SegmentId};
use crate::memory::NewRegion;
use crate::policy::{Intent, Policies};
use crate::sched::spray;
use crate::segment::{Permission, SegmentDesc};
use crate::slice::{Op, Priority, TransportKind, TransportMask};
use crate::sync::lock;
use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the application asks for: one range to move.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Direction.
    pub op: Op,
    /// First byte of the local range; must lie inside one registered region.
    pub local: usize,
    /// Whose memory.
    pub segment: SegmentId,
    /// First byte of the range in the peer, an absolute address there.
    pub remote: u64,
    /// Bytes; 0 completes at once.
    pub len: u64,
    /// How it is to be moved.
    pub options: RequestOptions,
}

/// Wishes that come with a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestOptions {
    /// Transports that may carry it (a pin), within those that the engine allows.
    pub transports: TransportMask,
    /// The transport to try first, where it reaches the peer; a wish and no pin.
    pub first: Option<TransportKind>,
    /// Longest time from submit to the end; `None` = the engine's rule.
    pub timeout: Option<Duration>,
    /// Treat as urgent whatever its size.
    pub urgent: bool,
    /// Its class beside other requests to the same peer; within a class the earliest deadline is first.
    pub priority: Priority,
    /// What it is for. Policies look at it, and without a timeout it says how long the request may take;
    /// [`RequestOptions::with_intent`] sets what else goes with it.
    pub intent: Intent,
}

impl RequestOptions {
    /// These options with an intent, and the priority and urgency that go with it for `len` bytes.
    #[must_use]
    pub fn with_intent(self, intent: Intent, len: u64) -> Self {
        Self {
            intent,
            priority: intent.priority().unwrap_or(self.priority),
            urgent: self.urgent || intent.is_urgent(len),
            ..self
        }
    }
}

/// Wishes that come with a submit.
#[derive(Debug, Clone, Default)]
pub struct Extras<'a> {
    /// The policy that all its requests take, whatever its conditions; `None` = the first that matches.
    pub policy: Option<&'a str>,
    /// Keep times, reasons and the shares of rails for [`Engine::batch_report`].
    pub report: bool,
    /// What goes to a peer, once, when every task of the batch has completed, after the data is visible
    /// there. A later one replaces it.
    pub message: Option<(SegmentId, Notification)>,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            transports: TransportMask::ALL,
            first: None,
            timeout: None,
            urgent: false,
            priority: Priority::Medium,
            intent: Intent::Unspecified,
        }
    }
}

/// State of a task; the last four are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TaskState {
    /// Nothing moved yet.
    Waiting = 0,
    /// Pieces are under way.
    Pending = 1,
    /// Every byte has landed.
    Completed = 2,
    /// No path could bring all bytes.
    Failed = 3,
    /// The application gave it up.
    Canceled = 4,
    /// Its deadline came first.
    TimedOut = 5,
}

impl TaskState {
    /// Whether the task has ended (I2).
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Pending)
    }
}

/// State and progress of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskStatus {
    /// The state.
    pub state: TaskState,
    /// Bytes that have landed.
    pub bytes: u64,
}

/// A message from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// By convention the sender's name. May hold any bytes.
    pub name: Vec<u8>,
    /// The message. May hold any bytes.
    pub message: Vec<u8>,
}

/// A range to register.
#[derive(Debug, Clone)]
pub struct RegionSpec {
    /// First byte.
    pub addr: usize,
    /// Bytes.
    pub len: usize,
    /// `*`, `cpu:N`, `cuda:N` …
    pub location: String,
    /// What peers may do.
    pub permission: Permission,
}

/// What one rail has done, for reports.
#[derive(Debug, Clone, PartialEq)]
pub struct RailStat {
    /// Name of the peer's segment.
    pub peer: String,
    /// `tcp 127.0.0.1→127.0.0.1`, `cma lane 0` …
    pub rail: String,
    /// Transport name.
    pub transport: &'static str,
    /// Whether it takes slices now.
    pub up: bool,
    /// Where it is in its life: `probing`, `slow_start`, `up`, `suspect`, `down`, `drained`.
    pub state: &'static str,
    /// Bytes that it may have in flight now, both directions.
    pub window_bytes: u64,
    /// Shortest round trip, in microseconds.
    pub rtt_us: f64,
    /// Bytes of [`RailStat::retried_slices`].
    pub retried_bytes: u64,
    /// Pieces that were overdue here and sent over another rail too.
    pub hedged_slices: u64,
    /// Times that it was lost.
    pub downs: u64,
    /// What happened to it last.
    pub last_event: &'static str,
    /// When, on the engine's clock ([`crate::time::Instant`]).
    pub last_event_at: Instant,
    /// Bytes posted and not yet completed.
    pub in_flight_bytes: u64,
    /// Bytes landed for READs.
    pub read_bytes: u64,
    /// Bytes landed for WRITEs.
    pub write_bytes: u64,
    /// Pieces that had to be posted again elsewhere.
    pub retried_slices: u64,
    /// Smoothed delivery rate in bytes per second; 0 before the first piece.
    pub rate_bps: f64,
}

/// The runtime: registered memory, peers, and lanes that move slices. Cheap to clone (one reference);
/// the last clone's end shuts the engine down.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
}

impl Engine {
    /// Starts an engine: binds its ports, starts its threads, and puts its name into the store if there is
    /// one.
    ///
    /// # Errors
    /// `Socket` when ports, descriptors or threads cannot be had; `Metadata` when the store does not take
    /// the name, within 5 s (etcd) or 3 s; `InvalidArgument`, `NotSupported`: no such store.
    pub fn new(config: Config) -> Result<Self> {
        Ok(Self { core: Core::new(config)? })
    }

    /// Whether the engine works.
    ///
    /// # Errors
    /// `EngineDown`: it was shut down, had to stop, or belongs to the parent of a forked process.
    pub fn check(&self) -> Result<()> {
        self.core.check()
    }

    /// The name under which peers open this engine's segment (`host:port` under P2PHANDSHAKE, with a store
    /// the configured one).
    pub fn name(&self) -> &str {
        &self.core.own.name
    }

    /// Host and port of the RPC listener, as peers reach it.
    pub fn rpc_address(&self) -> (String, u16) {
        (self.core.own.host.clone(), self.core.own.rpc_port)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Opens a peer's segment by name; the same name gives the same id; the own name gives
    /// [`SegmentId::LOCAL`]. May wait for the network up to the configured timeouts.
    ///
    /// # Errors
    /// `Dns`, `Socket`, `Malformed`: what the network or the peer did; `InvalidArgument`: no name.
    pub fn open_segment(&self, name: &str) -> Result<SegmentId> {
        self.core.check()?;
        self.core.directory.open(name)
    }

    /// Asks the peer for its description again. Never makes a new id.
    ///
    /// # Errors
    /// As [`Engine::open_segment`]; what was known stays.
    pub fn refresh_segment(&self, id: SegmentId) -> Result<()> {
        self.core.check()?;
        let peer = self.core.directory.peer(id)?;
        self.core.directory.refresh(&peer)
    }

    /// Refreshes every open segment; failures are logged.
    pub fn refresh_all(&self) {
        if self.core.check().is_err() {
            return;
        }
        for peer in self.core.directory.all() {
            if let Err(e) = self.core.directory.refresh(&peer) {
                log::warn!("segment {} keeps its old description: {e}", peer.name);
            }
        }
    }

    /// Forgets a name: the next open fetches afresh and gives a new id. The old id stays valid.
    pub fn forget_segment(&self, name: &str) {
        if self.core.check().is_ok() {
            self.core.directory.forget(name);
        }
    }

    /// What is known of a segment; the own one is described afresh.
    ///
    /// # Errors
    /// `InvalidArgument`: no such segment is open.
    pub fn segment(&self, id: SegmentId) -> Result<Arc<SegmentDesc>> {
        self.core.check()?;
        let desc = self.core.directory.peer(id)?.desc();
        if id != SegmentId::LOCAL {
            return Ok(desc);
        }
        let mut own = SegmentDesc::clone(&desc);
        own.buffers = self.core.own.regions.describe();
        Ok(Arc::new(own))
    }

    /// Registers one range, and tells the store, if there is one; while that is away it is told later. The memory must stay mapped until it is unregistered; peers may write to it
    /// at any time, so nobody may hold a Rust reference into it meanwhile. No compiler checks this:
    /// [`Buffer`] needs no such care.
    ///
    /// # Errors
    /// `InvalidArgument`: empty, wrapping or unmapped range; `Overlap`: with a registered one.
    pub fn register(&self, region: &RegionSpec) -> Result<()> {
        self.register_batch(std::slice::from_ref(region))
    }

    /// Registers all ranges or none.
    ///
    /// # Errors
    /// As [`Engine::register`].
    pub fn register_batch(&self, regions: &[RegionSpec]) -> Result<()> {
        self.core.check()?;
        let regions: Vec<NewRegion<'_>> = regions
            .iter()
            .map(|r| NewRegion {
                addr: r.addr,
                len: r.len,
                location: &r.location,
                permission: r.permission,
                shm: None,
            })
            .collect();
        self.core.own.regions.register_batch(&regions)?;
        self.core.publish();
        Ok(())
    }

    /// Withdraws the region that begins at `addr`; waits for quiet up to the configured time, then
    /// refuses with `Busy` (I6).
    ///
    /// # Errors
    /// `NotRegistered`: no region begins there; `Busy`: transfers still use it.
    pub fn unregister(&self, addr: usize) -> Result<()> {
        self.unregister_batch(&[addr])
    }

    /// Withdraws each of these regions, goes on after a failure, and tells the store once.
    ///
    /// # Errors
    /// The first, as [`Engine::unregister`].
    pub fn unregister_batch(&self, addrs: &[usize]) -> Result<()> {
        self.core.check()?;
        let one = |a: &usize| self.core.own.regions.unregister(*a, self.core.config.quiet_timeout);
        let outcome = addrs.iter().map(one).fold(Ok(()), Result::and);
        self.core.publish();
        outcome
    }

    /// Allocates `len` bytes that peers on this host can map, and registers them for reading and
    /// writing. Returns the address; free with [`Engine::free`].
    ///
    /// # Errors
    /// `InvalidArgument`: no bytes; `Memory`: the kernel gives none.
    pub fn allocate(&self, len: usize, location: &str) -> Result<usize> {
        self.allocate_for(len, location, Permission::ReadWrite)
    }

    /// As [`Engine::allocate`], where peers may do what `permission` says.
    ///
    /// # Errors
    /// As [`Engine::allocate`].
    pub fn allocate_for(
        &self,
        len: usize,
        location: &str,
        permission: Permission,
    ) -> Result<usize> {
        self.core.check()?;
        let addr = self.core.own.regions.allocate_for(len, location, permission)?;
        self.core.publish();
        Ok(addr)
    }

    /// Unregisters and unmaps what [`Engine::allocate`] gave.
    ///
    /// # Errors
    /// As [`Engine::unregister`].
    pub fn free(&self, addr: usize) -> Result<()> {
        self.core.check()?;
        self.core.own.regions.free(addr, self.core.config.quiet_timeout)?;
        self.core.publish();
        Ok(())
    }

    /// A batch with room for `capacity` tasks over its life.
    ///
    /// # Errors
    /// `InvalidArgument`: more than 2^20 tasks; `Memory`: too many batches are alive.
    pub fn allocate_batch(&self, capacity: usize) -> Result<BatchId> {
        self.core.check()?;
        Ok(self.core.batches.allocate(capacity, &self.core.on_end)?.id)
    }

    /// Submits requests as the batch's next tasks: all or none. Returns without waiting for the data
    /// path (I8).
    ///
    /// # Errors
    /// `Stale`: no such batch; `TooManyRequests`: no room; `InvalidArgument`: wrapping range or unknown
    /// segment; `NotRegistered`: a local range; `NoTransport`: none that is allowed reaches the peer.
    pub fn submit(&self, batch: BatchId, requests: &[Request]) -> Result<()> {
        self.submit_with(batch, requests, Extras::default())
    }

    /// As [`Engine::submit`]; when every task of the batch has completed, `message` goes to the peer
    /// `to`, once, after the data is visible there. A later call replaces the message.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_notify(
        &self,
        batch: BatchId,
        requests: &[Request],
        to: SegmentId,
        message: Notification,
    ) -> Result<()> {
        let extras = Extras { message: Some((to, message)), ..Extras::default() };
        self.submit_with(batch, requests, extras)
    }

    /// As [`Engine::submit`], with wishes.
    ///
    /// # Errors
    /// As [`Engine::submit`]; `InvalidArgument`: no policy of that name.
    pub fn submit_with(
        &self,
        batch: BatchId,
        requests: &[Request],
        extras: Extras<'_>,
    ) -> Result<()> {
        let _entered = self.core.enter()?;
        let batch = self.core.batches.get(batch)?;
        if let Some((to, _)) = &extras.message {
            self.core.directory.peer(*to)?;
        }
        let tasks = self.core.submit(&batch, requests, &extras)?;
        if let Some((to, message)) = extras.message {
            *lock(&batch.follow) = Some(Follow { to, message });
        }
        self.core.launch(&tasks);
        Ok(())
    }

    /// Replaces the policies; tasks that are submitted keep what they were given. What has no effect here is
    /// logged.
    pub fn set_policies(&self, policies: Policies) {
        policies.warnings().iter().for_each(|line| log::warn!("{line}"));
        let policies = (!policies.is_empty()).then(|| Arc::new(policies));
        self.core.policies.store(policies);
    }

    /// Tasks submitted to the batch so far.
    ///
    /// # Errors
    /// `Stale`: no such batch.
    pub fn task_count(&self, batch: BatchId) -> Result<usize> {
        self.core.check()?;
        Ok(self.core.batches.get(batch)?.count())
    }

    /// State of one task. A pending task's caller takes a short turn of the work (D6).
    ///
    /// # Errors
    /// `Stale`: no such batch; `InvalidArgument`: no such task.
    pub fn status(&self, batch: BatchId, task: usize) -> Result<TaskStatus> {
        self.core.check()?;
        self.core.poll(&*self.core.batches.get(batch)?, task)
    }

    /// State of the whole batch: pending while any task is, then the worst state; sum of bytes.
    ///
    /// # Errors
    /// `Stale`: no such batch.
    pub fn batch_status(&self, batch: BatchId) -> Result<TaskStatus> {
        self.core.check()?;
        Ok(self.core.batches.get(batch)?.status())
    }

    /// Waits until every submitted task has ended, helping meanwhile.
    ///
    /// # Errors
    /// `TimedOut` if `timeout` comes first, while the tasks go on; `Stale`: no such batch.
    pub fn wait(&self, batch: BatchId, timeout: Duration) -> Result<TaskStatus> {
        self.core.check()?;
        self.core.wait(&*self.core.batches.get(batch)?, timeout)
    }

    /// An eventfd that becomes readable when every submitted task has ended. It belongs to the batch
    /// and is closed with it.
    ///
    /// # Errors
    /// `Stale`: no such batch; `Memory`: the kernel gives no descriptor.
    pub fn event_fd(&self, batch: BatchId) -> Result<std::os::fd::RawFd> {
        self.core.check()?;
        let fd = self.core.batches.get(batch)?.event_fd()?;
        // whoever waits on a descriptor does not poll
        self.core.lanes.hand_over(Family::Net);
        self.core.lanes.hand_over(Family::Copy);
        Ok(fd)
    }

    /// Gives a task up. It ends as `Canceled` when nothing of it can land any more (I3), or as
    /// `Completed` if all had landed by then.
    ///
    /// # Errors
    /// `Stale`: no such batch; `InvalidArgument`: no such task.
    pub fn cancel(&self, batch: BatchId, task: usize) -> Result<()> {
        self.core.check()?;
        let batch = self.core.batches.get(batch)?;
        if task >= batch.count() {
            let text = format!("batch {:x} has {} tasks, not {task}", batch.id.0, batch.count());
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let index = u32::try_from(task).unwrap_or(u32::MAX);
        let task = TaskRef { batch, index };
        task.stop(Stop::Cancel, || "canceled by the caller".into());
        task.task().spec.peer.work.purge();
        Ok(())
    }

    /// Frees a batch.
    ///
    /// # Errors
    /// `Busy` while a task is unfinished; `Stale`: no such batch.
    pub fn free_batch(&self, batch: BatchId) -> Result<()> {
        self.core.check()?;
        self.core.batches.free(batch)
    }

    /// Why a task of this batch did not complete, in one line; empty if none failed.
    pub fn failure_text(&self, batch: BatchId) -> String {
        self.core.batches.get(batch).map_or_else(|e| e.to_string(), |b| b.failure())
    }

    /// Sends a message to a peer and waits for its answer.
    ///
    /// # Errors
    /// `InvalidArgument`: no such segment; `Dns`, `Socket`, `Malformed`, `Rejected` from the exchange.
    pub fn notify(&self, to: SegmentId, message: &Notification) -> Result<()> {
        self.core.check()?;
        self.core.errands.send_now(to, message)
    }

    /// Takes every message received so far, in the order of arrival.
    pub fn take_notifications(&self) -> Vec<Notification> {
        if self.core.check().is_err() {
            return Vec::new();
        }
        self.core.inbox.take(usize::MAX)
    }

    /// As [`Engine::take_notifications`], but at most `most`; the others wait for the next call.
    ///
    /// # Errors
    /// `EngineDown`.
    pub fn take_some_notifications(&self, most: usize) -> Result<Vec<Notification>> {
        self.core.check()?;
        Ok(self.core.inbox.take(most))
    }

    /// Asks a peer whether it is alive.
    ///
    /// # Errors
    /// Why it seems not to be.
    pub fn probe(&self, id: SegmentId) -> Result<()> {
        self.core.check()?;
        let peer = self.core.directory.peer(id)?;
        if id == SegmentId::LOCAL {
            return Ok(());
        }
        let answer = self.core.directory.ask(&peer.name, FrameKind::Probe, wire::PROBE_REQUEST)?;
        wire::check_probe_reply(&answer)
    }

    /// What each rail has done.
    pub fn rails(&self) -> Vec<RailStat> {
        let mut all = Vec::new();
        for peer in self.core.directory.all() {
            all.extend(peer.figures().iter().map(|rail| self.rail_stat(&peer.name, rail)));
        }
        all
    }

    fn rail_stat(&self, peer: &str, rail: &RailFigures) -> RailStat {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (read_bytes, write_bytes) = (load(&rail.read_bytes), load(&rail.write_bytes));
        let flows = &rail.flows;
        let net = rail.kind == TransportKind::Tcp;
        let limits = self.core.lanes.limits();
        let window = |op| {
            if net { spray::window(&rail.view(op, rail.lane, Instant::now()), &limits) } else { 0 }
        };
        // the direction that is in use says more
        let measured = if read_bytes > write_bytes { &flows[0] } else { &flows[1] };
        let (last_event, last_event_at) = *lock(&rail.last_event);
        let state = rail.state();
        RailStat {
            peer: peer.to_owned(),
            rail: rail.name.clone(),
            transport: rail.kind.name(),
            up: state.is_open(),
            state: state.name(),
            window_bytes: window(Op::Read) + window(Op::Write),
            rtt_us: if net { measured.rtt() / 1e3 } else { 0.0 },
            in_flight_bytes: load(&flows[0].in_flight) + load(&flows[1].in_flight),
            read_bytes,
            write_bytes,
            retried_slices: load(&rail.retried),
            retried_bytes: load(&rail.retried_bytes),
            hedged_slices: load(&rail.hedged),
            downs: load(&rail.downs),
            rate_bps: rate(read_bytes + write_bytes, load(&rail.busy_ns)),
            last_event,
            last_event_at,
        }
    }

    /// What happened to rails after event number `seq`, oldest first; the oldest of all are forgotten.
    pub fn rail_events(&self, seq: u64) -> Vec<RailEvent> {
        self.core.lanes.events.since(seq)
    }

    /// Takes the net rails of that name (as [`RailStat::rail`] says it) out of use, or back. What a drained
    /// rail has in flight ends on it.
    ///
    /// # Errors
    /// `InvalidArgument`: no rail has that name.
    pub fn drain_rail(&self, rail: &str, on: bool) -> Result<()> {
        self.core.check()?;
        if self.core.lanes.drain(&self.core.directory.all(), rail, on) {
            return Ok(());
        }
        let text = format!("no net rail is called {rail:?}; the reports of rails have their names");
        Err(Error::new(ErrorKind::InvalidArgument, text))
    }

    /// Remote requests that were refused (I11).
    pub fn refused_requests(&self) -> u64 {
        self.core.own.regions.refused()
    }

    /// Ends the engine: refuses new work, cancels what runs, waits for quiet up to the configured time,
    /// joins its threads. Idempotent.
    pub fn shutdown(&self) {
        self.core.shutdown();
    }
}

/// Bytes per second of busy time.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(bytes: u64, busy_ns: u64) -> f64 {
    if busy_ns == 0 { 0.0 } else { bytes as f64 * 1e9 / busy_ns as f64 }
}
