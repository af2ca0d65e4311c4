//! Our own C API (`tent.h`): what the Mooncake API lacks. The functions take the engine that
//! `createTransferEngine` gave. Where TENT has a function of the name, its arguments and layouts are
//! TENT's (`tent/include/tent/transfer_engine.h`).
#![allow(non_camel_case_types, reason = "C names")]
#![allow(unsafe_code, reason = "the C side's pointers")]

use crate::entry::{entry, last_error, note_error};
use crate::handle;
use crate::mooncake::report::{events_value, rails_value};
use crate::mooncake::transfer::ending;
use crate::ret::{NumberOrError, StaticText, TentCode, WaitCode};
use crate::text::{self, invalid};
use ::tent::segment::{Buffer, SegmentDesc};
use ::tent::{BatchId, Engine, Result, SegmentId, TaskState};
use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

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

/// `tent_segment_info_t.type` of memory.
pub const TENT_TYPE_MEMORY: c_int = 0;

/// State and progress. The layout of TENT's `tent_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct tent_status_t {
    /// One of `TENT_STATUS_*`, never blurred as in the Mooncake API.
    pub status: c_int,
    /// Bytes that have landed.
    pub transferred_bytes: u64,
}

/// A registered range of a segment. The layout of TENT's `tent_buffer_info`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_buffer_info_t {
    /// First byte, an address in the owner: the `target_offset` of a request.
    pub base: u64,
    /// Bytes.
    pub length: u64,
    /// Where the memory is, terminated, cut if longer.
    pub location: [c_char; 64],
}

/// What is known of a segment. The layout of TENT's `tent_segment_info`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_segment_info_t {
    /// `TENT_TYPE_MEMORY`.
    pub r#type: c_int,
    /// Entries of `buffers`.
    pub num_buffers: c_int,
    /// Free with `tent_free_segment_info`.
    pub buffers: *mut tent_buffer_info_t,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<tent_status_t>() == 16 && offset_of!(tent_status_t, transferred_bytes) == 8);
    assert!(
        size_of::<tent_buffer_info_t>() == 80 && offset_of!(tent_buffer_info_t, location) == 16
    );
    assert!(
        size_of::<tent_segment_info_t>() == 16 && offset_of!(tent_segment_info_t, buffers) == 8
    );
};

/// Why this thread's last call failed, in one line; empty if it did not. After a status call that
/// succeeded it tells why the task failed. Valid until this thread's next call. Never NULL.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_last_error() -> StaticText {
    entry!(keep tent_last_error, { Ok(last_error()) })
}

/// The version of the library, such as `0.1.0`.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_version() -> StaticText {
    entry!(keep tent_version, { Ok(VERSION.as_ptr().cast()) })
}

/// Allocates memory that peers on this host can map, and registers it for reading and writing.
/// `location` is `*`, `cpu:0` …; NULL means `*`. Free with `tent_free_memory`.
///
/// # Safety
/// `addr` is NULL or writable; `location` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_allocate_memory(
    engine: tent_engine_t,
    addr: *mut *mut c_void,
    size: usize,
    location: *const c_char,
) -> TentCode {
    entry!(tent_allocate_memory, {
        let place = text::out(addr, "addr")?;
        let location = if location.is_null() { c"*".as_ptr() } else { location };
        // SAFETY: the caller's contract.
        let location = unsafe { text::utf8(location, "location") }?;
        let memory = handle::with(engine, |e| allocate(e, size, location))?;
        // SAFETY: the caller's contract.
        unsafe { place.write(memory) };
        Ok(())
    })
}

/// Unregisters and frees what `tent_allocate_memory` gave.
///
/// # Safety
/// Nobody uses the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_free_memory(engine: tent_engine_t, addr: *mut c_void) -> TentCode {
    entry!(tent_free_memory, { handle::with(engine, |e| e.free(addr.addr())) })
}

/// What is known of an open segment. Free with `tent_free_segment_info`.
///
/// # Safety
/// `info` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_get_segment_info(
    engine: tent_engine_t,
    segment: u64,
    info: *mut tent_segment_info_t,
) -> TentCode {
    entry!(tent_get_segment_info, {
        let place = text::out(info, "info")?;
        // SAFETY: the caller's contract. Written first, so that freeing after a failure is harmless.
        unsafe { place.write(EMPTY_INFO) };
        let id = u32::try_from(segment).map(SegmentId);
        let id = id.map_err(|_| invalid(format!("{segment} is no segment")))?;
        let description = handle::with(engine, |e| e.segment(id))?;
        let filled = malloc_info(&description)?;
        // SAFETY: the caller's contract.
        unsafe { place.write(filled) };
        Ok(())
    })
}

/// Frees what `tent_get_segment_info` gave and empties it; NULL is fine, and so is a second time.
///
/// # Safety
/// `info` is NULL or was filled by `tent_get_segment_info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_free_segment_info(info: *mut tent_segment_info_t) {
    entry!(void tent_free_segment_info, {
        if let Ok(place) = text::out(info, "info") {
            // SAFETY: the caller's contract.
            let old = unsafe { place.replace(EMPTY_INFO) };
            // SAFETY: from malloc or NULL, and forgotten above.
            unsafe { text::free(old.buffers) };
        }
        Ok(())
    });
}

