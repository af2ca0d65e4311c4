//! What the engine has to tell: load per interface, and the links of this host.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::links::Links;
use super::{nic_load_stat_t, transfer_engine_t};
use crate::entry::entry;
use crate::handle;
use crate::ret::{StatsCode, TentCode};
use crate::text::{self, invalid};
use ::tent::event::RailEvent;
use ::tent::{RailStat, Result};
use serde_json::{Value, json};
use std::ffi::{c_char, c_int};

/// Load of each local interface: bytes in flight and measured rate of its rails. In `*count` comes the
/// capacity of `stats`; out of it the number of interfaces, which may be larger.
///
/// # Safety
/// `stats` is NULL or has room for `*count` entries; `count` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getNicLoadStats(
    engine: transfer_engine_t,
    stats: *mut nic_load_stat_t,
    count: *mut usize,
) -> StatsCode {
    entry!(getNicLoadStats, {
        let stats = text::out(stats, "stats")?;
        let count = text::out(count, "count")?;
        let loads = handle::with(engine, Links::of)?.loads();
        // SAFETY: the caller's contract.
        let capacity = unsafe { count.read() };
        for (index, load) in loads.iter().take(capacity).enumerate() {
            // SAFETY: `index` is below the capacity that the caller gave.
            let place = unsafe { stats.add(index) };
            // SAFETY: as above.
            unsafe { place.write(*load) };
        }
        // SAFETY: the caller's contract.
        unsafe { count.write(loads.len()) };
        Ok(())
    })
}

/// Writes what links there are, as text or (with `json`) as JSON, cut to `buf_len`.
///
/// # Safety
/// `buf_out` is NULL or has room for `buf_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn showLinks(
    engine: transfer_engine_t,
    buf_out: *mut c_char,
    buf_len: usize,
    json: c_int,
) -> TentCode {
    entry!(showLinks, {
        let buffer = text::out(buf_out, "buf_out")?;
        if buf_len == 0 {
            return Err(invalid("buf_len is 0"));
        }
        let links = links_of(engine)?;
        let links = if json == 0 { links.text() } else { links.json() };
        // SAFETY: the caller's contract.
        unsafe { text::write(buffer.as_ptr(), buf_len, &links) };
        Ok(())
    })
}

/// Of an engine; there are none yet where a C++ object has not been initialised.
fn links_of(engine: transfer_engine_t) -> Result<Links> {
    if handle::is_unborn(engine) {
        return Ok(Links::default());
    }
    handle::with(engine, Links::of)
}

/// The rails as JSON, for `showLinks` and `tent_rails_json`.
pub(crate) fn rails_value(rails: &[RailStat]) -> Value {
    let one = |r: &RailStat| {
        json!({
            "peer": r.peer,
            "rail": r.rail,
            "transport": r.transport,
            "up": r.up,
            "state": r.state,
            "window_bytes": r.window_bytes,
            "rtt_us": r.rtt_us,
            "retried_bytes": r.retried_bytes,
            "hedged_slices": r.hedged_slices,
            "downs": r.downs,
            "last_event": r.last_event,
            "last_event_us": r.last_event_at.monotonic_ns() / 1000,
            "in_flight_bytes": r.in_flight_bytes,
            "read_bytes": r.read_bytes,
            "write_bytes": r.write_bytes,
            "retried_slices": r.retried_slices,
            "rate_bps": r.rate_bps,
        })
    };
    rails.iter().map(one).collect()
}

/// Events as the JSON that `tent_events_json` gives.
pub(crate) fn events_value(events: &[RailEvent]) -> Value {
    let one = |e: &RailEvent| {
        json!({
            "seq": e.seq,
            "us": e.at.monotonic_ns() / 1000,
            "peer": e.peer,
            "rail": e.rail,
            "event": e.what,
            "why": e.why,
        })
    };
    events.iter().map(one).collect()
}
