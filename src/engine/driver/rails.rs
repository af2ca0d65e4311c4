//! The life of a lane's rails: made when a peer is new, connected, tried again, given up, counted out.

use super::{Attempt, Driver, LaneRail, RailSpec, RailState};
use crate::engine::peer::Peer;
use crate::engine::progress::Stop;
use crate::slice::{DownCause, TransportKind};
use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Driver {
    /// Gives up the rails on which pieces of timed-out tasks wait; what else they carried is retried.
    pub(super) fn abort_overdue(&mut self, now: Instant) {
        let overdue = |a: &Attempt| a.piece.task.task().progress.stopped() == Some(Stop::TimeOut);
        let mut rails: Vec<u32> =
            self.attempts.iter().flatten().filter(|a| overdue(a)).map(|a| a.rail).collect();
        rails.sort_unstable();
        rails.dedup();
        for rail in rails {
            let Some(Some(r)) = self.rails.get_mut(rail as usize) else { continue };
            match r.fencing_since {
                // when the peer cannot be asked for so long, its own rule keeps it from writing
                Some(since) if now.since(since) < FENCE_TIME => continue,
                Some(_) => log::warn!("rail {}: given up without a fence", r.figures.name),
                None => log::warn!("rail {}: no answer before the deadline", r.figures.name),
            }
            r.fencing_since.get_or_insert(now);
            self.abort_rail(rail as usize, now);
        }
    }

    pub(super) fn abort_rail(&mut self, rail: usize, now: Instant) {
        let Some(Some(r)) = self.rails.get(rail) else { return };
        let transport = r.transport;
        let number = u32::try_from(rail).unwrap_or(u32::MAX);
        self.transports[transport].abort(number);
        let mut events = Vec::new();
        self.transports[transport].poll(&mut events);
        for event in events {
            self.on_event(event, now);
        }
    }

    /// Makes rails for a peer that is new to this lane or turned out to be another process, tries
    /// broken ones again, and gives up connects that take too long.
    pub(super) fn renew_rails(&mut self, id: u32, now: Instant) {
        let Some(entry) = self.peer_mut(id) else { return };
        let life = entry.peer.life.load(Ordering::Acquire);
        if entry.life != life {
            entry.life = life;
            let (peer, old) = (Arc::clone(&entry.peer), std::mem::take(&mut entry.rails));
            self.replace_rails(&peer, &old, now);
        }
        let rails = self.peer(id).map(|p| Arc::clone(&p.rails)).unwrap_or_default();
        for number in rails.iter().copied() {
            let Some(rail) = self.rails[number as usize].as_mut() else { continue };
            match rail.state {
                RailState::Idle => {}
                RailState::Waiting(until) if now >= until => {}
                RailState::Connecting(since) if now >= since.after(self.connect_timeout) => {
                    self.abort_rail(number as usize, now);
                    continue;
                }
                _ => continue,
            }
            rail.state = RailState::Connecting(now);
            let (transport, target) = (rail.transport, rail.target.clone());
            self.transports[transport].connect(number, &target);
        }
    }

    fn replace_rails(&mut self, peer: &Arc<Peer>, old: &[u32], now: Instant) {
        for rail in old {
            // the first asks for a fence, which the process that is gone cannot give; the second ends it
            self.abort_rail(*rail as usize, now);
            if self.rails[*rail as usize].as_ref().is_some_and(|r| r.state == RailState::Up) {
                self.abort_rail(*rail as usize, now);
            }
            self.rails[*rail as usize] = None;
            self.free_rails.push(*rail);
        }
        let maker = self.maker.upgrade();
        let specs = maker.map_or_else(Vec::new, |m| m.rails(self.lane, peer, &peer.link()));
        let rails = specs.into_iter().filter_map(|spec| self.add_rail(peer, spec)).collect();
        if let Some(entry) = self.peer_mut(peer.id) {
            entry.rails = rails;
        }
    }

    fn add_rail(&mut self, peer: &Arc<Peer>, spec: RailSpec) -> Option<u32> {
        let transport = self.transports.iter().position(|t| t.kind() == spec.kind)?;
        let rail = LaneRail {
            transport,
            peer: Arc::clone(peer),
            target: spec.target,
            state: RailState::Idle,
            in_flight: 0,
            slices: 0,
            rest: Vec::new(),
            failures: 0,
            figures: peer.add_figures(spec.name, spec.kind.name()),
            busy_since: Instant::NEVER,
            fencing_since: None,
        };
        let number = self.free_rails.pop().unwrap_or_else(|| {
            self.rails.push(None);
            u32::try_from(self.rails.len() - 1).unwrap_or(u32::MAX)
        });
        self.rails[number as usize] = Some(rail);
        Some(number)
    }

    pub(super) fn on_up(&mut self, rail: u32) {
        let Some(Some(r)) = self.rails.get_mut(rail as usize) else { return };
        r.state = RailState::Up;
        r.figures.up.store(true, Ordering::Relaxed);
        let kind = self.transports[r.transport].kind();
        r.peer.rails_up(kind).fetch_add(1, Ordering::AcqRel);
        log::debug!("rail {} to {} is up", r.figures.name, r.peer.name);
    }

    pub(super) fn on_down(&mut self, rail: u32, cause: DownCause, now: Instant) {
        let Some(Some(r)) = self.rails.get_mut(rail as usize) else { return };
        let kind = self.transports[r.transport].kind();
        if r.state == RailState::Up {
            r.peer.rails_up(kind).fetch_sub(1, Ordering::AcqRel);
        }
        for rest in r.rest.drain(..) {
            r.peer.work.give_back(rest);
        }
        r.figures.up.store(false, Ordering::Relaxed);
        r.fencing_since = None;
        r.failures += 1;
        let pause = RETRY_FIRST * (1 << r.failures.min(7));
        r.state = RailState::Waiting(now.after(pause));
        let peer = Arc::clone(&r.peer);
        let text = format!("{} to {}: {}", r.figures.name, peer.name, cause_text(cause));
        // the address says clearly that nobody is there, or nobody answers for some tries
        let limit = match cause {
            DownCause::Refused | DownCause::WrongPeer => 2,
            _ => MAX_CONNECTS,
        };
        let hopeless = r.failures >= limit;
        if cause == DownCause::WrongPeer {
            peer.mark_stale();
        }
        if r.failures == 1 && cause != DownCause::Aborted {
            log::warn!("rail {text}");
        }
        let alone = peer.rails_up(kind).load(Ordering::Acquire) == 0;
        if alone && hopeless && self.all_hopeless(&peer, kind) {
            peer.mark_stale();
            peer.work.fail(kind, &format!("no path left: {text}"));
        }
    }

    /// Whether every rail of that kind to the peer on this lane has failed at least twice in a row.
    fn all_hopeless(&self, peer: &Peer, kind: TransportKind) -> bool {
        let Some(entry) = self.peer(peer.id) else { return true };
        let mut rails = entry.rails.iter().filter_map(|r| self.rails[*r as usize].as_ref());
        rails.all(|r| self.transports[r.transport].kind() != kind || r.failures >= 2)
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

/// How long a fence is asked for before a deadline is told without: longer than the time after which
/// the peer drops a silent connection by itself.
const FENCE_TIME: Duration = Duration::from_millis(2200);

/// Failed connects in a row after which a peer without any rail is given up.
const MAX_CONNECTS: u32 = 4;

/// First pause before a broken rail is tried again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(5);
