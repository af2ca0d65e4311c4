//! What the header-only C++ class `mooncake::TransferEngine` (`compat/include/transfer_engine.h`) needs
//! beyond both C APIs, declared in `include/tent_cxx.h`. C programs may use it as well.
#![allow(unsafe_code, reason = "the C side's pointers")]

use crate::entry::entry;
use crate::mooncake::links::Links;
use crate::mooncake::{EngineOrNull, engine, matrix, transfer_engine_t};
use crate::ret::{ErrCode, NumberOrError};
use crate::text::{self, invalid};
use crate::{handle, shutdown};
use ::tent::segment::SegmentDesc;
use ::tent::topology::machine::Matrix;
use ::tent::{Result, SegmentId};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// As `createTransferEngine`, for the named interfaces only. `devices` is a comma list; NULL, empty, or none
/// that is an interface here: all.
///
/// # Safety
/// The strings are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_create(
    metadata: *const c_char,
    local_name: *const c_char,
    auto_discover: c_int,
    devices: *const c_char,
) -> EngineOrNull {
    entry!(tent_cxx_create, {
        // SAFETY: the caller's contract.
        let store = unsafe { text::utf8(metadata, "metadata") };
        // SAFETY: the caller's contract.
        let name = unsafe { text::utf8(local_name, "local_name") };
        // SAFETY: the caller's contract.
        let devices = unsafe { device_list(devices) }?;
        engine::create(store, name, auto_discover != 0, &devices)
    })
}

/// Lets the address `object` stand for `engine` in every function that takes an engine: upstream's handle
/// is the address of its C++ object. NULL for an object without an engine yet. Undo with `tent_cxx_unbind`.
///
/// # Safety
/// None: the address is compared and never followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_bind(
    object: *const c_void,
    engine: transfer_engine_t,
) -> ErrCode {
    entry!(tent_cxx_bind, {
        if object.is_null() {
            return Err(invalid("object is NULL"));
        }
        handle::bind(object.addr(), engine);
        Ok(())
    })
}

/// Ends what `tent_cxx_bind` began; an address that is not bound is fine.
///
/// # Safety
/// None: the address is compared and never followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_unbind(object: *const c_void) {
    entry!(void tent_cxx_unbind, {
        handle::unbind(object.addr());
        Ok(())
    });
}

/// One fact about an open segment as text; `key` is `name`, `protocol`, `tcp_data_host`, `tcp_data_port` or
/// `tcp_proto_version`. Returns as `tent_rails_json`. The buffers: `tent_get_segment_info`.
///
/// # Safety
/// `key` is NULL or terminated; `buf` has room for `len` bytes, or is NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_segment(
    engine: transfer_engine_t,
    segment: u64,
    key: *const c_char,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_cxx_segment, {
        // SAFETY: the caller's contract.
        let key = unsafe { text::utf8(key, "key") }?;
        let id = segment_id(segment)?;
        let description = handle::with(engine, |e| e.segment(id))?;
        // SAFETY: the caller's contract.
        unsafe { put(buf, len, &fact(&description, key)?) }
    })
}

/// Asks the engine of an open segment whether it is alive: 0, or why it seems not to be.
///
/// # Safety
/// None: the handle and the id are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_probe(engine: transfer_engine_t, segment: u64) -> ErrCode {
    entry!(tent_cxx_probe, {
        let id = segment_id(segment)?;
        handle::with(engine, |e| e.probe(id))
    })
}

/// Asks the owner of an open segment for its description again; what was known stays if it does not answer.
///
/// # Safety
/// None: the handle and the id are checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_refresh(engine: transfer_engine_t, segment: u64) -> ErrCode {
    entry!(tent_cxx_refresh, {
        let id = segment_id(segment)?;
        handle::with(
            engine,
            |e| if id == SegmentId::LOCAL { Ok(()) } else { e.refresh_segment(id) },
        )
    })
}

