//! The lanes of an engine, by family: sockets and copies. Tells them of work, wakes them, lends them to
//! callers, and knows which rails each has to a peer.

use crate::config::{Config, Tuning};
use crate::engine::driver::{self, RailMaker, RailSpec};
use crate::engine::lane::Lane;
use crate::engine::peer::{Link, Peer};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventLog, RailEvent};
use crate::sched::spray::Limits;
use crate::segment::RailAddr;
use crate::slice::TransportKind;
use crate::sync::lock;
use crate::time::Instant;
use crate::topology;
use crate::transport::RailTarget;
use crate::transport::tcp::{TcpTarget, UpstreamTarget, Way};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Which lanes carry a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Net,
    Copy,
}

impl Family {
    pub(super) fn of(kind: TransportKind) -> Self {
        if kind == TransportKind::Tcp { Self::Net } else { Self::Copy }
    }
}

/// See the module. Lanes are numbered net first.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: OnceLock<Vec<Arc<Lane>>>,
    pub(super) net: usize,
    pub(super) copy: usize,
    config: Config,
    tuning: Mutex<Tuning>,
    net_ns: u64,
    boot_id: String,
    pub(super) events: EventLog,
    /// The addresses that rails can leave by, when they were last looked at.
    ways: Mutex<Vec<RailAddr>>,
}

impl Lanes {
    /// Lanes to be set later ([`Lanes::set`]), for they need this as their rail maker.
    pub(super) fn new(config: &Config, net_ns: u64, boot_id: &str) -> Self {
        let cores = crate::sys::host::cpu_count();
        let pick = |wish: usize, own: usize| if wish == 0 { own } else { wish.min(MAX_LANES) };
        Self {
            lanes: OnceLock::new(),
            net: pick(config.net_lanes, (cores / 2).clamp(1, 8)),
            copy: pick(config.copy_lanes, cores.clamp(1, 8)),
            config: config.clone(),
            tuning: Mutex::new(Tuning::of(config)),
            net_ns,
            boot_id: boot_id.to_owned(),
            events: EventLog::default(),
            ways: Mutex::new(own_rails(config)),
        }
    }

    pub(super) fn set(&self, lanes: Vec<Arc<Lane>>) {
        self.lanes.set(lanes).ok();
        Lane::introduce(self.of(Family::Net));
        Lane::introduce(self.of(Family::Copy));
    }

    /// The bounds of windows and pieces on net rails.
    pub(super) fn limits(&self) -> Limits {
        driver::limits(&lock(&self.tuning), u64::from(crate::transport::tcp::frame::MAX_PAYLOAD))
    }

    /// Has every lane go on with these settings.
    pub(super) fn tune(&self, tuning: &Tuning) {
        for lane in self.all() {
            lane.tune(tuning);
        }
        // last: what the reports say is then true of every lane
        *lock(&self.tuning) = *tuning;
    }

    fn all(&self) -> &[Arc<Lane>] {
        self.lanes.get().map_or(&[], Vec::as_slice)
    }

    pub(super) fn of(&self, family: Family) -> &[Arc<Lane>] {
        let all = self.all();
        let (net, copy) = all.split_at(self.net.min(all.len()));
        match family {
            Family::Net => net,
            Family::Copy => copy,
        }
    }

    /// Starts the threads of the copy lanes; the first copy that is not done on the spot needs them.
    pub(super) fn start_copies(&self) -> Result<()> {
        for (index, lane) in self.of(Family::Copy).iter().enumerate() {
            lane.start(&format!("tent-copy-{index}"))
                .map_err(|e| Error::os(ErrorKind::Memory, "no thread for a copy lane", &e))?;
        }
        Ok(())
    }

    pub(super) fn start_net(&self) -> Result<()> {
        for (index, lane) in self.of(Family::Net).iter().enumerate() {
            lane.start(&format!("tent-net-{index}"))
                .map_err(|e| Error::os(ErrorKind::Memory, "no thread for a net lane", &e))?;
        }
        Ok(())
    }

