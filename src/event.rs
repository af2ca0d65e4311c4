//! What happens to rails, for people, metrics and tests (D12). A bounded log: who reads too seldom misses
//! the oldest, and sees so by the numbers.

use crate::sync::lock;
use crate::time::Instant;
use std::collections::VecDeque;
use std::sync::Mutex;

/// One fact about a rail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RailEvent {
    /// Grows by one with each event of the engine, from 1.
    pub seq: u64,
    /// When.
    pub at: Instant,
    /// The segment that the rail leads to.
    pub peer: String,
    /// The rail's name.
    pub rail: String,
    /// What: a state of the rail, or `fenced`, `hedged`, `undrained`.
    pub what: &'static str,
    /// Why, for people; may be empty.
    pub why: String,
}

/// The latest events of an engine.
#[derive(Debug, Default)]
pub struct EventLog {
    inner: Mutex<(u64, VecDeque<RailEvent>)>,
}

impl EventLog {
    /// Appends an event; its number is given here.
    pub fn add(&self, mut event: RailEvent) {
        let mut inner = lock(&self.inner);
        inner.0 += 1;
        event.seq = inner.0;
        if inner.1.len() == KEPT {
            inner.1.pop_front();
        }
        inner.1.push_back(event);
    }

    /// The events after number `seq` that are still kept, oldest first.
    pub fn since(&self, seq: u64) -> Vec<RailEvent> {
        lock(&self.inner).1.iter().filter(|e| e.seq > seq).cloned().collect()
    }
}

/// Events that are kept.
const KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_numbered() {
        let log = EventLog::default();
        let event = RailEvent {
            seq: 0,
            at: Instant(1),
            peer: "p".into(),
            rail: "r".into(),
            what: "up",
            why: String::new(),
        };
        for _ in 0..KEPT + 10 {
            log.add(event.clone());
        }
        let all = log.since(0);
        assert_eq!((all.len(), all[0].seq), (KEPT, 11));
        assert_eq!(log.since(KEPT as u64 + 9).len(), 1);
        assert!(log.since(u64::MAX).is_empty());
    }
}
