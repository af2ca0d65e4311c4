//! The work that waits for a peer: tasks with unclaimed bytes, and pieces that came back from a rail.
//! Lanes claim from it (D3); locks are held for a few loads and stores.

use crate::engine::batch::{Spec, TaskRef};
use crate::engine::piece::Piece;
use crate::engine::progress::Stop;
use crate::slice::{Class, Op, TransportKind};
use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// What [`Work::claim`] offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) class: Class,
    pub(super) op: Op,
    /// Bytes that may be taken.
    pub(super) rest: u64,
    /// All of them or none.
    pub(super) whole: bool,
    /// About how many bytes wait for the peer, these included.
    pub(super) queued: u64,
}

/// A task that waits, and how many of its bytes are in the account of what waits.
#[derive(Debug)]
struct Entry {
    task: TaskRef,
    rest: u64,
}

type Line = VecDeque<Entry>;

#[derive(Debug, Default)]
struct Queues {
    returned: VecDeque<Piece>,
    urgent: Line,
    /// By [`Priority`]; each by [`Spec::due`](crate::engine::batch::Spec).
    bulk: [Line; 3],
    /// Claims of bulk work while several priorities waited.
    turns: u32,
}

impl Queues {
    fn line(&mut self, spec: &Spec) -> &mut Line {
        match spec.class {
            Class::Urgent => &mut self.urgent,
            Class::Bulk => &mut self.bulk[spec.priority as usize],
        }
    }

    /// Behind what is due no later: at the end, unless somebody set a deadline.
    fn insert(&mut self, task: TaskRef) {
        let spec = &task.task().spec;
        let (due, line) = (spec.due, self.line(spec));
        let due_of = |entry: &Entry| entry.task.task().spec.due;
        let at = if line.back().is_none_or(|last| due_of(last) <= due) {
            line.len()
        } else {
            line.partition_point(|other| due_of(other) <= due)
        };
        let rest = task.task().spec.len;
        line.insert(at, Entry { task, rest });
    }

    /// Whether the lowest class of bulk work is to come first for once.
    fn is_low_turn(&mut self) -> bool {
        let several = self.bulk.iter().filter(|line| !line.is_empty()).count() > 1;
        self.turns = self.turns.wrapping_add(u32::from(several));
        several && self.turns.is_multiple_of(LOW_TURN)
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        std::iter::once(&self.urgent).chain(&self.bulk)
    }

