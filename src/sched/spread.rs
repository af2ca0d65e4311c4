//! The policies that push: they give a whole task out when it is first looked at, by what they believe
//! then. They are here to be measured against the one that pulls (D3).

use super::predict::{Gen2, Gen3, RailLoad};
use super::spray::RailView;
use crate::config::Spray;
use std::collections::VecDeque;

/// What a pushing policy is told of a rail.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    in_flight: u64,
    tier: u8,
    open: bool,
}

impl Load {
    /// The part of a view that they look at.
    pub fn of(view: &RailView) -> Self {
        Self { in_flight: view.in_flight, tier: view.tier, open: view.open && view.own }
    }
}

/// A pushing policy with what it has learned.
#[derive(Debug)]
pub enum Push {
    /// An equal share to each rail.
    Static,
    /// 64 KiB to each rail in turn; the next one.
    RoundRobin(usize),
    /// The C++ TENT's second generation.
    Predict2(Box<Gen2>),
    /// Its third.
    Predict3(Box<Gen3>),
}

impl Push {
    /// The policy of that name, unless it is the one that pulls.
    pub fn new(spray: Spray) -> Option<Self> {
        match spray {
            Spray::Pull => None,
            Spray::Static => Some(Self::Static),
            Spray::RoundRobin => Some(Self::RoundRobin(0)),
            Spray::Predict2 => Some(Self::Predict2(Box::new(Gen2::new(0)))),
            Spray::Predict3 => Some(Self::Predict3(Box::new(Gen3::new(0, THEORETICAL, SEED)))),
        }
    }

    /// Divides `len` bytes among the rails that are open: appends rail and bytes, in the order of the
    /// range, covering it exactly (I1). Nothing when no rail is open.
    pub fn split(
        &mut self,
        len: u64,
        write: bool,
        loads: &[Load],
        longest: u64,
        out: &mut VecDeque<(usize, u64)>,
    ) {
        let open: Vec<usize> = (0..loads.len()).filter(|i| loads[*i].open).collect();
        if open.is_empty() {
            return;
        }
        match self {
            Self::Static => {
                let share = len.div_ceil(open.len() as u64).max(1);
                let mut rest = len;
                for rail in open {
                    let mut mine = share.min(rest);
                    rest -= mine;
                    while mine > 0 {
                        let piece = mine.min(longest.max(1));
                        out.push_back((rail, piece));
                        mine -= piece;
                    }
                }
            }
            Self::RoundRobin(next) => {
                let mut rest = len;
                while rest > 0 {
                    let piece = rest.min(BLOCK);
                    out.push_back((open[*next % open.len()], piece));
                    *next = next.wrapping_add(1);
                    rest -= piece;
                }
            }
            Self::Predict2(model) => {
                model.grow(loads.len());
                let mut now = rail_loads(loads);
                let mut rest = len;
                while rest > 0 {
                    let piece = rest.min(BLOCK);
                    let at = model.pick(&now, piece);
                    now[at].in_flight += piece;
                    out.push_back((at, piece));
                    rest -= piece;
                }
            }
            Self::Predict3(model) => {
                model.grow(loads.len());
                let mut slices = Vec::new();
                model.split(len, write, &rail_loads(loads), &mut slices);
                for (at, mut mine) in slices {
                    while mine > 0 {
                        let piece = mine.min(longest.max(1));
                        out.push_back((at, piece));
                        mine -= piece;
                    }
                }
            }
        }
    }

    /// A slice of `len` bytes, posted on `rail` behind `ahead`, took so long.
    pub fn observed(&mut self, rail: usize, len: u64, ahead: u64, seconds: f64) {
        match self {
            Self::Static | Self::RoundRobin(_) => {}
            Self::Predict2(model) => {
                model.grow(rail + 1);
                model.observed(rail, len, ahead, seconds);
            }
            Self::Predict3(model) => {
                model.grow(rail + 1);
                model.observed(rail, len, seconds);
            }
        }
    }
}

fn rail_loads(loads: &[Load]) -> Vec<RailLoad> {
    let load = |l: &Load| RailLoad {
        in_flight: l.in_flight,
        tier: if l.open { l.tier } else { RailLoad::OUT },
    };
    loads.iter().map(load).collect()
}

/// Upstream's block.
const BLOCK: u64 = 64 << 10;
/// What their third generation takes every device to carry: 400 Gbit/s.
const THEORETICAL: f64 = 50e9;
const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// I1, the arithmetic half, for every policy that pushes.
        #[test]
        fn every_split_covers_exactly_and_uses_open_rails_only(
            len in 1_u64..1 << 28,
            rails in prop::collection::vec((0_u64..1 << 30, 0_u8..3, any::<bool>()), 1..16),
            write: bool,
        ) {
            let load = |&(in_flight, tier, open): &(u64, u8, bool)| Load { in_flight, tier, open };
            let loads: Vec<Load> = rails.iter().map(load).collect();
            for spray in [Spray::Static, Spray::RoundRobin, Spray::Predict2, Spray::Predict3] {
                let mut out = VecDeque::new();
                let mut push = Push::new(spray).unwrap();
                push.split(len, write, &loads, 1 << 20, &mut out);
                if loads.iter().any(|l| l.open) {
                    prop_assert_eq!(out.iter().map(|(_, n)| n).sum::<u64>(), len);
                    prop_assert!(out.iter().all(|(rail, n)| loads[*rail].open && *n > 0 && *n <= 1 << 20));
                } else {
                    prop_assert!(out.is_empty());
                }
            }
        }
    }
}
