//! What the engine knows of one segment: its description, how it is reached, the work that waits for it.

use crate::engine::work::Work;
use crate::id::Incarnation;
use crate::memory::link::HostLink;
use crate::memory::{NO_SLOT, Regions};
use crate::sched::health::State;
use crate::sched::meter::Meter;
use crate::sched::plan::Reach;
use crate::sched::spray::{self, RailView};
use crate::segment::{Access, SegmentDesc};
use crate::slice::{Op, TransportKind, TransportMask};
use crate::sync::{lock, read, write};
use crate::time::Instant;
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// How near a peer is.
#[derive(Debug, Clone)]
pub(super) enum Link {
    /// An engine of this process.
    Process(Arc<Regions>),
    /// On this host, attached.
    Host(Arc<HostLink>),
    /// One of ours elsewhere, or not attachable.
    Remote,
    /// An upstream node, whose data port is at this address.
    Upstream(IpAddr),
}

/// One direction of a rail, as every lane sees it.
#[derive(Debug)]
pub(super) struct FlowFigures {
    /// Bytes per nanosecond and nanoseconds, as the bits of an `f64`.
    rate: AtomicU64,
    rtt: AtomicU64,
    pub(super) in_flight: AtomicU64,
    /// Slow start: what may be in flight at most.
    pub(super) cap: AtomicU64,
    /// When something was posted or completed last, in clock nanoseconds.
    pub(super) used: AtomicU64,
    /// When an urgent piece was posted last, in clock nanoseconds.
    pub(super) urgent: AtomicU64,
}

impl FlowFigures {
    pub(super) fn publish(&self, meter: &Meter) {
        self.rate.store(meter.rate().to_bits(), Ordering::Relaxed);
        self.rtt.store(meter.rtt().to_bits(), Ordering::Relaxed);
    }

    pub(super) fn rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Ordering::Relaxed))
    }

    pub(super) fn rtt(&self) -> f64 {
        f64::from_bits(self.rtt.load(Ordering::Relaxed))
    }
}

/// What a rail is and has done, kept beyond the rail's life for reports. Its lane writes; the other lanes
/// read it when they decide (D6).
#[derive(Debug)]
pub(super) struct RailFigures {
    pub(super) name: String,
    pub(super) kind: TransportKind,
    /// The lane that owns it, and its number there.
    pub(super) lane: usize,
    pub(super) number: AtomicU32,
    pub(super) tier: u8,
    state: AtomicU8,
    /// It was taken out by hand.
    pub(super) drained: AtomicBool,
    /// By [`Op`](crate::slice::Op).
    pub(super) flows: [FlowFigures; 2],
    /// When something was acknowledged last, in clock nanoseconds.
    pub(super) heard: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) write_bytes: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) retried_bytes: AtomicU64,
    pub(super) hedged: AtomicU64,
    pub(super) downs: AtomicU64,
    /// Nanoseconds in which something was in flight, for the rate.
    pub(super) busy_ns: AtomicU64,
    /// What happened last, and when.
    pub(super) last_event: Mutex<(&'static str, Instant)>,
}

impl RailFigures {
    pub(super) fn new(name: String, kind: TransportKind, lane: usize, tier: u8) -> Self {
        let meter = Meter::new(RATE_GUESS);
        let flow = || FlowFigures {
            rate: AtomicU64::new(meter.rate().to_bits()),
            rtt: AtomicU64::new(meter.rtt().to_bits()),
            in_flight: AtomicU64::new(0),
            cap: AtomicU64::new(0),
            used: AtomicU64::new(0),
            urgent: AtomicU64::new(0),
        };
        Self {
            name,
            kind,
            lane,
            number: AtomicU32::new(u32::MAX),
            tier,
            state: AtomicU8::new(State::Probing as u8),
            drained: AtomicBool::new(false),
            flows: [flow(), flow()],
            heard: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            write_bytes: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            retried_bytes: AtomicU64::new(0),
            hedged: AtomicU64::new(0),
            downs: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            last_event: Mutex::new(("new", Instant::now())),
        }
    }

