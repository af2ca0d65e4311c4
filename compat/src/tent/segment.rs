//! Segments: open, close, describe, probe.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{
    TENT_TYPE_MEMORY, segment_of, tent_buffer_info, tent_engine_t, tent_segment_info,
    tent_segment_info_t,
};
use crate::entry::entry;
use crate::handle;
use crate::ret::TentCode;
use crate::text::{self, invalid};
use ::tent::Result;
use ::tent::segment::{Buffer, SegmentDesc};
use std::ffi::{c_char, c_int, c_void};

/// Opens a peer's segment by name. The same name gives the same id, the own name `LOCAL_SEGMENT_ID`.
///
/// # Safety
/// `handle` is NULL or writable; `segment_name` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_open_segment(
    engine: tent_engine_t,
    handle: *mut u64,
    segment_name: *const c_char,
) -> TentCode {
    entry!(tent_open_segment, {
        let place = text::out(handle, "handle")?;
        // SAFETY: the caller's contract.
        let name = unsafe { text::utf8(segment_name, "segment_name") }?;
        let id = handle::with(engine, |e| e.open_segment(name))?;
        // SAFETY: the caller's contract.
        unsafe { place.write(u64::from(id.0)) };
        Ok(())
    })
}

/// An id stays valid for the engine's life; this only checks it.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_close_segment(engine: tent_engine_t, handle: u64) -> TentCode {
    entry!(tent_close_segment, {
        let id = segment_of(handle)?;
        handle::with(engine, |e| e.segment(id).map(drop))
    })
}

/// What is known of an open segment. Free with `tent_free_segment_info`.
///
/// # Safety
/// `info` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_get_segment_info(
    engine: tent_engine_t,
    handle: u64,
    info: *mut tent_segment_info_t,
) -> TentCode {
    entry!(tent_get_segment_info, {
        let place = text::out(info, "info")?;
        // SAFETY: the caller's contract. Written first, so that freeing after a failure is harmless.
        unsafe { place.write(EMPTY_INFO) };
        let id = segment_of(handle)?;
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

/// Asks the engine behind a segment whether it is alive: 0 if it answers, within the time of a connection
/// and an answer.
///
/// # Safety
/// None: the ids are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_probe(engine: tent_engine_t, handle: u64) -> TentCode {
    entry!(tent_probe, {
        let id = segment_of(handle)?;
        handle::with(engine, |e| e.probe(id))
    })
}

/// Writes the description of a segment, `LOCAL_SEGMENT_ID` for the engine's own, as bytes that
/// `tent_import_segment` of another engine takes. In `*len` comes the room in `blob`; out of it the bytes that
/// are needed. -1 if they do not fit; NULL with `*len` 0 asks for the number, and is no error.
///
/// # Safety
/// `blob` has room for `*len` bytes, or is NULL with `*len` 0; `len` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_export_segment(
    engine: tent_engine_t,
    handle: u64,
    blob: *mut c_void,
    len: *mut usize,
) -> TentCode {
    entry!(tent_export_segment, {
        let len = text::out(len, "len")?;
        let id = segment_of(handle)?;
        let bytes = handle::with(engine, |e| e.export_segment(id))?;
        // SAFETY: the caller's contract.
        let room = unsafe { len.read() };
        // SAFETY: the caller's contract.
        unsafe { len.write(bytes.len()) };
        if room < bytes.len() {
            let why = format!("the blob needs {} bytes, and there are {room}", bytes.len());
            return if blob.is_null() && room == 0 { Ok(()) } else { Err(invalid(why)) };
        }
        // SAFETY: the caller's contract; the room was just looked at.
        unsafe { text::list(blob.cast::<u8>(), len, &bytes, "blob") }
    })
}

/// Opens the segment that a blob describes, without asking its RPC port first. The same name gives the same id
/// as `tent_open_segment`; what is known of a segment that is open stays.
///
/// # Safety
/// `handle` is NULL or writable; `blob` is NULL or has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_import_segment(
    engine: tent_engine_t,
    handle: *mut u64,
    blob: *const c_void,
    len: usize,
) -> TentCode {
    entry!(tent_import_segment, {
        let place = text::out(handle, "handle")?;
        let from = text::out(blob.cast_mut(), "blob")?;
        if len > MAX_BLOB {
            return Err(invalid(format!("a blob of {len} bytes: at most {MAX_BLOB}")));
        }
        // SAFETY: the caller's contract; below isize::MAX.
        let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u8>(), len) };
        let id = handle::with(engine, |e| e.import_segment(bytes))?;
        // SAFETY: the caller's contract.
        unsafe { place.write(u64::from(id.0)) };
        Ok(())
    })
}

fn malloc_info(segment: &SegmentDesc) -> Result<tent_segment_info> {
    let many = |_| invalid("the segment has more buffers than an int counts");
    let num_buffers = c_int::try_from(segment.buffers.len()).map_err(many)?;
    if num_buffers == 0 {
        return Ok(EMPTY_INFO);
    }
    let buffers = text::malloc_array::<tent_buffer_info>(segment.buffers.len())?.as_ptr();
    for (index, buffer) in segment.buffers.iter().enumerate() {
        // SAFETY: `index` is below the length that the array was made with.
        let place = unsafe { buffers.add(index) };
        // SAFETY: as above.
        unsafe { place.write(buffer_info(buffer)) };
    }
    Ok(tent_segment_info { r#type: TENT_TYPE_MEMORY, num_buffers, buffers })
}

fn buffer_info(buffer: &Buffer) -> tent_buffer_info {
    tent_buffer_info {
        base: buffer.addr,
        length: buffer.len,
        location: text::field(&buffer.location),
    }
}

/// Longest blob, in bytes: what the library writes is shorter.
const MAX_BLOB: usize = 65 << 20;
const EMPTY_INFO: tent_segment_info =
    tent_segment_info { r#type: TENT_TYPE_MEMORY, num_buffers: 0, buffers: std::ptr::null_mut() };
