//! One direction of a wire: a rate that all connections with something to send share equally, as packets of
//! a fair queue do, plus a latency. Exact, with one event per item: the fluid model with virtual time.

use crate::time::Instant;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What a link does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    Up,
    /// Silent: nothing comes through, and nobody is told.
    Hole,
    /// Loud: connections break, connects fail.
    Down,
}

/// The head of a flow's queue; the order is that of a heap with the least on top.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Head {
    finish: f64,
    flow: u32,
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.finish.total_cmp(&self.finish).then(other.flow.cmp(&self.flow))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    /// Bytes per nanosecond.
    rate: f64,
    factor: f64,
    pub(super) latency: u64,
    pub(super) jitter: u64,
    state: LinkState,
    /// Since when it is in that state.
    since: Instant,
    /// Bytes that each active flow has been served since the beginning, at `at`.
    served: f64,
    at: Instant,
    active: BinaryHeap<Head>,
    /// Grows with every change: events that were planned before mean nothing.
    pub(super) version: u64,
}

impl Link {
    /// `rate` in bytes per second, times in nanoseconds.
    pub(super) fn new(rate: f64, latency: u64, jitter: u64) -> Self {
        Self {
            rate: rate / 1e9,
            factor: 1.0,
            latency,
            jitter,
            state: LinkState::Up,
            since: Instant(0),
            served: 0.0,
            at: Instant(0),
            active: BinaryHeap::new(),
            version: 0,
        }
    }

    pub(super) fn state(&self) -> LinkState {
        self.state
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    /// Bytes per nanosecond now; 0 while nothing comes through.
    pub(super) fn speed(&self) -> f64 {
        if self.is_up() { self.rate * self.factor } else { 0.0 }
    }

    /// Changes the state and the factor of the rate.
    pub(super) fn set(&mut self, state: LinkState, factor: f64, now: Instant) {
        self.advance(now);
        if self.state != state {
            self.since = now;
        }
        (self.state, self.factor) = (state, factor);
        self.version += 1;
    }

    /// The flow, which was idle here, has `bytes` to send; what [`Link::left`] wants to know of it.
    pub(super) fn push(&mut self, flow: u32, bytes: f64, now: Instant) -> f64 {
        self.advance(now);
        let finish = self.served + bytes;
        self.active.push(Head { finish, flow });
        self.version += 1;
        finish
    }

    /// Bytes that are left of an item in service, by what [`Link::push`] gave.
    pub(super) fn left(&mut self, finish: f64, now: Instant) -> f64 {
        self.advance(now);
        (finish - self.served).max(0.0)
    }

    /// When the next item will be through, if nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        let head = self.active.peek()?;
        let speed = self.speed();
        if speed <= 0.0 {
            return None;
        }
        let wait = (head.finish - self.served).max(0.0) * count(self.active.len()) / speed;
        Some(Instant(self.at.0.saturating_add(whole(wait.ceil()))))
    }

    /// The flow whose item is through, now that the time of [`Link::next`] has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u32> {
        self.advance(now);
        let head = self.active.pop()?;
        self.served = self.served.max(head.finish);
        if self.active.is_empty() {
            // so that the sum does not lose its small bits
            self.served = 0.0;
        }
        self.version += 1;
        Some(head.flow)
    }

    /// Takes flows out for which `which` is true; with the bytes that were left of their items.
    pub(super) fn remove(&mut self, now: Instant, which: impl Fn(u32) -> bool) -> Vec<(u32, f64)> {
        self.advance(now);
        let (mut out, stay): (Vec<Head>, Vec<Head>) =
            std::mem::take(&mut self.active).into_iter().partition(|head| which(head.flow));
        self.active = stay.into();
        self.version += 1;
        // a heap's own order is no order
        out.sort_unstable_by_key(|head| head.flow);
        out.iter().map(|h| (h.flow, (h.finish - self.served).max(0.0))).collect()
    }

    /// Flows that have something to send.
    pub(super) fn flows(&self) -> Vec<u32> {
        let mut flows: Vec<u32> = self.active.iter().map(|h| h.flow).collect();
        flows.sort_unstable();
        flows
    }

    fn advance(&mut self, now: Instant) {
        if !self.active.is_empty() {
            let passed = count_ns(now.0.saturating_sub(self.at.0));
            self.served += passed * self.speed() / count(self.active.len());
        }
        self.at = self.at.max(now);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of flows")]
fn count(n: usize) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "below 2^52 ns, which is 52 days")]
fn count_ns(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as wanted")]
fn whole(n: f64) -> u64 {
    n as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(link: &mut Link) -> (u64, u32) {
        let at = link.next().unwrap();
        (at.0, link.pop(at).unwrap())
    }

    #[test]
    fn connections_share_the_rate_and_a_lone_one_has_it_all() {
        let mut link = Link::new(1e9, 0, 0); // a byte per ns
        link.push(1, 1000.0, Instant(0));
        link.push(2, 3000.0, Instant(0));
        assert_eq!(through(&mut link), (2000, 1));
        // 1000 of the second are through, the rest goes at full speed
        assert_eq!(through(&mut link), (4000, 2));
        assert_eq!(link.next(), None);
    }

    #[test]
    fn a_change_of_rate_counts_from_then_on() {
        let mut link = Link::new(1e9, 0, 0);
        link.push(1, 1000.0, Instant(100));
        link.set(LinkState::Up, 0.1, Instant(600));
        assert_eq!(link.next(), Some(Instant(5600)));
        link.set(LinkState::Hole, 1.0, Instant(1600)); // 600 are through
        assert_eq!(link.next(), None);
        link.set(LinkState::Up, 1.0, Instant(9000));
        assert_eq!(through(&mut link), (9400, 1));
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        let mut link = Link::new(1e9, 0, 0);
        link.push(1, 1000.0, Instant(0));
        link.push(2, 1000.0, Instant(0));
        let out = link.remove(Instant(400), |flow| flow == 1);
        assert_eq!(out, vec![(1, 800.0)]);
        assert_eq!(through(&mut link), (1200, 2));
    }
}
