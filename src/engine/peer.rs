//! What the engine knows of one segment: its description, how it is reached, the work that waits for it.

use crate::engine::work::Work;
use crate::id::Incarnation;
use crate::memory::link::HostLink;
use crate::memory::{NO_SLOT, Regions};
use crate::sched::plan::Reach;
use crate::segment::{Access, SegmentDesc};
use crate::slice::TransportKind;
use crate::sync::{lock, read, write};
use crate::time::Instant;
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

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

/// What a rail has done, kept beyond the rail's life for reports.
#[derive(Debug, Default)]
pub(super) struct RailFigures {
    pub(super) name: String,
    pub(super) transport: &'static str,
    pub(super) up: AtomicBool,
    pub(super) in_flight: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) write_bytes: AtomicU64,
    pub(super) retried: AtomicU64,
    /// Nanoseconds in which something was in flight, for the rate.
    pub(super) busy_ns: AtomicU64,
}

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
    refreshed: AtomicU64,
    stale: AtomicBool,
    figures: Mutex<Vec<Arc<RailFigures>>>,
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
            refreshed: AtomicU64::new(Instant::now().0),
            stale: AtomicBool::new(false),
            figures: Mutex::new(Vec::new()),
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
            || old.tcp_data_port != desc.tcp_data_port;
        if other {
            let fresh = link(&desc);
            *write(&self.link) = fresh;
        }
        self.desc.store(Arc::new(desc));
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

    pub(super) fn rails_up(&self, kind: TransportKind) -> &AtomicU32 {
        &self.rails_up[kind as usize]
    }

    pub(super) fn add_figures(&self, name: String, transport: &'static str) -> Arc<RailFigures> {
        let mut figures = lock(&self.figures);
        if let Some(old) = figures.iter().find(|f| f.name == name) {
            return Arc::clone(old);
        }
        let fresh = Arc::new(RailFigures { name, transport, ..RailFigures::default() });
        figures.push(Arc::clone(&fresh));
        fresh
    }

    pub(super) fn figures(&self) -> Vec<Arc<RailFigures>> {
        lock(&self.figures).clone()
    }
}
