//! The server's fence (D5): a new connection in a caller's place stops the old one from writing before
//! the newcomer is welcomed. So a caller whose connection broke knows, once welcomed again, that nothing
//! of the old one can land (I3).

use crate::id::Incarnation;
use crate::sync::{AtomicU32, AtomicU64, Ordering, lock};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Whether a connection may write to registered memory. Shared between the lane that serves it and the
/// lane that fences it, or single WRITEs of it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU32,
    /// WRITEs whose heads have come, so that a revoked one is known before and after.
    writes: AtomicU64,
    /// Numbers of the WRITEs that are revoked.
    revoked: Mutex<Vec<u64>>,
}

const BUSY: u32 = 1;
const FENCED: u32 = 2;
const REVOKED: u32 = 4;

impl Gate {
    /// Called before a turn of reading; `false`: this connection is fenced and must be closed.
    pub(super) fn enter(&self) -> bool {
        let mut seen = self.state.load(Ordering::Acquire);
        while seen & (FENCED | BUSY) == 0 {
            match self.state.compare_exchange(
                seen,
                seen | BUSY,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Called after that turn.
    pub(super) fn leave(&self) {
        self.state.fetch_and(!BUSY, Ordering::Release);
    }

    /// The head of a WRITE has come; `false`: it is revoked.
    pub(super) fn next_write(&self) -> bool {
        let number = self.writes.fetch_add(1, Ordering::AcqRel);
        self.is_welcome(number)
    }

    /// Whether the WRITE at hand, the last whose head has come, is not revoked.
    pub(super) fn may_go_on(&self) -> bool {
        self.state.load(Ordering::Acquire) & REVOKED == 0
            || self.is_welcome(self.writes.load(Ordering::Acquire).wrapping_sub(1))
    }

    fn is_welcome(&self, number: u64) -> bool {
        self.state.load(Ordering::Acquire) & REVOKED == 0 || !lock(&self.revoked).contains(&number)
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.state.load(Ordering::Acquire) & FENCED != 0
    }

    /// Shuts the gate; returns when no turn is under way. A turn never blocks, so this wait is short.
    fn shut(&self) {
        self.state.fetch_or(FENCED, Ordering::AcqRel);
        self.wait_for_turn();
    }

    /// Lets nothing more of that WRITE through. `false`: too many are revoked.
    fn revoke(&self, number: u64) -> bool {
        {
            let mut revoked = lock(&self.revoked);
            // those before the one at hand are over
            let at_hand = self.writes.load(Ordering::Acquire).saturating_sub(1);
            revoked.retain(|n| *n >= at_hand);
            if revoked.len() >= MAX_REVOKED {
                return false;
            }
            revoked.push(number);
        }
        self.state.fetch_or(REVOKED, Ordering::AcqRel);
        self.wait_for_turn();
        true
    }

    fn wait_for_turn(&self) {
        while self.state.load(Ordering::Acquire) & BUSY != 0 {
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

    /// Fences whatever holds the place with an older epoch, and keeps such from coming later.
    pub(super) fn fence(&self, from: Incarnation, slot: u32, epoch: u64) {
        let mut places = lock(&self.places);
        if places.len() >= MAX_PLACES {
            // what is fenced stays only to keep out those that are late; that long they are not
            places.retain(|_, (_, gate)| !gate.is_fenced());
        }
        let (held, gate) = places.entry((from, slot)).or_default();
        if *held < epoch {
            gate.shut();
            *held = epoch;
            // one of its own, so that the old connection's leaving does not free the place
            *gate = Arc::default();
            gate.shut();
        }
    }

    /// Lets nothing more of a WRITE through; `false`: that cannot be promised. Never called from within a
    /// turn, whose own gate is busy: two that revoke each other's would wait for ever.
    pub(super) fn revoke(&self, from: Incarnation, slot: u32, number: u64) -> bool {
        let gate = lock(&self.places).get(&(from, slot)).map(|(_, gate)| Arc::clone(gate));
        // the connection is gone: nothing comes from it any more
        gate.is_none_or(|gate| gate.revoke(number))
    }

    /// Forgets a closed connection.
    pub(super) fn leave(&self, from: Incarnation, slot: u32, gate: &Arc<Gate>) {
        let mut places = lock(&self.places);
        if places.get(&(from, slot)).is_some_and(|(_, held)| Arc::ptr_eq(held, gate)) {
            places.remove(&(from, slot));
        }
    }
}

/// WRITEs of one connection that may be revoked and not have come.
const MAX_REVOKED: usize = 1024;
/// Places that are remembered before the fenced ones are forgotten.
const MAX_PLACES: usize = 65_536;

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

    #[test]
    fn a_fence_over_another_path_shuts_and_keeps_late_comers_out() {
        let fences = Fences::default();
        let me = Incarnation(7);
        let old = fences.admit(me, 3, 10).unwrap();
        fences.fence(me, 3, 12);
        assert!(!old.enter(), "I3");
        assert!(fences.admit(me, 3, 11).is_none(), "a hello that was on its way");
        fences.leave(me, 3, &old);
        assert!(fences.admit(me, 3, 11).is_none(), "also when the old one has left");
        assert!(fences.admit(me, 3, 13).unwrap().enter());
        fences.fence(me, 3, 12);
        assert!(
            fences.admit(me, 3, 13).is_none(),
            "a fence that is late itself shuts nobody newer"
        );
    }

    #[test]
    fn a_revoked_write_is_known_before_while_and_after_it_comes() {
        let fences = Fences::default();
        let me = Incarnation(7);
        let gate = fences.admit(me, 3, 10).unwrap();
        assert!(gate.next_write() && gate.may_go_on());
        assert!(fences.revoke(me, 3, 2) && fences.revoke(me, 3, 0));
        assert!(!gate.may_go_on(), "the one at hand");
        assert!(gate.next_write() && gate.may_go_on());
        assert!(!gate.next_write(), "one that was to come");
        assert!(gate.next_write());
        assert!(gate.enter(), "the others go on");
        for number in 0..2 * MAX_REVOKED as u64 {
            gate.leave();
            assert_eq!(fences.revoke(me, 3, 100 + number), number < MAX_REVOKED as u64);
            assert!(gate.enter());
        }
        assert!(fences.revoke(me, 9, 0), "nobody is there: nothing will come");
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

    /// I3: after `revoke` returns, nothing of that WRITE is written, whenever its head comes.
    #[test]
    fn loom_nothing_is_written_after_a_revoke() {
        loom::model(|| {
            let gate = loom::sync::Arc::new(Gate::default());
            let memory = loom::sync::Arc::new(AtomicUsize::new(0));
            let writer = {
                let (gate, memory) = (gate.clone(), memory.clone());
                loom::thread::spawn(move || {
                    if gate.enter() {
                        if gate.next_write() {
                            memory.store(1, Ordering::Relaxed);
                        }
                        gate.leave();
                    }
                })
            };
            assert!(gate.revoke(0));
            let seen = memory.load(Ordering::Relaxed);
            writer.join().unwrap();
            assert_eq!(seen, memory.load(Ordering::Relaxed));
        });
    }
}
