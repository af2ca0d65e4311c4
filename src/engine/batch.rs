//! Batches and their tasks: a slab whose ids carry a generation (I7) and whose status is read without a
//! lock.

use crate::engine::peer::Peer;
use crate::engine::progress::{Progress, Stop};
use crate::engine::report::{Marks, Shares};
use crate::engine::{Notification, TaskState, TaskStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BatchId, SegmentId};
use crate::memory::Pin;
use crate::segment::Access;
use crate::slice::{Class, Op, Priority, TransportKind, TransportMask};
use crate::sync::lock;
use crate::sys::evloop::EventFd;
use crate::time::Instant;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

/// What a task is to move, fixed at submit.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) op: Op,
    pub(super) class: Class,
    pub(super) priority: Priority,
    pub(super) local: usize,
    pub(super) remote: u64,
    pub(super) len: u64,
    pub(super) peer: Arc<Peer>,
    /// Transports that may carry it.
    pub(super) allowed: TransportMask,
    /// The one to try first.
    pub(super) first: Option<TransportKind>,
    /// The way that the plan chose; set before the task is queued.
    pub(super) route: OnceLock<Route>,
    pub(super) deadline: Instant,
    /// Its place among tasks of its priority: the deadline, where the application set one; else as if all
    /// had the same time, so that they go in the order in which they came.
    pub(super) due: Instant,
    /// Keeps the local region registered until the task ends (I6).
    pub(super) pin: Mutex<Option<Pin>>,
}

/// How a task travels.
#[derive(Debug)]
pub(super) struct Route {
    /// A [`TransportKind`]; changes when that transport is lost while another is left.
    kind: AtomicU8,
    pub(super) access: Option<Access>,
}

impl Route {
    pub(super) fn new(kind: TransportKind, access: Option<Access>) -> Self {
        Self { kind: AtomicU8::new(kind as u8), access }
    }

    pub(super) fn kind(&self) -> TransportKind {
        TransportKind::ALL[usize::from(self.kind.load(Ordering::Acquire))]
    }
}

/// One task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) spec: Spec,
    pub(super) progress: Progress,
    pub(super) marks: Marks,
}

/// A task by its batch, so that it lives as long as anybody works on it.
#[derive(Debug, Clone)]
pub(super) struct TaskRef {
    pub(super) batch: Arc<Batch>,
    pub(super) index: u32,
}

/// The tasks of one submit; a single one, the common case, costs no allocation.
pub(super) type TaskRefs = SmallVec<[TaskRef; 1]>;

impl TaskRef {
    pub(super) fn task(&self) -> &Task {
        // a TaskRef is made only for a task that was stored before
        self.batch.task(self.index as usize).unwrap_or_else(|| unreachable!("task without a slot"))
    }

    /// The transport that the plan chose; TCP before it has.
    pub(super) fn kind(&self) -> TransportKind {
        self.task().spec.route.get().map_or(TransportKind::Tcp, Route::kind)
    }

    /// Whether the plan chose `kind` for it.
    pub(super) fn goes_by(&self, kind: TransportKind) -> bool {
        self.task().spec.route.get().is_some_and(|r| r.kind() == kind)
    }

    /// Sends what is not claimed yet, and what comes back, by another transport.
    pub(super) fn reroute(&self, to: TransportKind) {
        if let Some(route) = self.task().spec.route.get() {
            route.kind.store(to as u8, Ordering::Release);
        }
    }

    /// A claimed piece of `len` bytes is over, landed or not.
    pub(super) fn piece_over(&self, len: u64, landed: bool) {
        if self.task().progress.piece_over(len, landed) {
            self.batch.end(self.task());
        }
    }

    /// Whether both name the same task.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.batch, &other.batch)
    }

    /// One more attempt at bytes that are not over begins (I3).
    pub(super) fn hold(&self) {
        self.task().progress.hold();
    }

    /// That attempt is over.
    pub(super) fn release(&self) {
        if self.task().progress.release() {
            self.batch.end(self.task());
        }
    }

    /// Stops the task; the first text of the batch is kept for the caller.
    pub(super) fn stop(&self, why: Stop, text: impl FnOnce() -> String) {
        let marks = &self.task().marks;
        if self.task().progress.stopped().is_none() {
            let mut failure = lock(&self.batch.failure);
            if failure.is_empty() {
                *failure = text();
                marks.stopped(&failure);
            } else if marks.wants_reason() {
                marks.stopped(&text());
            }
        }
        if self.task().progress.stop(why) {
            self.batch.end(self.task());
        }
    }
}