/// The priority matrix of an engine as JSON, `{}` before it was discovered or given. With NULL for the
/// engine: of this machine, as it is now, for the devices in the comma list (NULL or empty: all). Returns
/// as `tent_rails_json`.
///
/// # Safety
/// `devices` is NULL or terminated; `buf` has room for `len` bytes, or is NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_topology(
    engine: transfer_engine_t,
    devices: *const c_char,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_cxx_topology, {
        // SAFETY: the caller's contract.
        let devices = unsafe { device_list(devices) }?;
        let matrix = if engine.is_null() {
            matrix::here(&[])?.matrix(&devices)
        } else {
            handle::with(engine, |e| Ok(e.matrix.load_full()))?
                .map_or_else(Matrix::new, |matrix| Matrix::clone(&matrix))
        };
        // SAFETY: the caller's contract.
        unsafe { put(buf, len, &matrix::value(&matrix).to_string()) }
    })
}

/// Replaces the priority matrix of an engine; -1 with a reason if `json` is none.
///
/// # Safety
/// `json` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_set_topology(
    engine: transfer_engine_t,
    json: *const c_char,
) -> ErrCode {
    entry!(tent_cxx_set_topology, {
        // SAFETY: the caller's contract.
        let matrix = matrix::parse(unsafe { text::utf8(json, "json") }?)?;
        handle::with(engine, |e| {
            e.matrix.store(Some(Arc::new(matrix)));
            Ok(())
        })
    })
}

/// A priority matrix as lines, for readers without JSON: location, 0 (preferred) or 1 (others), devices,
/// with tabs between them. Returns as `tent_rails_json`; -1 with a reason if `json` is no matrix.
///
/// # Safety
/// `json` is NULL or terminated; `buf` has room for `len` bytes, or is NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_matrix_lines(
    json: *const c_char,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_cxx_matrix_lines, {
        // SAFETY: the caller's contract.
        let matrix = matrix::parse(unsafe { text::utf8(json, "json") }?)?;
        // SAFETY: the caller's contract.
        unsafe { put(buf, len, &matrix::lines(&matrix)) }
    })
}

/// As `showLinks`, of any length: returns as `tent_rails_json`. With NULL for the engine it tells of the
/// matrix alone; `matrix`, if not NULL, is shown in place of the engine's own.
///
/// # Safety
/// `matrix` is NULL or terminated; `buf` has room for `len` bytes, or is NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_links(
    engine: transfer_engine_t,
    matrix: *const c_char,
    json: c_int,
    buf: *mut c_char,
    len: usize,
) -> NumberOrError {
    entry!(tent_cxx_links, {
        let mut links =
            if engine.is_null() { Links::default() } else { handle::with(engine, Links::of)? };
        if !matrix.is_null() {
            // SAFETY: the caller's contract.
            links.matrix = matrix::parse(unsafe { text::utf8(matrix, "matrix") }?)?;
        }
        let links = if json == 0 { links.text() } else { links.json() };
        // SAFETY: the caller's contract.
        unsafe { put(buf, len, &links) }
    })
}

/// As `enableGracefulShutdown`, for a process that has no engine yet: engines join when they ask for it.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_cxx_arm_shutdown() -> ErrCode {
    entry!(tent_cxx_arm_shutdown, { shutdown::arm() })
}

fn segment_id(segment: u64) -> Result<SegmentId> {
    let id = u32::try_from(segment).map(SegmentId);
    id.map_err(|_| invalid(format!("{segment} is no segment")))
}

fn fact(segment: &SegmentDesc, key: &str) -> Result<String> {
    Ok(match key {
        "name" => segment.name.clone(),
        "protocol" => segment.protocol.clone(),
        "tcp_data_host" => segment.tcp_data_host.clone(),
        "tcp_data_port" => segment.tcp_data_port.to_string(),
        "tcp_proto_version" => segment.tcp_proto_version.to_string(),
        _ => return Err(invalid(format!("nothing is known of a segment under {key:?}"))),
    })
}

