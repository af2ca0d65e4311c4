//! TENT's C API (`tent.h`): its 33 functions with its names, arguments, layouts and return values
//! (`tent/include/tent/transfer_engine.h`), and ours beyond them. A `tent_engine_t` and a
//! `transfer_engine_t` are the same thing, and so are the batches and segments of both APIs.
//!
//! Where TENT crashes, or leaves memory unset, these return an error or fill it.
#![allow(non_camel_case_types, reason = "C names")]

pub mod engine;
pub mod memory;
pub mod notify;
pub mod report;
pub mod segment;
pub mod submit;
pub mod transfer;

use crate::text::invalid;
use ::tent::{Result, SegmentId};
use std::ffi::{c_char, c_int, c_void};

/// An engine; the same value as `transfer_engine_t`.
pub type tent_engine_t = *mut c_void;

/// Nothing has moved yet.
pub const TENT_STATUS_WAITING: c_int = 0;
/// Bytes are under way.
pub const TENT_STATUS_PENDING: c_int = 1;
/// The application gave it up.
pub const TENT_STATUS_CANCELED: c_int = 3;
/// Every byte has landed.
pub const TENT_STATUS_COMPLETED: c_int = 4;
/// The deadline came first.
pub const TENT_STATUS_TIMEOUT: c_int = 5;
/// No path could bring all bytes.
pub const TENT_STATUS_FAILED: c_int = 6;

/// `tent_segment_info.type` of memory.
pub const TENT_TYPE_MEMORY: c_int = 0;

/// One range to move. Must be zeroed before it is filled.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_request {
    /// `OPCODE_READ`: the segment's memory to `source`; `OPCODE_WRITE`: the other way.
    pub opcode: c_int,
    /// First byte of the local range; must lie inside one registered range.
    pub source: *mut c_void,
    /// Whose memory, from `tent_open_segment`; 0 is the engine's own.
    pub target_id: u64,
    /// First byte of the range in the segment, an absolute address there.
    pub target_offset: u64,
    /// Bytes; 0 completes at once.
    pub length: u64,
    /// 0 high, 1 medium, 2 low.
    pub priority: c_int,
    /// A `TRANSPORT_*` to try first, where it reaches the segment; `TRANSPORT_UNSPEC` leaves the choice
    /// to the engine. One that is not here is ignored.
    pub transport_hint: c_int,
}
/// As TENT names it.
pub type tent_request_t = tent_request;

/// State and progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct tent_status {
    /// One of `STATUS_*`, never blurred as in the Mooncake API.
    pub status: c_int,
    /// Bytes that have landed.
    pub transferred_bytes: u64,
}
/// As TENT names it.
pub type tent_status_t = tent_status;

/// A registered range of a segment.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_buffer_info {
    /// First byte, an address in the owner: the `target_offset` of a request.
    pub base: u64,
    /// Bytes.
    pub length: u64,
    /// Where the memory is, terminated, cut if longer.
    pub location: [c_char; 64],
}
/// For symmetry.
pub type tent_buffer_info_t = tent_buffer_info;

/// What is known of a segment.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_segment_info {
    /// `TYPE_MEMORY`.
    pub r#type: c_int,
    /// Entries of `buffers`.
    pub num_buffers: c_int,
    /// Free with `tent_free_segment_info`.
    pub buffers: *mut tent_buffer_info,
}
/// As TENT names it.
pub type tent_segment_info_t = tent_segment_info;

/// A message from a peer.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_notifi_record {
    /// Always 0: a message does not say from which segment it comes.
    pub handle: u64,
    /// By convention the sender's name; terminated, cut if longer.
    pub name: [c_char; 256],
    /// The message; terminated, cut if longer.
    pub msg: [c_char; 4096],
}
/// As TENT names it.
pub type tent_notifi_record_t = tent_notifi_record;

/// Messages from peers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_notifi_info {
    /// Entries of `records`.
    pub num_records: c_int,
    /// Free with `tent_free_notifs`.
    pub records: *mut tent_notifi_record,
}

