//! Notifications.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::transfer::notification;
use super::{segment_of, tent_engine_t, tent_notifi_info, tent_notifi_record};
use crate::entry::{entry, note_error};
use crate::handle;
use crate::ret::TentCode;
use crate::text;
use ::tent::{Notification, Result};
use std::ffi::{c_char, c_int};

/// Sends a message to a segment's engine and waits for its answer. Any bytes but NUL; up to 255 of the name
/// and 4095 of the message come through `tent_recv_notifs`.
///
/// # Safety
/// `name` and `message` are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_send_notifs(
    engine: tent_engine_t,
    handle: u64,
    name: *const c_char,
    message: *const c_char,
) -> TentCode {
    entry!(tent_send_notifs, {
        let to = segment_of(handle)?;
        // SAFETY: the caller's contract.
        let message = unsafe { notification(name, message) }?;
        handle::with(engine, |e| e.notify(to, &message))
    })
}

/// Takes the oldest messages, in the order of arrival, at most 1024: call again until none come. Free with
/// `tent_free_notifs`, also when there are none. A longer message is cut, and `tent_last_error` says so.
///
/// # Safety
/// `info` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_recv_notifs(
    engine: tent_engine_t,
    info: *mut tent_notifi_info,
) -> TentCode {
    entry!(tent_recv_notifs, {
        let place = text::out(info, "info")?;
        // SAFETY: the caller's contract. Written first, so that freeing after a failure is harmless.
        unsafe { place.write(EMPTY) };
        let messages = handle::with(engine, |e| e.take_some_notifications(MAX_RECORDS))?;
        let filled = malloc_records(&messages)?;
        // SAFETY: the caller's contract.
        unsafe { place.write(filled) };
        Ok(())
    })
}

/// Frees what `tent_recv_notifs` gave and empties it; NULL is fine, and so is a second time.
///
/// # Safety
/// `info` is NULL or was filled by `tent_recv_notifs`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_free_notifs(info: *mut tent_notifi_info) {
    entry!(void tent_free_notifs, {
        if let Ok(place) = text::out(info, "info") {
            // SAFETY: the caller's contract.
            let old = unsafe { place.replace(EMPTY) };
            // SAFETY: from malloc or NULL, and forgotten above.
            unsafe { text::free(old.records) };
        }
        Ok(())
    });
}

fn malloc_records(messages: &[Notification]) -> Result<tent_notifi_info> {
    if messages.is_empty() {
        return Ok(EMPTY);
    }
    let made = text::malloc_array::<tent_notifi_record>(messages.len());
    let records = made
        .inspect_err(|e| log::error!("{} received messages are lost: {e}", messages.len()))?
        .as_ptr();
    let mut cut = 0;
    for (index, message) in messages.iter().enumerate() {
        let (name, name_cut) = text::bytes_field(&message.name);
        let (msg, msg_cut) = text::bytes_field(&message.message);
        cut += usize::from(name_cut || msg_cut);
        // SAFETY: `index` is below the length that the array was made with.
        let place = unsafe { records.add(index) };
        // SAFETY: as above.
        unsafe { place.write(tent_notifi_record { handle: 0, name, msg }) };
    }
    if cut > 0 {
        let why = "the record holds 255 bytes of name and 4095 of message";
        log::warn!("{cut} received messages were cut: {why}");
        note_error(&format!("tent_recv_notifs: {cut} messages were cut: {why}"));
    }
    let num_records = c_int::try_from(messages.len()).unwrap_or(c_int::MAX);
    Ok(tent_notifi_info { num_records, records })
}

/// Messages that one call gives: 4.5 MB of records.
const MAX_RECORDS: usize = 1024;
const EMPTY: tent_notifi_info = tent_notifi_info { num_records: 0, records: std::ptr::null_mut() };
