//! Links of a given rate without root: for each rail a TCP relay on loopback, which lets bytes pass at its
//! rate and misbehaves on demand. One thread for all of them, in a process of its own, so that what it
//! costs is not counted as the engine's.
//!
//! Nothing is queued here: a relay reads what may pass and no more, so the queue of a link is what the
//! kernel takes in for it, a few milliseconds (`net::bound_queue`).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::net::{self, Watch};
use super::script::Fault;
use super::shape::Shape;
use crate::fail::{Fail, Result};
use crate::os;
use crate::units;

/// Where a link leads and how fast it is, each way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LinkSpec {
    pub(crate) to: SocketAddrV4,
    pub(crate) rate_bps: u64,
}

/// What a link has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) connections: u64,
    /// Bytes towards the target, and from it.
    pub(crate) bytes: [u64; 2],
}

/// The running relays; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Relays {
    orders: Sender<Order>,
    bell: UnixStream,
    ports: Vec<u16>,
}

impl Relays {
    pub(crate) fn start(specs: &[LinkSpec]) -> Result<Self> {
        let fail = |e: std::io::Error| Fail::system("cannot start a relay", &e, "is loopback up?");
        let links = specs.iter().map(Link::new).collect::<std::io::Result<Vec<_>>>();
        let links = links.map_err(fail)?;
        let port = |link: &Link| link.listener.local_addr().map(|at| at.port());
        let ports = links.iter().map(port).collect::<std::io::Result<_>>().map_err(fail)?;
        let (bell, rung) = UnixStream::pair().map_err(fail)?;
        rung.set_nonblocking(true).map_err(fail)?;
        let (orders, taken) = mpsc::channel();
        let hub = Hub { links, orders: taken, rung, scratch: vec![0; SCRATCH] };
        let thread = std::thread::Builder::new().name("relay".into());
        thread.spawn(move || hub.serve()).map_err(fail)?;
        Ok(Self { orders, bell, ports })
    }

    /// Where the initiator finds the links.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// When it began to take effect: microseconds of the clock that all processes of the host share.
    pub(crate) fn apply(&self, rail: usize, fault: Fault) -> Result<u64> {
        if rail >= self.ports.len() || matches!(fault, Fault::Drain | Fault::Undrain) {
            return Err(Fail::usage(format!("no link can {fault} r{rail}"), "relays are internal"));
        }
        self.ask(|done| Order::Apply { rail, fault, done })
    }

    pub(crate) fn carried(&self) -> Result<Vec<Carried>> {
        self.ask(Order::Count)
    }

    fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Result<T> {
        let (done, answer) = mpsc::channel();
        let sent = self.orders.send(order(done)).is_ok() && (&self.bell).write_all(&[0]).is_ok();
        let answer = if sent { answer.recv_timeout(ANSWER_WITHIN).ok() } else { None };
        answer.ok_or_else(|| Fail::setup("the relays do not answer", "see what was written above"))
    }
}

#[derive(Debug)]
enum Order {
    Apply { rail: usize, fault: Fault, done: Sender<u64> },
    Count(Sender<Vec<Carried>>),
}

/// One way through a connection.
#[derive(Debug, Default)]
struct Flow {
    /// Read, and not yet taken by the other side.
    rest: Vec<u8>,
    /// The sender has ended.
    ended: bool,
    /// The receiver has been told so.
    told: bool,
}

/// A connection: the initiator's end and the target's. Flow 0 leads from end 0 to end 1.
#[derive(Debug)]
struct Pair {
    ends: [TcpStream; 2],
    flows: [Flow; 2],
    /// Which ends had something to say at the last look.
    ready: [bool; 2],
    broken: bool,
}

impl Pair {
    fn new(initiator: TcpStream, target: TcpStream) -> Self {
        let (ends, flows) = ([initiator, target], [Flow::default(), Flow::default()]);
        Self { ends, flows, ready: [false; 2], broken: false }
    }

    fn wants_to_read(&self, way: usize) -> bool {
        !self.flows[way].ended && self.flows[way].rest.is_empty()
    }

    /// Passes on at most `limit` new bytes and returns how many were read.
    fn pass(&mut self, way: usize, limit: usize, scratch: &mut [u8]) -> usize {
        self.push_rest(way);
        let mut read = 0;
        if limit > 0 && self.ready[way] && !self.broken && self.wants_to_read(way) {
            let limit = limit.min(scratch.len());
            match (&self.ends[way]).read(&mut scratch[..limit]) {
                Ok(0) => self.flows[way].ended = true,
                Ok(n) => {
                    self.flows[way].rest.extend_from_slice(&scratch[..n]);
                    read = n;
                    self.push_rest(way);
                }
                Err(e) => self.broken |= !is_for_later(&e),
            }
        }
        if self.flows[way].ended && self.flows[way].rest.is_empty() && !self.flows[way].told {
            self.flows[way].told = true;
            // One that is gone already need not be told.
            let _ = self.ends[1 - way].shutdown(Shutdown::Write);
        }
        read
    }

