//! What this machine offers to reports and to callers who think in upstream's terms: its interfaces, how
//! near they are to which memory, and the priority matrix that says so. Nothing here chooses rails:
//! [`super::pair_rails`] does.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::{Interface, interfaces, speed_mbps, usable};
use crate::error::Result;

/// Where Linux describes devices.
pub const SYSFS: &str = "/sys";

/// One network interface with all its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Interface name, such as `eth0`.
    pub name: String,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// The memory node that it is next to; `None` for virtual interfaces and machines with one node.
    pub numa: Option<u32>,
    /// What the driver claims, in Mbit/s.
    pub speed_mbps: Option<u32>,
    /// Switched on, with a carrier.
    pub up: bool,
    /// Leads back to this host.
    pub loopback: bool,
}

/// The interfaces and memory nodes of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Those that carry rails: usable ones, or those that were asked for; loopback if there is no other.
    pub nics: Vec<Nic>,
    /// Numbers of the memory nodes, rising; never empty.
    pub nodes: Vec<u32>,
}

/// Which devices serve a place of memory, in upstream's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `cpu:0`, `cuda:1` …
    pub location: String,
    /// Devices to use first.
    pub preferred: Vec<String>,
    /// Devices to use if those fail.
    pub available: Vec<String>,
}

/// A priority matrix: places, sorted by location.
pub type Matrix = Vec<Place>;

/// Looks at this machine. `only` lists the local addresses to use, as the configuration does; empty means
/// every usable one. `sysfs` is [`SYSFS`] but in tests.
///
/// # Errors
/// `Socket`: the kernel does not list interfaces.
pub fn machine(sysfs: &Path, only: &[IpAddr]) -> Result<Machine> {
    Ok(describe(sysfs, &interfaces(&sysfs.join("class/net"))?, only))
}

/// What is known of one interface by its name alone: memory node and speed.
pub fn device_facts(sysfs: &Path, name: &str) -> (Option<u32>, Option<u32>) {
    // a name comes from outside; a path in it would leave the directory
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return (None, None);
    }
    (numa_of(sysfs, name), speed_mbps(&sysfs.join("class/net"), name))
}

impl Machine {
    /// The priority matrix: for each memory node the interfaces next to it first, then the others.
    /// An interface that is next to no node in particular is as near to all of them.
    pub fn matrix(&self, filter: &[String]) -> Matrix {
        let kept = |n: &&Nic| filter.is_empty() || filter.contains(&n.name);
        let place = |node: u32| {
            let near = |n: &&Nic| n.numa.is_none_or(|numa| numa == node);
            let nics = self.nics.iter().filter(kept);
            let (preferred, available): (Vec<&Nic>, Vec<&Nic>) = nics.partition(near);
            let names = |list: Vec<&Nic>| list.into_iter().map(|n| n.name.clone()).collect();
            Place {
                location: format!("cpu:{node}"),
                preferred: names(preferred),
                available: names(available),
            }
        };
        self.nodes.iter().map(|node| place(*node)).collect()
    }
}

fn describe(sysfs: &Path, all: &[Interface], only: &[IpAddr]) -> Machine {
    let listed: Vec<&Interface> = if only.is_empty() {
        usable(all, only)
    } else {
        all.iter().filter(|i| i.up && only.iter().any(|ip| owns(i, *ip))).collect()
    };
    let loopback = || all.iter().filter(|i| i.loopback && i.up).collect();
    let listed = if listed.is_empty() { loopback() } else { listed };
    let mut nics: Vec<Nic> = Vec::new();
    for i in listed {
        match nics.iter_mut().find(|n| n.name == i.name) {
            Some(nic) => nic.addrs.push(i.addr),
            None => nics.push(Nic {
                name: i.name.clone(),
                addrs: vec![i.addr],
                numa: numa_of(sysfs, &i.name),
                speed_mbps: i.speed_mbps,
                up: i.up && i.running,
                loopback: i.loopback,
            }),
        }
    }
    Machine { nics, nodes: nodes(sysfs) }
}

/// The loopback interface holds all of 127.0.0.0/8.
fn owns(i: &Interface, ip: IpAddr) -> bool {
    i.addr == ip || (i.loopback && i.addr.is_ipv4() && ip.is_ipv4() && ip.is_loopback())
}

/// The first `numa_node` on the way from the device up to the root: a virtio device has none of its own,
/// the PCI function above it does.
fn numa_of(sysfs: &Path, interface: &str) -> Option<u32> {
    let root = fs::canonicalize(sysfs).ok()?;
    let device = fs::canonicalize(sysfs.join("class/net").join(interface).join("device")).ok()?;
    let ways = device.ancestors().take_while(|dir| dir.starts_with(&root));
    let found = ways.filter_map(|dir| fs::read_to_string(dir.join("numa_node")).ok()).next()?;
    // -1: the machine does not say
    found.trim().parse().ok()
}

