//! How rails come to pieces: copies one step at a time, net rails by the policy that the configuration
//! names.

use super::{COPY_RUN_PIECE, COPY_STEP, COPY_TURN, Driver, is_run_short, total};
use crate::config::Spray;
use crate::engine::peer::{Peer, RailFigures};
use crate::engine::work::Offer;
use crate::sched::spread::{Load, Push};
use crate::sched::{piece, spray};
use crate::slice::{Class, Op, TransportKind};
use crate::time::Instant;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The policy at work.
#[derive(Debug)]
pub(super) enum Spread {
    /// Rails claim when they have room.
    Pull,
    /// A task is given out when it is first looked at; what is planned of it: rail, bytes.
    Push(Push, VecDeque<(usize, u64)>),
}

impl Spread {
    pub(super) fn new(spray: Spray) -> Self {
        Push::new(spray).map_or(Self::Pull, |push| Self::Push(push, VecDeque::new()))
    }
}

impl Driver {
    /// Lets the rails to a peer copy in turn, a piece each, until none takes more: so that the first
    /// does not take what the others would have carried beside it (I9).
    pub(super) fn fill(&mut self, rails: &[u32], now: Instant) -> bool {
        let (mut moved, mut copied) = (false, 0);
        loop {
            let mut taken = false;
            for rail in rails {
                if let Some(bytes) = self.copy_one(*rail, now) {
                    taken = true;
                    copied += bytes;
                }
            }
            moved |= taken;
            // the second round is for what the first has left, of which there is seldom any
            if !taken || copied >= COPY_TURN || !self.has_more(rails) {
                return moved;
            }
        }
    }

    /// Claims and copies one step, or a run of small pieces. Only a rail that is up claims (I4). Returns
    /// the bytes, or `None` when nothing was taken.
    fn copy_one(&mut self, number: u32, now: Instant) -> Option<u64> {
        let rail = self.rails[number as usize].as_ref()?;
        if !rail.health.state().is_open() {
            return None;
        }
        let kind = self.transports[rail.transport].kind();
        let pullers = self.siblings.max(rail.peer.rails_up(kind).load(Ordering::Relaxed));
        // urgent work goes between the steps of a large piece, but not between those of urgent work
        let at_urgent = rail.rest.last().is_some_and(|p| p.class() == Class::Urgent);
        let bulk = rail.rest.is_empty();
        let size = |offer: &Offer| {
            let fits = bulk || offer.class == Class::Urgent;
            fits.then(|| piece::next_len(offer.rest, pullers, self.copy_piece))
        };
        let fresh = if at_urgent { None } else { rail.peer.work.claim(kind, size) };
        let rail = self.rails[number as usize].as_mut()?;
        let (step, rest) = fresh.or_else(|| rail.rest.pop())?.split(COPY_STEP);
        let alone = step.len > COPY_RUN_PIECE || !rail.rest.is_empty() || rest.is_some();
        rail.rest.extend(rest);
        self.claimed.push(step);
        if !alone {
            rail.peer.work.claim_small(kind, COPY_RUN_PIECE, &mut self.claimed, is_run_short);
        }
        let len = total(&self.claimed);
        if !self.post(number, now) {
            return None;
        }
        self.settle_copies(number, now);
        Some(len)
    }

    /// Gives net rails to `peer` their next pieces, as long as any takes one (D3, I4, I5).
    pub(super) fn spray(&mut self, peer: &Arc<Peer>, now: Instant) -> bool {
        let mut moved = false;
        for index in 0..self.transports.len() {
            let kind = self.transports[index].kind();
            if matches!(self.spread, Spread::Push(..)) {
                moved |= self.post_assigned(peer, now);
            }
            if peer.work.waits_for(kind) {
                moved |= self.spray_kind(peer, kind, now);
            }
        }
        moved
    }

