//! What the engine has to tell, as JSON; and what an operator may do with it.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::tent_engine_t;
use crate::entry::entry;
use crate::handle;
use crate::mooncake::report::{events_value, rails_value};
use crate::ret::{NumberOrError, TentCode};
use crate::text::{self, invalid};
use ::tent::Result;
use std::ffi::{c_char, c_int};

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

/// Writes a report where there is room for it; its length.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
unsafe fn report(buf: *mut c_char, len: usize, value: &serde_json::Value) -> Result<c_int> {
    if buf.is_null() && len > 0 {
        return Err(invalid("buf is NULL"));
    }
    let json = value.to_string();
    // SAFETY: the caller's contract; NULL only with length 0.
    unsafe { text::write(buf, len, &json) };
    c_int::try_from(json.len()).map_err(|_| invalid("the report is longer than an int counts"))
}
