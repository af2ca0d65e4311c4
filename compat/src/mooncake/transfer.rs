//! Batches: allocate, submit, poll, free.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::engine::segment_of;
use super::notify::message;
use super::{batch_id_t, notify_msg_t, transfer_engine_t, transfer_request_t, transfer_status_t};
use crate::entry::{entry, note_error};
use crate::handle::{self, Entry};
use crate::ret::{BatchOrInvalid, StatusCode};
use crate::text::{self, invalid};
use ::tent::{BatchId, Engine, Op, Request, RequestOptions, Result, TaskState, TaskStatus};
use smallvec::SmallVec;
use std::ffi::c_int;

/// A batch with room for `batch_size` tasks over its life; 0 is accepted and useless.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn allocateBatchID(
    engine: transfer_engine_t,
    batch_size: usize,
) -> BatchOrInvalid {
    entry!(allocateBatchID, { handle::with(engine, |e| e.allocate_batch(batch_size)) })
}

/// Submits requests as the batch's next tasks: all or none. Never waits for the data path (I8).
///
/// # Safety
/// `entries` is NULL or holds `count` requests; the ranges stay mapped until their tasks have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn submitTransfer(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
    entries: *mut transfer_request_t,
    count: usize,
) -> StatusCode {
    entry!(submitTransfer, {
        // SAFETY: the caller's contract.
        let entries = unsafe { text::array(entries, count, "entries") }?;
        handle::with(engine, |e| submit(e, BatchId(batch_id), &entries))
    })
}

/// As `submitTransfer`; when the whole batch has completed, `notify_msg` goes once to the peer of the
/// first request. A later call replaces the message.
///
/// # Safety
/// As for `submitTransfer`; both strings of the message are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn submitTransferWithNotify(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
    entries: *mut transfer_request_t,
    count: usize,
    notify_msg: notify_msg_t,
) -> StatusCode {
    entry!(submitTransferWithNotify, {
        // SAFETY: the caller's contract.
        let entries = unsafe { text::array(entries, count, "entries") }?;
        // SAFETY: the caller's contract.
        let message = unsafe { message(notify_msg) }?;
        let first = entries.first().ok_or_else(|| invalid("a notification needs a request"))?;
        let to = segment_of(first.target_id)?;
        let requests = requests(&entries)?;
        let batch = BatchId(batch_id);
        handle::with(engine, |e| e.submit_notify(batch, &requests, to, message))
    })
}

/// State of one task. `*status` is always filled: FAILED without bytes if the call itself fails, for one
/// client takes every other value for success.
///
/// # Safety
/// `status` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getTransferStatus(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
    task_id: usize,
    status: *mut transfer_status_t,
) -> StatusCode {
    entry!(getTransferStatus, {
        let status = text::out(status, "status")?;
        // SAFETY: the caller's contract. Written first, so that it stands even if what follows panics.
        unsafe { status.write(FAILED) };
        let seen = handle::with(engine, |e| observe(e, BatchId(batch_id), task_id))?;
        // SAFETY: the caller's contract.
        unsafe { status.write(seen) };
        Ok(())
    })
}

/// Frees a batch; 4 while a task is unfinished. No polling is needed before.
///
/// # Safety
/// None: the id is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn freeBatchID(
    engine: transfer_engine_t,
    batch_id: batch_id_t,
) -> StatusCode {
    entry!(freeBatchID, { handle::with(engine, |e| e.free_batch(BatchId(batch_id))) })
}

fn submit(engine: &Engine, batch: BatchId, entries: &[transfer_request_t]) -> Result<()> {
    if entries.is_empty() {
        // as upstream: nothing to do is no error, but a batch that is none is
        return engine.task_count(batch).map(drop);
    }
    engine.submit(batch, &requests(entries)?)
}

/// Without an allocation for the common batch of one.
fn requests(entries: &[transfer_request_t]) -> Result<SmallVec<[Request; 1]>> {
    entries.iter().map(request).collect()
}

fn request(entry: &transfer_request_t) -> Result<Request> {
    let op = match entry.opcode {
        0 => Op::Read,
        1 => Op::Write,
        // upstream reads on anything but 1, which hides a caller's garbage
        other => return Err(invalid(format!("opcode {other} is neither READ 0 nor WRITE 1"))),
    };
    Ok(Request {
        op,
        local: entry.source.addr(),
        segment: segment_of(entry.target_id)?,
        remote: entry.target_offset,
        len: entry.length,
        options: RequestOptions::default(),
    })
}

/// The task's state in upstream's numbers; the whole truth about a failure goes to the last error.
fn observe(engine: &Entry, batch: BatchId, task: usize) -> Result<transfer_status_t> {
    let TaskStatus { state, bytes } = engine.status(batch, task)?;
    if state.is_final() && state != TaskState::Completed {
        let cause = engine.failure_text(batch);
        note_error(&format!("task {task} {}: {cause}", ending(state)));
    }
    Ok(transfer_status_t { status: number(state, engine.native_status), transferred_bytes: bytes })
}

/// Upstream never gives PENDING; and TIMEOUT, CANCELED and INVALID count as success for NIXL's plug-in
/// (`mooncake_backend.cpp`, `checkXfer`), so a task that did not complete is FAILED unless the caller
/// asked for more.
fn number(state: TaskState, native: bool) -> c_int {
    match state {
        TaskState::Waiting | TaskState::Pending => STATUS_WAITING,
        TaskState::Completed => STATUS_COMPLETED,
        TaskState::Canceled if native => STATUS_CANCELED,
        TaskState::TimedOut if native => STATUS_TIMEOUT,
        TaskState::Failed | TaskState::Canceled | TaskState::TimedOut => STATUS_FAILED,
    }
}

/// How a task ended, in words.
pub(crate) fn ending(state: TaskState) -> &'static str {
    match state {
        TaskState::Waiting | TaskState::Pending => "goes on",
        TaskState::Completed => "completed",
        TaskState::Failed => "failed",
        TaskState::Canceled => "was canceled",
        TaskState::TimedOut => "timed out",
    }
}

const STATUS_WAITING: c_int = 0;
const STATUS_CANCELED: c_int = 3;
const STATUS_COMPLETED: c_int = 4;
const STATUS_TIMEOUT: c_int = 5;
const STATUS_FAILED: c_int = 6;

const FAILED: transfer_status_t = transfer_status_t { status: STATUS_FAILED, transferred_bytes: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_callers_see_waiting_completed_and_failed_only() {
        use TaskState::{Canceled, Completed, Failed, Pending, TimedOut, Waiting};
        for (state, upstream, native) in [
            (Waiting, 0, 0),
            (Pending, 0, 0),
            (Completed, 4, 4),
            (Failed, 6, 6),
            (Canceled, 6, 3),
            (TimedOut, 6, 5),
        ] {
            assert_eq!((number(state, false), number(state, true)), (upstream, native));
        }
    }
}