    pub(super) fn state(&self) -> State {
        State::of(self.state.load(Ordering::Relaxed))
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// The rail as a decision of `lane` about `op` sees it.
    pub(super) fn view(&self, op: Op, lane: usize, now: Instant) -> RailView {
        let flow = &self.flows[op as usize];
        let used = Instant(flow.used.load(Ordering::Relaxed));
        let (rtt, in_flight) = (flow.rtt(), flow.in_flight.load(Ordering::Relaxed));
        RailView {
            rate: spray::rate_by_now(flow.rate(), rtt, in_flight, now.since(used)),
            rtt,
            in_flight,
            cap: flow.cap.load(Ordering::Relaxed),
            tier: self.tier,
            stale: now.since(used) > STALE,
            shared: now.since(Instant(flow.urgent.load(Ordering::Relaxed))) < SHARED_FOR,
            open: self.state().is_open(),
            own: self.lane == lane,
        }
    }
}

/// So long after an urgent piece more are expected.
const SHARED_FOR: Duration = Duration::from_millis(20);
/// After so long without use a rail may carry something else than it did.
const STALE: Duration = Duration::from_millis(20);
/// What a rail is taken to carry before it was measured, in bytes per second.
pub(super) const RATE_GUESS: f64 = 1.25e8;

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: u32,
    pub(super) name: String,
    desc: ArcSwap<SegmentDesc>,
    link: RwLock<Link>,
    pub(super) work: Work,
    /// Per lane: it has been told that work waits.
    pub(super) active: Box<[AtomicBool]>,
    /// Rails that take slices now, over all lanes, by transport: a task keeps its transport, so a rail of
    /// another one is no way for it.
    rails_up: [AtomicU32; TransportKind::ALL.len()],
    /// Grows when the peer turns out to be another process than before: old rails are useless.
    pub(super) life: AtomicU32,
    /// Grows when there may be more ways to the peer than its rails show.
    pub(super) grown: AtomicU32,
    /// The rails that it ever had, by name: a rail keeps its slot, by which the peer knows it.
    slots: Mutex<Vec<String>>,
    refreshed: AtomicU64,
    stale: AtomicBool,
    figures: ArcSwap<Vec<Arc<RailFigures>>>,
    growing: Mutex<()>,
    /// Transports that were lost, as bits, and until when no task is planned for them.
    lost: AtomicU8,
    lost_until: AtomicU64,
}

impl Peer {
    pub(super) fn new(id: u32, name: &str, desc: SegmentDesc, link: Link, lanes: usize) -> Self {
        Self {
            id,
            name: name.to_owned(),
            desc: ArcSwap::from_pointee(desc),
            link: RwLock::new(link),
            work: Work::default(),
            active: (0..lanes).map(|_| AtomicBool::new(false)).collect(),
            rails_up: Default::default(),
            life: AtomicU32::new(0),
            grown: AtomicU32::new(0),
            slots: Mutex::default(),
            refreshed: AtomicU64::new(Instant::now().0),
            stale: AtomicBool::new(false),
            figures: ArcSwap::default(),
            growing: Mutex::new(()),
            lost: AtomicU8::new(0),
            lost_until: AtomicU64::new(0),
        }
    }

    pub(super) fn desc(&self) -> Arc<SegmentDesc> {
        self.desc.load_full()
    }

    pub(super) fn link(&self) -> Link {
        read(&self.link).clone()
    }

    fn incarnation(desc: &SegmentDesc) -> Option<Incarnation> {
        desc.tent.as_ref().map(|t| t.incarnation)
    }

