//! The life of one task as a handful of atomics: how far it is claimed, what is under way, what has
//! landed, how it ended. Shared by the caller and every lane; model-checked with loom.

use crate::engine::TaskState;
use crate::sync::{AtomicU8, AtomicU64, Ordering};

/// Why a task is to end before its range has landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stop {
    Fail = 1,
    Cancel = 2,
    TimeOut = 3,
}

/// See the module. The range `[0, len)` is claimed from the front, piece by piece (I1).
#[derive(Debug)]
pub(super) struct Progress {
    len: u64,
    /// First byte that nobody has claimed.
    cursor: AtomicU64,
    /// Bytes that somebody will still move, and [`HOLD`] for each attempt beside the first at the same
    /// bytes, which could still write. Nothing left: the task has ended.
    left: AtomicU64,
    landed: AtomicU64,
    stop: AtomicU8,
    state: AtomicU8,
}

impl Progress {
    pub(super) fn new(len: u64) -> Self {
        Self {
            len,
            cursor: AtomicU64::new(0),
            left: AtomicU64::new(len),
            landed: AtomicU64::new(0),
            stop: AtomicU8::new(0),
            state: AtomicU8::new(TaskState::Waiting as u8),
        }
    }

    /// Claims up to `max(remaining)` bytes (at least one, at most the rest); `None` when all is claimed
    /// or the task is stopped.
    pub(super) fn claim(&self, max: impl Fn(u64) -> u64) -> Option<(u64, u64)> {
        let mut begin = self.cursor.load(Ordering::Acquire);
        loop {
            let rest = self.len.checked_sub(begin).filter(|r| *r > 0)?;
            let len = max(rest).clamp(1, rest);
            match self.cursor.compare_exchange(
                begin,
                begin + len,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    if begin == 0 {
                        self.mark_pending();
                    }
                    return Some((begin, len));
                }
                Err(now) => begin = now,
            }
        }
    }

    /// Bytes that nobody has claimed.
    pub(super) fn unclaimed(&self) -> u64 {
        self.len - self.cursor.load(Ordering::Acquire)
    }

    fn mark_pending(&self) {
        let (waiting, pending) = (TaskState::Waiting as u8, TaskState::Pending as u8);
        self.state.compare_exchange(waiting, pending, Ordering::AcqRel, Ordering::Acquire).ok();
    }

    /// A claimed piece of `len` bytes is over, landed or not. `true` for the one call that ends the task:
    /// that caller must [`Progress::settle`] it (I2).
    #[must_use]
    pub(super) fn piece_over(&self, len: u64, landed: bool) -> bool {
        if landed {
            // I2: counted before the count that lets anybody see the end
            self.landed.fetch_add(len, Ordering::AcqRel);
        }
        self.left.fetch_sub(len, Ordering::AcqRel) == len
    }

    /// One more attempt at bytes that are not over begins: the task does not end before it is over too
    /// (I3).
    pub(super) fn hold(&self) {
        self.left.fetch_add(HOLD, Ordering::AcqRel);
    }

    /// Such an attempt is over, landed or fenced. `true`: as [`Progress::piece_over`].
    #[must_use]
    pub(super) fn release(&self) -> bool {
        self.left.fetch_sub(HOLD, Ordering::AcqRel) == HOLD
    }

    /// Lets the task end without claiming the rest; the first reason wins. `true`: as [`piece_over`].
    ///
    /// [`piece_over`]: Progress::piece_over
    #[must_use]
    pub(super) fn stop(&self, why: Stop) -> bool {
        if self.stop.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        let unclaimed = self.len - self.cursor.swap(self.len, Ordering::AcqRel);
        // nothing unclaimed: the end belongs to the last piece, or has been
        unclaimed > 0 && self.piece_over(unclaimed, false)
    }

    pub(super) fn stopped(&self) -> Option<Stop> {
        let code = self.stop.load(Ordering::Acquire);
        [Stop::Fail, Stop::Cancel, Stop::TimeOut].into_iter().find(|s| *s as u8 == code)
    }

    /// How the task ends, for whoever was told to settle it.
    pub(super) fn outcome(&self) -> TaskState {
        if self.landed.load(Ordering::Acquire) == self.len {
            TaskState::Completed
        } else {
            match self.stopped() {
                Some(Stop::Cancel) => TaskState::Canceled,
                Some(Stop::TimeOut) => TaskState::TimedOut,
                Some(Stop::Fail) | None => TaskState::Failed,
            }
        }
    }

    /// Shows the end; called once, by whoever was told so.
    pub(super) fn settle(&self) {
        self.state.store(self.outcome() as u8, Ordering::Release);
    }

    pub(super) fn state(&self) -> TaskState {
        use TaskState::{Canceled, Completed, Failed, Pending, TimedOut, Waiting};
        match self.state.load(Ordering::Acquire) {
            0 => Waiting,
            1 => Pending,
            2 => Completed,
            4 => Canceled,
            5 => TimedOut,
            _ => Failed,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }
}

