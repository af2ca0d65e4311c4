//! What is posted to a transport, and what becomes of it: attempts begin, land, fail and are counted.

use super::{Attempt, Driver, WATCH_FIRST, claim};
use crate::engine::piece::Piece;
use crate::engine::piece_log::Entry;
use crate::engine::progress::Stop;
use crate::sched::health::Cue;
use crate::sched::meter::Sample;
use crate::slice::{Class, Op, SliceFault, SliceOp, TransportEvent};
use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Driver {
    /// Posts what was claimed; what the rail does not take goes back. `false`: it took nothing.
    pub(super) fn post(&mut self, number: u32, now: Instant) -> bool {
        // a task may have been stopped, or another attempt have landed, while its piece waited
        if self.claimed.iter().any(|p| p.is_stopped() || p.is_spare()) {
            let idle = |p: &mut Piece| p.is_stopped() || p.is_spare();
            self.claimed.extract_if(.., idle).for_each(Piece::lost);
        }
        let mut ops = std::mem::take(&mut self.ops);
        ops.clear();
        for (at, piece) in self.claimed.iter().enumerate() {
            piece.task.task().marks.begins();
            ops.push(slice_op(piece, self.token(at)));
        }
        let Some(rail) = self.rails[number as usize].as_mut() else {
            self.claimed.drain(..).for_each(Piece::lost);
            return false;
        };
        let none = ops.is_empty();
        let taken = if none { 0 } else { self.transports[rail.transport].post(number, &ops) };
        self.ops = ops;
        for piece in self.claimed.drain(taken..).rev() {
            rail.peer.work.give_back(piece);
        }
        if rail.slices == 0 {
            rail.busy_since = now;
            rail.health.restart_silence(now);
            self.watch_at = self.watch_at.min(now.after(WATCH_FIRST));
        }
        for piece in self.claimed.drain(..) {
            piece.task.task().marks.posted();
            let op = piece.task.task().spec.op;
            let flow = &mut rail.flows[op as usize];
            let ahead = flow.in_flight;
            let expected = flow.meter.predict(ahead, piece.len);
            let attempt = Attempt { rail: number, op, posted: now, ahead, expected, piece };
            flow.in_flight += attempt.piece.len;
            let figures = &rail.figures.flows[op as usize];
            figures.in_flight.store(flow.in_flight, Ordering::Relaxed);
            figures.used.store(now.0, Ordering::Relaxed);
            if attempt.piece.class() == Class::Urgent {
                figures.urgent.store(now.0, Ordering::Relaxed);
            }
            rail.slices += 1;
            match self.free_attempts.pop() {
                Some(index) => self.attempts[index] = Some(attempt),
                None => self.attempts.push(Some(attempt)),
            }
        }
        none || taken > 0
    }

    /// The token of the attempt that will be stored after `at` others.
    fn token(&self, at: usize) -> u64 {
        let free = &self.free_attempts;
        let fresh = || self.attempts.len() + at - free.len();
        free.len().checked_sub(at + 1).map_or_else(fresh, |i| free[i]) as u64
    }

    pub(super) fn settle_copies(&mut self, number: u32, now: Instant) {
        let Some(rail) = self.rails[number as usize].as_ref() else { return };
        let transport = rail.transport;
        let mut events = std::mem::take(&mut self.events);
        self.transports[transport].poll(&mut events);
        for event in events.drain(..) {
            self.on_event(event, now);
        }
        self.events = events;
    }

    pub(super) fn on_event(&mut self, event: TransportEvent, now: Instant) {
        match event {
            TransportEvent::Done { token, fault } => self.on_done(token, fault, now),
            TransportEvent::RailUp { rail } => self.on_up(rail, now),
            TransportEvent::RailBroken { rail, cause } => self.on_broken(rail, cause, now),
            TransportEvent::RailDown { rail, cause } => self.on_down(rail, cause, now),
        }
    }

    fn on_done(&mut self, token: u64, fault: Option<SliceFault>, now: Instant) {
        let index = usize::try_from(token).unwrap_or(usize::MAX);
        // exactly once per slice is the transports' contract; a second would be wrong data
        let attempt = self.attempts.get_mut(index).and_then(Option::take);
        assert!(attempt.is_some(), "a slice completed twice");
        let Some(attempt) = attempt else { return };
        self.free_attempts.push(index);
        self.account(&attempt, fault.is_none(), now);
        let Attempt { piece, rail, .. } = attempt;
        match fault {
            None => {
                if !piece.is_alone() {
                    self.cancel_twins(&piece);
                }
                let rail = self.rails.get(rail as usize).and_then(Option::as_ref);
                piece.landed(rail.map(|r| &r.figures));
            }
            Some(SliceFault::RailLost) => self.retry(rail, piece),
            Some(fault) => {
                let name = self.rail_name(rail);
                let peer = &piece.task.task().spec.peer;
                if fault == SliceFault::Refused {
                    peer.mark_stale();
                }
                let why = fault_text(fault);
                let at = piece.task.task().spec.remote + piece.offset;
                piece.task.stop(Stop::Fail, || {
                    format!("{} bytes at {at:#x} of {} over {name}: {why}", piece.len, peer.name)
                });
                piece.lost();
            }
        }
    }

    fn account(&mut self, attempt: &Attempt, landed: bool, now: Instant) {
        let limits = self.limits;
        let Some(Some(r)) = self.rails.get_mut(attempt.rail as usize) else { return };
        let len = attempt.piece.len;
        let flow = &mut r.flows[attempt.op as usize];
        let figures = &r.figures.flows[attempt.op as usize];
        flow.in_flight -= len;
        figures.in_flight.store(flow.in_flight, Ordering::Relaxed);
        r.slices -= 1;
        if r.slices == 0 {
            let busy = u64::try_from(now.since(r.busy_since).as_nanos()).unwrap_or(0);
            r.figures.busy_ns.fetch_add(busy, Ordering::Relaxed);
        }
        if !landed {
            return;
        }
        let bytes = match attempt.op {
            Op::Read => &r.figures.read_bytes,
            Op::Write => &r.figures.write_bytes,
        };
        bytes.fetch_add(len, Ordering::Relaxed);
        if self.copies {
            return;
        }
        let Attempt { posted, ahead, op, .. } = *attempt;
        if let Some(log) = &self.pieces {
            let (peer, rail) = (&*r.peer.name, &*r.figures.name);
            log.add(&Entry { peer, rail, op, len, ahead, posted, done: now });
        }
        if let claim::Spread::Push(push, _) = &mut self.spread {
            let figures = r.peer.figures();
            let at = figures.iter().position(|f| Arc::ptr_eq(f, &r.figures)).unwrap_or(0);
            push.observed(at, len, ahead, now.since(posted).as_secs_f64());
        }
        let flow = &mut r.flows[op as usize];
        let figures = &r.figures.flows[op as usize];
        flow.meter.done(Sample { len, posted, ahead, now, more: flow.in_flight > 0 });
        figures.publish(&flow.meter);
        figures.used.store(now.0, Ordering::Relaxed);
        flow.clean += len;
        let proven = flow.clean >= flow.cap;
        if proven {
            (flow.cap, flow.clean) = (flow.cap.saturating_mul(2).min(2 * limits.window), 0);
            figures.cap.store(flow.cap, Ordering::Relaxed);
        }
        r.health.heard(now);
        r.figures.heard.store(now.0, Ordering::Relaxed);
        self.cue(attempt.rail, Cue::Heard, now, "acknowledged after all");
        if proven {
            self.cue(attempt.rail, Cue::Proven, now, "");
        }
    }

    /// The attempt is fenced (I3): the piece may go again, by whichever rail has room first.
    fn retry(&mut self, rail: u32, piece: Piece) {
        // a twin that was given to others has been counted then
        let Some(piece) = piece.again() else { return };
        if let Some(Some(r)) = self.rails.get(rail as usize) {
            r.figures.retried.fetch_add(1, Ordering::Relaxed);
            r.figures.retried_bytes.fetch_add(piece.len, Ordering::Relaxed);
        }
        piece.task.task().marks.retried();
        if piece.is_poison() {
            let name = self.rail_name(rail);
            piece.task.stop(Stop::Fail, || format!("every rail broke on it, {name} last"));
        }
        if piece.is_stopped() {
            return piece.lost();
        }
        let peer = Arc::clone(&piece.task.task().spec.peer);
        let kind = piece.task.kind();
        peer.work.give_back(piece);
        if let Some(maker) = self.maker.upgrade() {
            maker.tell(&peer, kind);
        }
    }
}

fn slice_op(piece: &Piece, token: u64) -> SliceOp {
    let spec = &piece.task.task().spec;
    let access = spec.route.get().and_then(|r| r.access);
    SliceOp {
        token,
        op: spec.op,
        class: spec.class,
        // both ends were checked at submit: these sums cannot wrap
        local: spec.local + usize::try_from(piece.offset).unwrap_or(0),
        remote: spec.remote + piece.offset,
        len: piece.len,
        key: access.map_or(0, |a| a.key),
        slot: access.map_or(0, |a| a.slot),
        shm: access.and_then(|a| a.shm),
    }
}

fn fault_text(fault: SliceFault) -> &'static str {
    match fault {
        SliceFault::Refused => {
            "refused by the peer: not registered there (any more), or not permitted"
        }
        SliceFault::LocalMemory => "the local memory is not mapped any more",
        SliceFault::RailLost => "the rail broke",
        SliceFault::RailLostUnfenced => {
            "the rail broke and the peer cannot say what has landed; nothing was sent again"
        }
    }
}
