//! The state of one lane and its turn: claim pieces for the rails that have room, post them, take what
//! the transports report, settle the tasks. Whoever holds the lane's lock may take a turn (D6).

mod attempts;
mod claim;
mod rails;
mod watch;

use crate::config::{Config, Tuning};
use crate::engine::lane::LaneShared;
use crate::engine::peer::{Link, Peer, RailFigures};
use crate::engine::piece::Piece;
use crate::engine::piece_log::PieceLog;
use crate::event::RailEvent;
use crate::sched::health::{Health, State};
use crate::sched::meter::Meter;
use crate::sched::spray::{Limits, RailView};
use crate::slice::{Op, SliceOp, TransportEvent, TransportKind};
use crate::time::Instant;
use crate::transport::{RailTarget, Transport};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A piece that was posted.
#[derive(Debug)]
struct Attempt {
    piece: Piece,
    rail: u32,
    op: Op,
    posted: Instant,
    /// Bytes that were in flight before it in its direction.
    ahead: u64,
    /// Nanoseconds that it was expected to take.
    expected: f64,
}

/// One direction of a rail (full-duplex links carry both at once).
#[derive(Debug)]
struct Flow {
    meter: Meter,
    in_flight: u64,
    /// Slow start: at most so much is in flight, and so much has come back clean since it last grew.
    cap: u64,
    clean: u64,
}

impl Flow {
    fn new() -> Self {
        let meter = Meter::new(crate::engine::peer::RATE_GUESS);
        Self { meter, in_flight: 0, cap: CAP_FIRST, clean: 0 }
    }
}

#[derive(Debug)]
struct LaneRail {
    transport: usize,
    peer: Arc<Peer>,
    target: RailTarget,
    interface: Option<String>,
    health: Health,
    /// A connect is under way since then.
    asking: Option<Instant>,
    /// Being fenced since then; and when the fence was last asked for.
    fencing: Option<(Instant, Instant)>,
    /// By [`Op`].
    flows: [Flow; 2],
    slices: u32,
    /// What is left of claimed pieces that are copied step by step; the last one is at work.
    rest: Vec<Piece>,
    /// What a policy other than `pull` has given to this rail and is not posted yet.
    assigned: VecDeque<Piece>,
    /// What the transport said last of the bytes that went through.
    through: u64,
    sampled: Instant,
    /// Connects in a row that were refused: nobody is there.
    refused: u32,
    figures: Arc<RailFigures>,
    busy_since: Instant,
    lost_since: Instant,
}

/// What this lane keeps of a peer.
#[derive(Debug)]
struct LanePeer {
    peer: Arc<Peer>,
    /// Shared, so that a turn can hold it without a copy.
    rails: Arc<[u32]>,
    life: u32,
    /// [`Peer::grown`] when its rails were made.
    grown: u32,
    /// [`Work::version`](crate::engine::work::Work::version) when its work was last looked at.
    seen: u64,
    /// Turns in a row that found no work of this peer.
    idle_turns: u32,
}

/// Makes the rails of a lane to a peer; the engine knows the ways, the lane does not.
pub(super) trait RailMaker: Send + Sync + std::fmt::Debug {
    /// Rails of lane `lane` to `peer`: kind, name for reports, target.
    fn rails(&self, lane: usize, peer: &Peer, link: &Link) -> Vec<RailSpec>;

    /// Tells every lane that may carry it that work of `kind` waits for `peer`.
    fn tell(&self, peer: &Arc<Peer>, kind: TransportKind);

    /// Something happened to a rail.
    fn event(&self, _event: RailEvent) {}

    /// Whether this host has other addresses than when this was last asked.
    fn ways_changed(&self) -> bool {
        false
    }
}

