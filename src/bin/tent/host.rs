//! Facts about this machine: for the reports, and to choose sizes that fit. Read from /proc and /sys.

use std::fs;
use std::net::UdpSocket;

use serde_json::{Value, json};

use super::units;

/// What a figure must be read with.
pub(crate) fn facts() -> Value {
    json!({
        "cpus": cpus(),
        "cpu": cpu_model(),
        "memory_bytes": meminfo("MemTotal:"),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "host": read("/proc/sys/kernel/hostname"),
        "load_1min": read("/proc/loadavg").split(' ').next().and_then(|n| n.parse::<f64>().ok()),
        "tcp": read("/proc/sys/net/ipv4/tcp_congestion_control"),
    })
}

/// The same in one line.
pub(crate) fn line() -> String {
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{} x {}, {}, Linux {}, load {load}",
        cpus(),
        cpu_model(),
        units::size(meminfo("MemTotal:")),
        read("/proc/sys/kernel/osrelease"),
    )
}

/// Memory that can be had without swapping, the container's limit included.
pub(crate) fn available_memory() -> u64 {
    let free = meminfo("MemAvailable:");
    let limit = read("/sys/fs/cgroup/memory.max").parse::<u64>().ok();
    let used = read("/sys/fs/cgroup/memory.current").parse::<u64>().unwrap_or(0);
    limit.map_or(free, |limit| free.min(limit.saturating_sub(used)))
}

/// The largest buffer, at most `wanted`, of which `count` fit into memory; a power of two when it is
/// less than wanted.
pub(crate) fn fitting(wanted: u64, count: u64, available: u64) -> u64 {
    let each = available.saturating_sub(KEEP_FREE) / count.max(1);
    if wanted <= each { wanted } else { (1u64 << each.max(1).ilog2()).max(SMALLEST).min(wanted) }
}

/// The address that other machines reach this one by; loopback when there is no network.
pub(crate) fn own_address() -> String {
    // Connecting a datagram socket sends nothing; it only asks for the route.
    let asked = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    asked.map_or_else(|_| LOOPBACK.into(), |a| a.ip().to_string())
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_model() -> String {
    let text = read("/proc/cpuinfo");
    let model =
        text.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split(": ").nth(1));
    model.unwrap_or("unknown CPU").to_string()
}

fn meminfo(key: &str) -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * units::KIB
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

pub(crate) const LOOPBACK: &str = "127.0.0.1";
const KEEP_FREE: u64 = 256 * units::MIB;
const SMALLEST: u64 = units::MIB;

#[cfg(test)]
mod tests {
    use super::*;
    use units::{GIB, MIB};

    #[test]
    fn buffers_shrink_to_what_fits() {
        assert_eq!(fitting(GIB, 2, 8 * GIB), GIB);
        assert_eq!(fitting(GIB, 2, 2 * GIB), 512 * MIB);
        assert_eq!(fitting(GIB, 2, 100), MIB);
        assert_eq!(fitting(1000, 2, 0), 1000);
        assert_eq!(fitting(3 * GIB, 2, 9 * GIB), 3 * GIB);
    }

    #[test]
    fn this_machine_has_facts() {
        assert!(available_memory() > 0);
        assert!(facts()["cpus"].as_u64().is_some_and(|n| n > 0));
    }
}