/// How memory is to be allocated or registered. Must be zeroed before it is filled.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_memory_options {
    /// `*`, `cpu:0` …; empty means `*`.
    pub location: [c_char; 64],
    /// What peers may do: a `PERM_*`. Zeroed options keep them out.
    pub permission: c_int,
    /// `TRANSPORT_UNSPEC`, `TRANSPORT_SHM` or `TRANSPORT_TCP`: memory of this library serves both. Others
    /// are refused.
    pub transport_type: c_int,
    /// Must be empty: memory is shared by descriptor, not by a path that outlives its owner.
    pub shm_path: [c_char; 256],
    /// Must be 0.
    pub shm_offset: usize,
    /// Must be 0.
    pub internal: c_int,
}
/// As TENT names it.
pub type tent_memory_options_t = tent_memory_options;

/// Load of one rail.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct tent_nic_load_stat {
    /// The rail, as `tent_rails_json` names it; terminated, cut if longer.
    pub device_name: [c_char; 64],
    /// Bytes posted and not yet completed.
    pub inflight_bytes: u64,
    /// Smoothed delivery rate, in bytes per second.
    pub ewma_bandwidth_bps: f64,
}
/// As TENT names it.
pub type tent_nic_load_stat_t = tent_nic_load_stat;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<tent_request>() == 48 && offset_of!(tent_request, source) == 8);
    assert!(offset_of!(tent_request, target_id) == 16 && offset_of!(tent_request, length) == 32);
    assert!(offset_of!(tent_request, target_offset) == 24);
    assert!(offset_of!(tent_request, priority) == 40);
    assert!(offset_of!(tent_request, transport_hint) == 44);
    assert!(size_of::<tent_status>() == 16 && offset_of!(tent_status, transferred_bytes) == 8);
    assert!(size_of::<tent_buffer_info>() == 80 && offset_of!(tent_buffer_info, location) == 16);
    assert!(size_of::<tent_segment_info>() == 16 && offset_of!(tent_segment_info, buffers) == 8);
    assert!(size_of::<tent_notifi_record>() == 4360 && offset_of!(tent_notifi_record, msg) == 264);
    assert!(size_of::<tent_notifi_info>() == 16 && offset_of!(tent_notifi_info, records) == 8);
    assert!(size_of::<tent_memory_options>() == 344);
    assert!(offset_of!(tent_memory_options, permission) == 64);
    assert!(offset_of!(tent_memory_options, transport_type) == 68);
    assert!(offset_of!(tent_memory_options, shm_path) == 72);
    assert!(offset_of!(tent_memory_options, shm_offset) == 328);
    assert!(offset_of!(tent_memory_options, internal) == 336);
    assert!(size_of::<tent_nic_load_stat>() == 80);
    assert!(offset_of!(tent_nic_load_stat, inflight_bytes) == 64);
    assert!(offset_of!(tent_nic_load_stat, ewma_bandwidth_bps) == 72);
};

/// TENT's 64-bit segment id as ours.
fn segment_of(id: u64) -> Result<SegmentId> {
    u32::try_from(id).map(SegmentId).map_err(|_| invalid(format!("{id} is no segment")))
}

/// TENT's transports by number (`TRANSPORT_*` of `tent.h`), and the names that its policies use.
const TRANSPORTS: [&str; 13] = [
    "unspec",
    "rdma",
    "mnnvl",
    "shm",
    "nvlink",
    "gds",
    "iouring",
    "tcp",
    "ascend_direct",
    "sunrise_link",
    "tpu",
    "ub",
    "mpcomm",
];
const TRANSPORT_UNSPEC: c_int = 0;
const TRANSPORT_SHM: c_int = 3;
const TRANSPORT_TCP: c_int = 7;

/// The name of a transport number.
fn transport_name(number: c_int) -> Result<&'static str> {
    let at = usize::try_from(number).ok();
    at.and_then(|at| TRANSPORTS.get(at)).copied().ok_or_else(|| {
        invalid(format!("transport {number} is none of TRANSPORT_UNSPEC 0 … TRANSPORT_MPCOMM 12"))
    })
}