    /// A turn for the calling thread on the lanes of the family, its own first, until one has something to
    /// do: bytes moved, or `None` if all are taken.
    pub(super) fn help(&self, family: Family, now: Instant) -> Option<usize> {
        let lanes = self.of(family);
        let home = home();
        let mut idle = None;
        for step in 0..lanes.len() {
            let lane = &lanes[(home + step) % lanes.len()];
            match lane.caller_turn(now) {
                Some(0) => idle = Some(0),
                Some(moved) => return Some(moved),
                None => {}
            }
        }
        if idle.is_some() {
            return idle;
        }
        if let Some(lane) = lanes.get(home % lanes.len().max(1)) {
            lane.want();
        }
        None
    }

    /// Wakes one thread of the family, not that of the caller's own lane if there is another: the caller
    /// may drive that one itself.
    /// `large`: also when that thread stands by for callers, who can use its help.
    pub(super) fn wake_one(&self, family: Family, large: bool) {
        let lanes = self.of(family);
        match lanes.get((home() + 1) % lanes.len().max(1)) {
            Some(lane) if large => lane.hand_over(),
            Some(lane) => lane.wake(),
            None => {}
        }
    }

    /// Callers stop helping: the threads take over.
    pub(super) fn hand_over(&self, family: Family) {
        for lane in self.of(family) {
            lane.hand_over();
        }
    }

    /// Takes the rails of that name out of use, or back; `false`: there is none.
    pub(super) fn drain(&self, peers: &[Arc<Peer>], rail: &str, on: bool) -> bool {
        let mut found = false;
        for peer in peers {
            let figures = peer.figures();
            for rail in figures.iter().filter(|f| f.name == rail && f.kind == TransportKind::Tcp) {
                rail.drained.store(on, Ordering::Relaxed);
                found = true;
                // a look at the peer, in which the lane obeys
                self.tell(peer, rail.kind);
            }
        }
        found
    }

    pub(super) fn overdue(&self) {
        for lane in self.all() {
            lane.overdue();
        }
    }

    pub(super) fn stop(&self) {
        for lane in self.all() {
            lane.stop();
        }
    }

    fn tcp_rails(&self, lane: usize, peer: &Peer) -> Vec<RailSpec> {
        let desc = peer.desc();
        let Some(facts) = &desc.tent else { return Vec::new() };
        let local = local_interfaces(&self.config).unwrap_or_else(|e| {
            log::warn!("cannot list the network interfaces: {e}");
            Vec::new()
        });
        let same_host = !self.boot_id.is_empty()
            && facts.host.boot_id == self.boot_id
            && facts.host.net_ns == self.net_ns;
        let mut pairs = topology::pair_rails(
            &local,
            &facts.rails,
            same_host,
            self.config.prefer_ipv6,
            &self.config.rail_addrs,
        );
        if pairs.is_empty() {
            // what the peer says of its addresses leads nowhere; its host name may
            let remote = desc.tcp_data_host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            pairs.push(topology::RailPair { local: None, remote });
        }
        let port = desc.tcp_data_port;
        let via = |ip: IpAddr| self.config.rail_via.iter().find(|(rail, _)| *rail == ip);
        let remote = |ip: IpAddr| via(ip).map_or_else(|| SocketAddr::new(ip, port), |(_, at)| *at);
        // an address behind a relay is not reached from the address that would be its neighbour
        let ways: Arc<[Way]> = pairs
            .iter()
            .map(|p| Way {
                local: p.local.filter(|_| via(p.remote).is_none()),
                remote: remote(p.remote),
            })
            .collect();
        let mut specs = Vec::new();
        for (index, pair) in pairs.iter().enumerate() {
            let from = pair.local.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
            let name = format!("tcp {from} -> {}", pair.remote);
            let slot = peer.slot_of(&name);
            if (peer.id as usize + slot) % self.net != lane {
                continue;
            }
            specs.push(RailSpec {
                kind: TransportKind::Tcp,
                name,
                // what the routers know is farther than a neighbour
                tier: u8::from(pair.local.is_none()),
                interface: pair
                    .local
                    .and_then(|ip| local.iter().find(|i| i.addr == ip).map(|i| i.name.clone())),
                target: RailTarget::Tcp(TcpTarget {
                    ways: Arc::clone(&ways),
                    way: index,
                    peer: facts.incarnation,
                    slot: u32::try_from(slot).unwrap_or(0),
                }),
            });
        }
        specs
    }

