//! Segment descriptors: upstream's JSON, our own facts under the extra key `tent`.
//!
//! ```json
//! {"buffers":[{"addr":4096,"length":64,"name":"10.0.0.1:15700"}],"name":"10.0.0.1:15700",
//!  "protocol":"tcp","rdma_server_name":"","tcp_data_host":"10.0.0.1","tcp_data_port":15162,
//!  "tcp_proto_version":2,
//!  "tent":{"guard":{"fd":9,"probe":8192},
//!          "host":{"boot_id":"…","net_ns":1,"pid":7,"pid_ns":2,"start_ticks":3},
//!          "incarnation":"<32 hex digits>","rails":[["10.0.0.1",24,"eth0"]],
//!          "regions":[[<key>,<permission>,<slot>,<fd or -1>,<offset>,<location unless "*">]],"v":1},
//!  "timestamp":"2026-11-22 08:07:15.790147"}
//! ```
//!
//! `regions` runs parallel to `buffers`; `null` stands for a buffer without access of ours.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::de::{self, IgnoredAny, SeqAccess};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{from_json, malformed, parse_incarnation, to_json};
use crate::error::Result;
use crate::segment::{
    Access, Buffer, GuardRef, HostIdentity, Permission, RailAddr, SegmentDesc, ShmBacking,
    TentFacts,
};

/// The JSON of a descriptor. `timestamp` is for people, see [`crate::time::timestamp`].
///
/// Upstream's readers refuse the whole descriptor for one buffer of address or length 0.
pub fn encode_desc(desc: &SegmentDesc, timestamp: &str) -> Vec<u8> {
    to_json(&DescOut {
        buffers: BuffersOut(desc),
        name: &desc.name,
        protocol: &desc.protocol,
        rdma_server_name: "",
        tcp_data_host: &desc.tcp_data_host,
        tcp_data_port: desc.tcp_data_port,
        tcp_proto_version: desc.tcp_proto_version,
        tent: desc.tent.as_ref().map(|facts| TentOut::new(facts, &desc.buffers)),
        timestamp,
    })
}

/// Reads a descriptor, of an upstream peer or of our own. Buffers come out sorted by address; those of
/// an upstream peer that lie wholly inside another one are left out, so that the last buffer that
/// begins at or before an address holds whatever any buffer holds from there.
///
/// # Errors
/// `Malformed`, naming the key: no JSON object, no name or protocol, a wrong type, a range that is
/// empty, begins at 0 or wraps, more than the limits, or a `tent` key of our version that is broken.
pub fn decode_desc(json: &[u8]) -> Result<SegmentDesc> {
    let base: DescIn<'_> = from_json(WHAT, json)?;
    base.check()?;
    // the rest of the text has just been read well, so what fails from here on is the key `tent`
    let broken = |e: &dyn fmt::Display| malformed(WHAT, format_args!("tent: {e}"));
    let version: Tent<VersionIn> = serde_json::from_slice(json).map_err(|e| broken(&e))?;
    let facts = match version.tent {
        Some(VersionIn { v: TENT_VERSION }) => {
            let facts: Tent<TentIn<'_>> = serde_json::from_slice(json).map_err(|e| broken(&e))?;
            facts.tent
        }
        _ => None,
    };
    let protocol = base.protocol.0;
    let mut buffers = base.buffers.kept_for(&protocol);
    let tent = match facts {
        None => {
            sort(&mut buffers);
            drop_nested(&mut buffers);
            None
        }
        Some(mut facts) => {
            let rows = std::mem::take(&mut facts.regions.0);
            attach(&mut buffers, rows).map_err(|e| broken(&e))?;
            sort(&mut buffers);
            refuse_overlap(&buffers).map_err(|e| broken(&e))?;
            Some(facts.checked().map_err(|e| broken(&e))?)
        }
    };
    Ok(SegmentDesc {
        name: base.name.into_owned(),
        protocol,
        tcp_data_host: base.tcp_data_host.unwrap_or_default(),
        tcp_data_port: base.tcp_data_port.unwrap_or(0),
        tcp_proto_version: base.tcp_proto_version.unwrap_or(1),
        buffers,
        tent,
    })
}

// ---- writing

#[derive(Serialize)]
struct DescOut<'a> {
    buffers: BuffersOut<'a>,
    name: &'a str,
    protocol: &'a str,
    rdma_server_name: &'a str,
    tcp_data_host: &'a str,
    tcp_data_port: u16,
    tcp_proto_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tent: Option<TentOut<'a>>,
    timestamp: &'a str,
}

struct BuffersOut<'a>(&'a SegmentDesc);