/// Longest task, in bytes; the count of attempts lies above.
pub(super) const LEN_MAX: u64 = HOLD - 1;
const HOLD: u64 = 1 << 48;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// I1: whatever sizes are asked for, the pieces cover the range exactly, in order.
        #[test]
        fn pieces_cover_exactly(len in 1_u64..5_000_000, sizes in prop::collection::vec(0_u64..400_000, 1..50)) {
            let progress = Progress::new(len);
            let (mut expect, mut turn) = (0, 0);
            while let Some((begin, piece)) = progress.claim(|_| sizes[turn % sizes.len()]) {
                prop_assert_eq!(begin, expect);
                prop_assert!(piece > 0);
                expect += piece;
                turn += 1;
                let last = progress.piece_over(piece, true);
                prop_assert_eq!(last, expect == len);
                if turn > 100_000 { break; }
                if turn % 7 == 0 && sizes[turn % sizes.len()] == 0 { break; }
            }
            if expect == len {
                progress.settle();
                prop_assert_eq!(progress.state(), TaskState::Completed);
            }
        }
    }

    #[test]
    fn a_stop_ends_the_task_only_when_its_pieces_are_over() {
        let progress = Progress::new(100);
        let _piece = progress.claim(|_| 40).unwrap();
        assert!(!progress.stop(Stop::Cancel), "I3: a piece is still under way");
        assert!(progress.claim(|_| 40).is_none());
        assert!(!progress.stop(Stop::Fail), "the first reason wins");
        assert!(progress.piece_over(40, true));
        assert_eq!(progress.outcome(), TaskState::Canceled);
        assert_eq!(progress.landed(), 40);
    }

    #[test]
    fn a_stop_after_everything_landed_is_too_late() {
        let progress = Progress::new(10);
        progress.claim(|_| 10).unwrap();
        assert!(!progress.stop(Stop::TimeOut));
        assert!(progress.piece_over(10, true));
        assert_eq!(progress.outcome(), TaskState::Completed);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;

    fn claim_all(progress: &Progress, ends: &AtomicUsize) {
        while let Some((_, len)) = progress.claim(|_| 2) {
            if progress.piece_over(len, true) {
                ends.fetch_add(1, Ordering::SeqCst);
                progress.settle();
            }
        }
    }

    /// I1 and I2 with two lanes: every byte once, one end.
    #[test]
    fn loom_two_lanes_end_a_task_once() {
        loom::model(|| {
            let progress = Arc::new(Progress::new(3));
            let ends = Arc::new(AtomicUsize::new(0));
            let other = {
                let (progress, ends) = (progress.clone(), ends.clone());
                loom::thread::spawn(move || claim_all(&progress, &ends))
            };
            claim_all(&progress, &ends);
            other.join().unwrap();
            assert_eq!(ends.load(Ordering::SeqCst), 1);
            assert_eq!(progress.landed(), 3);
            assert_eq!(progress.state(), TaskState::Completed);
        });
    }

    /// I2 and I3 with a lane and a caller that cancels.
    #[test]
    fn loom_a_cancel_and_a_lane_end_a_task_once() {
        loom::model(|| {
            let progress = Arc::new(Progress::new(3));
            let ends = Arc::new(AtomicUsize::new(0));
            let lane = {
                let (progress, ends) = (progress.clone(), ends.clone());
                loom::thread::spawn(move || claim_all(&progress, &ends))
            };
            if progress.stop(Stop::Cancel) {
                ends.fetch_add(1, Ordering::SeqCst);
                progress.settle();
            }
            lane.join().unwrap();
            assert_eq!(ends.load(Ordering::SeqCst), 1);
            assert!(progress.state().is_final());
        });
    }
}
