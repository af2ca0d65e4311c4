//! The safe API of the runtime: validate, look up, enqueue. The work is done in the lanes.

use crate::config::Config;
use crate::error::Result;
use crate::id::{BatchId, SegmentId};
use crate::segment::{Permission, SegmentDesc};
use crate::slice::{Op, TransportMask};
use std::sync::Arc;
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
    /// Longest time from submit to the end; `None` = the engine's rule.
    pub timeout: Option<Duration>,
    /// Treat as urgent whatever its size.
    pub urgent: bool,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self { transports: TransportMask::ALL, timeout: None, urgent: false }
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

/// The runtime: registered memory, peers, and lanes that move slices. Cheap to clone (one reference).
#[derive(Debug, Clone)]
pub struct Engine {
    _inner: Arc<()>,
}

#[expect(unused_variables, clippy::missing_errors_doc, reason = "skeleton")]
impl Engine {
    /// Starts an engine: binds its ports, starts its threads.
    pub fn new(config: Config) -> Result<Self> {
        Err(crate::error::Error::new(crate::error::ErrorKind::NotSupported, "skeleton"))
    }
    /// The name under which peers open this engine's segment (`host:port` under P2PHANDSHAKE).
    pub fn name(&self) -> &str {
        ""
    }
    /// Host and port of the RPC listener, as peers reach it.
    pub fn rpc_address(&self) -> (String, u16) {
        (String::new(), 0)
    }
    /// The configuration in force.
    pub fn config(&self) -> &Config {
        unreachable!()
    }
    /// Opens a peer's segment by name; the same name gives the same id; the own name gives
    /// [`SegmentId::LOCAL`]. May wait for the network up to the configured timeouts.
    pub fn open_segment(&self, name: &str) -> Result<SegmentId> {
        Ok(SegmentId::LOCAL)
    }
    /// Asks the peer for its description again. Never makes a new id.
    pub fn refresh_segment(&self, id: SegmentId) -> Result<()> {
        Ok(())
    }
    /// Refreshes every open segment; failures are logged.
    pub fn refresh_all(&self) {}
    /// Forgets a name: the next open fetches afresh and gives a new id. The old id stays valid.
    pub fn forget_segment(&self, name: &str) {}
    /// What is known of a segment.
    pub fn segment(&self, id: SegmentId) -> Result<Arc<SegmentDesc>> {
        unreachable!()
    }
    /// Registers one range. The memory must stay mapped until it is unregistered.
    pub fn register(&self, region: &RegionSpec) -> Result<()> {
        Ok(())
    }
    /// Registers all ranges or none.
    pub fn register_batch(&self, regions: &[RegionSpec]) -> Result<()> {
        Ok(())
    }
    /// Withdraws the region that begins at `addr`; waits for quiet up to the configured time, then
    /// refuses with `Busy` (I6).
    pub fn unregister(&self, addr: usize) -> Result<()> {
        Ok(())
    }
    /// Allocates `len` bytes that peers on this host can map, and registers them for reading and
    /// writing. Returns the address; free with [`Engine::free`].
    pub fn allocate(&self, len: usize, location: &str) -> Result<usize> {
        Ok(0)
    }
    /// Unregisters and unmaps what [`Engine::allocate`] gave.
    pub fn free(&self, addr: usize) -> Result<()> {
        Ok(())
    }
    /// A batch with room for `capacity` tasks over its life.
    pub fn allocate_batch(&self, capacity: usize) -> Result<BatchId> {
        Ok(BatchId(0))
    }
    /// Submits requests as the batch's next tasks: all or none. Returns without waiting for the data
    /// path (I8).
    pub fn submit(&self, batch: BatchId, requests: &[Request]) -> Result<()> {
        Ok(())
    }
    /// As [`Engine::submit`]; when every task of the batch has completed, `message` goes to the peer
    /// `to`, once, after the data is visible there. A later call replaces the message.
    pub fn submit_notify(
        &self,
        batch: BatchId,
        requests: &[Request],
        to: SegmentId,
        message: Notification,
    ) -> Result<()> {
        Ok(())
    }
    /// Tasks submitted to the batch so far.
    pub fn task_count(&self, batch: BatchId) -> Result<usize> {
        Ok(0)
    }
    /// State of one task. A pending task's caller takes a short turn of the work (D6).
    pub fn status(&self, batch: BatchId, task: usize) -> Result<TaskStatus> {
        unreachable!()
    }
    /// State of the whole batch: pending while any task is, then the worst state; sum of bytes.
    pub fn batch_status(&self, batch: BatchId) -> Result<TaskStatus> {
        unreachable!()
    }
    /// Waits until every submitted task has ended, helping meanwhile. `TimedOut` if `timeout` comes
    /// first; the tasks go on.
    pub fn wait(&self, batch: BatchId, timeout: Duration) -> Result<TaskStatus> {
        unreachable!()
    }
    /// An eventfd that becomes readable when every submitted task has ended. It belongs to the batch
    /// and is closed with it.
    pub fn event_fd(&self, batch: BatchId) -> Result<std::os::fd::RawFd> {
        Ok(-1)
    }
    /// Gives a task up. It ends as `Canceled` when nothing of it can land any more (I3).
    pub fn cancel(&self, batch: BatchId, task: usize) -> Result<()> {
        Ok(())
    }
    /// Frees a batch; `Busy` while a task is unfinished.
    pub fn free_batch(&self, batch: BatchId) -> Result<()> {
        Ok(())
    }
    /// Why a task of this batch failed, in one line; empty if none did.
    pub fn failure_text(&self, batch: BatchId) -> String {
        String::new()
    }
    /// Sends a message to a peer and waits for its answer.
    pub fn notify(&self, to: SegmentId, message: &Notification) -> Result<()> {
        Ok(())
    }
    /// Takes every message received so far, in the order of arrival.
    pub fn take_notifications(&self) -> Vec<Notification> {
        Vec::new()
    }
    /// Asks a peer whether it is alive.
    pub fn probe(&self, id: SegmentId) -> Result<()> {
        Ok(())
    }
    /// What each rail has done.
    pub fn rails(&self) -> Vec<RailStat> {
        Vec::new()
    }
    /// Remote requests that were refused (I11).
    pub fn refused_requests(&self) -> u64 {
        0
    }
    /// Ends the engine: refuses new work, cancels what runs, waits for quiet up to the configured time,
    /// joins its threads. Idempotent.
    pub fn shutdown(&self) {}
}
