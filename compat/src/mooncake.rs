//! Upstream's C API, function by function: `mooncake-transfer-engine/include/transfer_engine_c.h`, with
//! its names, layouts, return conventions and quirks.
//!
//! Where upstream crashes on bad input these return an error; no client can depend on a crash. `MATRIX.md`
//! says for each function what is the same, what is better, and what is accepted without effect.
#![allow(non_camel_case_types, reason = "upstream's names")]

pub mod engine;
pub(crate) mod links;
pub(crate) mod matrix;
pub mod memory;
pub mod notify;
pub mod report;
#[cfg(test)]
mod tests;
pub mod transfer;

use crate::ret::NullOnError;
use std::ffi::{c_char, c_int, c_void};

/// An engine, from `createTransferEngine`.
pub type transfer_engine_t = *mut c_void;
/// A transport, from `installTransport`.
pub type transport_t = *mut c_void;
/// A segment id.
pub type segment_id_t = i32;
/// A segment id.
pub type segment_handle_t = i32;
/// A batch id.
pub type batch_id_t = u64;
/// `transfer_engine_t` or NULL.
pub type EngineOrNull = NullOnError<c_void>;
/// `transport_t` or NULL.
pub type TransportOrNull = NullOnError<c_void>;
/// An array of messages or NULL.
pub type NotifsOrNull = NullOnError<notify_msg_t>;

/// One range to move.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct transfer_request_t {
    /// 0 READ, 1 WRITE.
    pub opcode: c_int,
    /// First byte of the local range.
    pub source: *mut c_void,
    /// Whose memory.
    pub target_id: segment_id_t,
    /// First byte of the range in the peer, an absolute address there.
    pub target_offset: u64,
    /// Bytes.
    pub length: u64,
}

/// State and progress of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct transfer_status_t {
    /// One of `STATUS_*`.
    pub status: c_int,
    /// Bytes that have landed.
    pub transferred_bytes: u64,
}

/// A message: two terminated strings.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct notify_msg_t {
    /// By convention the sender's name.
    pub name: *mut c_char,
    /// The message.
    pub msg: *mut c_char,
}

/// A range to register.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct buffer_entry_t {
    /// First byte.
    pub addr: *mut c_void,
    /// Bytes.
    pub length: usize,
}

/// Load of one adapter; here of one rail.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct nic_load_stat_t {
    /// Terminated, cut if longer.
    pub device_name: [c_char; 64],
    /// Bytes posted and not yet completed.
    pub inflight_bytes: u64,
    /// Smoothed delivery rate, in bytes per second.
    pub ewma_bandwidth_bps: f64,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<transfer_request_t>() == 40);
    assert!(offset_of!(transfer_request_t, source) == 8);
    assert!(offset_of!(transfer_request_t, target_id) == 16);
    assert!(offset_of!(transfer_request_t, target_offset) == 24);
    assert!(offset_of!(transfer_request_t, length) == 32);
    assert!(size_of::<transfer_status_t>() == 16);
    assert!(offset_of!(transfer_status_t, transferred_bytes) == 8);
    assert!(size_of::<notify_msg_t>() == 16 && offset_of!(notify_msg_t, msg) == 8);
    assert!(size_of::<buffer_entry_t>() == 16 && offset_of!(buffer_entry_t, length) == 8);
    assert!(size_of::<nic_load_stat_t>() == 80);
    assert!(offset_of!(nic_load_stat_t, inflight_bytes) == 64);
    assert!(offset_of!(nic_load_stat_t, ewma_bandwidth_bps) == 72);
};
