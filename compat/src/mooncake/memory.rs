//! Registration of memory.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{buffer_entry_t, transfer_engine_t};
use crate::entry::entry;
use crate::handle;
use crate::ret::ErrCode;
use crate::text::{self, invalid};
use ::tent::{Engine, Permission, RegionSpec, Result};
use std::ffi::{c_char, c_int, c_void};

/// Registers one range; `remote_accessible` 0 keeps peers out of it.
///
/// # Safety
/// `location` is NULL or terminated; the range stays mapped until it is unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn registerLocalMemory(
    engine: transfer_engine_t,
    addr: *mut c_void,
    length: usize,
    location: *const c_char,
    remote_accessible: c_int,
) -> ErrCode {
    entry!(registerLocalMemory, {
        // SAFETY: the caller's contract.
        let location = unsafe { text::utf8(location, "location") }?;
        // TCP ignores the flag upstream, so that memory meant to be private is open to all
        let permission =
            if remote_accessible == 0 { Permission::Local } else { Permission::ReadWrite };
        let region = region(addr, length, location, permission)?;
        handle::with(engine, |e| e.register(&region))
    })
}

/// Withdraws the range that begins at `addr`.
///
/// # Safety
/// None: the address is only compared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unregisterLocalMemory(
    engine: transfer_engine_t,
    addr: *mut c_void,
) -> ErrCode {
    entry!(unregisterLocalMemory, { handle::with(engine, |e| e.unregister(addr.addr())) })
}

/// Registers all ranges or none; peers may read and write them.
///
/// # Safety
/// `buffer_list` is NULL or holds `buffer_len` entries; `location` is NULL or terminated; the ranges stay
/// mapped until they are unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn registerLocalMemoryBatch(
    engine: transfer_engine_t,
    buffer_list: *mut buffer_entry_t,
    buffer_len: usize,
    location: *const c_char,
) -> ErrCode {
    entry!(registerLocalMemoryBatch, {
        // SAFETY: the caller's contract.
        let location = unsafe { text::utf8(location, "location") }?;
        // SAFETY: the caller's contract.
        let list = unsafe { text::array(buffer_list, buffer_len, "buffer_list") }?;
        let one = |b: &buffer_entry_t| region(b.addr, b.length, location, Permission::ReadWrite);
        let regions = list.iter().map(one).collect::<Result<Vec<_>>>()?;
        handle::with(engine, |e| e.register_batch(&regions))
    })
}

/// Withdraws ranges; goes on after an error and returns the first.
///
/// # Safety
/// `addr_list` is NULL or holds `addr_len` addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unregisterLocalMemoryBatch(
    engine: transfer_engine_t,
    addr_list: *mut *mut c_void,
    addr_len: usize,
) -> ErrCode {
    entry!(unregisterLocalMemoryBatch, {
        // SAFETY: the caller's contract.
        let list = unsafe { text::array(addr_list, addr_len, "addr_list") }?;
        handle::with(engine, |e| unregister_all(e, &list))
    })
}

/// A range to register, as either C API names it.
pub(crate) fn region(
    addr: *mut c_void,
    len: usize,
    location: &str,
    permission: Permission,
) -> Result<RegionSpec> {
    if addr.is_null() {
        return Err(invalid("addr is NULL"));
    }
    if len == 0 {
        return Err(invalid(format!("the range at {addr:p} has length 0")));
    }
    Ok(RegionSpec { addr: addr.addr(), len, location: location.into(), permission })
}

fn unregister_all(engine: &Engine, list: &[*mut c_void]) -> Result<()> {
    let addrs: Vec<usize> = list.iter().map(|addr| addr.addr()).collect();
    engine.unregister_batch(&addrs)
}