impl Serialize for BuffersOut<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct BufferOut<'a> {
            addr: u64,
            length: u64,
            name: &'a str,
        }
        let desc = self.0;
        to.collect_seq(desc.buffers.iter().map(|b| BufferOut {
            addr: b.addr,
            length: b.len,
            // upstream's tcp transport writes the segment's name there, the others the location
            name: if desc.protocol == TCP { &desc.name } else { &b.location },
        }))
    }
}

#[derive(Serialize)]
struct TentOut<'a> {
    guard: Option<GuardJson>,
    host: HostJson<'a>,
    incarnation: String,
    rails: Vec<(IpAddr, u8, &'a str)>,
    regions: Vec<Option<RegionOut<'a>>>,
    v: u64,
}

impl<'a> TentOut<'a> {
    fn new(facts: &'a TentFacts, buffers: &'a [Buffer]) -> Self {
        Self {
            guard: facts.guard.map(|g| GuardJson { fd: g.fd, probe: g.probe }),
            host: HostJson {
                boot_id: Cow::Borrowed(&facts.host.boot_id),
                net_ns: facts.host.net_ns,
                pid: facts.host.pid,
                pid_ns: facts.host.pid_ns,
                start_ticks: facts.host.start_ticks,
            },
            incarnation: facts.incarnation.to_string(),
            rails: facts.rails.iter().map(|r| (r.ip, r.prefix, &*r.interface)).collect(),
            regions: buffers
                .iter()
                .map(|b| b.access.map(|access| RegionOut { access, location: &b.location }))
                .collect(),
            v: TENT_VERSION,
        }
    }
}

struct RegionOut<'a> {
    access: Access,
    location: &'a str,
}

impl Serialize for RegionOut<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut row = to.serialize_seq(None)?;
        row.serialize_element(&self.access.key)?;
        row.serialize_element(&(self.access.permission as u8))?;
        row.serialize_element(&self.access.slot)?;
        row.serialize_element(&self.access.shm.map_or(NO_FD, |s| s.fd))?;
        row.serialize_element(&self.access.shm.map_or(0, |s| s.offset))?;
        if self.location != ANYWHERE {
            row.serialize_element(self.location)?;
        }
        row.end()
    }
}

// ---- reading

#[derive(Deserialize)]
struct DescIn<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(default)]
    protocol: ProtocolIn,
    tcp_data_host: Option<String>,
    tcp_data_port: Option<u16>,
    tcp_proto_version: Option<u32>,
    #[serde(borrow, default)]
    buffers: BuffersIn<'a>,
}

impl DescIn<'_> {
    fn check(&self) -> Result<()> {
        let protocol = &*self.protocol.0;
        for (key, text, max) in [
            ("name", &*self.name, MAX_NAME_LEN),
            ("protocol", protocol, MAX_PROTOCOL_LEN),
            ("tcp_data_host", self.tcp_data_host.as_deref().unwrap_or("-"), MAX_HOST_LEN),
        ] {
            if text.len() > max {
                return Err(malformed(WHAT, format_args!("{key} is longer than {max} bytes")));
            }
        }
        if self.name.is_empty() || protocol.is_empty() {
            return Err(malformed(WHAT, "no name or no protocol"));
        }
        if protocol == TCP && self.buffers.without_addr > 0 {
            return Err(malformed(WHAT, "buffers: an entry without addr"));
        }
        Ok(())
    }
}

/// The protocol to speak: the one that is written, or of the several that upstream's multi-protocol
/// builds write `tcp`, for that is what we can speak, else the first.
#[derive(Default)]
struct ProtocolIn(String);

impl<'de> Deserialize<'de> for ProtocolIn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct ProtocolVisitor;
        impl<'de> de::Visitor<'de> for ProtocolVisitor {
            type Value = ProtocolIn;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol or a list of protocols")
            }
            fn visit_str<E>(self, name: &str) -> std::result::Result<ProtocolIn, E> {
                Ok(ProtocolIn(name.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<ProtocolIn, A::Error> {
                let mut chosen = ProtocolIn::default();
                while let Some(name) = seq.next_element::<String>()? {
                    if chosen.0.is_empty() || name == TCP {
                        chosen.0 = name;
                    }
                }
                Ok(chosen)
            }
        }
        from.deserialize_any(ProtocolVisitor)
    }
}

/// Buffers, checked one by one as they are read, so that nonsense is refused before it costs memory.
#[derive(Default)]
struct BuffersIn<'a> {
    kept: Vec<BufferIn<'a>>,
    /// Entries of protocols that name no address (cxl, nvmeof); nothing here can reach them.
    without_addr: usize,
}

