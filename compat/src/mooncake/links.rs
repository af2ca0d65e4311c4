//! What `showLinks` and `getNicLoadStats` tell, in upstream's shape and with the truth about our rails:
//! the interfaces that carry them, the priority matrix, the rails themselves, the load of each interface.
//! Everything but [`Links::of`] is a function of lists.

use super::matrix::{self, devices};
use super::nic_load_stat_t;
use super::report::rails_value;
use crate::handle::Entry;
use crate::text;
use ::tent::topology::machine::{Machine, Matrix, Nic, SYSFS, device_facts};
use ::tent::{RailStat, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// Everything that there is to tell.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// The interfaces that carry the engine's rails; none without an engine.
    pub(crate) nics: Vec<Nic>,
    /// The priority matrix.
    pub(crate) matrix: Matrix,
    /// What the rails have done.
    pub(crate) rails: Vec<RailStat>,
    /// Whether there is an engine.
    pub(crate) is_live: bool,
}

/// A device as upstream lists it.
#[derive(Debug)]
struct Device {
    name: String,
    numa: Option<u32>,
    speed_mbps: Option<u32>,
    /// Upstream's word for where the knowledge comes from; it knows `rdma_transport` and `topology`.
    source: &'static str,
    addrs: Vec<IpAddr>,
}

impl Links {
    /// Of a live engine.
    ///
    /// # Errors
    /// `Socket`: the kernel does not list interfaces.
    pub(crate) fn of(engine: &Entry) -> Result<Self> {
        let Machine { nics, .. } = matrix::here(&engine.config().rail_addrs)?;
        let matrix = engine.matrix.load_full().map(|m| Matrix::clone(&m)).unwrap_or_default();
        Ok(Self { nics, matrix, rails: engine.rails(), is_live: true })
    }

    /// As JSON, with upstream's keys (`show_links.cpp`) and `rails`, which are ours.
    pub(crate) fn json(&self) -> String {
        let nic = |d: &Device| {
            json!({
                "device": d.name,
                "numa": d.numa.map_or(-1, i64::from),
                // what only RDMA devices have
                "gid": "",
                "gid_index": -1,
                "port": 0,
                "speed_gbps": gbps(d.speed_mbps).unwrap_or(0.0),
                "source": d.source,
                "addresses": d.addrs,
            })
        };
        let nics: Value = self.devices().iter().map(nic).collect();
        let topology = matrix::value(&self.matrix);
        let links =
            json!({ "local_nics": nics, "topology": topology, "rails": rails_value(&self.rails) });
        format!("{links:#}")
    }

