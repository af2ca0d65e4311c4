//! The network interfaces of this host, and which of them make rails towards a peer (D2). Everything
//! but [`interfaces`] is a pure function of lists.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::segment::RailAddr;
use crate::sys::ifaddr;

pub mod machine;

/// One address of one network interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Interface name, such as `eth0`.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
    /// Length of the network prefix.
    pub prefix: u8,
    /// Switched on.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    /// Leads back to this host.
    pub loopback: bool,
    /// Interface index where the address is link-local, else 0.
    pub scope_id: u32,
    /// A bridge, such as docker's: what is behind it is on this host, and every host has the same.
    pub bridge: bool,
    /// What the driver claims, in Mbit/s. Virtual interfaces claim nothing, or nonsense.
    pub speed_mbps: Option<u32>,
}

/// A rail of the TCP transport: from which address to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RailPair {
    /// To bind to; `None` leaves the choice to the kernel's routes.
    pub local: Option<IpAddr>,
    /// To connect to.
    pub remote: IpAddr,
}

/// Every address of this network name space. `sysfs` is [`SYSFS_NET`] but in tests.
///
/// # Errors
/// `Socket`: the kernel does not tell. Without `sysfs` nothing is a bridge and no speed is known.
pub fn interfaces(sysfs: &Path) -> Result<Vec<Interface>> {
    let found = ifaddr::interface_addrs()
        .map_err(|e| Error::os(ErrorKind::Socket, "listing network interfaces", &e))?;
    let described = found.into_iter().map(|i| Interface {
        bridge: is_bridge(sysfs, &i.name),
        speed_mbps: speed_mbps(sysfs, &i.name),
        name: i.name,
        addr: i.addr,
        prefix: i.prefix,
        up: i.up,
        running: i.running,
        loopback: i.loopback,
        scope_id: i.scope_id,
    });
    Ok(described.collect())
}

/// Where Linux describes network interfaces.
pub const SYSFS_NET: &str = "/sys/class/net";
/// Where Linux describes RDMA devices.
pub const SYSFS_RDMA: &str = "/sys/class/infiniband";

/// Names of network interfaces for names of interfaces or of RDMA devices, each of which has some.
pub fn net_devices(sysfs: &Path, names: &[String]) -> Vec<String> {
    let of = |name: &String| {
        // a name with a slash would lead out of the directory
        let device = if name.contains('/') { None } else { Some(sysfs.join(name)) };
        let list = device.and_then(|device| fs::read_dir(device.join("device/net")).ok());
        let found = list.into_iter().flatten().flatten();
        let found = found.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.chain([name.clone()]).collect::<Vec<_>>()
    };
    names.iter().flat_map(of).collect()
}

/// The interfaces that `keep` names (empty = all) and `drop` does not, and loopback ones; `None` if no
/// other is left.
pub fn select(all: &[Interface], keep: &[String], drop: &[String]) -> Option<Vec<Interface>> {
    let wanted = |i: &&Interface| {
        i.loopback || ((keep.is_empty() || keep.contains(&i.name)) && !drop.contains(&i.name))
    };
    let left: Vec<_> = all.iter().filter(wanted).cloned().collect();
    left.iter().any(|i| !i.loopback).then_some(left)
}

/// The addresses to publish: those that [`pair_rails`] would use on this side. With `only`, just
/// those, in that order, loopback ones too.
pub fn rail_addrs(local: &[Interface], only: &[IpAddr]) -> Vec<RailAddr> {
    if only.is_empty() {
        return usable(local, only).into_iter().map(rail_addr).collect();
    }
    only.iter()
        .filter_map(|ip| owner(local, *ip).map(|i| RailAddr { ip: *ip, ..rail_addr(i) }))
        .collect()
}

