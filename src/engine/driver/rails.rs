//! The life of a lane's rails: made when a peer is new, asked, lost, asked again, counted out. The moves
//! are those of `sched::health`.

use super::watch::FENCE_TIME;
use super::{Attempt, Driver, Flow, LaneRail, RailSpec};
use crate::engine::peer::{Peer, RailFigures};
use crate::engine::progress::Stop;
use crate::event::RailEvent;
use crate::sched::health::{Cue, Health, State};
use crate::slice::{DownCause, TransportKind};
use crate::sync::lock;
use crate::time::Instant;
use crate::transport::RailTarget;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Driver {
    pub(super) fn state(&self, number: u32) -> Option<State> {
        Some(self.rails.get(number as usize)?.as_ref()?.health.state())
    }

    /// Moves a rail by the table and tells of it.
    pub(super) fn cue(&mut self, number: u32, cue: Cue, now: Instant, why: &str) {
        let Some(Some(rail)) = self.rails.get_mut(number as usize) else { return };
        let (before, asked) = (rail.health.state(), rail.health.asked());
        let Some(state) = rail.health.on(cue, now) else { return };
        rail.figures.set_state(state);
        let kind = self.transports[rail.transport].kind();
        match (before.is_open(), state.is_open()) {
            (false, true) => {
                rail.peer.rails_up(kind).fetch_add(1, Ordering::AcqRel);
                rail.peer.found(kind);
            }
            (true, false) => {
                rail.peer.rails_up(kind).fetch_sub(1, Ordering::AcqRel);
            }
            _ => {}
        }
        if state == State::SlowStart {
            let first = if rail.figures.downs.load(Ordering::Relaxed) > 0 {
                CAP_AGAIN
            } else {
                super::CAP_FIRST
            };
            for (flow, figures) in rail.flows.iter_mut().zip(&rail.figures.flows) {
                (flow.cap, flow.clean) = (first, 0);
                flow.meter.interrupted();
                figures.cap.store(flow.cap, Ordering::Relaxed);
            }
        }
        if state == State::Up {
            // what it has proven is no limit any more
            for (flow, figures) in rail.flows.iter_mut().zip(&rail.figures.flows) {
                flow.cap = u64::MAX;
                figures.cap.store(flow.cap, Ordering::Relaxed);
            }
        }
        if state == State::Down && before != State::Probing {
            rail.figures.downs.fetch_add(1, Ordering::Relaxed);
        }
        // questions that fail again and again are no news
        let again = match state {
            State::Probing => asked > 0,
            State::Down => before == State::Probing,
            _ => false,
        };
        if !again {
            self.note(number, state.name(), now, why);
        }
    }

    /// Tells of something that happened to a rail.
    pub(super) fn note(&self, number: u32, what: &'static str, now: Instant, why: &str) {
        let Some(Some(rail)) = self.rails.get(number as usize) else { return };
        if self.copies {
            return;
        }
        *lock(&rail.figures.last_event) = (what, now);
        log::debug!("rail {} to {}: {what} {why}", rail.figures.name, rail.peer.name);
        if let Some(maker) = self.maker.upgrade() {
            maker.event(RailEvent {
                seq: 0,
                at: now,
                peer: rail.peer.name.clone(),
                rail: rail.figures.name.clone(),
                what,
                why: why.to_owned(),
            });
        }
    }

    /// Ends what timed-out tasks still have under way: slice by slice where the transport can, else with
    /// its rail; what else that carried is tried again.
    pub(super) fn abort_overdue(&mut self, now: Instant) {
        let overdue = |a: &Attempt| a.piece.task.task().progress.stopped() == Some(Stop::TimeOut);
        let mut rails: Vec<u32> =
            self.attempts.iter().flatten().filter(|a| overdue(a)).map(|a| a.rail).collect();
        rails.sort_unstable();
        rails.dedup();
        for rail in rails {
            let Some(Some(r)) = self.rails.get_mut(rail as usize) else { continue };
            if r.fencing.is_some() {
                continue; // `watch` asks for the fence until it stands
            }
            log::warn!("rail {}: no answer before the deadline", r.figures.name);
            self.cue(rail, Cue::Broken, now, "no answer before the deadline");
            self.share_out(rail);
            self.abort_rail(rail as usize, now);
        }
    }

    /// Gives a rail up, behind a fence if it needs one.
    pub(super) fn abort_rail(&mut self, rail: usize, now: Instant) {
        let Some(Some(r)) = self.rails.get_mut(rail) else { return };
        let transport = r.transport;
        r.asking = None;
        r.fencing = Some((r.fencing.map_or(now, |f| f.0), now));
        self.transports[transport].abort(u32::try_from(rail).unwrap_or(u32::MAX));
        self.take_events(transport, now);
        if let Some(Some(r)) =
            self.rails.get_mut(rail).filter(|r| r.as_ref().is_some_and(|r| r.slices == 0))
        {
            // nothing to fence, so it is down by now; or it was before, and nothing more will be told
            r.fencing = None;
        }
    }

    pub(super) fn take_events(&mut self, transport: usize, now: Instant) {
        let mut events = Vec::new();
        self.transports[transport].poll(&mut events);
        for event in events {
            self.on_event(event, now);
        }
    }

    /// Makes rails for a peer that is new to this lane or turned out to be another process, asks those
    /// that are due, and gives up questions that take too long.
    pub(super) fn renew_rails(&mut self, id: u32, now: Instant) {
        let Some(entry) = self.peer_mut(id) else { return };
        let life = entry.peer.life.load(Ordering::Acquire);
        if entry.life != life {
            entry.life = life;
            let (peer, old) = (Arc::clone(&entry.peer), std::mem::take(&mut entry.rails));
            self.replace_rails(&peer, &old, now);
        }
        let grown = self.peer(id).map(|p| p.peer.grown.load(Ordering::Acquire));
        if self.peer(id).map(|p| p.grown) != grown {
            self.add_missing(id, now);
        }
        let rails = self.peer(id).map(|p| Arc::clone(&p.rails)).unwrap_or_default();
        for number in rails.iter().copied() {
            let Some(rail) = self.rails[number as usize].as_ref() else { continue };
            self.obey_hand(number, rail.figures.drained.load(Ordering::Relaxed), now);
            let Some(rail) = self.rails[number as usize].as_ref() else { continue };
            match (rail.health.state(), rail.asking) {
                (State::Probing, None) => self.ask(number, now),
                (State::Probing, Some(since)) if now >= since.after(self.answer_time(rail)) => {
                    self.abort_rail(number as usize, now);
                }
                (State::Down, _) if rail.fencing.is_none() && now >= rail.health.retry_at() => {
                    self.cue(number, Cue::Retry, now, "");
                    self.ask(number, now);
                }
                _ => {}
            }
        }
    }

    fn ask(&mut self, number: u32, now: Instant) {
        let Some(rail) = self.rails[number as usize].as_mut() else { return };
        rail.asking = Some(now);
        let (transport, target) = (rail.transport, rail.target.clone());
        self.transports[transport].connect(number, &target);
        self.watch_at = self.watch_at.min(now.after(ASK_LOOK));
    }

    /// Does what was asked by hand: nothing new for a drained rail, which ends what it holds.
    fn obey_hand(&mut self, number: u32, drained: bool, now: Instant) {
        let is_drained = self.state(number) == Some(State::Drained);
        if drained && !is_drained {
            self.cue(number, Cue::Drain, now, "by hand");
        } else if !drained && is_drained {
            self.note(number, "undrained", now, "by hand");
            self.cue(number, Cue::Undrain, now, "by hand");
            // its connection may have stayed up all the time, or be on its way; made anew it is certain
            self.abort_rail(number as usize, now);
        }
    }

    fn replace_rails(&mut self, peer: &Arc<Peer>, old: &[u32], now: Instant) {
        for rail in old {
            self.cue(*rail, Cue::Broken, now, "the peer is another process now");
            let Some(Some(r)) = self.rails.get(*rail as usize) else { continue };
            let transport = r.transport;
            // no fence: the process that could write is gone
            self.transports[transport].forsake(*rail);
            self.take_events(transport, now);
            if let Some(r) = self.rails[*rail as usize].take() {
                r.figures.number.store(u32::MAX, Ordering::Relaxed);
                r.figures.set_state(State::Down);
            }
            self.free_rails.push(*rail);
        }
        let maker = self.maker.upgrade();
        let specs = maker.map_or_else(Vec::new, |m| m.rails(self.lane, peer, &peer.link()));
        let grown = peer.grown.load(Ordering::Acquire);
        let rails = specs.into_iter().filter_map(|spec| self.add_rail(peer, spec, now)).collect();
        if let Some(entry) = self.peer_mut(peer.id) {
            entry.grown = grown;
            entry.rails = rails;
        }
    }

    /// Makes the rails that have become possible since the others were made.
    fn add_missing(&mut self, id: u32, now: Instant) {
        let Some(entry) = self.peer_mut(id) else { return };
        entry.grown = entry.peer.grown.load(Ordering::Acquire);
        let (peer, mut rails) = (Arc::clone(&entry.peer), entry.rails.to_vec());
        let Some(maker) = self.maker.upgrade() else { return };
        let names: Vec<String> = rails.iter().map(|rail| self.rail_name(*rail)).collect();
        for spec in maker.rails(self.lane, &peer, &peer.link()) {
            if !names.contains(&spec.name) {
                log::info!("segment {}: one more rail, {}", peer.name, spec.name);
                rails.extend(self.add_rail(&peer, spec, now));
            }
        }
        if let Some(entry) = self.peer_mut(id) {
            entry.rails = rails.into();
        }
    }

    /// This host may have got an address: with it there may be more ways to every peer, which may know its
    /// own end of them only now too.
    pub(in crate::engine) fn on_ways(&mut self) {
        if !self.maker.upgrade().is_some_and(|maker| maker.ways_changed()) {
            return;
        }
        for entry in self.peers.iter().flatten() {
            entry.peer.mark_stale();
            entry.peer.grown.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn add_rail(&mut self, peer: &Arc<Peer>, spec: RailSpec, now: Instant) -> Option<u32> {
        let transport = self.transports.iter().position(|t| t.kind() == spec.kind)?;
        let number = self.free_rails.pop().unwrap_or_else(|| {
            self.rails.push(None);
            u32::try_from(self.rails.len() - 1).unwrap_or(u32::MAX)
        });
        let figures = RailFigures::new(spec.name, spec.kind, self.lane, spec.tier);
        let figures = peer.add_figures(figures);
        figures.number.store(number, Ordering::Relaxed);
        figures.set_state(State::Probing);
        self.rails[number as usize] = Some(LaneRail {
            transport,
            peer: Arc::clone(peer),
            target: spec.target,
            interface: spec.interface,
            health: Health::new(now),
            asking: None,
            fencing: None,
            flows: [Flow::new(), Flow::new()],
            slices: 0,
            rest: Vec::new(),
            assigned: VecDeque::new(),
            through: 0,
            sampled: now,
            refused: 0,
            figures,
            busy_since: Instant::NEVER,
            lost_since: now,
        });
        Some(number)
    }

    /// A link has gone or come back: its rails are lost at once, or asked at once.
    pub(in crate::engine) fn on_link(&mut self, name: &str, running: bool, now: Instant) {
        for number in 0..self.rails.len() {
            let Some(rail) = self.rails[number].as_mut() else { continue };
            if rail.interface.as_deref() != Some(name) {
                continue;
            }
            let state = rail.health.state();
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            if running {
                rail.health.hasten(now);
                self.watch_at = now;
            } else if state.is_open() || state == State::Suspect {
                rail.lost_since = now;
                log::warn!("rail {}: link {name} is down", rail.figures.name);
                self.cue(number, Cue::Broken, now, "link down");
                self.share_out(number);
                self.abort_rail(number as usize, now);
            }
        }
    }

    pub(super) fn on_up(&mut self, rail: u32, now: Instant) {
        let Some(Some(r)) = self.rails.get_mut(rail as usize) else { return };
        (r.asking, r.refused) = (None, 0);
        self.cue(rail, Cue::Answered, now, "");
        if self.copies {
            // a copy has no window to grow
            self.cue(rail, Cue::Proven, now, "");
        }
    }

    /// An error that leaves no doubt: others take the work while the transport sees to the fence.
    pub(super) fn on_broken(&mut self, rail: u32, cause: DownCause, now: Instant) {
        self.lost(rail, cause, now);
        self.share_out(rail);
        if let Some(Some(r)) = self.rails.get_mut(rail as usize) {
            r.fencing.get_or_insert((now, now));
            self.watch_at = self.watch_at.min(now.after(ASK_LOOK));
        }
    }

    fn lost(&mut self, rail: u32, cause: DownCause, now: Instant) {
        let Some(Some(r)) = self.rails.get_mut(rail as usize) else { return };
        if r.health.state().is_open() {
            r.lost_since = now;
            if cause != DownCause::Aborted {
                log::warn!("rail {} to {}: {}", r.figures.name, r.peer.name, cause_text(cause));
            }
        }
        self.cue(rail, Cue::Broken, now, cause_text(cause));
    }

    pub(super) fn on_down(&mut self, rail: u32, cause: DownCause, now: Instant) {
        self.lost(rail, cause, now);
        let Some(Some(r)) = self.rails.get_mut(rail as usize) else { return };
        // a question that is given up has nothing to fence
        let was_fencing = r.fencing.take().is_some() && r.health.asked() == 0;
        r.asking = None;
        let rests = r.rest.drain(..).chain(r.assigned.drain(..));
        for rest in rests {
            r.peer.work.give_back(rest);
        }
        let gone = matches!(cause, DownCause::Refused | DownCause::WrongPeer);
        r.refused = if gone { r.refused + 1 } else { 0 };
        if cause == DownCause::WrongPeer {
            r.peer.mark_stale();
        }
        let peer = Arc::clone(&r.peer);
        let kind = self.transports[r.transport].kind();
        let text = format!("{} to {}: {}", r.figures.name, peer.name, cause_text(cause));
        if was_fencing {
            self.note(rail, "fenced", now, "");
        }
        let alone = peer.rails_up(kind).load(Ordering::Acquire) == 0;
        if alone && self.is_hopeless(&peer, kind, now) {
            peer.mark_stale();
            self.fail_over(&peer, kind, &text, now);
        }
    }

    /// Whether no rail of that kind on this lane can be hoped for: the peer said clearly that it is not
    /// there, or none was up for the time of a connect.
    fn is_hopeless(&self, peer: &Peer, kind: TransportKind, now: Instant) -> bool {
        let Some(entry) = self.peer(peer.id) else { return true };
        if entry.rails.is_empty() {
            // they are being replaced, and those to come are not tried yet
            return false;
        }
        let mut rails = entry.rails.iter().filter_map(|r| self.rails[*r as usize].as_ref());
        rails.all(|r| {
            let asked = r.health.asked();
            self.transports[r.transport].kind() != kind
                || r.refused >= 2
                || (self.copies && asked >= 2)
                || (asked >= 2 && now.since(r.lost_since) >= self.connect_timeout)
        })
    }

    /// No rail of `kind` is left: what waits goes on by another transport, and only what has none fails.
    fn fail_over(&mut self, peer: &Arc<Peer>, kind: TransportKind, text: &str, now: Instant) {
        peer.lose(kind, now.after(LOST_FOR));
        let kinds = peer.work.reroute(kind, |task| {
            let spec = &task.task().spec;
            let (_, reach) = peer.reach(spec.remote, spec.len)?;
            let allowed = peer.usable(spec.allowed, now);
            crate::sched::plan::choose(reach, allowed).filter(|to| *to != kind)
        });
        if let Some(maker) = self.maker.upgrade() {
            for to in kinds {
                log::warn!("{text}: its work goes on by {}", to.name());
                maker.tell(peer, to);
            }
        }
        peer.work.fail(kind, &format!("no path left: {text}"));
    }

    /// Whether a target of ours: others cannot fence, and are waited for until the deadline.
    pub(super) fn can_fence(target: &RailTarget) -> bool {
        !matches!(target, RailTarget::Upstream(_))
    }
}

fn cause_text(cause: DownCause) -> &'static str {
    match cause {
        DownCause::Refused => "connection refused: the peer is gone",
        DownCause::Unreachable => "unreachable",
        DownCause::Reset => "connection lost",
        DownCause::WrongPeer => "another process answers there: the peer was restarted",
        DownCause::Protocol => "the peer does not speak the protocol",
        DownCause::Aborted => "given up by this side",
    }
}

/// What a rail that is back may have in flight before it has proven itself.
const CAP_AGAIN: u64 = 64 << 10;
/// A question is looked after from then on.
const ASK_LOOK: Duration = Duration::from_millis(5);
/// How long new tasks avoid a transport that was lost.
const LOST_FOR: Duration = Duration::from_secs(1);
const _: () = assert!(FENCE_TIME.as_millis() > 2000);