    /// As text, with upstream's headings and remarks.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("=== Local NICs ===\n");
        let devices = self.devices();
        if self.is_live || devices.is_empty() {
            text.push_str("  (no RDMA devices found)\n");
        } else {
            text.push_str("  (topology only; RDMA transport not initialized)\n");
        }
        // writing to a String cannot fail
        for d in &devices {
            let numa = d.numa.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let speed = gbps(d.speed_mbps).map_or_else(|| "?".to_owned(), |g| g.to_string());
            let addrs: Vec<_> = d.addrs.iter().map(IpAddr::to_string).collect();
            let (name, addrs) = (&d.name, addrs.join(" "));
            let _ = writeln!(text, "  {name}  numa {numa}  {speed} Gb/s  {}  {addrs}", d.source);
        }
        text.push_str("\n=== Topology (NIC Selection) ===\n");
        if self.matrix.is_empty() {
            text.push_str("  (empty)\n");
        }
        for p in &self.matrix {
            let (first, then) = (p.preferred.join(" "), p.available.join(" "));
            let _ = writeln!(text, "  {}: preferred [{first}], available [{then}]", p.location);
        }
        if self.is_live {
            self.rails_text(&mut text);
        }
        text
    }

    /// One entry per interface, and one per way of copying within the host that has been used.
    pub(crate) fn loads(&self) -> Vec<nic_load_stat_t> {
        let mut loads: Vec<(String, u64, f64)> =
            self.nics.iter().map(|n| (n.name.clone(), 0, 0.0)).collect();
        for rail in &self.rails {
            let device = self.device_of(rail);
            let place = loads.iter().position(|l| l.0 == device).unwrap_or_else(|| {
                loads.push((device, 0, 0.0));
                loads.len() - 1
            });
            loads[place].1 += rail.in_flight_bytes;
            loads[place].2 += rail.rate_bps;
        }
        let load = |(name, bytes, rate): (String, u64, f64)| nic_load_stat_t {
            device_name: text::field(&name),
            inflight_bytes: bytes,
            ewma_bandwidth_bps: rate,
        };
        loads.into_iter().map(load).collect()
    }

    /// The interface that a rail leaves by. Rails are named `tcp LOCAL -> REMOTE`, with `*` where the
    /// kernel chooses, or `tcp upstream vN REMOTE`; copies within the host have their transport's name.
    fn device_of(&self, rail: &RailStat) -> String {
        if rail.transport != "tcp" {
            return rail.transport.to_owned();
        }
        let address = |word: &str| word.parse::<IpAddr>().ok();
        let words: Vec<&str> = rail.rail.split(' ').collect();
        let named = words.iter().find_map(|word| address(word));
        let holds =
            |n: &&Nic, ip: IpAddr| n.addrs.contains(&ip) || (n.loopback && ip.is_loopback());
        let owner = named.and_then(|ip| self.nics.iter().find(|n| holds(n, ip)));
        match (owner, named) {
            (Some(nic), _) => nic.name.clone(),
            (None, Some(ip)) if ip.is_loopback() => "lo".to_owned(),
            // the kernel's routes decide, and with one interface there is nothing to decide
            _ if self.nics.len() == 1 => self.nics[0].name.clone(),
            _ => "routed".to_owned(),
        }
    }

    /// The engine's interfaces, then what only the matrix names.
    fn devices(&self) -> Vec<Device> {
        let own = self.nics.iter().map(|n| Device {
            name: n.name.clone(),
            numa: n.numa,
            speed_mbps: n.speed_mbps,
            source: "tcp_transport",
            addrs: n.addrs.clone(),
        });
        let is_own = |name: &str| self.nics.iter().any(|n| n.name == name);
        let named = devices(&self.matrix).into_iter().filter(|(name, _)| !is_own(name));
        let named = named.map(|(name, node)| {
            let (numa, speed_mbps) = device_facts(Path::new(SYSFS), name);
            let numa = numa.or(node);
            Device { name: name.into(), numa, speed_mbps, source: "topology", addrs: Vec::new() }
        });
        own.chain(named).collect()
    }

    fn rails_text(&self, text: &mut String) {
        text.push_str("\n=== Rails ===\n");
        if self.rails.is_empty() {
            text.push_str("  (none yet: rails appear with the first transfer to a peer)\n");
        }
        for r in &self.rails {
            // copies within the host are not timed
            let rate = if r.rate_bps > 0.0 {
                format!("{:.1} MB/s, ", r.rate_bps / 1e6)
            } else {
                String::new()
            };
            // writing to a String cannot fail
            let _ = writeln!(
                text,
                "  {} via {}: {}, {rate}{} bytes in flight, {} read, {} written, {} slices moved \
                 elsewhere",
                r.peer,
                r.rail,
                r.state,
                r.in_flight_bytes,
                r.read_bytes,
                r.write_bytes,
                r.retried_slices
            );
        }
    }
}