#[derive(Deserialize)]
struct BufferIn<'a> {
    addr: Option<u64>,
    length: Option<u64>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    /// Only upstream's multi-protocol builds write it.
    #[serde(borrow, default)]
    protocol: Cow<'a, str>,
}

impl BufferIn<'_> {
    fn fault(&self) -> Option<&'static str> {
        match (self.addr?, self.length.unwrap_or(0)) {
            (0, _) => Some("addr is 0"),
            (_, 0) => Some("length is 0 or missing"),
            (addr, len) if addr.checked_add(len).is_none() => Some("addr + length overflows"),
            _ if self.name.len() > MAX_NAME_LEN => Some("long name"),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for BuffersIn<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct BuffersVisitor;
        impl<'de> de::Visitor<'de> for BuffersVisitor {
            type Value = BuffersIn<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of buffers")
            }
            fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
                Ok(BuffersIn::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut buffers = BuffersIn::default();
                while let Some(buffer) = seq.next_element::<BufferIn<'de>>()? {
                    let index = buffers.kept.len() + buffers.without_addr;
                    if index == MAX_BUFFERS {
                        return Err(de::Error::custom(format_args!("over {MAX_BUFFERS} buffers")));
                    }
                    if let Some(fault) = buffer.fault() {
                        return Err(de::Error::custom(format_args!("buffers[{index}]: {fault}")));
                    }
                    match buffer.addr {
                        Some(_) => buffers.kept.push(buffer),
                        None => buffers.without_addr += 1,
                    }
                }
                Ok(buffers)
            }
        }
        from.deserialize_any(BuffersVisitor)
    }
}

impl BuffersIn<'_> {
    /// The buffers that `protocol` reaches, in the order of the text.
    fn kept_for(self, protocol: &str) -> Vec<Buffer> {
        let of_protocol = |b: &BufferIn<'_>| b.protocol.is_empty() || b.protocol == protocol;
        self.kept
            .into_iter()
            .filter(of_protocol)
            .map(|b| Buffer {
                addr: b.addr.unwrap_or(0),
                len: b.length.unwrap_or(0),
                location: if b.name.is_empty() { ANYWHERE.to_owned() } else { b.name.into_owned() },
                access: None,
            })
            .collect()
    }
}

/// The key `tent` as `T`; every other key is skipped.
#[derive(Deserialize)]
struct Tent<T> {
    tent: Option<T>,
}

#[derive(Deserialize)]
struct VersionIn {
    v: u64,
}

#[derive(Deserialize)]
struct TentIn<'a> {
    #[serde(borrow)]
    host: HostJson<'a>,
    #[serde(borrow)]
    incarnation: Cow<'a, str>,
    rails: Limited<(IpAddr, u8, String), MAX_RAILS>,
    regions: Limited<Option<RegionIn>, MAX_BUFFERS>,
    guard: Option<GuardJson>,
}

impl TentIn<'_> {
    fn checked(self) -> std::result::Result<TentFacts, &'static str> {
        let Some(incarnation) = parse_incarnation(&self.incarnation) else {
            return Err("incarnation is not 32 hex digits");
        };
        if self.host.boot_id.len() > MAX_BOOT_ID_LEN {
            return Err("host.boot_id is too long");
        }
        let rail = |(ip, prefix, interface): (IpAddr, u8, String)| {
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            let sane = prefix <= longest && interface.len() <= MAX_INTERFACE_LEN;
            sane.then_some(RailAddr { ip, prefix, interface })
        };
        let rails: Option<Vec<_>> = self.rails.0.into_iter().map(rail).collect();
        let guard = self.guard.map(|g| GuardRef { fd: g.fd, probe: g.probe });
        if guard.is_some_and(|g| g.fd < 0 || g.probe == 0 || g.probe > u64::MAX - 8) {
            return Err("guard is no descriptor and address");
        }
        Ok(TentFacts {
            incarnation,
            host: HostIdentity {
                boot_id: self.host.boot_id.into_owned(),
                pid_ns: self.host.pid_ns,
                net_ns: self.host.net_ns,
                pid: self.host.pid,
                start_ticks: self.host.start_ticks,
            },
            rails: rails.ok_or("rails: a prefix or an interface name is too long")?,
            guard,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct HostJson<'a> {
    #[serde(borrow)]
    boot_id: Cow<'a, str>,
    net_ns: u64,
    pid: i32,
    pid_ns: u64,
    start_ticks: u64,
}

#[derive(Serialize, Deserialize)]
struct GuardJson {
    fd: i32,
    probe: u64,
}

struct RegionIn {
    access: Access,
    location: Option<String>,
}

impl<'de> Deserialize<'de> for RegionIn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct RegionVisitor;
        impl<'de> de::Visitor<'de> for RegionVisitor {
            type Value = RegionIn;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a region as [key, permission, slot, fd, offset]")
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut row: A,
            ) -> std::result::Result<RegionIn, A::Error> {
                let key = cell(&mut row, 0)?;
                let permission = Permission::from_u8(cell(&mut row, 1)?)
                    .ok_or_else(|| de::Error::custom("unknown permission"))?;
                let slot = cell(&mut row, 2)?;
                let (fd, offset): (i32, u64) = (cell(&mut row, 3)?, cell(&mut row, 4)?);
                let shm = (fd >= 0).then_some(ShmBacking { fd, offset });
                let location: Option<String> = row.next_element()?;
                if location.as_ref().is_some_and(|l| l.len() > MAX_LOCATION_LEN) {
                    return Err(de::Error::custom("long location"));
                }
                // a later version may append cells
                while row.next_element::<IgnoredAny>()?.is_some() {}
                Ok(RegionIn { access: Access { key, permission, slot, shm }, location })
            }
        }
        from.deserialize_seq(RegionVisitor)
    }
}