    fn push_rest(&mut self, way: usize) {
        let rest = &mut self.flows[way].rest;
        if rest.is_empty() || self.broken {
            return;
        }
        match (&self.ends[1 - way]).write(rest) {
            Ok(n) => drop(rest.drain(..n)),
            Err(e) => self.broken |= !is_for_later(&e),
        }
    }

    fn is_over(&self) -> bool {
        self.broken || self.flows.iter().all(|flow| flow.told)
    }
}

#[derive(Debug)]
struct Link {
    listener: TcpListener,
    to: SocketAddrV4,
    rate_bps: u64,
    hole: bool,
    down: bool,
    shapes: [Shape; 2],
    pairs: Vec<Pair>,
    /// Which connection is served first; each in turn.
    first: usize,
    carried: Carried,
}

impl Link {
    fn new(spec: &LinkSpec) -> std::io::Result<Self> {
        Ok(Self {
            listener: net::listen(queue(spec.rate_bps))?,
            to: spec.to,
            rate_bps: spec.rate_bps,
            hole: false,
            down: false,
            shapes: [Shape::new(spec.rate_bps); 2],
            pairs: Vec::new(),
            first: 0,
            carried: Carried::default(),
        })
    }

    fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Hole => self.hole = true,
            Fault::Slow(factor) => {
                self.set_rate(units::round(units::as_f64(self.rate_bps) * factor));
            }
            Fault::Rst => self.reset_all(),
            Fault::Down => {
                self.reset_all();
                self.down = true;
                // Should it fail, connects are not refused: they find a hole, and `down` is still `down`.
                let _ = net::refuse(&self.listener);
            }
            Fault::Heal => {
                if self.down {
                    let _ = net::refuse_no_more(&self.listener);
                }
                (self.hole, self.down) = (false, false);
                self.set_rate(self.rate_bps);
            }
            Fault::Drain | Fault::Undrain => {}
        }
    }

    fn set_rate(&mut self, rate_bps: u64) {
        self.shapes.iter_mut().for_each(|shape| shape.set_rate(rate_bps));
        let queue = queue(rate_bps);
        // A queue of the old length is only less like a real link.
        let _ = net::bound_queue(&self.listener, queue);
        for end in self.pairs.iter().flat_map(|pair| &pair.ends) {
            let _ = net::bound_queue(end, queue);
        }
    }

    fn is_alive(&self) -> bool {
        !self.hole && !self.down
    }

    /// Those that wait to be accepted too.
    fn reset_all(&mut self) {
        self.accept();
        for end in self.pairs.drain(..).flat_map(|pair| pair.ends) {
            net::reset_on_close(&end);
        }
    }

    fn accept(&mut self) {
        while self.is_alive() && self.pairs.len() < MAX_PAIRS {
            let Ok((initiator, _)) = self.listener.accept() else { return };
            let target = net::connect(self.to, queue(self.rate_bps));
            let set = initiator.set_nonblocking(true).and_then(|()| initiator.set_nodelay(true));
            match target {
                Ok(target) if set.is_ok() => {
                    self.carried.connections += 1;
                    self.pairs.push(Pair::new(initiator, target));
                }
                _ => net::reset_on_close(&initiator),
            }
        }
    }

    /// Passes on what may pass now.
    fn turn(&mut self, now_ns: u64, scratch: &mut [u8]) {
        if !self.is_alive() {
            return;
        }
        for way in [0, 1] {
            let mut wanting =
                self.pairs.iter().filter(|p| p.ready[way] && p.wants_to_read(way)).count();
            let mut allowed = usize::try_from(self.shapes[way].allowed(now_ns)).unwrap_or(SCRATCH);
            let count = self.pairs.len();
            for at in 0..count {
                let pair = &mut self.pairs[(self.first + at) % count];
                let is_wanting = pair.ready[way] && pair.wants_to_read(way);
                // What one leaves is shared by those behind it.
                let limit = if is_wanting { allowed.div_ceil(wanting.max(1)) } else { 0 };
                let n = pair.pass(way, limit, scratch);
                wanting -= usize::from(is_wanting);
                allowed -= n;
                self.shapes[way].take(now_ns, n as u64);
                self.carried.bytes[way] += n as u64;
            }
        }
        self.first = self.first.wrapping_add(1);
        for pair in self.pairs.extract_if(.., |pair| pair.is_over()).filter(|pair| pair.broken) {
            pair.ends.iter().for_each(net::reset_on_close);
        }
    }

    /// What to wait for, and until when at most. `note` tells which end of which pair a watch is for;
    /// None is the listener.
    fn watch(
        &self,
        now_ns: u64,
        mut note: impl FnMut(Option<(usize, usize)>, Watch),
    ) -> Option<u64> {
        if !self.is_alive() {
            return None;
        }
        let is_free = |way: usize| {
            let shape = &self.shapes[way];
            shape.allowed(now_ns) >= shape.quantum()
        };
        let free = [is_free(0), is_free(1)];
        let mut starved = [false; 2];
        note(None, Watch::new(&self.listener, self.pairs.len() < MAX_PAIRS, false));
        for (at, pair) in self.pairs.iter().enumerate() {
            for end in [0, 1] {
                let wants = pair.wants_to_read(end);
                starved[end] |= wants && !free[end];
                let write = !pair.flows[1 - end].rest.is_empty();
                note(Some((at, end)), Watch::new(&pair.ends[end], wants && free[end], write));
            }
        }
        let again = |way: usize| self.shapes[way].ready_at_ns(self.shapes[way].quantum());
        [0, 1].into_iter().filter(|way| starved[*way]).map(again).min()
    }
}