    fn upstream_rail(&self, lane: usize, peer: &Peer, ip: IpAddr) -> Vec<RailSpec> {
        if peer.id as usize % self.net != lane {
            return Vec::new();
        }
        let desc = peer.desc();
        let v1 = self.config.upstream_v1 || desc.tcp_proto_version < 2;
        vec![RailSpec {
            kind: TransportKind::Tcp,
            name: format!("tcp upstream v{} {ip}", if v1 { 1 } else { 2 }),
            tier: 0,
            interface: None,
            target: RailTarget::Upstream(UpstreamTarget {
                remote: SocketAddr::new(ip, desc.tcp_data_port),
                v1,
                conns: self.config.upstream_conns.max(1),
            }),
        }]
    }
}

impl RailMaker for Lanes {
    fn rails(&self, lane: usize, peer: &Peer, link: &Link) -> Vec<RailSpec> {
        if lane < self.net {
            return match link {
                Link::Upstream(ip) => self.upstream_rail(lane, peer, *ip),
                _ => self.tcp_rails(lane, peer),
            };
        }
        let copy = |kind: TransportKind, target: RailTarget| RailSpec {
            kind,
            name: format!("{} lane {}", kind.name(), lane - self.net),
            tier: 0,
            interface: None,
            target,
        };
        match link {
            Link::Process(regions) => {
                vec![copy(TransportKind::Local, RailTarget::Local(Arc::clone(regions)))]
            }
            Link::Host(host) => [TransportKind::Shm, TransportKind::Cma]
                .map(|kind| copy(kind, RailTarget::Host(Arc::clone(host))))
                .into(),
            Link::Remote | Link::Upstream(_) => Vec::new(),
        }
    }

    fn tell(&self, peer: &Arc<Peer>, kind: TransportKind) {
        for lane in self.of(Family::of(kind)) {
            lane.tell(peer);
            lane.wake();
        }
    }

    fn event(&self, event: RailEvent) {
        self.events.add(event);
    }

    fn ways_changed(&self) -> bool {
        let now = own_rails(&self.config);
        let mut known = lock(&self.ways);
        let changed = *known != now;
        *known = now;
        changed
    }
}

/// Every thread has a home lane, so that two callers do not fight for one.
fn home() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static HOME: Cell<Option<usize>> = const { Cell::new(None) });
    HOME.with(|home| {
        home.get().unwrap_or_else(|| {
            let own = NEXT.fetch_add(1, Ordering::Relaxed);
            home.set(Some(own));
            own
        })
    })
}

/// Addresses on which this host serves, for the description.
pub(super) fn own_rails(config: &Config) -> Vec<RailAddr> {
    match local_interfaces(config) {
        Ok(local) => topology::rail_addrs(&local, &config.rail_addrs),
        Err(e) => {
            log::warn!("{e}; peers reach this engine by its host name alone");
            Vec::new()
        }
    }
}

/// The interfaces of this host that rails may use.
fn local_interfaces(config: &Config) -> Result<Vec<topology::Interface>> {
    let all = topology::interfaces(Path::new(topology::SYSFS_NET))?;
    let (keep, drop) = (&config.interfaces, &config.not_interfaces);
    if keep.is_empty() && drop.is_empty() {
        return Ok(all);
    }
    let resolve = |names| topology::net_devices(Path::new(topology::SYSFS_RDMA), names);
    Ok(topology::select(&all, &resolve(keep), &resolve(drop)).unwrap_or_else(|| {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            log::warn!(
                "no interface is left by the filters (keep {keep:?}, drop {drop:?}): all are used"
            );
        });
        all
    }))
}

/// Most lanes of a family that a configuration may ask for.
const MAX_LANES: usize = 64;