fn cell<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    row: &mut A,
    index: usize,
) -> std::result::Result<T, A::Error> {
    row.next_element()?.ok_or_else(|| de::Error::invalid_length(index, &"5 cells in a region"))
}

/// A list of at most `MAX` items; the limit is enforced before the memory is spent.
struct Limited<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Limited<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct LimitedVisitor<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for LimitedVisitor<T, MAX> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(de::Error::invalid_length(MAX + 1, &self));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        from.deserialize_seq(LimitedVisitor::<T, MAX>(PhantomData)).map(Self)
    }
}

/// Gives each buffer the access that the row of its place describes.
fn attach(
    buffers: &mut [Buffer],
    rows: Vec<Option<RegionIn>>,
) -> std::result::Result<(), &'static str> {
    if rows.len() != buffers.len() {
        return Err("regions and buffers differ in number");
    }
    for (buffer, row) in buffers.iter_mut().zip(rows) {
        let Some(row) = row else {
            ANYWHERE.clone_into(&mut buffer.location);
            continue;
        };
        let end = row.access.shm.map_or(Some(0), |s| s.offset.checked_add(buffer.len));
        if end.is_none() {
            return Err("regions: offset + length overflows");
        }
        buffer.location = row.location.unwrap_or_else(|| ANYWHERE.to_owned());
        buffer.access = Some(row.access);
    }
    Ok(())
}

/// By address; of two that begin together the longer one last, where `buffer_of` looks.
fn sort(buffers: &mut [Buffer]) {
    buffers.sort_by_key(|b| (b.addr, b.len));
}

/// Leaves out what lies wholly inside another buffer. `buffers` must be sorted.
fn drop_nested(buffers: &mut Vec<Buffer>) {
    // of those that begin together only the last, longest one stays
    buffers.dedup_by(|later, kept| {
        let same = later.addr == kept.addr;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
    let mut reach = 0;
    buffers.retain(|b| {
        let end = b.addr + b.len;
        let nested = end <= reach;
        reach = reach.max(end);
        !nested
    });
}

/// Our own engines refuse to register what overlaps, so a descriptor that says otherwise is wrong.
fn refuse_overlap(buffers: &[Buffer]) -> std::result::Result<(), &'static str> {
    let overlap = buffers.windows(2).any(|pair| pair[0].addr + pair[0].len > pair[1].addr);
    if overlap { Err("regions overlap") } else { Ok(()) }
}

/// What errors call it.
const WHAT: &str = "segment descriptor";
const TCP: &str = "tcp";
/// The location that says nothing.
const ANYWHERE: &str = "*";
/// The version of the key `tent` that this code writes and reads.
const TENT_VERSION: u64 = 1;
/// Stands for "no memfd".
const NO_FD: i32 = -1;

/// The most buffers of one segment.
const MAX_BUFFERS: usize = 1 << 20;
/// The most rails of one engine.
const MAX_RAILS: usize = 256;
const MAX_NAME_LEN: usize = 1024;
const MAX_PROTOCOL_LEN: usize = 64;
const MAX_HOST_LEN: usize = 256;
const MAX_BOOT_ID_LEN: usize = 64;
const MAX_INTERFACE_LEN: usize = 64;
const MAX_LOCATION_LEN: usize = 256;

#[cfg(test)]
mod tests;
