//! Batches: allocate, submit, poll, wait, cancel, free.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{
    TENT_STATUS_CANCELED, TENT_STATUS_COMPLETED, TENT_STATUS_FAILED, TENT_STATUS_PENDING,
    TENT_STATUS_TIMEOUT, TENT_STATUS_WAITING, TRANSPORT_UNSPEC, segment_of, tent_engine_t,
    tent_request, tent_request_t, tent_status, tent_status_t, transport_name,
};
use crate::entry::{entry, note_error};
use crate::handle;
use crate::mooncake::transfer::ending;
use crate::ret::{BatchOrInvalid, NumberOrError, TentCode, WaitCode};
use crate::text::{self, invalid};
use ::tent::{
    BatchId, Engine, Notification, Op, Priority, Request, RequestOptions, Result, TaskState,
    TaskStatus, TransportKind,
};
use smallvec::SmallVec;
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A batch with room for `batch_size` tasks over its life. `UINT64_MAX` on error; such an id is refused
/// wherever it is used. Free with `tent_free_batch`.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_allocate_batch(
    engine: tent_engine_t,
    batch_size: usize,
) -> BatchOrInvalid {
    entry!(tent_allocate_batch, { handle::with(engine, |e| e.allocate_batch(batch_size)) })
}

/// Frees a batch; -1 while a task is unfinished.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_free_batch(engine: tent_engine_t, batch_id: u64) -> TentCode {
    entry!(tent_free_batch, { handle::with(engine, |e| e.free_batch(BatchId(batch_id))) })
}

/// Submits requests as the batch's next tasks: all or none. Never waits for the data (I8).
///
/// # Safety
/// `entries` is NULL or holds `count` requests; the ranges stay mapped until their tasks have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_submit(
    engine: tent_engine_t,
    batch_id: u64,
    entries: *mut tent_request_t,
    count: usize,
) -> TentCode {
    entry!(tent_submit, {
        // SAFETY: the caller's contract.
        let entries = unsafe { text::array(entries, count, "entries") }?;
        let requests = requests(&entries)?;
        handle::with(engine, |e| e.submit(BatchId(batch_id), &requests))
    })
}

/// As `tent_submit`; when the whole batch has completed, the message goes once to the segment of the first
/// request, after the bytes are visible there. A later call replaces the message.
///
/// # Safety
/// As for `tent_submit`; `name` and `message` are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_submit_notif(
    engine: tent_engine_t,
    batch_id: u64,
    entries: *mut tent_request_t,
    count: usize,
    name: *const c_char,
    message: *const c_char,
) -> TentCode {
    entry!(tent_submit_notif, {
        // SAFETY: the caller's contract.
        let entries = unsafe { text::array(entries, count, "entries") }?;
        // SAFETY: the caller's contract.
        let message = unsafe { notification(name, message) }?;
        let requests = requests(&entries)?;
        let first = requests.first().ok_or_else(|| invalid("a notification needs a request"))?;
        let batch = BatchId(batch_id);
        handle::with(engine, |e| e.submit_notify(batch, &requests, first.segment, message))
    })
}

/// State of one task. `*status` is always filled: `STATUS_FAILED` without bytes if the call itself fails.
///
/// # Safety
/// `status` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_task_status(
    engine: tent_engine_t,
    batch_id: u64,
    task_id: usize,
    status: *mut tent_status_t,
) -> TentCode {
    entry!(tent_task_status, {
        // SAFETY: the caller's contract.
        unsafe { fill(status, || handle::with(engine, |e| one(e, batch_id, task_id))) }
    })
}

/// State of a whole batch: PENDING while any task is unfinished, then the worst ending; the sum of bytes.
///
/// # Safety
/// `status` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_overall_status(
    engine: tent_engine_t,
    batch_id: u64,
    status: *mut tent_status_t,
) -> TentCode {
    entry!(tent_overall_status, {
        // SAFETY: the caller's contract.
        unsafe { fill(status, || handle::with(engine, |e| overall(e, batch_id))) }
    })
}

/// The same as `tent_overall_status`, under the name that this library had first.
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
        // SAFETY: the caller's contract.
        unsafe { fill(status, || handle::with(engine, |e| overall(e, batch))) }
    })
}

