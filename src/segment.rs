//! Segments as plain data: what an engine says of itself, and what it knows of a peer.

use crate::id::Incarnation;
use std::net::IpAddr;

/// What a peer may do with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Permission {
    /// This process only.
    Local = 0,
    /// Peers may read.
    Read = 1,
    /// Peers may read and write.
    ReadWrite = 2,
}

impl Permission {
    /// The permission of that number.
    pub fn from_u8(n: u8) -> Option<Self> {
        [Self::Local, Self::Read, Self::ReadWrite].into_iter().find(|p| *p as u8 == n)
    }
}

/// A registered range as a peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// First byte, an address in the owner. Never 0.
    pub addr: u64,
    /// Bytes. Never 0.
    pub len: u64,
    /// Where the memory is (`cpu:0`, `*`), or the segment name in upstream's tcp descriptors.
    pub location: String,
    /// What our own peers need besides; `None` in an upstream descriptor.
    pub access: Option<Access>,
}

/// How one of our own peers reaches a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Random; every remote request carries it.
    pub key: u64,
    /// What peers may do.
    pub permission: Permission,
    /// Slot in the owner's guard table (`memory::guard`), for copies within the host.
    pub slot: u32,
    /// The memfd that backs the region, when the engine allocated it.
    pub shm: Option<ShmBacking>,
}

/// A region inside a memfd of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShmBacking {
    /// Descriptor number in the owner, opened through `/proc/<pid>/fd`.
    pub fd: i32,
    /// Where the region begins in the file.
    pub offset: u64,
}

/// An address at which a peer serves data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RailAddr {
    /// The address.
    pub ip: IpAddr,
    /// Length of the network prefix, for finding direct neighbours.
    pub prefix: u8,
    /// Interface name, so that two addresses of one NIC count as one rail.
    pub interface: String,
}

/// On which host, and in which name spaces, an engine runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostIdentity {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the pid name space.
    pub pid_ns: u64,
    /// Inode of the network name space.
    pub net_ns: u64,
    /// Process id in that name space.
    pub pid: i32,
    /// Start time of the process in clock ticks since boot, so that a reused pid is recognised.
    pub start_ticks: u64,
}

/// The facts that only our own peers publish, under the descriptor's extra key `tent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TentFacts {
    /// Which life of the engine this describes.
    pub incarnation: Incarnation,
    /// Where it runs.
    pub host: HostIdentity,
    /// Addresses of the data port (`tcp_data_port`).
    pub rails: Vec<RailAddr>,
    /// Descriptor number of the guard table's memfd in the owner, and its slots; `None` without one.
    pub guard: Option<GuardRef>,
}

/// Where an engine's guard table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardRef {
    /// memfd number in the owner.
    pub fd: i32,
    /// Address of an 8-byte word in the owner that holds the low half of its incarnation, by which a
    /// peer tests that cross-memory copies work.
    pub probe: u64,
}

/// What one engine publishes; JSON in upstream's form on the wire (`control::wire`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentDesc {
    /// Segment name; under P2PHANDSHAKE the address of the RPC port.
    pub name: String,
    /// Upstream's choice of transport: `tcp`, `rdma` …
    pub protocol: String,
    /// Host of the data port, if the peer says so (upstream 0.3.13 and later).
    pub tcp_data_host: String,
    /// Data port; 0 if none.
    pub tcp_data_port: u16,
    /// 1 or 2 (upstream's data protocol).
    pub tcp_proto_version: u32,
    /// Registered ranges.
    pub buffers: Vec<Buffer>,
    /// Our own facts; `None` for an upstream peer.
    pub tent: Option<TentFacts>,
}

impl SegmentDesc {
    /// The buffer that holds `[addr, addr+len)` whole; adjacent buffers do not merge (upstream's rule).
    ///
    /// `buffers` must be sorted by address, as `control::wire` leaves them.
    pub fn buffer_of(&self, addr: u64, len: u64) -> Option<(usize, &Buffer)> {
        let end = addr.checked_add(len)?;
        let after = self.buffers.partition_point(|b| b.addr <= addr);
        let index = after.checked_sub(1)?;
        let buffer = &self.buffers[index];
        (end <= buffer.addr.checked_add(buffer.len)?).then_some((index, buffer))
    }
}