/// The rails towards a peer that publishes `remote`.
///
/// - On one host (one network name space): one loopback rail; with `only`, one per listed address, to
///   the peer's same address, else to the one in the same place of its family.
/// - Else one per pair of interfaces that are direct neighbours: the same network by both prefixes,
///   over IPv4 where the pair has it, or IPv6 with `prefer_v6`. Bridges only where this host has
///   nothing else; link-local IPv6 never.
/// - Without neighbours, one rail that the kernel routes, to the first address of the peer that may be
///   routed to, of a family that we have.
///
/// The first rails use every interface once, the next ones once again, and so on, up to
/// [`MAX_RAIL_PAIRS`]. Empty if nothing can be reached.
pub fn pair_rails(
    local: &[Interface],
    remote: &[RailAddr],
    same_host: bool,
    prefer_v6: bool,
    only: &[IpAddr],
) -> Vec<RailPair> {
    let usable = usable(local, only);
    let pairs =
        if same_host { same_host_pairs(local, remote, prefer_v6, only) } else { Vec::new() };
    if !pairs.is_empty() {
        return pairs;
    }
    let pairs = neighbours(&usable, remote, prefer_v6);
    if !pairs.is_empty() {
        return pairs;
    }
    let pinned = !only.is_empty();
    routed(&usable, remote, prefer_v6, pinned).into_iter().collect()
}

/// Bounds what a host with many interfaces on one network, or a peer that lists many, can ask for.
pub const MAX_RAIL_PAIRS: usize = 64;

/// The interfaces that carry rails to other hosts.
fn usable<'a>(local: &'a [Interface], only: &[IpAddr]) -> Vec<&'a Interface> {
    let works = |i: &&Interface| i.up && i.running && !i.loopback && !is_link_local_v6(i.addr);
    let listed = |i: &&Interface| only.is_empty() || only.contains(&i.addr);
    let all: Vec<_> = local.iter().filter(works).filter(listed).collect();
    let plain: Vec<_> = all.iter().copied().filter(|i| !i.bridge).collect();
    // a bridge that was asked for by address is meant
    if plain.is_empty() || !only.is_empty() { all } else { plain }
}

fn same_host_pairs(
    local: &[Interface],
    remote: &[RailAddr],
    prefer_v6: bool,
    only: &[IpAddr],
) -> Vec<RailPair> {
    let on = |ip: IpAddr| local.iter().any(|i| i.loopback && i.up && i.addr == ip);
    if only.is_empty() {
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let order = if prefer_v6 { [v6, v4] } else { [v4, v6] };
        let first = order.into_iter().find(|ip| on(*ip));
        return first.map(|ip| RailPair { local: Some(ip), remote: ip }).into_iter().collect();
    }
    let mut places = [0; 2];
    let mut pairs = Vec::new();
    for ip in only.iter().copied().filter(|ip| owner(local, *ip).is_some()).take(MAX_RAIL_PAIRS) {
        let place = &mut places[usize::from(ip.is_ipv6())];
        let remote = same_host_remote(ip, *place, remote);
        *place += 1;
        pairs.extend(remote.map(|remote| RailPair { local: Some(ip), remote }));
    }
    pairs
}

/// Where the rail from `ip` leads, the `place`-th of its family that this side lists.
fn same_host_remote(ip: IpAddr, place: usize, remote: &[RailAddr]) -> Option<IpAddr> {
    if remote.iter().any(|r| r.ip == ip) {
        return Some(ip);
    }
    let family: Vec<_> =
        remote.iter().map(|r| r.ip).filter(|r| r.is_ipv4() == ip.is_ipv4()).collect();
    match family.get(place) {
        Some(other) if other.is_loopback() == ip.is_loopback() => Some(*other),
        // our listeners take every local address, so on one host each of them leads to the peer
        _ if ip.is_loopback() => Some(ip),
        _ => family.get(place % family.len().max(1)).copied(),
    }
}