/// States of the first tasks. In `*count` comes the capacity of `statuses`; out of it the number of tasks,
/// which may be larger.
///
/// # Safety
/// `statuses` has room for `*count` entries, or is NULL with `*count` 0; `count` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_task_status_list(
    engine: tent_engine_t,
    batch_id: u64,
    statuses: *mut tent_status_t,
    count: *mut usize,
) -> TentCode {
    entry!(tent_task_status_list, {
        let count = text::out(count, "count")?;
        let seen = handle::with(engine, |e| {
            let tasks = e.task_count(BatchId(batch_id))?;
            (0..tasks).map(|task| one(e, batch_id, task)).collect::<Result<Vec<_>>>()
        })?;
        // SAFETY: the caller's contract.
        unsafe { text::list(statuses, count, &seen, "statuses") }
    })
}

/// Gives a task up. It ends as CANCELED when nothing of it can land any more; poll or wait for that.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cancel_task(
    engine: tent_engine_t,
    batch_id: u64,
    task_id: usize,
) -> TentCode {
    entry!(tent_cancel_task, { handle::with(engine, |e| e.cancel(BatchId(batch_id), task_id)) })
}

/// Waits until every submitted task has ended: 0 then, 1 if `timeout_ms` came first (the tasks go on), -1
/// on error. That a task ended does not say that it completed: `tent_overall_status` does.
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

/// Without an allocation for the common batch of one.
pub(super) fn requests(entries: &[tent_request]) -> Result<SmallVec<[Request; 1]>> {
    entries.iter().map(request).collect()
}

pub(super) fn request(entry: &tent_request) -> Result<Request> {
    Ok(Request {
        op: op_of(entry.opcode)?,
        local: entry.source.addr(),
        segment: segment_of(entry.target_id)?,
        remote: entry.target_offset,
        len: entry.length,
        options: RequestOptions {
            priority: priority_of(entry.priority)?,
            first: hint_of(entry.transport_hint)?,
            ..RequestOptions::default()
        },
    })
}

pub(super) fn op_of(opcode: c_int) -> Result<Op> {
    match opcode {
        0 => Ok(Op::Read),
        1 => Ok(Op::Write),
        other => {
            Err(invalid(format!("opcode {other} is neither OPCODE_READ 0 nor OPCODE_WRITE 1")))
        }
    }
}

pub(super) fn priority_of(number: c_int) -> Result<Priority> {
    match number {
        0 => Ok(Priority::High),
        1 => Ok(Priority::Medium),
        2 => Ok(Priority::Low),
        other => {
            let why = "0 high, 1 medium, 2 low; is the request zeroed before it is filled?";
            Err(invalid(format!("priority {other} is none of {why}")))
        }
    }
}

/// The transport to try first; one that is not here costs a line in the log, once.
pub(super) fn hint_of(number: c_int) -> Result<Option<TransportKind>> {
    if number == TRANSPORT_UNSPEC {
        return Ok(None);
    }
    let name = transport_name(number)?;
    let kind = TransportKind::parse(name);
    if kind.is_none() {
        static TOLD: AtomicU32 = AtomicU32::new(0);
        let bit = 1 << number.clamp(0, 31);
        if TOLD.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            log::warn!("transport_hint {name} is not here: the engine chooses");
        }
    }
    Ok(kind)
}

/// # Safety
/// `name` and `message` are NULL or terminated.
pub(super) unsafe fn notification(
    name: *const c_char,
    message: *const c_char,
) -> Result<Notification> {
    // SAFETY: this function's contract.
    let name = unsafe { text::bytes(name, "name") }?;
    // SAFETY: this function's contract.
    let message = unsafe { text::bytes(message, "message") }?;
    Ok(Notification { name: name.to_vec(), message: message.to_vec() })
}

/// Fills in a status whatever happens.
///
/// # Safety
/// `status` is NULL or writable.
unsafe fn fill(
    status: *mut tent_status,
    observe: impl FnOnce() -> Result<tent_status>,
) -> Result<()> {
    let place = text::out(status, "status")?;
    // SAFETY: this function's contract. Written first, so that it stands even if what follows panics.
    unsafe { place.write(FAILED) };
    let seen = observe()?;
    // SAFETY: this function's contract.
    unsafe { place.write(seen) };
    Ok(())
}

fn one(engine: &Engine, batch: u64, task: usize) -> Result<tent_status> {
    let status = engine.status(BatchId(batch), task)?;
    note_ending(engine, batch, status.state);
    Ok(seen(status))
}

fn overall(engine: &Engine, batch: u64) -> Result<tent_status> {
    let status = engine.batch_status(BatchId(batch))?;
    note_ending(engine, batch, status.state);
    Ok(seen(status))
}

fn seen(status: TaskStatus) -> tent_status {
    tent_status { status: number(status.state), transferred_bytes: status.bytes }
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

const FAILED: tent_status = tent_status { status: TENT_STATUS_FAILED, transferred_bytes: 0 };