/// A rail to be made.
#[derive(Debug)]
pub(super) struct RailSpec {
    pub(super) kind: TransportKind,
    pub(super) name: String,
    /// 0 is best.
    pub(super) tier: u8,
    /// The interface that it leaves by, if that is certain.
    pub(super) interface: Option<String>,
    pub(super) target: RailTarget,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Driver {
    lane: usize,
    transports: Vec<Box<dyn Transport>>,
    rails: Vec<Option<LaneRail>>,
    free_rails: Vec<u32>,
    /// By the peer's number; those that this lane has heard of.
    peers: Vec<Option<LanePeer>>,
    /// Peers with work that this lane should look at.
    active: Vec<u32>,
    attempts: Vec<Option<Attempt>>,
    free_attempts: Vec<usize>,
    events: Vec<TransportEvent>,
    /// Pieces on their way from [`Driver::claim_one`] to [`Driver::post`], and what is posted of them.
    claimed: Vec<Piece>,
    ops: Vec<SliceOp>,
    /// Empty between two turns; kept for its room.
    news: Vec<Arc<Peer>>,
    /// Weak, for the maker owns the lanes.
    maker: Weak<dyn RailMaker>,
    /// The rails copy on the spot.
    copies: bool,
    limits: Limits,
    /// Longest slice that its transports take.
    most: u64,
    spread: claim::Spread,
    hedge: bool,
    pieces: Option<Arc<PieceLog>>,
    /// Longest piece of a copy.
    copy_piece: u64,
    connect_timeout: Duration,
    upstream_timeout: Duration,
    /// Lanes of this family pull from the same tasks.
    siblings: u32,
    /// Kept for their room: the rails of a peer as a decision sees them, by direction.
    views: [Vec<RailView>; 2],
    /// When [`Driver::watch`] has something to do, and by when the last turn asked for the next.
    watch_at: Instant,
    wake_by: Instant,
    /// When it looked last.
    watched: Instant,
    /// When work was last left waiting by the rails of this lane.
    left: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        lane: usize,
        siblings: u32,
        transports: Vec<Box<dyn Transport>>,
        maker: Weak<dyn RailMaker>,
        config: &Config,
    ) -> Self {
        let copies = transports.iter().all(|t| t.capabilities().synchronous);
        let most = transports.iter().map(|t| t.capabilities().max_slice).min().unwrap_or(u64::MAX);
        Self {
            lane,
            transports,
            rails: Vec::new(),
            free_rails: Vec::new(),
            peers: Vec::new(),
            active: Vec::new(),
            attempts: Vec::new(),
            free_attempts: Vec::new(),
            events: Vec::new(),
            claimed: Vec::new(),
            ops: Vec::new(),
            news: Vec::new(),
            maker,
            copies,
            limits: limits(&Tuning::of(config), most),
            most,
            spread: claim::Spread::new(config.spray),
            hedge: config.hedge,
            pieces: None,
            copy_piece: config.copy_piece,
            connect_timeout: config.connect_timeout,
            upstream_timeout: config.upstream_timeout,
            siblings,
            views: Default::default(),
            watch_at: Instant::NEVER,
            wake_by: Instant::NEVER,
            watched: Instant::default(),
            left: None,
        }
    }

    /// Every piece that lands is to be written down.
    pub(super) fn record(&mut self, pieces: Option<Arc<PieceLog>>) {
        self.pieces = pieces;
    }

    /// Goes on with these settings; what is claimed already stays as it is.
    pub(super) fn tune(&mut self, tuning: &Tuning) {
        self.limits = limits(tuning, self.most);
        self.hedge = tuning.hedge;
    }

    /// Descriptors that say when a turn has something to do.
    pub(super) fn wait_fds(&self) -> Vec<RawFd> {
        self.transports.iter().filter_map(|t| t.wait_fd()).collect()
    }

    /// Whether its rails leave by links that can be lost.
    pub(super) fn uses_links(&self) -> bool {
        !self.copies
    }

    /// One turn; returns about how many bytes moved, 0 if nothing happened. Bounded: each rail claims up to
    /// its window, each connection moves a bounded number of bytes.
    pub(super) fn turn(&mut self, shared: &LaneShared, now: Instant) -> usize {
        self.take_news(shared, now);
        let mut moved = usize::from(self.pull(now));
        for index in 0..self.transports.len() {
            moved += self.transports[index].poll(&mut self.events);
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.on_event(event, now);
        }
        self.events = events;
        // after the events: what has come in meanwhile is no silence
        if !self.copies && now >= self.watch_at {
            moved += usize::from(self.watch(now));
        }
        moved
    }