/// Gives a task up. It ends as CANCELED when nothing of it can land any more; poll or wait for that.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cancel_task(
    engine: tent_engine_t,
    batch: u64,
    task: usize,
) -> TentCode {
    entry!(tent_cancel_task, { handle::with(engine, |e| e.cancel(BatchId(batch), task)) })
}

/// Waits until every submitted task has ended: 0 then, 1 if `timeout_ms` came first (the tasks go on), -1
/// on error. That a task ended does not say that it completed: `tent_batch_status` does.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_wait(engine: tent_engine_t, batch: u64, timeout_ms: u64) -> WaitCode {
    entry!(tent_wait, {
        let timeout = Duration::from_millis(timeout_ms);
        let status = handle::with(engine, |e| {
            e.wait(BatchId(batch), timeout).inspect(|s| note_ending(e, batch, s.state))
        });
        status.map(drop)
    })
}

/// An eventfd that becomes readable when every submitted task has ended, for `poll` and its kin. It
/// belongs to the batch and is closed with it: do not close it. -1 on error.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_batch_event_fd(engine: tent_engine_t, batch: u64) -> NumberOrError {
    entry!(tent_batch_event_fd, { handle::with(engine, |e| e.event_fd(BatchId(batch))) })
}

/// State of a whole batch: PENDING while any task is unfinished, then the worst ending; the sum of bytes.
///
/// # Safety
/// `status` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_batch_status(
    engine: tent_engine_t,
    batch: u64,
    status: *mut tent_status_t,
) -> TentCode {
    entry!(tent_batch_status, {
        let place = text::out(status, "status")?;
        // SAFETY: the caller's contract. Written first, so that it stands even if what follows panics.
        unsafe { place.write(FAILED) };
        let seen = handle::with(engine, |e| overall(e, batch))?;
        // SAFETY: the caller's contract.
        unsafe { place.write(seen) };
        Ok(())
    })
}

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
pub(crate) unsafe fn report(
    buf: *mut c_char,
    len: usize,
    value: &serde_json::Value,
) -> Result<c_int> {
    if buf.is_null() && len > 0 {
        return Err(invalid("buf is NULL"));
    }
    let json = value.to_string();
    // SAFETY: the caller's contract; NULL only with length 0.
    unsafe { text::write(buf, len, &json) };
    c_int::try_from(json.len()).map_err(|_| invalid("the report is longer than an int counts"))
}

fn allocate(engine: &Engine, size: usize, location: &str) -> Result<*mut c_void> {
    if size == 0 {
        return Err(invalid("size is 0"));
    }
    engine.allocate(size, location).map(std::ptr::with_exposed_provenance_mut)
}

fn overall(engine: &Engine, batch: u64) -> Result<tent_status_t> {
    let status = engine.batch_status(BatchId(batch))?;
    note_ending(engine, batch, status.state);
    Ok(tent_status_t { status: number(status.state), transferred_bytes: status.bytes })
}

/// Leaves the reason of a bad ending as the thread's last error.
fn note_ending(engine: &Engine, batch: u64, state: TaskState) {
    if state.is_final() && state != TaskState::Completed {
        let cause = engine.failure_text(BatchId(batch));
        note_error(&format!("a task of the batch {}: {cause}", ending(state)));
    }
}

fn number(state: TaskState) -> c_int {
    match state {
        TaskState::Waiting => TENT_STATUS_WAITING,
        TaskState::Pending => TENT_STATUS_PENDING,
        TaskState::Completed => TENT_STATUS_COMPLETED,
        TaskState::Failed => TENT_STATUS_FAILED,
        TaskState::Canceled => TENT_STATUS_CANCELED,
        TaskState::TimedOut => TENT_STATUS_TIMEOUT,
    }
}

fn malloc_info(segment: &SegmentDesc) -> Result<tent_segment_info_t> {
    let many = |_| invalid("the segment has more buffers than an int counts");
    let num_buffers = c_int::try_from(segment.buffers.len()).map_err(many)?;
    if num_buffers == 0 {
        return Ok(EMPTY_INFO);
    }
    let buffers = text::malloc_array::<tent_buffer_info_t>(segment.buffers.len())?.as_ptr();
    for (index, buffer) in segment.buffers.iter().enumerate() {
        // SAFETY: `index` is below the length that the array was made with.
        let place = unsafe { buffers.add(index) };
        // SAFETY: as above.
        unsafe { place.write(buffer_info(buffer)) };
    }
    Ok(tent_segment_info_t { r#type: TENT_TYPE_MEMORY, num_buffers, buffers })
}

fn buffer_info(buffer: &Buffer) -> tent_buffer_info_t {
    tent_buffer_info_t {
        base: buffer.addr,
        length: buffer.len,
        location: text::field(&buffer.location),
    }
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
const FAILED: tent_status_t = tent_status_t { status: TENT_STATUS_FAILED, transferred_bytes: 0 };
const EMPTY_INFO: tent_segment_info_t =
    tent_segment_info_t { r#type: TENT_TYPE_MEMORY, num_buffers: 0, buffers: std::ptr::null_mut() };