    fn lines_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        std::iter::once(&mut self.urgent).chain(&mut self.bulk)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Work {
    queues: Mutex<Queues>,
    /// Entries in all queues by transport: who finds none there need not look through the others'.
    waiting: [AtomicUsize; TransportKind::ALL.len()],
    /// How many bytes nobody has claimed: whether the work is worth one more thread, and whether one rail
    /// may leave it to others. A task that was stopped counts until a claim or [`Work::purge`] comes by.
    backlog: AtomicI64,
    /// Grows when something comes to wait.
    version: AtomicU64,
}

impl Work {
    pub(super) fn push(&self, tasks: &[TaskRef]) {
        let bytes = tasks.iter().map(|t| signed(t.task().spec.len)).sum();
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let mut queues = lock(&self.queues);
        for task in tasks {
            queues.insert(task.clone());
        }
        for task in tasks {
            self.waiting[task.kind() as usize].fetch_add(1, Ordering::Release);
        }
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Grows when something comes to wait: who has seen all of a version need not look again.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// A piece whose rail was lost waits for another.
    pub(super) fn give_back(&self, piece: Piece) {
        let kind = piece.task.kind();
        self.backlog.fetch_add(signed(piece.len), Ordering::Relaxed);
        let mut queues = lock(&self.queues);
        queues.returned.push_back(piece);
        self.waiting[kind as usize].fetch_add(1, Ordering::Release);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// About how many bytes wait to be claimed.
    pub(super) fn backlog(&self) -> u64 {
        u64::try_from(self.backlog.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(|n| n.load(Ordering::Acquire) == 0)
    }

    /// Whether anything waits for rails of `kind`.
    pub(super) fn waits_for(&self, kind: TransportKind) -> bool {
        self.waiting[kind as usize].load(Ordering::Acquire) != 0
    }

    /// Claims the next piece for rails of `kind`: what came back first, then urgent work, then the rest by
    /// priority and deadline.
    /// `size` says how much of it may be taken, or that it must wait; then the next is offered that goes
    /// the other way or is of another class.
    pub(super) fn claim(
        &self,
        kind: TransportKind,
        mut size: impl FnMut(&Offer) -> Option<u64>,
    ) -> Option<Piece> {
        if !self.waits_for(kind) {
            return None;
        }
        // their end wakes callers, who must not find the queues locked
        let mut over = Vec::new();
        let piece = {
            let mut queues = lock(&self.queues);
            let low_first = queues.is_low_turn();
            let Queues { returned, urgent, bulk, .. } = &mut *queues;
            self.claim_returned(returned, kind, &mut size, &mut over).or_else(|| {
                self.claim_from(urgent, kind, &mut size).or_else(|| {
                    let last = bulk.len() - 1;
                    let order = |at| if low_first { last - at } else { at };
                    (0..=last).find_map(|at| self.claim_from(&mut bulk[order(at)], kind, &mut size))
                })
            })
        };
        over.into_iter().for_each(Piece::lost);
        piece
    }

    fn claim_returned(
        &self,
        line: &mut VecDeque<Piece>,
        kind: TransportKind,
        size: &mut impl FnMut(&Offer) -> Option<u64>,
        over: &mut Vec<Piece>,
    ) -> Option<Piece> {
        let mut at = 0;
        while at < line.len().min(MAX_LOOK) {
            let piece = &line[at];
            if !piece.task.goes_by(kind) {
                at += 1;
                continue;
            }
            let idle = piece.is_spare() || piece.is_stopped();
            let spec = &piece.task.task().spec;
            let offer = Offer {
                class: spec.class,
                op: spec.op,
                rest: piece.len,
                whole: true,
                queued: self.backlog(),
            };
            if !idle && size(&offer).is_none() {
                at += 1;
                continue;
            }
            let piece = line.remove(at)?;
            self.backlog.fetch_sub(signed(piece.len), Ordering::Relaxed);
            self.waiting[kind as usize].fetch_sub(1, Ordering::Release);
            if !idle {
                return Some(piece);
            }
            over.push(piece);
        }
        None
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
        for line in queues.lines_mut() {
            let small =
                |e: &Entry| e.task.goes_by(kind) && e.task.task().progress.unclaimed() <= longest;
            while more(claimed) && line.front().is_some_and(small) {
                claimed.extend(self.claim_from(line, kind, &mut |offer: &Offer| Some(offer.rest)));
            }
            if !line.is_empty() {
                return;
            }
        }
    }

    fn claim_from(
        &self,
        line: &mut Line,
        kind: TransportKind,
        size: &mut impl FnMut(&Offer) -> Option<u64>,
    ) -> Option<Piece> {
        let (mut at, mut refused) = (0, [false; 2]);
        while let Some(Entry { task, rest: account }) = line.get_mut(at).filter(|_| at < MAX_LOOK) {
            let spec = &task.task().spec;
            if !task.goes_by(kind) || refused[spec.op as usize] {
                at += 1;
                continue;
            }
            let progress = &task.task().progress;
            let rest = progress.unclaimed();
            let wish = if rest == 0 {
                None
            } else {
                let (class, op, queued) = (spec.class, spec.op, self.backlog());
                let offer = Offer { class, op, rest, whole: false, queued };
                let Some(wish) = size(&offer) else {
                    refused[spec.op as usize] = true;
                    at += 1;
                    continue;
                };
                Some(wish)
            };
            let claimed = wish.and_then(|wish| progress.claim(|_| wish));
            if let Some((_, len)) = claimed {
                *account -= len;
                self.backlog.fetch_sub(signed(len), Ordering::Relaxed);
            }
            let spent = claimed.is_none_or(|(offset, len)| {
                // the last byte of the task is claimed: nothing more will be found in it
                offset + len == progress.len()
            });
            let piece = claimed.map(|(offset, len)| Piece::new(task.clone(), offset, len));
            if spent {
                // what is left of a task that was stopped
                self.backlog.fetch_sub(signed(*account), Ordering::Relaxed);
                line.remove(at);
                self.waiting[kind as usize].fetch_sub(1, Ordering::Release);
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

    /// Gives what waits for a transport of `from` that is lost to others: `to` says by which a task goes
    /// on, or that it cannot. Returns the transports that have got work.
    pub(super) fn reroute(
        &self,
        from: TransportKind,
        to: impl Fn(&TaskRef) -> Option<TransportKind>,
    ) -> Vec<TransportKind> {
        let queues = lock(&self.queues);
        let tasks = queues.lines().flatten().map(|entry| &entry.task);
        let waiting: Vec<&TaskRef> = tasks
            .chain(queues.returned.iter().map(|p| &p.task))
            .filter(|task| task.goes_by(from))
            .collect();
        let mut kinds = Vec::new();
        // a task may wait in several places, all of which go the same way
        let ways: Vec<Option<TransportKind>> = waiting.iter().map(|task| to(task)).collect();
        for (task, way) in waiting.iter().zip(ways) {
            let Some(way) = way else { continue };
            task.reroute(way);
            self.waiting[from as usize].fetch_sub(1, Ordering::Release);
            self.waiting[way as usize].fetch_add(1, Ordering::Release);
            self.version.fetch_add(1, Ordering::SeqCst);
            if !kinds.contains(&way) {
                kinds.push(way);
            }
        }
        kinds
    }

    fn remove(&self, which: impl Fn(&TaskRef) -> bool) -> (Vec<TaskRef>, Vec<Piece>) {
        let (mut tasks, mut pieces) = (Vec::new(), Vec::new());
        let mut queues = lock(&self.queues);
        for line in queues.lines_mut() {
            line.retain(|entry| {
                let hit = which(&entry.task);
                if hit {
                    self.backlog.fetch_sub(signed(entry.rest), Ordering::Relaxed);
                    tasks.push(entry.task.clone());
                }
                !hit
            });
        }
        for piece in std::mem::take(&mut queues.returned) {
            if which(&piece.task) { pieces.push(piece) } else { queues.returned.push_back(piece) }
        }
        for piece in &pieces {
            self.backlog.fetch_sub(signed(piece.len), Ordering::Relaxed);
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

/// Entries of a line that a claim looks at: beyond a few that cannot go now, the others will not either.
const MAX_LOOK: usize = 64;
/// One claim in so many goes to the lowest class first.
const LOW_TURN: u32 = 16;
