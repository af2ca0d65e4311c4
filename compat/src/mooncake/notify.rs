//! Messages between engines.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{NotifsOrNull, notify_msg_t, transfer_engine_t};
use crate::entry::entry;
use crate::handle;
use crate::ret::ErrCode;
use crate::text;
use ::tent::{Engine, Error, ErrorKind, Notification, Result, SegmentId};
use std::ffi::c_int;
use std::ptr::null_mut;

/// Takes all messages received so far, in the order of arrival; NULL and `*size` 0 if there are none.
/// Free with `freeNotifsMsgBuf`. Strings end at their first NUL.
///
/// # Safety
/// `size` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getNotifsFromEngine(
    engine: transfer_engine_t,
    size: *mut c_int,
) -> NotifsOrNull {
    entry!(getNotifsFromEngine, {
        let size = text::out(size, "size")?;
        // SAFETY: the caller's contract.
        unsafe { size.write(0) };
        let messages = handle::with(engine, |e| Ok(e.take_notifications()))?;
        let (array, count) = malloc_messages(&messages)?;
        // SAFETY: the caller's contract.
        unsafe { size.write(count) };
        Ok(array)
    })
}

/// Frees what `getNotifsFromEngine` gave; (NULL, 0) is fine.
///
/// # Safety
/// `msg` is NULL, or the array and `size` of one `getNotifsFromEngine`, not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn freeNotifsMsgBuf(msg: *mut notify_msg_t, size: c_int) -> ErrCode {
    entry!(freeNotifsMsgBuf, {
        // SAFETY: the caller's contract.
        unsafe { free_messages(msg, usize::try_from(size).unwrap_or(0)) };
        Ok(())
    })
}

/// Sends a message to a peer and waits for its answer.
///
/// # Safety
/// Both strings of the message are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn genNotifyInEngine(
    engine: transfer_engine_t,
    target_id: u64,
    notify_msg: notify_msg_t,
) -> ErrCode {
    entry!(genNotifyInEngine, {
        // SAFETY: the caller's contract.
        let message = unsafe { message(notify_msg) }?;
        handle::with(engine, |e| send(e, target_id, &message))
    })
}

/// Upstream's message as ours; any bytes.
///
/// # Safety
/// Both strings are NULL or terminated.
pub(super) unsafe fn message(message: notify_msg_t) -> Result<Notification> {
    // SAFETY: this function's contract.
    let name = unsafe { text::bytes(message.name, "notify_msg.name") }?;
    // SAFETY: this function's contract.
    let text = unsafe { text::bytes(message.msg, "notify_msg.msg") }?;
    Ok(Notification { name: name.to_vec(), message: text.to_vec() })
}

fn send(engine: &Engine, target: u64, message: &Notification) -> Result<()> {
    let unknown = || Error::new(ErrorKind::Metadata, format!("target_id {target} is no segment"));
    let id = u32::try_from(target).map(SegmentId).map_err(|_| unknown())?;
    // upstream: -200 for a segment it does not know (transfer_engine_impl.cpp, sendNotifyByID)
    engine.segment(id).map_err(|error| match error.kind() {
        ErrorKind::Stale | ErrorKind::InvalidArgument => unknown(),
        _ => error,
    })?;
    engine.notify(id, message)
}

fn malloc_messages(messages: &[Notification]) -> Result<(*mut notify_msg_t, c_int)> {
    if messages.is_empty() {
        return Ok((null_mut(), 0));
    }
    let array = text::malloc_array::<notify_msg_t>(messages.len())?.as_ptr();
    for (index, message) in messages.iter().enumerate() {
        if let Err(error) = fill(array, index, message) {
            log::error!("{} received messages are lost: {error}", messages.len());
            // SAFETY: the array and its strings are from malloc, unfilled ones NULL; nobody else has it.
            unsafe { free_messages(array, messages.len()) };
            return Err(error);
        }
    }
    Ok((array, c_int::try_from(messages.len()).unwrap_or(c_int::MAX)))
}

fn fill(array: *mut notify_msg_t, index: usize, message: &Notification) -> Result<()> {
    // SAFETY: `index` is below the length that the array was made with.
    let place = unsafe { array.add(index) };
    let name = text::malloc_string(&message.name)?.as_ptr();
    let filled = notify_msg_t { name, msg: null_mut() };
    // SAFETY: as above. Written before the second string, so that the first is freed if that fails.
    unsafe { place.write(filled) };
    let msg = text::malloc_string(&message.message)?.as_ptr();
    // SAFETY: as above.
    unsafe { place.write(notify_msg_t { msg, ..filled }) };
    Ok(())
}

/// # Safety
/// `array` is NULL or came from malloc with `count` entries, each string NULL or from malloc.
unsafe fn free_messages(array: *mut notify_msg_t, count: usize) {
    if array.is_null() {
        return;
    }
    for index in 0..count {
        // SAFETY: below `count` (this function's contract).
        let place = unsafe { array.add(index) };
        // SAFETY: as above, and filled.
        let message = unsafe { place.read() };
        // SAFETY: from malloc or NULL, freed once.
        unsafe { text::free(message.name) };
        // SAFETY: as above.
        unsafe { text::free(message.msg) };
    }
    // SAFETY: as above.
    unsafe { text::free(array) };
}
