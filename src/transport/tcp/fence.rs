//! The server's fence (D5): a new connection in a caller's place stops the old one from writing before
//! the newcomer is welcomed. So a caller whose connection broke knows, once welcomed again, that nothing
//! of the old one can land (I3).

use crate::id::Incarnation;
use crate::sync::{AtomicU32, Ordering, lock};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Whether a connection may write to registered memory. Shared between the lane that serves it and the
/// lane that fences it.
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicU32);

const BUSY: u32 = 1;
const FENCED: u32 = 2;

impl Gate {
    /// Called before a turn of reading; `false`: this connection is fenced and must be closed.
    pub(super) fn enter(&self) -> bool {
        self.0.compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Called after that turn.
    pub(super) fn leave(&self) {
        self.0.fetch_and(!BUSY, Ordering::Release);
    }

    /// Shuts the gate; returns when no turn is under way. A turn never blocks, so this wait is short.
    fn shut(&self) {
        self.0.fetch_or(FENCED, Ordering::AcqRel);
        while self.0.load(Ordering::Acquire) & BUSY != 0 {
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            std::thread::yield_now();
        }
    }
}

type Place = (Incarnation, u32);

/// The connections of an engine's data port, by caller and place.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// By caller and place: the epoch and gate of the connection that holds it.
    places: Mutex<HashMap<Place, (u64, Arc<Gate>)>>,
}

impl Fences {
    /// Enters a connection; the one that held the place before is fenced when this returns. `None` when
    /// the place is already held by a newer epoch.
    pub(super) fn admit(&self, from: Incarnation, slot: u32, epoch: u64) -> Option<Arc<Gate>> {
        let gate = Arc::new(Gate::default());
        let mut places = lock(&self.places);
        match places.get_mut(&(from, slot)) {
            Some((held, _)) if *held >= epoch => return None,
            Some(place) => {
                place.1.shut();
                *place = (epoch, Arc::clone(&gate));
            }
            None => {
                places.insert((from, slot), (epoch, Arc::clone(&gate)));
            }
        }
        Some(gate)
    }

    /// Forgets a closed connection.
    pub(super) fn leave(&self, from: Incarnation, slot: u32, gate: &Arc<Gate>) {
        let mut places = lock(&self.places);
        if places.get(&(from, slot)).is_some_and(|(_, held)| Arc::ptr_eq(held, gate)) {
            places.remove(&(from, slot));
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_fences_and_an_old_epoch_is_refused() {
        let fences = Fences::default();
        let me = Incarnation(7);
        let first = fences.admit(me, 3, 10).unwrap();
        assert!(first.enter());
        first.leave();
        let second = fences.admit(me, 3, 11).unwrap();
        assert!(!first.enter(), "I3: the old connection writes no more");
        assert!(second.enter());
        second.leave();
        assert!(fences.admit(me, 3, 11).is_none());
        assert!(fences.admit(me, 4, 1).is_some(), "places are independent");
        fences.leave(me, 3, &first);
        assert!(
            fences.admit(me, 3, 11).is_none(),
            "leaving late does not free the newcomer's place"
        );
        fences.leave(me, 3, &second);
        assert!(fences.admit(me, 3, 1).is_some());
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicUsize;

    /// I3: after `shut` returns, no turn that began before can still write.
    #[test]
    fn loom_nothing_is_written_after_the_fence() {
        loom::model(|| {
            let gate = loom::sync::Arc::new(Gate::default());
            let memory = loom::sync::Arc::new(AtomicUsize::new(0));
            let writer = {
                let (gate, memory) = (gate.clone(), memory.clone());
                loom::thread::spawn(move || {
                    if gate.enter() {
                        memory.store(1, Ordering::Relaxed);
                        gate.leave();
                    }
                })
            };
            gate.shut();
            let seen = memory.load(Ordering::Relaxed);
            writer.join().unwrap();
            assert_eq!(seen, memory.load(Ordering::Relaxed));
        });
    }
}