/// # Safety
/// `list` is NULL or terminated.
unsafe fn device_list(list: *const c_char) -> Result<Vec<String>> {
    if list.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: this function's contract.
    let list = unsafe { text::utf8(list, "devices") }?;
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    Ok(names.map(ToOwned::to_owned).collect())
}

/// Writes text where there is room for it; its length.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
unsafe fn put(buf: *mut c_char, len: usize, text: &str) -> Result<c_int> {
    if buf.is_null() && len > 0 {
        return Err(invalid("buf is NULL"));
    }
    // SAFETY: this function's contract; NULL only with length 0.
    unsafe { text::write(buf, len, text) };
    c_int::try_from(text.len()).map_err(|_| invalid("the text is longer than an int counts"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::{null, null_mut};

    /// What a function of this file writes, asked for its length first.
    fn read(call: impl Fn(*mut c_char, usize) -> NumberOrError) -> Option<String> {
        let len = usize::try_from(call(null_mut(), 0).number()).ok()?;
        let mut buffer = vec![0_u8; len + 1];
        assert_eq!(
            call(buffer.as_mut_ptr().cast(), len + 1).number(),
            c_int::try_from(len).unwrap()
        );
        assert_eq!(buffer.pop(), Some(0), "terminated");
        Some(String::from_utf8(buffer).unwrap())
    }

    #[test]
    fn a_matrix_is_shown_without_an_engine() {
        let json = c"{\"cpu:0\":[[\"erdma_0\"],[\"erdma_1\"]]}".as_ptr();
        // SAFETY: terminated strings and buffers of the lengths given, here and below.
        let lines = read(|b, n| unsafe { tent_cxx_matrix_lines(json, b, n) });
        assert_eq!(lines.as_deref(), Some("cpu:0\t0\terdma_0\ncpu:0\t1\terdma_1\n"));
        // SAFETY: as above.
        let text = read(|b, n| unsafe { tent_cxx_links(null_mut(), json, 0, b, n) }).unwrap();
        assert!(text.contains("erdma_1") && text.contains("topology only"), "{text}");
        // SAFETY: as above.
        let here = read(|b, n| unsafe { tent_cxx_topology(null_mut(), null(), b, n) }).unwrap();
        assert!(here.starts_with("{\"cpu:0\":[["), "{here}");
    }

    #[test]
    #[expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "one call after the other, for one reason"
    )]
    fn bad_input_is_an_error() {
        let stale = null_mut();
        // SAFETY: NULL and terminated strings are allowed everywhere here; handles are checked.
        let failed = unsafe {
            [
                tent_cxx_bind(null(), stale).number() < 0,
                tent_cxx_segment(stale, 0, c"name".as_ptr(), null_mut(), 0).number() < 0,
                tent_cxx_segment(stale, u64::MAX, c"name".as_ptr(), null_mut(), 0).number() < 0,
                tent_cxx_probe(stale, 0).number() < 0,
                tent_cxx_refresh(stale, 0).number() < 0,
                tent_cxx_set_topology(stale, c"{}".as_ptr()).number() < 0,
                tent_cxx_set_topology(stale, null()).number() < 0,
                tent_cxx_matrix_lines(c"[]".as_ptr(), null_mut(), 0).number() < 0,
                tent_cxx_matrix_lines(c"{}".as_ptr(), null_mut(), 7).number() < 0,
                tent_cxx_links(null_mut(), c"7".as_ptr(), 0, null_mut(), 0).number() < 0,
                tent_cxx_create(null(), null(), 0, null()).pointer().is_null(),
            ]
        };
        assert!(failed.iter().all(|failed| *failed), "{failed:?}");
        // SAFETY: nothing is bound there, nothing is looked at.
        unsafe { tent_cxx_unbind(null()) };
    }
}