struct Hub {
    links: Vec<Link>,
    orders: Receiver<Order>,
    rung: UnixStream,
    scratch: Vec<u8>,
}

impl Hub {
    fn serve(mut self) {
        net::prompt_timers();
        let (mut watches, mut places) = (Vec::new(), Vec::new());
        loop {
            let now_ns = os::host_ns();
            watches.clear();
            places.clear();
            watches.push(Watch::new(&self.rung, true, false));
            let mut until: Option<u64> = None;
            for (number, link) in self.links.iter().enumerate() {
                let again = link.watch(now_ns, |place, watch| {
                    places.push((number, place));
                    watches.push(watch);
                });
                until = until.into_iter().chain(again).min();
            }
            let timeout = until.map(|at| Duration::from_nanos(at.saturating_sub(now_ns)));
            if net::wait(&mut watches, timeout).is_err() {
                return;
            }
            if watches[0].is_ready() && !self.obey() {
                return;
            }
            self.look(&watches[1..], &places);
            let now_ns = os::host_ns();
            for link in &mut self.links {
                link.turn(now_ns, &mut self.scratch);
            }
        }
    }

    fn look(&mut self, watches: &[Watch], places: &[(usize, Option<(usize, usize)>)]) {
        for (watch, (link, place)) in watches.iter().zip(places) {
            let link = &mut self.links[*link];
            match place {
                Some((at, end)) => {
                    // An order may have closed some.
                    if let Some(pair) = link.pairs.get_mut(*at) {
                        pair.ready[*end] = watch.is_ready();
                    }
                }
                None if watch.is_ready() => link.accept(),
                None => {}
            }
        }
    }

    /// False when nobody will give orders any more.
    fn obey(&mut self) -> bool {
        let mut sink = [0; 64];
        // How often the bell was rung says nothing: the orders are counted.
        while (&self.rung).read(&mut sink).is_ok_and(|n| n > 0) {}
        loop {
            match self.orders.try_recv() {
                // Whoever asked may have given up waiting.
                Ok(Order::Apply { rail, fault, done }) => {
                    // Before, for others may see the effect before this thread runs on.
                    let now_us = os::host_us();
                    self.links[rail].apply(fault);
                    let _ = done.send(now_us);
                }
                Ok(Order::Count(done)) => {
                    let _ = done.send(self.links.iter().map(|link| link.carried).collect());
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// Bytes that lie before a link of this rate when it is busy.
fn queue(rate_bps: u64) -> u64 {
    (rate_bps / 8 * QUEUE_MS / 1000).clamp(QUEUE_MIN, QUEUE_MAX)
}

fn is_for_later(e: &std::io::Error) -> bool {
    // A connection that is still being made is not connected yet.
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const SCRATCH: usize = 64 << 10;
const MAX_PAIRS: usize = 64;
const QUEUE_MS: u64 = 4;
/// Some segments: less would stall TCP itself.
const QUEUE_MIN: u64 = 32 << 10;
const QUEUE_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests;
