//! A claimed part of a task, and its twins: attempts at the same bytes on several rails, of which the first
//! to land counts. The task ends when all of them are over (I3).

use crate::engine::batch::TaskRef;
use crate::engine::peer::RailFigures;
use crate::slice::Class;
use crate::sync::{AtomicU32, Ordering};
use std::sync::Arc;

/// See the module. Whoever holds one must report it landed or lost, give it back, or drop the task.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) task: TaskRef,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Attempts that were lost.
    tries: u32,
    /// Set once there are several attempts at these bytes.
    twin: Option<Arc<Twin>>,
}

impl Piece {
    pub(super) fn new(task: TaskRef, offset: u64, len: u64) -> Self {
        Self { task, offset, len, tries: 0, twin: None }
    }

    /// It has landed, by a rail. Only the first of several attempts counts (I2).
    pub(super) fn landed(self, rail: Option<&Arc<RailFigures>>) {
        match self.twin.as_ref().map_or(End::Counts, |t| t.landed()) {
            End::Counts => {
                if let (Some(shares), Some(rail)) = (self.task.batch.shares(), rail) {
                    shares.add(rail, self.len);
                }
                self.task.piece_over(self.len, true);
            }
            End::Spare => self.task.release(),
        }
    }

    /// It will not be moved any more.
    pub(super) fn lost(self) {
        match self.twin.as_ref().map_or(End::Counts, |t| t.lost()) {
            End::Counts => self.task.piece_over(self.len, false),
            End::Spare => self.task.release(),
        }
    }

    /// This attempt is fenced: the piece to try again, unless another attempt is under way or landed.
    pub(super) fn again(mut self) -> Option<Self> {
        match self.twin.take().map_or(End::Counts, |t| t.lost()) {
            End::Counts => {
                self.tries += 1;
                Some(self)
            }
            End::Spare => {
                self.task.release();
                None
            }
        }
    }

    /// One more attempt at the same bytes, while this one may still land.
    pub(super) fn fork(&mut self) -> Self {
        self.task.hold();
        let twin = self.twin.get_or_insert_with(Arc::default);
        twin.join();
        let twin = Some(Arc::clone(twin));
        let tries = self.tries + 1;
        Self { task: self.task.clone(), offset: self.offset, len: self.len, tries, twin }
    }

    /// Whether it was lost so often that it is the piece, and not the rails: memory that the peer has
    /// unmapped breaks every connection that it is asked of.
    pub(super) fn is_poison(&self) -> bool {
        self.tries > MAX_TRIES
    }

    /// Whether all depends on this attempt: no other is under way, and none has landed.
    pub(super) fn is_alone(&self) -> bool {
        self.twin.as_ref().is_none_or(|t| t.is_alone())
    }

    /// Whether another attempt at these bytes has landed: this one is not needed any more.
    pub(super) fn is_spare(&self) -> bool {
        self.twin.as_ref().is_some_and(|t| t.has_landed())
    }

    /// The first `step` bytes, and the rest if there is one. A twin stays whole.
    pub(super) fn split(mut self, step: u64) -> (Self, Option<Self>) {
        if self.len <= step || self.twin.is_some() {
            return (self, None);
        }
        let rest = Self::new(self.task.clone(), self.offset + step, self.len - step);
        self.len = step;
        (self, Some(rest))
    }

    pub(super) fn class(&self) -> Class {
        self.task.task().spec.class
    }

    /// Whether its task was stopped: it is not to be moved.
    pub(super) fn is_stopped(&self) -> bool {
        self.task.task().progress.stopped().is_some()
    }
}

/// Attempts at the same bytes: how many are not over, and whether one has landed.
#[derive(Debug)]
struct Twin(AtomicU32);

/// What the end of an attempt means for the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It decides over the bytes.
    Counts,
    /// Another attempt does, or did.
    Spare,
}

impl Default for Twin {
    fn default() -> Self {
        Self(AtomicU32::new(1))
    }
}

impl Twin {
    fn join(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn landed(&self) -> End {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let to = (seen - 1) | LANDED;
            match self.0.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return if seen & LANDED == 0 { End::Counts } else { End::Spare },
                Err(now) => seen = now,
            }
        }
    }

    fn lost(&self) -> End {
        // the last one, when none has landed, still has the bytes to answer for
        if self.0.fetch_sub(1, Ordering::AcqRel) == 1 { End::Counts } else { End::Spare }
    }

    fn is_alone(&self) -> bool {
        self.0.load(Ordering::Acquire) <= 1
    }

    fn has_landed(&self) -> bool {
        self.0.load(Ordering::Acquire) & LANDED != 0
    }
}

/// Times that a piece is posted again.
const MAX_TRIES: u32 = 16;
const LANDED: u32 = 1 << 31;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// I2: of any attempts that end in any way one answers for the bytes, the first that landed or,
        /// when none did, the last.
        #[test]
        fn one_attempt_answers_for_the_bytes(ends in prop::collection::vec(any::<bool>(), 2..6)) {
            let twin = Twin::default();
            for _ in 1..ends.len() {
                twin.join();
            }
            let first = ends.iter().position(|landed| *landed).unwrap_or(ends.len() - 1);
            for (at, landed) in ends.iter().enumerate() {
                let end = if *landed { twin.landed() } else { twin.lost() };
                prop_assert_eq!(end == End::Counts, at == first);
                prop_assert_eq!(twin.has_landed(), ends[..=at].contains(&true));
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;

    /// I2: two rails end attempts at the same bytes at once; one of them counts.
    #[test]
    fn loom_of_twins_one_counts() {
        for (mine, theirs) in [(true, true), (true, false), (false, false)] {
            loom::model(move || {
                let (twin, counts) = (Arc::new(Twin::default()), Arc::new(AtomicUsize::new(0)));
                twin.join();
                let end = |twin: &Twin, counts: &AtomicUsize, landed: bool| {
                    let end = if landed { twin.landed() } else { twin.lost() };
                    if end == End::Counts {
                        counts.fetch_add(1, Ordering::SeqCst);
                    }
                };
                let other = {
                    let (twin, counts) = (twin.clone(), counts.clone());
                    loom::thread::spawn(move || end(&twin, &counts, theirs))
                };
                end(&twin, &counts, mine);
                other.join().unwrap();
                assert_eq!(counts.load(Ordering::SeqCst), 1);
            });
        }
    }
}
