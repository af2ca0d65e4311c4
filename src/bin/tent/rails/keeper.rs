//! Prepares what requests move and checks what came of it, beside the load. Each use of a place has a
//! pattern of its own, so that bytes that were lost, doubled or shifted show, and so do those that land late,
//! from an earlier use.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender};

use crate::capi::Op;
use crate::fail::Result;
use crate::memory::Buffer;
use crate::peer::Peer;
use crate::proto::{Command, Load, Range};

/// A place of both buffers, and the pattern that is to be moved there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) range: Range,
    pub(crate) op: Op,
    seed: u64,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) checked_bytes: u64,
    pub(crate) wrong_bytes: u64,
}

/// Both ends of the bytes.
pub(crate) trait Ends {
    /// Writes the pattern of `seed` where a request will take bytes from.
    fn fill(&mut self, place: &Place) -> Result<()>;
    /// Counts the wrong bytes where a request has brought them.
    fn wrong(&mut self, place: &Place) -> Result<u64>;
}

/// This process's buffer and the target's.
pub(crate) struct Buffers<'a> {
    pub(crate) here: &'a Buffer,
    pub(crate) there: &'a mut Peer,
}

impl Ends for Buffers<'_> {
    fn fill(&mut self, place: &Place) -> Result<()> {
        let (seed, ranges) = (place.seed, vec![place.range]);
        match place.op {
            Op::Write => self.here.fill(seed, &ranges),
            Op::Read => self.there.ask(&Command::Fill { seed, ranges }),
        }
    }

    fn wrong(&mut self, place: &Place) -> Result<u64> {
        let (seed, ranges) = (place.seed, vec![place.range]);
        match place.op {
            Op::Write => self.there.ask(&Command::Check { seed, ranges }),
            Op::Read => self.here.wrong(seed, &ranges),
        }
    }
}

/// How many places a run with so many requests in flight uses.
pub(crate) fn places(in_flight: usize) -> usize {
    in_flight * 2 + LINGER
}

/// Hands out prepared places until nobody returns any more, then checks those that are left. A place that was
/// used lies a while before it is checked and used again: that is when late bytes would come. A place comes
/// back with whether its request completed; else there is nothing to check.
pub(crate) fn keep(
    mut ends: impl Ends,
    load: Load,
    block: u64,
    in_flight: usize,
    ready: &Sender<Place>,
    used: &Receiver<(Place, bool)>,
) -> Result<Found> {
    let mut found = Found::default();
    let mut seed = FIRST_SEED;
    let mut prepare = |ends: &mut dyn Ends, place: Place| {
        seed += 1;
        let place = Place { seed, ..place };
        ends.fill(&place).map(|()| place)
    };
    for place in fresh(load, block, places(in_flight)) {
        // When nobody takes it any more, nobody will return one either.
        let _ = ready.send(prepare(&mut ends, place)?);
    }
    let mut lying = VecDeque::new();
    for came in used {
        lying.push_back(came);
        if lying.len() > LINGER
            && let Some(oldest) = lying.pop_front()
        {
            check(&mut ends, oldest, &mut found)?;
            let _ = ready.send(prepare(&mut ends, oldest.0)?);
        }
    }
    lying.into_iter().try_for_each(|came| check(&mut ends, came, &mut found))?;
    Ok(found)
}

fn check(ends: &mut impl Ends, (place, completed): (Place, bool), found: &mut Found) -> Result<()> {
    if completed {
        found.checked_bytes += place.range.len;
        found.wrong_bytes += ends.wrong(&place)?;
    }
    Ok(())
}

fn fresh(load: Load, block: u64, count: usize) -> impl Iterator<Item = Place> {
    (0..count as u64).map(move |at| {
        let op = match load {
            Load::Read => Op::Read,
            Load::Write => Op::Write,
            Load::Mix if at.is_multiple_of(2) => Op::Write,
            Load::Mix => Op::Read,
        };
        Place { range: Range { offset: at * block, len: block }, op, seed: 0 }
    })
}

/// Places that lie used before one is checked.
const LINGER: usize = 8;
/// Above all other patterns of this program.
const FIRST_SEED: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc;

    use super::*;
    use crate::fail::Fail;

    /// Both buffers as maps from offset to seed.
    #[derive(Default)]
    struct Fake {
        from: HashMap<u64, u64>,
        fail_after: Option<usize>,
        seeds: Vec<u64>,
    }

    impl Ends for &mut Fake {
        fn fill(&mut self, place: &Place) -> Result<()> {
            self.from.insert(place.range.offset, place.seed);
            self.seeds.push(place.seed);
            let is_over = self.fail_after.is_some_and(|n| self.seeds.len() > n);
            if is_over { Err(Fail::setup("gone", "")) } else { Ok(()) }
        }

        fn wrong(&mut self, place: &Place) -> Result<u64> {
            // moved rightly, but for one seed
            let is_right = self.from[&place.range.offset] == place.seed;
            Ok(u64::from(!is_right) + u64::from(place.seed == FIRST_SEED + 30))
        }
    }

    fn run(fake: &mut Fake, turns: usize) -> (Result<Found>, Vec<Place>) {
        let ((ready, take), (give, used)) = (mpsc::channel(), mpsc::channel());
        std::thread::scope(|s| {
            let keeper = s.spawn(move || keep(fake, Load::Mix, 100, 2, &ready, &used));
            let mut seen = Vec::new();
            for _ in 0..turns {
                let Ok(place) = take.recv() else { break };
                give.send((place, seen.len() != 50)).ok();
                seen.push(place);
            }
            drop(give);
            (keeper.join().unwrap(), seen)
        })
    }

    #[test]
    fn every_use_has_a_pattern_of_its_own_and_is_checked() {
        let mut fake = Fake::default();
        let (found, seen) = run(&mut fake, 100);
        // one of a hundred did not complete
        assert_eq!(found.unwrap(), Found { checked_bytes: 9_900, wrong_bytes: 1 });
        let seeds: std::collections::HashSet<_> = seen.iter().map(|p| p.seed).collect();
        assert_eq!((seen.len(), seeds.len()), (100, 100));
        // a place is only read or only written, so that both ends of it can be known
        assert!(
            seen.iter().all(|p| (p.op == Op::Write) == (p.range.offset / 100).is_multiple_of(2))
        );
        assert!(seen.iter().all(|p| p.range.offset < 100 * places(2) as u64));
    }

    #[test]
    fn an_end_that_is_gone_ends_it() {
        let mut fake = Fake { fail_after: Some(20), ..Fake::default() };
        let (found, seen) = run(&mut fake, 100);
        assert_eq!(found.unwrap_err().cause, "gone");
        assert_eq!(seen.len(), 20);
    }
}
