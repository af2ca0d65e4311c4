//! What the engine has to tell, as JSON; and what an operator may do with it.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::tent_engine_t;
use crate::entry::entry;
use crate::handle;
use crate::mooncake::report::{events_value, rails_value};
use crate::ret::{NumberOrError, TentCode};
use crate::text::{self, invalid};
use ::tent::engine::{Map, Place, WayTo};
use ::tent::topology::Interface;
use ::tent::{
    BatchId, BatchReport, Op, RailShare, RailStat, Result, TaskReport, TaskState, TransportKind,
};
use serde_json::{Value, json};
use std::ffi::{c_char, c_int};
use std::time::Duration;

/// What each rail has done, as a JSON array of objects with the keys `peer`, `rail`, `transport`, `up`,
/// `in_flight_bytes`, `read_bytes`, `write_bytes`, `retried_slices` and `rate_bps`. As snprintf: returns
/// the length that is needed without the terminator, and cuts to `len`; `buf` may be NULL if `len` is 0.
/// -1 on error.
///
/// # Safety
/// `buf` has room for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_rails_json(
    engine: tent_engine_t,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_rails_json, {
        let rails = handle::with(engine, |e| Ok(e.rails()))?;
        // SAFETY: the caller's contract.
        unsafe { report(buf, len, &rails_value(&rails)) }
    })
}

/// What happened to rails after event number `since` (0: all that is kept), as a JSON array of {seq, us,
/// peer, rail, event, why}; `us` is on `CLOCK_MONOTONIC`. Returns as `tent_rails_json`.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_events_json(
    engine: tent_engine_t,
    since: u64,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_events_json, {
        let events = handle::with(engine, |e| Ok(e.rail_events(since)))?;
        // SAFETY: the caller's contract.
        unsafe { report(buf, len, &events_value(&events)) }
    })
}

/// Takes the net rails of that name (as `tent_rails_json` says it) out of use (`on` not 0), or back. What a
/// drained rail has in flight ends on it. 0, or -1 with a reason in `tent_last_error`.
///
/// # Safety
/// `rail` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_rail_drain(
    engine: tent_engine_t,
    rail: *const c_char,
    on: c_int,
) -> TentCode {
    entry!(tent_rail_drain, {
        // SAFETY: the caller's contract.
        let rail = unsafe { text::utf8(rail, "rail") }?;
        handle::with(engine, |e| e.drain_rail(rail, on != 0))
    })
}

/// What became of a batch so far, as a JSON object. `tasks`: for each {op, peer, transport, bytes, landed,
/// state, attempts, retried, hedged, queue_us, transfer_us, reason}; `rails`: for each {rail, transport, bytes,
/// pieces}. Times (else null), rails (else none) and a reason for each task are kept only from a submit with
/// `TENT_SUBMIT_REPORT`. Returns as `tent_rails_json`.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_batch_report_json(
    engine: tent_engine_t,
    batch_id: u64,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_batch_report_json, {
        let seen = handle::with(engine, |e| e.batch_report(BatchId(batch_id)))?;
        // SAFETY: the caller's contract.
        unsafe { report(buf, len, &batch_value(&seen)) }
    })
}

/// Where the engine is and how it reaches what it has opened, as a JSON object: `name`, `host`, `interfaces`,
/// `addresses`, and `segments` with every transport, whether it reaches the segment, why, and its rails.
/// Returns as `tent_rails_json`.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_topology_json(
    engine: tent_engine_t,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_topology_json, {
        let (map, rails) = handle::with(engine, |e| Ok((e.map()?, e.rails())))?;
        // SAFETY: the caller's contract.
        unsafe { report(buf, len, &map_value(&map, &rails)) }
    })
}

fn batch_value(batch: &BatchReport) -> Value {
    let micros = |d: Option<Duration>| d.map(|d| d.as_secs_f64() * 1e6);
    let task = |t: &TaskReport| {
        json!({
            "op": if t.op == Op::Read { "read" } else { "write" },
            "peer": t.peer,
            "transport": t.transport.map(TransportKind::name),
            "bytes": t.len,
            "landed": t.landed,
            "state": state_name(t.state),
            "attempts": t.attempts,
            "retried": t.retried,
            "hedged": t.hedged,
            "queue_us": micros(t.queued),
            "transfer_us": micros(t.moving),
            "reason": t.reason,
        })
    };
    let rail = |r: &RailShare| {
        json!({
            "rail": r.rail,
            "transport": r.transport.name(),
            "bytes": r.bytes,
            "pieces": r.pieces,
        })
    };
    json!({
        "tasks": batch.tasks.iter().map(task).collect::<Vec<_>>(),
        "rails": batch.rails.iter().map(rail).collect::<Vec<_>>(),
    })
}

fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Waiting => "waiting",
        TaskState::Pending => "pending",
        TaskState::Completed => "completed",
        TaskState::Failed => "failed",
        TaskState::Canceled => "canceled",
        TaskState::TimedOut => "timed_out",
    }
}

fn map_value(map: &Map, rails: &[RailStat]) -> Value {
    let interface = |i: &Interface| {
        json!({
            "name": i.name,
            "address": i.addr.to_string(),
            "prefix": i.prefix,
            "up": i.up && i.running,
            "loopback": i.loopback,
            "bridge": i.bridge,
            "speed_mbps": i.speed_mbps,
        })
    };
    let way =
        |w: &WayTo| json!({"transport": w.transport.name(), "usable": w.usable, "why": w.why});
    let segment = |p: &Place| {
        let own: Vec<RailStat> = rails.iter().filter(|r| r.peer == p.name).cloned().collect();
        json!({
            "id": p.id,
            "name": p.name,
            "near": p.near,
            "transports": p.ways.iter().map(way).collect::<Vec<_>>(),
            "rails": rails_value(&own),
        })
    };
    json!({
        "name": map.name,
        "host": {"boot_id": map.host.boot_id, "pid": map.host.pid, "net_ns": map.host.net_ns},
        "interfaces": map.interfaces.iter().map(interface).collect::<Vec<_>>(),
        "addresses": map.addresses.iter().map(|a| a.ip.to_string()).collect::<Vec<_>>(),
        "segments": map.segments.iter().map(segment).collect::<Vec<_>>(),
    })
}

/// Writes a report where there is room for it; its length.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
unsafe fn report(buf: *mut c_char, len: usize, value: &Value) -> Result<c_int> {
    if buf.is_null() && len > 0 {
        return Err(invalid("buf is NULL"));
    }
    let json = value.to_string();
    // SAFETY: the caller's contract; NULL only with length 0.
    unsafe { text::write(buf, len, &json) };
    c_int::try_from(json.len()).map_err(|_| invalid("the report is longer than an int counts"))
}