    fn spray_kind(&mut self, peer: &Arc<Peer>, kind: TransportKind, now: Instant) -> bool {
        let figures = peer.figures();
        for op in [Op::Read, Op::Write] {
            let views = &mut self.views[op as usize];
            views.clear();
            views.extend(figures.iter().map(|f| {
                let view = f.view(op, self.lane, now);
                spray::RailView { open: view.open && f.kind == kind, ..view }
            }));
        }
        let mut moved = false;
        for _ in 0..MAX_CLAIMS {
            let mut chosen = None;
            let (views, limits, spread) = (&self.views, self.limits, &mut self.spread);
            let piece = peer.work.claim(kind, |offer| {
                let pick = choose(offer, &views[offer.op as usize], limits, spread)?;
                chosen = Some(pick.rail);
                Some(pick.len)
            });
            let (Some(piece), Some(rail)) = (piece, chosen) else { break };
            moved |= self.give(&figures[rail], rail, piece, now);
        }
        moved
    }

    /// Posts a piece to the rail that was chosen for it, or keeps it there for later.
    fn give(
        &mut self,
        figures: &RailFigures,
        view: usize,
        piece: crate::engine::piece::Piece,
        now: Instant,
    ) -> bool {
        let (op, len) = (piece.task.task().spec.op, piece.len);
        let number = figures.number.load(Ordering::Relaxed);
        let Some(rail) = self.rails.get_mut(number as usize).and_then(Option::as_mut) else {
            let peer = Arc::clone(&piece.task.task().spec.peer);
            peer.work.give_back(piece);
            self.shut(view);
            return false;
        };
        if matches!(self.spread, Spread::Push(..)) {
            rail.assigned.push_back(piece);
            self.views[op as usize][view].in_flight += len;
            return self.post_from(number, now);
        }
        let full = rail.slices + 1 >= MAX_SLICES;
        self.claimed.push(piece);
        let posted = self.post(number, now);
        if full || !posted {
            self.shut(view);
        }
        let seen = &mut self.views[op as usize][view];
        (seen.in_flight, seen.stale) = (seen.in_flight + len, false);
        posted
    }

    /// The rail takes no more in this turn.
    fn shut(&mut self, view: usize) {
        for views in &mut self.views {
            views[view].open = false;
        }
    }

    fn post_assigned(&mut self, peer: &Arc<Peer>, now: Instant) -> bool {
        let rails = self.peer(peer.id).map(|p| Arc::clone(&p.rails)).unwrap_or_default();
        let mut moved = false;
        for rail in rails.iter() {
            moved |= self.post_from(*rail, now);
        }
        moved
    }

    /// Posts what a policy has given to a rail, as far as it takes it.
    fn post_from(&mut self, number: u32, now: Instant) -> bool {
        let mut moved = false;
        while let Some(rail) = self.rails[number as usize].as_mut()
            && rail.health.state().is_open()
            && rail.slices < MAX_PUSHED
            && let Some(piece) = rail.assigned.pop_front()
        {
            self.claimed.push(piece);
            if !self.post(number, now) {
                break;
            }
            moved = true;
        }
        moved
    }
}

/// Which rail takes how much of what is offered.
fn choose(
    offer: &Offer,
    views: &[spray::RailView],
    limits: spray::Limits,
    spread: &mut Spread,
) -> Option<spray::Pick> {
    if offer.class == Class::Urgent {
        let len = if offer.whole { offer.rest } else { offer.rest.min(limits.longest) };
        let rail = spray::pick_urgent(views, len, URGENT_EXTRA, &limits)?;
        return Some(spray::Pick { rail, len });
    }
    match spread {
        Spread::Push(push, plan) if !offer.whole => {
            if plan.iter().map(|(_, len)| len).sum::<u64>() != offer.rest {
                plan.clear();
                let loads: Vec<Load> = views.iter().map(Load::of).collect();
                push.split(offer.rest, offer.op == Op::Write, &loads, limits.longest, plan);
            }
            let (rail, len) = plan.pop_front()?;
            Some(spray::Pick { rail, len })
        }
        // what came back was cut for another rail, and stays as it is
        _ if offer.whole => spray::pick_whole(views, offer.rest, offer.queued, &limits),
        _ => spray::pick(views, offer.rest, offer.queued, &limits),
    }
}

/// Pieces that one turn claims for a peer.
const MAX_CLAIMS: u32 = 256;
/// Bytes of urgent pieces allowed beyond a full bulk window.
const URGENT_EXTRA: u64 = 1 << 20;
/// Slices posted to one rail at a time.
const MAX_SLICES: u32 = 1024;
/// The same for policies that push, which know no window: the work requests of a queue pair there.
const MAX_PUSHED: u32 = 256;