fn nodes(sysfs: &Path) -> Vec<u32> {
    let entries = fs::read_dir(sysfs.join("devices/system/node")).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("node")?.parse().ok();
    let mut nodes: Vec<u32> =
        entries.filter_map(|e| number(e.file_name().to_str().unwrap_or_default())).collect();
    nodes.sort_unstable();
    if nodes.is_empty() {
        nodes.push(0);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// What a two-socket server and a small virtual machine show, file by file: path, text; a path that
    /// ends in `@` is a link.
    const SERVER: [(&str, &str); 11] = [
        ("devices/system/node/node0/cpulist", "0-31\n"),
        ("devices/system/node/node1/cpulist", "32-63\n"),
        ("devices/system/node/online", "0-1\n"),
        ("devices/pci0000:15/0000:16:00.0/numa_node", "0\n"),
        ("devices/pci0000:15/0000:16:00.0/net/ens1/speed", "200000\n"),
        ("devices/pci0000:97/0000:98:00.0/numa_node", "1\n"),
        ("devices/pci0000:97/0000:98:00.0/net/ens2/speed", "200000\n"),
        ("devices/virtual/net/bond0/speed", "-1\n"),
        ("class/net/ens1@", "../../devices/pci0000:15/0000:16:00.0/net/ens1"),
        ("class/net/ens2@", "../../devices/pci0000:97/0000:98:00.0/net/ens2"),
        ("class/net/bond0@", "../../devices/virtual/net/bond0"),
    ];
    const VIRTUAL: [(&str, &str); 5] = [
        ("devices/system/node/node0/cpulist", "0-1\n"),
        ("devices/pci0000:00/0000:00:03.0/numa_node", "0\n"),
        ("devices/pci0000:00/0000:00:03.0/virtio2/net/eth0/speed", "-1\n"),
        ("class/net/eth0@", "../../devices/pci0000:00/0000:00:03.0/virtio2/net/eth0"),
        ("devices/virtual/net/lo/operstate", "unknown\n"),
    ];

    /// The recorded tree under a directory of this test's own.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("tent-sysfs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (path, text) in files {
            let at = root.join(path.trim_end_matches('@'));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            if path.ends_with('@') {
                symlink(text, at).unwrap();
            } else {
                fs::write(at, text).unwrap();
            }
        }
        for (path, device) in [("net/ens1", ".."), ("net/ens2", ".."), ("net/eth0", "..")] {
            for dir in files.iter().filter_map(|(p, _)| p.strip_suffix("/speed")) {
                if dir.ends_with(path) {
                    symlink(Path::new(device).join(".."), root.join(dir).join("device")).unwrap();
                }
            }
        }
        root
    }

    fn interface(name: &str, addr: &str) -> Interface {
        Interface {
            name: name.into(),
            addr: addr.parse().unwrap(),
            prefix: 24,
            up: true,
            running: true,
            loopback: name == "lo",
            scope_id: 0,
            bridge: false,
            speed_mbps: None,
        }
    }

    #[test]
    fn a_server_prefers_the_interface_of_the_same_socket() {
        let sysfs = tree("server", &SERVER);
        let all = [
            interface("lo", "127.0.0.1"),
            interface("ens1", "10.0.1.1"),
            interface("ens2", "10.0.2.1"),
            interface("ens2", "fd00::2"),
            interface("bond0", "10.0.3.1"),
        ];
        let machine = describe(&sysfs, &all, &[]);
        let facts: Vec<_> = machine.nics.iter().map(|n| (n.name.as_str(), n.numa)).collect();
        assert_eq!(facts, [("ens1", Some(0)), ("ens2", Some(1)), ("bond0", None)]);
        assert_eq!(machine.nics[1].addrs.len(), 2, "one interface, two addresses");
        let matrix = machine.matrix(&[]);
        assert_eq!(matrix.len(), 2);
        assert_eq!(matrix[1].location, "cpu:1");
        assert_eq!(matrix[1].preferred, ["ens2", "bond0"]);
        assert_eq!(matrix[1].available, ["ens1"]);
        assert_eq!(machine.matrix(&["ens1".into()])[1].available, ["ens1"]);
        assert!(machine.matrix(&["mlx5_0".into()]).iter().all(|p| p.preferred.is_empty()));
        assert_eq!(device_facts(&sysfs, "ens1"), (Some(0), Some(200_000)));
        assert_eq!(device_facts(&sysfs, "bond0"), (None, None));
        assert_eq!(device_facts(&sysfs, "../net/ens1"), (None, None));
        fs::remove_dir_all(sysfs).unwrap();
    }

    #[test]
    fn a_virtual_machine_finds_its_node_above_virtio() {
        let sysfs = tree("virtual", &VIRTUAL);
        let all = [interface("lo", "127.0.0.1"), interface("eth0", "172.16.0.2")];
        let machine = describe(&sysfs, &all, &[]);
        assert_eq!(machine.nics.len(), 1);
        assert_eq!((machine.nics[0].numa, machine.nics[0].speed_mbps), (Some(0), None));
        let pinned = describe(&sysfs, &all, &["127.0.0.7".parse().unwrap()]);
        assert_eq!(pinned.nics[0].name, "lo", "what was asked for");
        let alone = describe(&sysfs, &all[..1], &[]);
        assert_eq!(alone.matrix(&[])[0].preferred, ["lo"], "there is nothing else");
        fs::remove_dir_all(sysfs).unwrap();
    }

    #[test]
    fn no_sysfs_is_one_node_of_unknown_interfaces() {
        let machine = describe(Path::new("/nonexistent"), &[interface("eth0", "10.0.0.1")], &[]);
        assert_eq!((machine.nodes.as_slice(), machine.nics[0].numa), (&[0][..], None));
        assert_eq!(machine.matrix(&[])[0].preferred, ["eth0"]);
    }

    #[test]
    fn this_machine_has_a_topology() {
        let here = machine(Path::new(SYSFS), &[]).unwrap();
        assert!(!here.nics.is_empty() && !here.matrix(&[]).is_empty());
    }
}
