//! Where this engine is, and by which ways it reaches the segments that it has opened, with the reasons: for
//! people and for reports.

use crate::engine::Engine;
use crate::engine::peer::{Link, Peer};
use crate::error::Result;
use crate::memory::NO_SLOT;
use crate::segment::{HostIdentity, RailAddr};
use crate::slice::{TransportKind, TransportMask};
use crate::time::Instant;
use crate::topology::{self, Interface};
use std::path::Path;

/// See the module.
#[derive(Debug, Clone)]
pub struct Map {
    /// Name of the engine's own segment.
    pub name: String,
    /// The host that it is on.
    pub host: HostIdentity,
    /// Every address of this network name space.
    pub interfaces: Vec<Interface>,
    /// The addresses at which peers are told to reach it.
    pub addresses: Vec<RailAddr>,
    /// The segments that it has opened, its own first.
    pub segments: Vec<Place>,
}

/// A segment, as seen from here.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `process`, `host`, `remote` or `upstream`.
    pub near: &'static str,
    /// Every transport, best first.
    pub ways: Vec<WayTo>,
}

/// Whether a transport reaches a segment.
#[derive(Debug, Clone)]
pub struct WayTo {
    /// Which.
    pub transport: TransportKind,
    /// Whether it does, at least some of its memory.
    pub usable: bool,
    /// Why, or why not.
    pub why: &'static str,
}

impl Engine {
    /// Where this engine is, and how it reaches the segments that it has opened.
    ///
    /// # Errors
    /// `EngineDown`; `Socket`: the kernel does not list its interfaces.
    pub fn map(&self) -> Result<Map> {
        self.core.check()?;
        let interfaces = topology::interfaces(Path::new(topology::SYSFS_NET))?;
        let config = &self.core.config;
        let (allowed, now) = (config.transports, Instant::now());
        let segments = self.core.directory.all();
        Ok(Map {
            name: self.name().to_owned(),
            host: self.core.own.identity.clone(),
            addresses: topology::rail_addrs(&interfaces, &config.rail_addrs),
            interfaces,
            segments: segments.iter().map(|peer| place(peer, allowed, now)).collect(),
        })
    }
}

fn place(peer: &Peer, allowed: TransportMask, now: Instant) -> Place {
    let link = peer.link();
    let near = match link {
        Link::Process(_) => "process",
        Link::Host(_) => "host",
        Link::Remote => "remote",
        Link::Upstream(_) => "upstream",
    };
    let usable = peer.usable(allowed, now);
    let ways = TransportKind::ALL.map(|transport| {
        let (reaches, why) = reach(peer, &link, transport);
        let (reaches, why) = if !allowed.has(transport) {
            (false, "the configuration does not allow it")
        } else if reaches && !usable.has(transport) {
            (false, "all its rails were lost just now")
        } else {
            (reaches, why)
        };
        WayTo { transport, usable: reaches, why }
    });
    Place { id: peer.id, name: peer.name.clone(), near, ways: ways.into() }
}

fn reach(peer: &Peer, link: &Link, transport: TransportKind) -> (bool, &'static str) {
    let desc = peer.desc();
    let within = matches!(link, Link::Process(_));
    match (transport, link) {
        (TransportKind::Local, _) if within => (true, "the same process"),
        (TransportKind::Local, _) => (false, "another process"),
        (TransportKind::Tcp, _) if peer.id == 0 => (true, "its own data port"),
        (TransportKind::Tcp, _) if desc.tcp_data_port == 0 => (false, "it serves no data port"),
        (TransportKind::Tcp, Link::Upstream(_)) => (true, "upstream's protocol"),
        (TransportKind::Tcp, _) => (true, "it serves a data port"),
        (_, Link::Process(_)) => (false, "the same process: a plain copy is nearer"),
        (_, Link::Remote | Link::Upstream(_)) => {
            (false, "on another host, or its memory cannot be reached from here")
        }
        (TransportKind::Cma, Link::Host(host)) if !host.cma_ok() => {
            (false, "the kernel refuses to copy across processes")
        }
        (TransportKind::Cma, Link::Host(_)) => (true, "on this host"),
        (TransportKind::Shm, Link::Host(_)) => {
            let maps = |b: &crate::segment::Buffer| {
                b.access.is_some_and(|a| a.slot != NO_SLOT && a.shm.is_some())
            };
            if desc.buffers.iter().any(maps) {
                (true, "on this host; for memory that its engine has allocated")
            } else {
                (false, "on this host, but its engine has allocated none of its memory")
            }
        }
    }
}