fn neighbours(local: &[&Interface], remote: &[RailAddr], prefer_v6: bool) -> Vec<RailPair> {
    let mine = names(local.iter().map(|i| i.name.as_str()));
    let theirs = names(remote.iter().map(|r| r.interface.as_str()));
    let mut pairs = Vec::new();
    // by diagonals: the first covers each interface once, so cutting the list short wastes none
    for shift in 0..theirs.len() {
        for (i, name) in mine.iter().enumerate() {
            let peer = theirs[(i + shift) % theirs.len()];
            let pair = neighbour_pair(
                local.iter().copied().filter(|i| i.name == *name),
                &remote.iter().filter(|r| r.interface == peer),
                prefer_v6,
            );
            pairs.extend(pair.filter(|pair| !pairs.contains(pair)));
            if pairs.len() == MAX_RAIL_PAIRS {
                return pairs;
            }
        }
    }
    pairs
}

/// The best pair of addresses of two interfaces.
fn neighbour_pair<'a>(
    local: impl Iterator<Item = &'a Interface>,
    remote: &(impl Iterator<Item = &'a RailAddr> + Clone),
    prefer_v6: bool,
) -> Option<RailPair> {
    let pairs = local.flat_map(|l| remote.clone().map(move |r| (l, r)));
    let near = pairs.filter(|(l, r)| are_neighbours(l, r));
    let best = near.min_by_key(|(l, _)| l.addr.is_ipv6() != prefer_v6)?;
    Some(RailPair { local: Some(best.0.addr), remote: best.1.ip })
}

/// Whether both sides count the other to their own network. An address that both have is not the
/// peer's but our own (docker gives every host the same).
fn are_neighbours(local: &Interface, remote: &RailAddr) -> bool {
    let prefix = u32::from(local.prefix.max(remote.prefix));
    match (local.addr, remote.ip) {
        (a, b) if a == b || is_link_local_v6(b) || b.is_loopback() => false,
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix.min(128)
        }
        _ => false,
    }
}

fn routed(
    local: &[&Interface],
    remote: &[RailAddr],
    prefer_v6: bool,
    pinned: bool,
) -> Option<RailPair> {
    let from = |to: IpAddr| local.iter().find(|i| i.addr.is_ipv4() == to.is_ipv4());
    let reachable = remote.iter().map(|r| r.ip).filter(|ip| is_routable(*ip));
    let own = |ip: &IpAddr| local.iter().any(|i| i.addr == *ip);
    let to = reachable
        .filter(|ip| from(*ip).is_some() && !own(ip))
        .min_by_key(|ip| ip.is_ipv6() != prefer_v6)?;
    let local = from(to).filter(|_| pinned).map(|i| i.addr);
    Some(RailPair { local, remote: to })
}

/// The interface that holds `ip`; the loopback interface holds all of 127.0.0.0/8.
fn owner(local: &[Interface], ip: IpAddr) -> Option<&Interface> {
    let exact = local.iter().find(|i| i.up && i.addr == ip);
    let loopback = || local.iter().find(|i| i.up && i.loopback && i.addr.is_ipv4());
    exact.or_else(|| if ip.is_ipv4() && ip.is_loopback() { loopback() } else { None })
}

fn rail_addr(i: &Interface) -> RailAddr {
    RailAddr { ip: i.addr, prefix: i.prefix, interface: i.name.clone() }
}

/// Each name once, in the order of the list.
fn names<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in all {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

fn is_link_local_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether a router may know the way.
fn is_routable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

fn is_bridge(sysfs: &Path, interface: &str) -> bool {
    sysfs.join(interface).join("bridge").is_dir()
}

fn speed_mbps(sysfs: &Path, interface: &str) -> Option<u32> {
    // -1 where the driver does not know, an error where there is no carrier
    let text = fs::read_to_string(sysfs.join(interface).join("speed")).ok()?;
    text.trim().parse().ok().filter(|mbps| *mbps > 0)
}

#[cfg(test)]
mod tests;
