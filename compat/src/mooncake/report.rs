//! What the engine has to tell: load per rail, and the links of this host.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{nic_load_stat_t, transfer_engine_t};
use crate::entry::entry;
use crate::handle;
use crate::ret::{StatsCode, TentCode};
use crate::text::{self, invalid};
use ::tent::RailStat;
use ::tent::event::RailEvent;
use serde_json::{Value, json};
use std::ffi::{c_char, c_int};
use std::fmt::Write;

/// Load of each rail. In `*count` comes the capacity of `stats`; out of it the number of rails, which may
/// be larger.
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
        let rails = handle::with(engine, |e| Ok(e.rails()))?;
        // SAFETY: the caller's contract.
        let capacity = unsafe { count.read() };
        for (index, rail) in rails.iter().take(capacity).enumerate() {
            // SAFETY: `index` is below the capacity that the caller gave.
            let place = unsafe { stats.add(index) };
            // SAFETY: as above.
            unsafe { place.write(load_of(rail)) };
        }
        // SAFETY: the caller's contract.
        unsafe { count.write(rails.len()) };
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
        let rails = handle::with(engine, |e| Ok(e.rails()))?;
        let links = if json == 0 { links_text(&rails) } else { links_json(&rails) };
        // SAFETY: the caller's contract.
        unsafe { text::write(buffer.as_ptr(), buf_len, &links) };
        Ok(())
    })
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

fn load_of(rail: &RailStat) -> nic_load_stat_t {
    nic_load_stat_t {
        device_name: text::field(&rail.rail),
        inflight_bytes: rail.in_flight_bytes,
        ewma_bandwidth_bps: rail.rate_bps,
    }
}

/// Upstream's keys are `local_nics` and `topology` (`show_links.cpp`); the rails are ours.
fn links_json(rails: &[RailStat]) -> String {
    let links = json!({ "local_nics": [], "topology": {}, "tent_rails": rails_value(rails) });
    format!("{links:#}")
}

fn links_text(rails: &[RailStat]) -> String {
    let mut text = String::from(
        "=== Local NICs ===\n  (no RDMA devices found)\n\
         \n=== Topology (NIC Selection) ===\n  (empty)\n\
         \n=== Rails ===\n",
    );
    if rails.is_empty() {
        text.push_str("  (none yet: rails appear with the first transfer to a peer)\n");
    }
    for r in rails {
        let state = if r.up { "up" } else { "down" };
        // writing to a String cannot fail
        let _ = writeln!(
            text,
            "  {} via {}: {state}, {:.1} MB/s, {} bytes in flight, {} read, {} written, {} slices \
             moved elsewhere",
            r.peer,
            r.rail,
            r.rate_bps / 1e6,
            r.in_flight_bytes,
            r.read_bytes,
            r.write_bytes,
            r.retried_slices
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rail() -> RailStat {
        RailStat {
            peer: "10.0.0.2:15001".into(),
            rail: format!("tcp {}", "x".repeat(80)),
            transport: "tcp",
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

    #[test]
    fn the_json_has_upstream_s_keys_and_ours() {
        let value: Value = serde_json::from_str(&links_json(&[rail()])).unwrap();
        assert!(value["local_nics"].as_array().is_some_and(Vec::is_empty));
        assert!(value["topology"].is_object());
        assert_eq!(value["tent_rails"][0]["rate_bps"], 4.5e6);
        assert!(links_json(&[]).contains("\n  \"local_nics\": []"), "indent of two");
    }

    #[test]
    fn the_text_begins_as_upstream_s() {
        let text = links_text(&[]);
        assert!(text.starts_with("=== Local NICs ===\n"));
        assert!(text.contains("(no RDMA devices found)") && text.contains("=== Topology"));
        assert!(links_text(&[rail()]).contains("up, 4.5 MB/s, 7 bytes in flight"));
    }

    #[test]
    fn a_long_rail_name_is_cut_into_the_field() {
        let load = load_of(&rail());
        assert_eq!((load.device_name[62] != 0, load.device_name[63]), (true, 0));
        assert_eq!(load.inflight_bytes, 7);
    }
}