/// A message that follows a batch.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) to: SegmentId,
    pub(super) message: Notification,
}

/// What the end of a batch sets off.
pub(super) trait OnEnd: Send + Sync + std::fmt::Debug {
    /// Every task of the batch has completed and a message is to follow.
    fn send(&self, follow: Follow);
}

/// Tasks are stored by chunks, so that room that is never used costs nothing.
type Chunk = Box<[OnceLock<Task>]>;

/// A set of tasks that the caller polls and frees together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    capacity: usize,
    chunks: Box<[OnceLock<Chunk>]>,
    /// Tasks stored so far; grows only under `submit`.
    count: AtomicUsize,
    pub(super) submit: Mutex<()>,
    unfinished: AtomicUsize,
    /// As `unfinished`, but counted down before a task's end can be seen: at zero the message goes out.
    unsettled: AtomicUsize,
    /// A task did not complete: no message follows.
    spoiled: AtomicBool,
    /// No later than the earliest deadline of an unfinished task, in clock nanoseconds; `u64::MAX`
    /// without one.
    pub(super) deadline: AtomicU64,
    pub(super) follow: Mutex<Option<Follow>>,
    failure: Mutex<String>,
    waiters: AtomicU32,
    gate: Mutex<()>,
    wake: Condvar,
    event: OnceLock<EventFd>,
    /// Bytes by rail, if a submit asked for them.
    shares: OnceLock<Shares>,
    on_end: Arc<dyn OnEnd>,
}

impl Batch {
    fn new(id: BatchId, capacity: usize, on_end: Arc<dyn OnEnd>) -> Self {
        Self {
            id,
            capacity,
            chunks: (0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
            count: AtomicUsize::new(0),
            submit: Mutex::new(()),
            unfinished: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
            spoiled: AtomicBool::new(false),
            deadline: AtomicU64::new(u64::MAX),
            follow: Mutex::new(None),
            failure: Mutex::new(String::new()),
            waiters: AtomicU32::new(0),
            gate: Mutex::new(()),
            wake: Condvar::new(),
            event: OnceLock::new(),
            shares: OnceLock::new(),
            on_end,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Room for further tasks.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.count()
    }

    pub(super) fn task(&self, index: usize) -> Option<&Task> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)?.get()
    }

    /// Appends tasks; the caller holds `submit` and has checked the room.
    pub(super) fn push(self: &Arc<Self>, tasks: impl IntoIterator<Item = Task>) -> TaskRefs {
        let begin = self.count();
        let mut refs = TaskRefs::new();
        for (index, task) in (begin..).zip(tasks) {
            let size = CHUNK.min(self.capacity - index / CHUNK * CHUNK);
            let chunk = self.chunks[index / CHUNK]
                .get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
            self.deadline.fetch_min(task.spec.deadline.0, Ordering::AcqRel);
            chunk[index % CHUNK].set(task).ok();
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            refs.push(TaskRef { batch: Arc::clone(self), index });
        }
        self.unsettled.fetch_add(refs.len(), Ordering::AcqRel);
        self.unfinished.fetch_add(refs.len(), Ordering::AcqRel);
        self.count.store(begin + refs.len(), Ordering::Release);
        refs
    }