    /// When a turn is needed though nothing happens: a rail to ask again, a silence to notice.
    pub(super) fn next_wake(&mut self) -> Instant {
        if !self.copies {
            // what is due and cannot be done yet would keep the lane from sleeping
            self.watch_at = self.next_watch().max(self.watched.after(WATCH_EVERY));
            // what was left to the rails of other lanes may be for ours after all, when those stall (I9)
            let again = self.left.map_or(Instant::NEVER, |at| at.after(WATCH_FIRST));
            self.watch_at = self.watch_at.min(again);
            self.wake_by = self.watch_at;
            return self.watch_at;
        }
        let active = self.active.iter().filter_map(|id| self.peer(*id));
        let rails =
            active.flat_map(|p| p.rails.iter()).filter_map(|r| self.rails[*r as usize].as_ref());
        rails.map(|r| self.due(r)).min().unwrap_or(Instant::NEVER)
    }

    /// When the rails have to be looked after next; never for copies, which are over when they return.
    pub(super) fn watch_at(&self) -> Instant {
        if self.copies { Instant::NEVER } else { self.watch_at }
    }

    /// Whether there is something to claim that the last turn has not seen. What it saw and left waits for
    /// room, which the transports tell of.
    pub(super) fn has_work(&self) -> bool {
        let mut active = self.active.iter().filter_map(|id| self.peer(*id));
        active.any(|entry| {
            let work = &entry.peer.work;
            let fresh =
                if self.copies { self.is_open(&entry.rails) } else { work.version() != entry.seen };
            (fresh && !work.is_empty()) || self.has_rest(&entry.rails)
        })
    }

    fn is_open(&self, rails: &[u32]) -> bool {
        let mut rails = rails.iter().filter_map(|r| self.rails[*r as usize].as_ref());
        rails.any(|r| r.health.state().is_open())
    }

    /// Whether a claimed piece is only half copied: no other lane can go on with it.
    pub(super) fn is_amid_a_piece(&self) -> bool {
        let mut active = self.active.iter().filter_map(|id| self.peer(*id));
        active.any(|entry| self.has_rest(&entry.rails))
    }

    fn has_rest(&self, rails: &[u32]) -> bool {
        rails.iter().any(|r| self.rails[*r as usize].as_ref().is_some_and(|r| !r.rest.is_empty()))
    }

    /// Whether work waits for these rails, which lead to one peer.
    fn has_more(&self, rails: &[u32]) -> bool {
        let first = rails.iter().find_map(|r| self.rails[*r as usize].as_ref());
        first.is_some_and(|rail| !rail.peer.work.is_empty()) || self.has_rest(rails)
    }

    /// About how many bytes wait for this lane and its siblings.
    pub(super) fn backlog(&self) -> u64 {
        let active = self.active.iter().filter_map(|id| self.peer(*id));
        active.map(|entry| entry.peer.work.backlog()).sum()
    }

    /// Whether nothing is posted.
    pub(super) fn is_quiet(&self) -> bool {
        self.attempts.len() == self.free_attempts.len()
    }

    /// Gives up every rail; their pieces complete with a fault.
    pub(super) fn abort_all(&mut self, now: Instant) {
        for rail in 0..self.rails.len() {
            self.abort_rail(rail, now);
        }
    }

    /// Closes every connection and listener. The lane does nothing any more.
    pub(super) fn close(&mut self) {
        self.active.clear();
        self.peers.clear();
        self.rails.clear();
        self.transports.clear();
    }

    fn peer(&self, id: u32) -> Option<&LanePeer> {
        self.peers.get(id as usize)?.as_ref()
    }

    fn peer_mut(&mut self, id: u32) -> Option<&mut LanePeer> {
        self.peers.get_mut(id as usize)?.as_mut()
    }

    fn rail_name(&self, rail: u32) -> String {
        let rail = self.rails.get(rail as usize).and_then(Option::as_ref);
        rail.map_or_else(String::new, |r| r.figures.name.clone())
    }

    /// Learns which peers have work, and what is overdue; without it a backlog is not seen (I9).
    pub(super) fn take_news(&mut self, shared: &LaneShared, now: Instant) {
        let mut news = std::mem::take(&mut self.news);
        shared.take_peers(&mut news);
        for peer in news.drain(..) {
            let at = peer.id as usize;
            if self.peers.len() <= at {
                self.peers.resize_with(at + 1, || None);
            }
            self.peers[at].get_or_insert_with(|| LanePeer {
                peer: Arc::clone(&peer),
                rails: Arc::default(),
                life: u32::MAX,
                grown: 0,
                seen: u64::MAX,
                idle_turns: 0,
            });
            if !self.active.contains(&peer.id) {
                self.active.push(peer.id);
            }
        }
        self.news = news;
        if shared.take_overdue() {
            self.abort_overdue(now);
        }
    }

