//! The work that waits for a peer: tasks with unclaimed bytes, and pieces that came back from a rail.
//! Lanes claim from it (D3); locks are held for a few loads and stores.

use crate::engine::batch::TaskRef;
use crate::engine::progress::Stop;
use crate::slice::{Class, TransportKind};
use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// A claimed part of a task. Whoever holds it must report it over, give it back or drop the task.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) task: TaskRef,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// How often it was posted before.
    pub(super) tries: u32,
}

impl Piece {
    /// It will not be moved any more.
    pub(super) fn lost(&self) {
        self.task.piece_over(self.len, false);
    }

    /// The first `step` bytes, and the rest if there is one.
    pub(super) fn split(mut self, step: u64) -> (Self, Option<Self>) {
        if self.len <= step {
            return (self, None);
        }
        let rest = Self {
            task: self.task.clone(),
            offset: self.offset + step,
            len: self.len - step,
            tries: self.tries,
        };
        self.len = step;
        (self, Some(rest))
    }

    pub(super) fn class(&self) -> Class {
        self.task.task().spec.class
    }
}

#[derive(Debug, Default)]
struct Queues {
    returned: VecDeque<Piece>,
    urgent: VecDeque<TaskRef>,
    bulk: VecDeque<TaskRef>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Work {
    queues: Mutex<Queues>,
    /// Entries in all queues by transport: who finds none there need not look through the others'.
    waiting: [AtomicUsize; TransportKind::ALL.len()],
    /// About how many bytes nobody has claimed: whether the work is worth one more thread. May wrap
    /// around zero for a moment, as tasks that are stopped leave their rest behind.
    backlog: AtomicI64,
}

impl Work {
    pub(super) fn push(&self, tasks: &[TaskRef]) {
        let bytes = tasks.iter().map(|t| signed(t.task().spec.len)).sum();
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let mut queues = lock(&self.queues);
        for task in tasks {
            let queue = match task.task().spec.class {
                Class::Urgent => &mut queues.urgent,
                Class::Bulk => &mut queues.bulk,
            };
            queue.push_back(task.clone());
        }
        for task in tasks {
            self.waiting[task.kind() as usize].fetch_add(1, Ordering::Release);
        }
    }

    /// A piece whose rail was lost waits for another.
    pub(super) fn give_back(&self, piece: Piece) {
        let kind = piece.task.kind();
        lock(&self.queues).returned.push_back(piece);
        self.waiting[kind as usize].fetch_add(1, Ordering::Release);
    }

    /// About how many bytes wait to be claimed.
    pub(super) fn backlog(&self) -> u64 {
        u64::try_from(self.backlog.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(|n| n.load(Ordering::Acquire) == 0)
    }

    /// Claims the next piece for a rail of `kind`; `size(rest)` says how long it may be. Urgent work
    /// first; `bulk` allows bulk work too.
    pub(super) fn claim(
        &self,
        kind: TransportKind,
        bulk: bool,
        size: impl Fn(u64) -> u64,
    ) -> Option<Piece> {
        if self.waiting[kind as usize].load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queues = lock(&self.queues);
        let fits =
            |piece: &Piece| piece.task.goes_by(kind) && (bulk || piece.class() == Class::Urgent);
        if let Some(at) = queues.returned.iter().position(fits) {
            self.waiting[kind as usize].fetch_sub(1, Ordering::Release);
            return queues.returned.remove(at);
        }
        let Queues { urgent, bulk: rest, .. } = &mut *queues;
        let mut lines = [Some(urgent), bulk.then_some(rest)];
        lines.iter_mut().flatten().find_map(|line| self.claim_from(line, kind, &size))
    }

    /// Claims whole tasks of at most `longest` bytes from the front of the line, as long as `more` says of
    /// what has been claimed that another may follow. Urgent work first, as in [`Work::claim`].
    pub(super) fn claim_small(
        &self,
        kind: TransportKind,
        longest: u64,
        claimed: &mut Vec<Piece>,
        more: impl Fn(&[Piece]) -> bool,
    ) {
        if self.waiting[kind as usize].load(Ordering::Acquire) == 0 {
            return;
        }
        let mut queues = lock(&self.queues);
        let Queues { urgent, bulk, .. } = &mut *queues;
        for line in [urgent, bulk] {
            let small = |t: &TaskRef| t.goes_by(kind) && t.task().progress.unclaimed() <= longest;
            while more(claimed) && line.front().is_some_and(small) {
                claimed.extend(self.claim_from(line, kind, &|rest| rest));
            }
            if !line.is_empty() {
                return;
            }
        }
    }

    fn claim_from(
        &self,
        line: &mut VecDeque<TaskRef>,
        kind: TransportKind,
        size: &impl Fn(u64) -> u64,
    ) -> Option<Piece> {
        let mut at = 0;
        while let Some(task) = line.get(at) {
            if !task.goes_by(kind) {
                at += 1;
                continue;
            }
            let claimed = task.task().progress.claim(size);
            if let Some((_, len)) = claimed {
                self.backlog.fetch_sub(signed(len), Ordering::Relaxed);
            }
            let spent = claimed.is_none_or(|(offset, len)| {
                // the last byte of the task is claimed: nothing more will be found in it
                offset + len == task.task().progress.len()
            });
            let piece =
                claimed.map(|(offset, len)| Piece { task: task.clone(), offset, len, tries: 0 });
            if spent {
                line.remove(at);
                if self.waiting[kind as usize].fetch_sub(1, Ordering::Release) == 1 {
                    // the rests of stopped tasks are not kept in the account
                    self.backlog.store(0, Ordering::Relaxed);
                }
            }
            if piece.is_some() {
                return piece;
            }
        }
        None
    }

    /// Takes out what belongs to stopped tasks; their pieces are over.
    pub(super) fn purge(&self) {
        let (_, pieces) = self.remove(|task| task.task().progress.stopped().is_some());
        for piece in pieces {
            piece.lost();
        }
    }

    /// Fails everything that waits for a transport of `kind`.
    pub(super) fn fail(&self, kind: TransportKind, text: &str) {
        let (tasks, pieces) = self.remove(|task| task.goes_by(kind));
        for task in tasks {
            task.stop(Stop::Fail, || text.to_owned());
        }
        for piece in pieces {
            piece.task.stop(Stop::Fail, || text.to_owned());
            piece.lost();
        }
    }

    fn remove(&self, which: impl Fn(&TaskRef) -> bool) -> (Vec<TaskRef>, Vec<Piece>) {
        let (mut tasks, mut pieces) = (Vec::new(), Vec::new());
        let mut queues = lock(&self.queues);
        let Queues { returned, urgent, bulk } = &mut *queues;
        for line in [urgent, bulk] {
            line.retain(|task| {
                let hit = which(task);
                if hit {
                    tasks.push(task.clone());
                }
                !hit
            });
        }
        for piece in std::mem::take(returned) {
            if which(&piece.task) { pieces.push(piece) } else { returned.push_back(piece) }
        }
        for task in tasks.iter().chain(pieces.iter().map(|p| &p.task)) {
            self.waiting[task.kind() as usize].fetch_sub(1, Ordering::Release);
        }
        (tasks, pieces)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