    /// Takes a fresh description; `link` is made anew when the process behind the name changed.
    pub(super) fn update(&self, desc: SegmentDesc, link: impl FnOnce(&SegmentDesc) -> Link) {
        let old = self.desc();
        let other = Self::incarnation(&old) != Self::incarnation(&desc)
            || old.tcp_data_port != desc.tcp_data_port
            || old.tcp_data_host != desc.tcp_data_host;
        if other {
            let fresh = link(&desc);
            *write(&self.link) = fresh;
        }
        let ways = |desc: &SegmentDesc| desc.tent.as_ref().map(|t| t.rails.clone());
        let more = ways(&old) != ways(&desc);
        self.desc.store(Arc::new(desc));
        if more {
            self.grown.fetch_add(1, Ordering::AcqRel);
        }
        if other {
            self.life.fetch_add(1, Ordering::AcqRel);
            log::info!("segment {} is a new process", self.name);
        }
        self.refreshed.store(Instant::now().0, Ordering::Release);
        self.stale.store(false, Ordering::Release);
    }

    /// The description was seen to be wrong; the next submit asks again.
    pub(super) fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// When it was described last.
    pub(super) fn refreshed(&self) -> Instant {
        Instant(self.refreshed.load(Ordering::Acquire))
    }

    /// The region of the peer that holds the range, and the ways to it. `None`: no region that we know
    /// of holds it.
    pub(super) fn reach(&self, remote: u64, len: u64) -> Option<(Option<Access>, Reach)> {
        let desc = self.desc.load();
        let tcp = desc.tcp_data_port != 0;
        let link = read(&self.link);
        if let Link::Process(regions) = &*link {
            // asked of the regions themselves: always fresh
            let access = regions.access_of(remote, len)?;
            return Some((Some(access), Reach { same_process: true, tcp, ..Reach::default() }));
        }
        let (_, buffer) = desc.buffer_of(remote, len)?;
        let mut reach = Reach { tcp, ..Reach::default() };
        // a region without a slot in the guard table cannot be copied to safely
        let guarded = buffer.access.filter(|a| a.slot != NO_SLOT);
        if let (Link::Host(host), Some(access)) = (&*link, guarded) {
            reach.mappable = access.shm.is_some();
            reach.cross_memory = host.cma_ok();
        }
        Some((buffer.access, reach))
    }

    /// The slot of the rail of that name, the same as long as the peer is known.
    pub(super) fn slot_of(&self, rail: &str) -> usize {
        let mut slots = lock(&self.slots);
        slots.iter().position(|name| name == rail).unwrap_or_else(|| {
            slots.push(rail.to_owned());
            slots.len() - 1
        })
    }

    pub(super) fn rails_up(&self, kind: TransportKind) -> &AtomicU32 {
        &self.rails_up[kind as usize]
    }

    /// The figures of a rail of that name, new or from a former life.
    pub(super) fn add_figures(&self, fresh: RailFigures) -> Arc<RailFigures> {
        let _one = lock(&self.growing);
        let figures = self.figures.load_full();
        if let Some(old) = figures.iter().find(|f| f.name == fresh.name && f.lane == fresh.lane) {
            return Arc::clone(old);
        }
        let fresh = Arc::new(fresh);
        let mut all = (*figures).clone();
        all.push(Arc::clone(&fresh));
        self.figures.store(Arc::new(all));
        fresh
    }

    pub(super) fn figures(&self) -> Arc<Vec<Arc<RailFigures>>> {
        self.figures.load_full()
    }

    /// Every rail of that transport is lost: new tasks go by another for a while.
    pub(super) fn lose(&self, kind: TransportKind, until: Instant) {
        self.lost.fetch_or(1 << kind as u8, Ordering::AcqRel);
        self.lost_until.store(until.0, Ordering::Release);
    }

    /// A rail of that transport is up.
    pub(super) fn found(&self, kind: TransportKind) {
        self.lost.fetch_and(!(1 << kind as u8), Ordering::AcqRel);
    }

    /// `allowed` without the transports that are lost, unless none were left.
    pub(super) fn usable(&self, allowed: TransportMask, now: Instant) -> TransportMask {
        let lost = self.lost.load(Ordering::Acquire);
        if lost == 0 || now.0 >= self.lost_until.load(Ordering::Acquire) {
            return allowed;
        }
        let left = TransportMask(allowed.0 & !lost);
        if left == TransportMask::NONE { allowed } else { left }
    }
}
