//! What a lane looks after while nothing happens: rails that fall silent, fences that are not answered,
//! rails to ask again, pieces that are overdue (D4, D5). Times come from `sched::health`.

use super::{Driver, LaneRail, WATCH_EVERY};
use crate::engine::piece::Piece;
use crate::sched::health::{Cue, State};
use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Driver {
    /// Does what is due; `true` if anything was.
    pub(super) fn watch(&mut self, now: Instant) -> bool {
        if self.wake_by != Instant::NEVER && now.since(self.wake_by) > OVERSLEPT {
            // this process did not run: what it did not hear meanwhile is no silence
            for rail in self.rails.iter_mut().flatten().filter(|r| r.slices > 0) {
                rail.health.restart_silence(now);
            }
        }
        let mut done = false;
        for at in 0..self.active.len() {
            let Some(entry) = self.active.get(at).and_then(|id| self.peer(*id)) else { continue };
            let (rails, id) = (Arc::clone(&entry.rails), entry.peer.id);
            self.renew_rails(id, now);
            for rail in rails.iter() {
                done |= self.watch_rail(*rail, now);
            }
        }
        done |= self.hedge(now);
        self.watched = now;
        self.watch_at = self.next_watch().max(now.after(WATCH_EVERY));
        self.wake_by = self.watch_at;
        done
    }

    fn watch_rail(&mut self, number: u32, now: Instant) -> bool {
        let Some(rail) = self.rails[number as usize].as_ref() else { return false };
        if let Some((since, last)) = rail.fencing {
            return self.fence_again(number, since, last, now);
        }
        let state = rail.health.state();
        // a suspect rail is watched on though others may have taken all that it held
        let busy = state == State::Suspect || (state.is_open() && rail.slices > 0);
        if !busy {
            return false;
        }
        if !Self::can_fence(&rail.target) {
            return self.watch_upstream(number, now);
        }
        if now < rail.health.last_heard().max(rail.sampled).after(SAMPLE_EVERY) {
            return false;
        }
        if self.has_moved(number, now) {
            return true;
        }
        let Some(rail) = self.rails[number as usize].as_ref() else { return false };
        if !rail.health.is_silent(self.heard(rail), now) {
            return false;
        }
        self.cue(number, Cue::Silent, now, "nothing acknowledged");
        if self.state(number) == Some(State::Down) {
            // still silent: fence it
            self.abort_rail(number as usize, now);
        } else {
            self.share_out(number);
        }
        true
    }

    /// A node that cannot fence is given much time (upstream's progress timeout), for what it was sent may still
    /// land; then its rail is given up, so that READs go on over new connections and WRITEs are told lost.
    fn watch_upstream(&mut self, number: u32, now: Instant) -> bool {
        let Some(rail) = self.rails[number as usize].as_ref() else { return false };
        if now < rail.health.last_heard().after(self.upstream_timeout) {
            return false;
        }
        if !self.has_moved(number, now) {
            self.cue(number, Cue::Broken, now, "no byte for the progress timeout");
            self.abort_rail(number as usize, now);
        }
        true
    }

    /// Asks the transport whether bytes went through since it was asked last: a long piece, or a slow rail,
    /// is no silence.
    fn has_moved(&mut self, number: u32, now: Instant) -> bool {
        let Some(rail) = self.rails[number as usize].as_mut() else { return false };
        rail.sampled = now;
        let Some(through) = self.transports[rail.transport].bytes_through(number) else {
            return false;
        };
        if std::mem::replace(&mut rail.through, through) == through {
            return false;
        }
        rail.health.restart_silence(now);
        self.cue(number, Cue::Heard, now, "bytes move after all");
        true
    }

    fn fence_again(&mut self, number: u32, since: Instant, last: Instant, now: Instant) -> bool {
        if now.since(since) >= FENCE_TIME {
            let Some(rail) = self.rails[number as usize].as_ref() else { return false };
            log::warn!("rail {}: given up without a fence", rail.figures.name);
            let transport = rail.transport;
            self.transports[transport].forsake(number);
            self.take_events(transport, now);
            return true;
        }
        if now.since(last) < FENCE_EVERY {
            return false;
        }
        self.abort_rail(number as usize, now);
        true
    }

    /// When another rail to the same peer was heard last.
    fn heard(&self, rail: &LaneRail) -> Instant {
        let figures = rail.peer.figures();
        let others = figures.iter().filter(|f| !Arc::ptr_eq(f, &rail.figures));
        Instant(others.map(|f| f.heard.load(Ordering::Relaxed)).max().unwrap_or(0))
    }

    /// Gives what a silent or broken rail holds to the others too; its own attempts go on until they are
    /// fenced (D5).
    pub(super) fn share_out(&mut self, number: u32) {
        let mut twins = Vec::new();
        for attempt in self.attempts.iter_mut().flatten() {
            let piece = &attempt.piece;
            if attempt.rail == number && piece.is_alone() && !piece.is_stopped() {
                attempt.piece.task.task().marks.retried();
                twins.push(attempt.piece.fork());
            }
        }
        let Some(rail) = self.rails[number as usize].as_mut() else { return };
        let peer = Arc::clone(&rail.peer);
        let count = twins.len() as u64;
        let bytes: u64 = twins.iter().map(|p| p.len).sum();
        rail.figures.retried.fetch_add(count, Ordering::Relaxed);
        rail.figures.retried_bytes.fetch_add(bytes, Ordering::Relaxed);
        let kind = self.transports[rail.transport].kind();
        let assigned = std::mem::take(&mut rail.assigned);
        let any = !twins.is_empty() || !assigned.is_empty();
        for piece in twins.into_iter().chain(assigned) {
            peer.work.give_back(piece);
        }
        if any && let Some(maker) = self.maker.upgrade() {
            maker.tell(&peer, kind);
        }
    }

    /// When no more work waits for a peer, its overdue pieces are sent over idle rails too (D3).
    fn hedge(&mut self, now: Instant) -> bool {
        let late = |a: &super::Attempt| self.is_hedgeable(a) && now >= self.due_at(a);
        let attempts = self.attempts.iter().enumerate();
        let mut overdue: Vec<(Instant, usize)> = attempts
            .filter_map(|(index, a)| a.as_ref().filter(|a| late(a)).map(|a| (a.posted, index)))
            .collect();
        overdue.sort_unstable();
        let mut done = false;
        for (_, index) in overdue {
            let Some(to) = self.idle_beside(index) else { continue };
            let Some(attempt) = self.attempts[index].as_mut() else { continue };
            let (from, twin) = (attempt.rail, attempt.piece.fork());
            twin.task.task().marks.hedged();
            self.note(from, "hedged", now, "overdue");
            if let Some(Some(rail)) = self.rails.get(from as usize) {
                rail.figures.hedged.fetch_add(1, Ordering::Relaxed);
            }
            self.claimed.push(twin);
            done |= self.post(to, now);
        }
        done
    }

    /// Whether another attempt could help: nothing else waits, there are other rails, and all depends on
    /// this one.
    fn is_hedgeable(&self, attempt: &super::Attempt) -> bool {
        let Some(Some(rail)) = self.rails.get(attempt.rail as usize) else { return false };
        let kind = self.transports[rail.transport].kind();
        self.hedge
            && self.peer(rail.peer.id).is_some_and(|p| p.rails.len() > 1)
            && !rail.peer.work.waits_for(kind)
            && attempt.piece.is_alone()
            && !attempt.piece.is_stopped()
    }

    /// The fastest idle rail beside that of an attempt.
    fn idle_beside(&self, index: usize) -> Option<u32> {
        let attempt = self.attempts[index].as_ref()?;
        let peer = &self.rails[attempt.rail as usize].as_ref()?.peer;
        let flow = |n: u32| Some(&self.rails[n as usize].as_ref()?.flows[attempt.op as usize]);
        let rate = |n: u32| flow(n).map_or(0.0, |f| f.meter.rate());
        let rails = self.peer(peer.id)?.rails.iter().copied();
        let idle = rails.filter(|n| {
            let open = self.state(*n).is_some_and(State::is_open);
            *n != attempt.rail && open && flow(*n).is_some_and(|f| f.in_flight == 0)
        });
        idle.max_by(|a, b| rate(*a).total_cmp(&rate(*b)))
    }

    /// When an attempt is overdue: a fifth beyond its prediction, and what a busy machine may add. What was
    /// predicted when it was posted counts as much as what is now: a rail that turned out to be slow since
    /// then explains the delay, and is no reason to wait for it.
    fn due_at(&self, attempt: &super::Attempt) -> Instant {
        let Some(Some(rail)) = self.rails.get(attempt.rail as usize) else { return Instant::NEVER };
        let meter = &rail.flows[attempt.op as usize].meter;
        let by_now = meter.predict(attempt.ahead, attempt.piece.len);
        attempt.posted.after(nanos(1.2 * by_now.min(attempt.expected)) + HEDGE_SLACK)
    }

    /// Asks that the other attempts at what has just landed end: the task waits for them (I3).
    pub(super) fn cancel_twins(&mut self, landed: &Piece) {
        let spare = |a: &super::Attempt| {
            let p = &a.piece;
            p.offset == landed.offset && p.task.is_same(&landed.task)
        };
        let twins: Vec<(usize, u32)> = self
            .attempts
            .iter()
            .enumerate()
            .filter_map(|(i, a)| a.as_ref().filter(|a| spare(a)).map(|a| (i, a.rail)))
            .collect();
        for (token, rail) in twins {
            if let Some(Some(r)) = self.rails.get(rail as usize) {
                let transport = r.transport;
                self.transports[transport].cancel(rail, token as u64);
            }
        }
    }

    /// When [`Driver::watch`] has to look next.
    pub(super) fn next_watch(&self) -> Instant {
        let mut next = Instant::NEVER;
        for entry in self.active.iter().filter_map(|id| self.peer(*id)) {
            let rails = entry.rails.iter().filter_map(|r| self.rails[*r as usize].as_ref());
            for rail in rails {
                next = next.min(self.due(rail));
            }
        }
        let tail = self.attempts.iter().flatten().filter(|a| self.is_hedgeable(a));
        tail.map(|a| self.due_at(a)).min().map_or(next, |hedge| next.min(hedge))
    }

    /// When a rail needs a look though nothing happens.
    pub(super) fn due(&self, rail: &LaneRail) -> Instant {
        if let Some((since, last)) = rail.fencing {
            return last.after(FENCE_EVERY).min(since.after(FENCE_TIME));
        }
        if let Some(since) = rail.asking {
            return since.after(self.answer_time(rail));
        }
        match rail.health.state() {
            State::Down => rail.health.retry_at(),
            State::SlowStart | State::Up if !self.copies && !Self::can_fence(&rail.target) => {
                let last = rail.health.last_heard();
                if rail.slices > 0 { last.after(self.upstream_timeout) } else { Instant::NEVER }
            }
            State::SlowStart | State::Up | State::Suspect if !self.copies => {
                let busy = rail.slices > 0 || rail.health.state() == State::Suspect;
                let sample = rail.health.last_heard().max(rail.sampled).after(SAMPLE_EVERY);
                let silent = rail.health.silent_at(self.heard(rail));
                if busy { sample.min(silent) } else { Instant::NEVER }
            }
            _ => Instant::NEVER,
        }
    }

    /// How long an answer to a connect is waited for.
    pub(super) fn answer_time(&self, rail: &LaneRail) -> Duration {
        let rtt = nanos(rail.flows[0].meter.rtt().min(rail.flows[1].meter.rtt()));
        rail.health.answer_within(rtt, self.connect_timeout)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as wanted")]
fn nanos(ns: f64) -> Duration {
    Duration::from_nanos(ns as u64)
}

/// A turn that comes so much later than it was asked for: the process did not run.
const OVERSLEPT: Duration = Duration::from_millis(3);
/// How often a rail that is silent is looked at for bytes that move.
const SAMPLE_EVERY: Duration = Duration::from_millis(3);
/// How often a fence is asked for until it is answered.
const FENCE_EVERY: Duration = Duration::from_millis(20);
/// How long a fence is asked for before the rail is given up without: longer than the time after which
/// the peer drops a silent connection by itself (D5).
pub(super) const FENCE_TIME: Duration = Duration::from_millis(2200);
/// What a busy machine may add to any prediction.
const HEDGE_SLACK: Duration = Duration::from_millis(2);