fn gbps(mbps: Option<u32>) -> Option<f64> {
    mbps.map(|mbps| f64::from(mbps) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rail(name: &str, transport: &'static str) -> RailStat {
        RailStat {
            peer: "10.0.0.2:15001".into(),
            rail: name.into(),
            transport,
            up: true,
            state: "up",
            window_bytes: 0,
            rtt_us: 0.0,
            retried_bytes: 0,
            hedged_slices: 0,
            downs: 0,
            last_event: "up",
            last_event_at: ::tent::time::Instant::now(),
            in_flight_bytes: 7,
            read_bytes: 1,
            write_bytes: 2,
            retried_slices: 3,
            rate_bps: 4.5e6,
        }
    }

    fn nic(name: &str, addr: &str) -> Nic {
        Nic {
            name: name.into(),
            addrs: vec![addr.parse().unwrap()],
            numa: Some(1),
            speed_mbps: Some(25_000),
            up: true,
            loopback: name == "lo",
        }
    }

    fn links() -> Links {
        let matrix = matrix::parse(r#"{"cpu:0":[["eth0"],["erdma_1"]]}"#).unwrap();
        let rails = vec![rail("tcp 10.0.0.1 -> 10.0.0.2", "tcp")];
        let nics = vec![nic("eth0", "10.0.0.1"), nic("eth1", "10.0.1.1")];
        Links { nics, matrix, rails, is_live: true }
    }

    fn names(links: &Links) -> Vec<(String, u64)> {
        let name = |l: nic_load_stat_t| {
            let name = l.device_name.iter().take_while(|c| **c != 0);
            (name.map(|c| char::from(c.cast_unsigned())).collect(), l.inflight_bytes)
        };
        links.loads().into_iter().map(name).collect()
    }

    #[test]
    fn the_json_has_upstream_s_keys_and_the_rails() {
        let value: Value = serde_json::from_str(&links().json()).unwrap();
        let nics = value["local_nics"].as_array().unwrap();
        let facts: Vec<_> = nics.iter().map(|n| (&n["device"], &n["source"])).collect();
        let (own, named) = ("tcp_transport", "topology");
        assert_eq!(
            facts,
            [("eth0", own), ("eth1", own), ("erdma_1", named)].map(|(d, s)| {
                // pairs of JSON strings
                (leak(d), leak(s))
            })
        );
        for key in ["device", "numa", "gid", "gid_index", "port", "speed_gbps", "source"] {
            assert!(nics.iter().all(|n| !n[key].is_null()), "{key}");
        }
        assert_eq!((&nics[0]["numa"], &nics[0]["speed_gbps"]), (&json!(1), &json!(25.0)));
        assert_eq!(value["topology"]["cpu:0"][1][0], "erdma_1");
        assert_eq!(value["rails"][0]["rate_bps"], 4.5e6);
        assert!(Links::default().json().contains("\n  \"local_nics\": []"), "indent of two");
    }

    fn leak(text: &str) -> &'static Value {
        Box::leak(Box::new(json!(text)))
    }

    #[test]
    fn the_text_begins_as_upstream_s_and_says_what_is_missing() {
        let text = links().text();
        assert!(text.starts_with("=== Local NICs ===\n") && text.contains("=== Topology"));
        assert!(text.contains("(no RDMA devices found)"));
        assert!(text.contains("eth0  numa 1  25 Gb/s  tcp_transport  10.0.0.1"), "{text}");
        assert!(text.contains("cpu:0: preferred [eth0], available [erdma_1]"), "{text}");
        assert!(text.contains("up, 4.5 MB/s, 7 bytes in flight"), "{text}");
        let only = Links { nics: vec![], rails: vec![], is_live: false, ..links() }.text();
        assert!(only.contains("(topology only; RDMA transport not initialized)"), "{only}");
        assert!(only.contains("erdma_1") && !only.contains("Rails"), "{only}");
        assert!(Links::default().text().contains("(no RDMA devices found)"));
    }

    #[test]
    fn loads_are_summed_by_interface() {
        let mut links = links();
        links.rails.extend([
            rail("tcp 10.0.0.1 -> 10.0.0.3", "tcp"),
            rail("tcp * -> 10.9.0.3", "tcp"),
            rail("tcp upstream v2 127.0.0.1", "tcp"),
            rail("shm lane 0", "shm"),
            rail("shm lane 1", "shm"),
        ]);
        let want = [("eth0", 14), ("eth1", 0), ("routed", 7), ("lo", 7), ("shm", 14)];
        assert_eq!(names(&links), want.map(|(name, bytes)| (name.to_owned(), bytes)));
        assert!((links.loads()[0].ewma_bandwidth_bps - 9e6).abs() < 1.0);
    }

    #[test]
    fn a_long_name_is_cut_into_the_field() {
        let links = Links { nics: vec![nic(&"x".repeat(80), "10.0.0.1")], ..Links::default() };
        let load = links.loads().remove(0);
        assert_eq!((load.device_name[62] != 0, load.device_name[63]), (true, 0));
    }
}