    /// A task has reached its end: fix its state, let go of its memory, wake who waits.
    fn end(&self, task: &Task) {
        // before the state: a caller that sees the end may unregister at once (I6)
        lock(&task.spec.pin).take();
        if task.progress.outcome() != TaskState::Completed {
            self.spoiled.store(true, Ordering::Release);
        }
        // before the state too: a caller that sees the end may shut the engine down at once
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.send_follow();
        }
        task.marks.ended();
        task.progress.settle();
        if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_ended();
        }
    }

    fn send_follow(&self) {
        let Some(follow) = lock(&self.follow).take() else { return };
        if self.spoiled.load(Ordering::Acquire) {
            log::warn!("batch {:x} did not complete: its notification is not sent", self.id.0);
        } else {
            self.on_end.send(follow);
        }
    }

    fn all_ended(&self) {
        if self.waiters.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.gate));
            self.wake.notify_all();
        }
        if let Some(event) = self.event.get() {
            event.signal();
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.unfinished.load(Ordering::SeqCst) == 0
    }

    /// Whether nothing of the batch is under way, also in the moment between a task's end and the
    /// count's.
    fn is_free(&self) -> bool {
        self.ended()
            || (0..self.count()).all(|i| self.task(i).is_none_or(|t| t.progress.state().is_final()))
    }

    /// State of all tasks together: pending while any is, else the worst.
    pub(super) fn status(&self) -> TaskStatus {
        let mut all = TaskStatus { state: TaskState::Completed, bytes: 0 };
        for task in (0..self.count()).filter_map(|i| self.task(i)) {
            all.bytes += task.progress.landed();
            let state = task.progress.state();
            all.state = match (all.state, state) {
                (TaskState::Waiting | TaskState::Pending, _) | (_, TaskState::Completed) => {
                    all.state
                }
                (_, TaskState::Waiting | TaskState::Pending) => TaskState::Pending,
                (TaskState::Failed, _) => TaskState::Failed,
                (_, worse) => worse,
            };
        }
        all
    }

    pub(super) fn failure(&self) -> String {
        lock(&self.failure).clone()
    }

    /// Blocks until every task has ended or the time is over; `true` in the first case.
    pub(super) fn park(&self, timeout: Duration) -> bool {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let guard = lock(&self.gate);
        let ended = self
            .wake
            .wait_timeout_while(guard, timeout, |()| !self.ended())
            .is_ok_and(|(_, result)| !result.timed_out());
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        ended || self.ended()
    }

    pub(super) fn event_fd(&self) -> Result<std::os::fd::RawFd> {
        if self.event.get().is_none() {
            let event = EventFd::new()
                .map_err(|e| Error::os(ErrorKind::Memory, "no eventfd for the batch", &e))?;
            self.event.set(event).ok();
            if self.ended()
                && let Some(event) = self.event.get()
            {
                event.signal();
            }
        }
        Ok(self.event.get().map_or(-1, EventFd::fd))
    }

    /// From now on it is counted which rail brings what.
    pub(super) fn count_shares(&self) {
        self.shares.get_or_init(Shares::default);
    }

    pub(super) fn shares(&self) -> Option<&Shares> {
        self.shares.get()
    }

    pub(super) fn has_event(&self) -> bool {
        self.event.get().is_some()
    }

    /// Marks the eventfd unready: new tasks were submitted.
    pub(super) fn rearm(&self) {
        if let Some(event) = self.event.get() {
            event.drain();
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: AtomicU32,
    /// Behind a lock, not a swapped pointer: batches come and go with each transfer, and a swap costs more
    /// than a lock that nobody else holds.
    batch: Mutex<Option<Arc<Batch>>>,
}

/// All batches of an engine.
#[derive(Debug)]
pub(super) struct Batches {
    tag: u64,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    free: Mutex<(u32, Vec<u32>)>,
}

impl Batches {
    /// A slab whose ids carry `tag`, so that an id of another engine is recognised.
    pub(super) fn new(tag: u64) -> Self {
        let chunks = (0..MAX_BATCHES / SLOTS).map(|_| OnceLock::new()).collect();
        Self { tag: tag % (TAGS - 2) + 1, chunks, free: Mutex::new((0, Vec::new())) }
    }

    pub(super) fn allocate(&self, capacity: usize, on_end: &Arc<dyn OnEnd>) -> Result<Arc<Batch>> {
        if capacity > MAX_TASKS {
            let text = format!("a batch holds at most {MAX_TASKS} tasks, not {capacity}");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let index = {
            let mut free = lock(&self.free);
            match free.1.pop() {
                Some(index) => index,
                None if (free.0 as usize) < MAX_BATCHES => {
                    free.0 += 1;
                    free.0 - 1
                }
                None => {
                    let text = format!("{MAX_BATCHES} batches are alive: free some");
                    return Err(Error::new(ErrorKind::Memory, text));
                }
            }
        };
        let slot = self.slot(index as usize);
        let generation = slot.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let id = BatchId(self.tag << 52 | u64::from(generation) << 20 | u64::from(index));
        let batch = Arc::new(Batch::new(id, capacity, Arc::clone(on_end)));
        *lock(&slot.batch) = Some(Arc::clone(&batch));
        Ok(batch)
    }

    fn slot(&self, index: usize) -> &Slot {
        let chunk = self.chunks[index / SLOTS]
            .get_or_init(|| (0..SLOTS).map(|_| Slot::default()).collect());
        &chunk[index % SLOTS]
    }

    /// The batch of that id, unless it was freed, is another engine's, or never was (I7).
    pub(super) fn get(&self, id: BatchId) -> Result<Arc<Batch>> {
        let index = usize::try_from(id.0 & 0xf_ffff).unwrap_or(usize::MAX);
        let chunk = self.chunks.get(index / SLOTS).and_then(OnceLock::get);
        chunk
            .and_then(|chunk| lock(&chunk[index % SLOTS].batch).clone())
            .filter(|batch| batch.id == id)
            .ok_or_else(|| {
                let why = if id.0 >> 52 == self.tag { "was freed" } else { "is not this engine's" };
                Error::new(ErrorKind::Stale, format!("batch {:x} {why}", id.0))
            })
    }

    pub(super) fn free(&self, id: BatchId) -> Result<()> {
        let batch = self.get(id)?;
        let _submit = lock(&batch.submit);
        if !batch.is_free() {
            let text = format!("batch {:x} has unfinished tasks", id.0);
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let index = id.0 & 0xf_ffff;
        let slot = self.slot(usize::try_from(index).unwrap_or(0));
        // two callers may race to free; one takes the batch out
        let taken = lock(&slot.batch).take_if(|b| b.id == id);
        if taken.is_none() {
            return Err(Error::new(ErrorKind::Stale, format!("batch {:x} was freed", id.0)));
        }
        lock(&self.free).1.push(u32::try_from(index).unwrap_or(0));
        Ok(())
    }

    /// Every live batch, for deadlines and shutdown.
    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<Batch>)) {
        let used = lock(&self.free).0 as usize;
        for index in 0..used {
            let batch = lock(&self.slot(index).batch).clone();
            if let Some(batch) = batch {
                visit(&batch);
            }
        }
    }
}

/// Tasks per allocation of a batch.
const CHUNK: usize = 64;
/// Most tasks of a batch.
const MAX_TASKS: usize = 1 << 20;
/// Slots per allocation of the slab.
const SLOTS: usize = 1024;
/// Most batches alive in an engine (20 bits of the id).
const MAX_BATCHES: usize = 1 << 20;
/// Tags of engines (12 bits of the id, without all zeros and all ones).
const TAGS: u64 = 1 << 12;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nothing;
    impl OnEnd for Nothing {
        fn send(&self, _: Follow) {}
    }

    #[test]
    fn ids_are_never_another_batchs() {
        let on_end: Arc<dyn OnEnd> = Arc::new(Nothing);
        let (ours, theirs) = (Batches::new(1), Batches::new(2));
        let first = ours.allocate(4, &on_end).unwrap().id;
        assert!(ours.get(first).is_ok());
        assert_eq!(theirs.get(first).unwrap_err().kind(), ErrorKind::Stale);
        ours.free(first).unwrap();
        assert_eq!(ours.free(first).unwrap_err().kind(), ErrorKind::Stale);
        let second = ours.allocate(4, &on_end).unwrap().id;
        assert_ne!(first, second, "I7");
        assert_eq!(ours.get(first).unwrap_err().kind(), ErrorKind::Stale);
        for invented in [0, 1, u64::MAX, first.0 ^ 1 << 40, 0xdead_beef] {
            assert!(ours.get(BatchId(invented)).is_err());
        }
    }

    #[test]
    fn ids_are_neither_zero_nor_all_ones_and_capacity_is_bounded() {
        let on_end: Arc<dyn OnEnd> = Arc::new(Nothing);
        for tag in 0..5000 {
            let id = Batches::new(tag).allocate(0, &on_end).unwrap().id.0;
            assert!(id != 0 && id != u64::MAX);
        }
        let kind = Batches::new(1).allocate(MAX_TASKS + 1, &on_end).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::InvalidArgument);
    }
}