    /// Claims and posts for every active peer.
    fn pull(&mut self, now: Instant) -> bool {
        let mut moved = false;
        let mut at = 0;
        self.left = None;
        while let Some(id) = self.active.get(at).copied() {
            self.renew_rails(id, now);
            let Some(entry) = self.peer(id) else {
                self.active.swap_remove(at);
                continue;
            };
            let (rails, peer) = (Arc::clone(&entry.rails), Arc::clone(&entry.peer));
            if self.copies {
                moved |= self.fill(&rails, now);
            } else {
                let seen = peer.work.version();
                moved |= self.spray(&peer, now);
                if !peer.work.is_empty() {
                    // no rail is up, or all are full: nobody may come by to look again
                    self.left = Some(now);
                    self.watch_at = self.watch_at.min(now.after(WATCH_FIRST));
                }
                if let Some(entry) = self.peer_mut(id) {
                    entry.seen = seen;
                }
            }
            if self.still_active(id, &rails) {
                at += 1;
            } else {
                self.active.swap_remove(at);
            }
        }
        moved
    }

    /// Whether the peer still has work for this lane; if not, a submitter will say when it has.
    fn still_active(&mut self, id: u32, rails: &[u32]) -> bool {
        let busy = rails.iter().filter_map(|r| self.rails[*r as usize].as_ref()).any(|r| {
            r.slices > 0
                || !r.rest.is_empty()
                || !r.assigned.is_empty()
                || r.fencing.is_some()
                || r.health.state() == State::Suspect
        });
        let lane = self.lane;
        let Some(entry) = self.peer_mut(id) else { return false };
        let peer = &entry.peer;
        if busy || (!peer.work.is_empty() && !rails.is_empty()) {
            entry.idle_turns = 0;
            return true;
        }
        // who has just sent something often sends more: to be told again costs more than to look
        entry.idle_turns += 1;
        if entry.idle_turns < IDLE_TURNS && !rails.is_empty() {
            return true;
        }
        // no work, or none for this lane: other lanes have the rails to that peer
        peer.active[lane].store(false, Ordering::SeqCst);
        // work that came before the flag fell would be told to nobody
        let again = !rails.is_empty() && !peer.work.is_empty();
        if again {
            peer.active[lane].store(true, Ordering::SeqCst);
        }
        again
    }
}

/// The bounds of windows and pieces, for transports that take slices of up to `most` bytes.
pub(super) fn limits(tuning: &Tuning, most: u64) -> Limits {
    Limits {
        quantum: u64::try_from(tuning.quantum.as_nanos()).unwrap_or(u64::MAX),
        shortest: SHORTEST,
        longest: tuning.tcp_piece.min(most),
        window: tuning.tcp_window,
    }
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|p| p.len).sum()
}

/// Whether one more small piece may be copied in the same call.
fn is_run_short(pieces: &[Piece]) -> bool {
    pieces.len() < COPY_RUN && total(pieces) <= COPY_RUN_BYTES - COPY_RUN_PIECE
}

/// A large piece is copied in steps of so many bytes: about 70 us each.
const COPY_STEP: u64 = 512 << 10;
/// Bytes that one turn copies before it lets others look: about 100 us.
const COPY_TURN: u64 = 256 << 10;
/// Pieces of up to so many bytes are copied several in a call, for the call costs as much as the copy.
const COPY_RUN_PIECE: u64 = 16 << 10;
/// Most pieces in a call: beyond, there is nothing left to save.
const COPY_RUN: usize = 32;
/// Most bytes in a call with more than one piece: about 30 us.
const COPY_RUN_BYTES: u64 = 128 << 10;
/// Turns without work after which a lane forgets a peer until it is told again.
const IDLE_TURNS: u32 = 64;
/// Shortest piece of a large task on a net rail: below, a system call costs more than it carries.
const SHORTEST: u64 = 16 << 10;
/// Looks after the rails come no closer together.
const WATCH_EVERY: Duration = Duration::from_micros(500);
/// When the rails are looked after first once they have work.
const WATCH_FIRST: Duration = Duration::from_millis(2);
/// What a rail that is new or back may have in flight before it has proven itself.
const CAP_FIRST: u64 = 256 << 10;
