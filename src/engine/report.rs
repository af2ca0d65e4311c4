//! What became of the tasks of a batch, and over which rails. Counts are kept of every task; times and rails
//! only where the submit asked for them, for they cost an allocation.

use crate::engine::batch::Batch;
use crate::engine::peer::RailFigures;
use crate::engine::{Engine, TaskState};
use crate::error::Result;
use crate::id::BatchId;
use crate::slice::{Op, TransportKind};
use crate::sync::lock;
use crate::time::Instant;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// What became of a batch so far.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchReport {
    /// Its tasks, in the order of submit.
    pub tasks: Vec<TaskReport>,
    /// What each rail brought of it; empty if no submit asked for it.
    pub rails: Vec<RailShare>,
}

/// What became of a task so far.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskReport {
    /// Direction.
    pub op: Op,
    /// Name of the peer's segment.
    pub peer: String,
    /// By which transport it goes, or went last; `None` if none was found yet.
    pub transport: Option<TransportKind>,
    /// Bytes asked for.
    pub len: u64,
    /// State.
    pub state: TaskState,
    /// Bytes that have landed.
    pub landed: u64,
    /// Pieces that were posted to a rail, each time that they were.
    pub attempts: u32,
    /// Pieces that had to be given to another rail.
    pub retried: u32,
    /// Pieces that were sent over another rail too, for they were overdue.
    pub hedged: u32,
    /// From submit to the first piece; `None` if nobody asked for times, or there was none.
    pub queued: Option<Duration>,
    /// From the first piece to the end; `None` as above, or if the task goes on.
    pub moving: Option<Duration>,
    /// Why it did not complete; empty if it did, or goes on.
    pub reason: String,
}

/// What one rail brought of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RailShare {
    /// As [`crate::RailStat::rail`].
    pub rail: String,
    /// How it moves.
    pub transport: TransportKind,
    /// Bytes that landed first by this rail.
    pub bytes: u64,
    /// Pieces of them.
    pub pieces: u64,
}

/// Counts of one task.
#[derive(Debug, Default)]
pub(super) struct Marks {
    attempts: AtomicU32,
    retried: AtomicU32,
    hedged: AtomicU32,
    times: Option<Box<Times>>,
}

#[derive(Debug, Default)]
struct Times {
    submitted: Instant,
    /// In clock nanoseconds; 0 before.
    begun: AtomicU64,
    ended: AtomicU64,
    reason: OnceLock<String>,
}

impl Marks {
    /// With times from now on.
    pub(super) fn timed(now: Instant) -> Self {
        Self {
            times: Some(Box::new(Times { submitted: now, ..Times::default() })),
            ..Self::default()
        }
    }

    /// A piece was posted.
    pub(super) fn posted(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// A piece is about to be posted, which may be all there is to do.
    pub(super) fn begins(&self) {
        if let Some(times) = &self.times
            && times.begun.load(Ordering::Relaxed) == 0
        {
            // the turn's own time is older than the turn
            let now = Instant::now().0;
            times.begun.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    pub(super) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedged(&self) {
        self.hedged.fetch_add(1, Ordering::Relaxed);
    }

    /// The task is about to show its end.
    pub(super) fn ended(&self) {
        if let Some(times) = &self.times {
            times.ended.store(Instant::now().0, Ordering::Relaxed);
        }
    }

    /// Whether a reason is wanted.
    pub(super) fn wants_reason(&self) -> bool {
        self.times.is_some()
    }

    pub(super) fn stopped(&self, reason: &str) {
        if let Some(times) = &self.times {
            times.reason.get_or_init(|| reason.to_owned());
        }
    }

    fn reason(&self) -> Option<&str> {
        self.times.as_ref()?.reason.get().map(String::as_str)
    }

    /// Time in the queue, and time from there to the end.
    fn spans(&self) -> (Option<Duration>, Option<Duration>) {
        let Some(times) = &self.times else { return (None, None) };
        let at = |n: &AtomicU64| Some(Instant(n.load(Ordering::Relaxed))).filter(|i| i.0 > 0);
        let (begun, ended) = (at(&times.begun), at(&times.ended));
        let queued = begun.map(|begun| begun.since(times.submitted));
        (queued, begun.zip(ended).map(|(begun, ended)| ended.since(begun)))
    }
}

/// What each rail brought of a batch.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<Vec<(Arc<RailFigures>, u64, u64)>>);

impl Shares {
    pub(super) fn add(&self, rail: &Arc<RailFigures>, bytes: u64) {
        let mut shares = lock(&self.0);
        match shares.iter_mut().find(|(r, ..)| Arc::ptr_eq(r, rail)) {
            Some((_, sum, pieces)) => (*sum, *pieces) = (*sum + bytes, *pieces + 1),
            None => shares.push((Arc::clone(rail), bytes, 1)),
        }
    }

    fn list(&self) -> Vec<RailShare> {
        let one = |(rail, bytes, pieces): &(Arc<RailFigures>, u64, u64)| RailShare {
            rail: rail.name.clone(),
            transport: rail.kind,
            bytes: *bytes,
            pieces: *pieces,
        };
        lock(&self.0).iter().map(one).collect()
    }
}

impl Engine {
    /// What became of the tasks of a batch so far, and of their bytes by rail if a submit asked for that
    /// ([`crate::Extras::report`]).
    ///
    /// # Errors
    /// `Stale`: no such batch.
    pub fn batch_report(&self, batch: BatchId) -> Result<BatchReport> {
        self.core.check()?;
        let batch = self.core.batches.get(batch)?;
        let tasks = (0..batch.count()).filter_map(|index| task_report(&batch, index)).collect();
        Ok(BatchReport { tasks, rails: batch.shares().map_or_else(Vec::new, Shares::list) })
    }
}

fn task_report(batch: &Batch, index: usize) -> Option<TaskReport> {
    let task = batch.task(index)?;
    let load = |n: &AtomicU32| n.load(Ordering::Relaxed);
    // the state first: what it promises then shows in all that is read after it
    let state = task.progress.state();
    let (queued, moving) = task.marks.spans();
    let reason = match state {
        TaskState::Completed | TaskState::Waiting | TaskState::Pending => String::new(),
        _ => task.marks.reason().map_or_else(|| batch.failure(), str::to_owned),
    };
    Some(TaskReport {
        op: task.spec.op,
        peer: task.spec.peer.name.clone(),
        transport: task.spec.route.get().map(super::batch::Route::kind),
        len: task.spec.len,
        state,
        landed: task.progress.landed(),
        attempts: load(&task.marks.attempts),
        retried: load(&task.marks.retried),
        hedged: load(&task.marks.hedged),
        queued,
        moving,
        reason,
    })
}
