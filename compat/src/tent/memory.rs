//! Memory: allocate, register, withdraw.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{
    TRANSPORT_SHM, TRANSPORT_TCP, TRANSPORT_UNSPEC, tent_engine_t, tent_memory_options,
    tent_memory_options_t, transport_name,
};
use crate::entry::entry;
use crate::handle;
use crate::mooncake::memory::region;
use crate::ret::TentCode;
use crate::text::{self, invalid};
use ::tent::{Engine, Error, ErrorKind, Permission, RegionSpec, Result};
use std::ffi::{c_char, c_int, c_void};

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
        let memory = handle::with(engine, |e| allocate(e, size, location, Permission::ReadWrite))?;
        // SAFETY: the caller's contract.
        unsafe { place.write(memory) };
        Ok(())
    })
}

/// As `tent_allocate_memory`, with the location and permission of `opts`.
///
/// # Safety
/// `addr` is NULL or writable; `opts` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_allocate_memory_ex(
    engine: tent_engine_t,
    addr: *mut *mut c_void,
    size: usize,
    opts: *mut tent_memory_options_t,
) -> TentCode {
    entry!(tent_allocate_memory_ex, {
        let place = text::out(addr, "addr")?;
        // SAFETY: the caller's contract.
        let (location, permission) = unsafe { options(opts) }?;
        let memory = handle::with(engine, |e| allocate(e, size, &location, permission))?;
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

/// Registers one range; peers may read and write it.
///
/// # Safety
/// The range stays mapped until it is unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_register_memory(
    engine: tent_engine_t,
    addr: *mut c_void,
    size: usize,
) -> TentCode {
    entry!(tent_register_memory, {
        let region = region(addr, size, "*", Permission::ReadWrite)?;
        handle::with(engine, |e| e.register(&region))
    })
}

/// As `tent_register_memory`; peers may do what `permission`, a `PERM_*`, says.
///
/// # Safety
/// The range stays mapped until it is unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_register_memory_with_perm(
    engine: tent_engine_t,
    addr: *mut c_void,
    size: usize,
    permission: c_int,
) -> TentCode {
    entry!(tent_register_memory_with_perm, {
        let region = region(addr, size, "*", permission_of(permission)?)?;
        handle::with(engine, |e| e.register(&region))
    })
}

/// As `tent_register_memory`, with the location and permission of `opts`.
///
/// # Safety
/// `opts` is NULL or valid; the range stays mapped until it is unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_register_memory_ex(
    engine: tent_engine_t,
    addr: *mut c_void,
    size: usize,
    opts: *mut tent_memory_options_t,
) -> TentCode {
    entry!(tent_register_memory_ex, {
        // SAFETY: the caller's contract.
        let (location, permission) = unsafe { options(opts) }?;
        let region = region(addr, size, &location, permission)?;
        handle::with(engine, |e| e.register(&region))
    })
}

/// Registers all ranges or none; peers may do what `permission`, a `PERM_*`, says.
///
/// # Safety
/// Both arrays are NULL or hold `count` entries; the ranges stay mapped until they are unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_register_memory_batch(
    engine: tent_engine_t,
    addrs: *mut *mut c_void,
    sizes: *mut usize,
    count: usize,
    permission: c_int,
) -> TentCode {
    entry!(tent_register_memory_batch, {
        let permission = permission_of(permission)?;
        // SAFETY: the caller's contract.
        let regions = unsafe { regions(addrs, sizes, count, "*", permission) }?;
        handle::with(engine, |e| e.register_batch(&regions))
    })
}

/// As `tent_register_memory_batch`, with the location and permission of `opts`.
///
/// # Safety
/// As for `tent_register_memory_batch`; `opts` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_register_memory_batch_ex(
    engine: tent_engine_t,
    addrs: *mut *mut c_void,
    sizes: *mut usize,
    count: usize,
    opts: *mut tent_memory_options_t,
) -> TentCode {
    entry!(tent_register_memory_batch_ex, {
        // SAFETY: the caller's contract.
        let (location, permission) = unsafe { options(opts) }?;
        // SAFETY: the caller's contract.
        let regions = unsafe { regions(addrs, sizes, count, &location, permission) }?;
        handle::with(engine, |e| e.register_batch(&regions))
    })
}

/// Withdraws the range that begins at `addr`. Waits for transfers that use it, for a while. `size` is not
/// looked at.
///
/// # Safety
/// None: the address is only compared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_unregister_memory(
    engine: tent_engine_t,
    addr: *mut c_void,
    size: usize,
) -> TentCode {
    entry!(tent_unregister_memory, {
        let _ = size;
        handle::with(engine, |e| e.unregister(addr.addr()))
    })
}

/// Withdraws ranges; goes on after an error and returns -1 for the first. `sizes` may be NULL.
///
/// # Safety
/// `addrs` is NULL or holds `count` addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_unregister_memory_batch(
    engine: tent_engine_t,
    addrs: *mut *mut c_void,
    sizes: *mut usize,
    count: usize,
) -> TentCode {
    entry!(tent_unregister_memory_batch, {
        let _ = sizes;
        // SAFETY: the caller's contract.
        let list = unsafe { text::array(addrs, count, "addrs") }?;
        let one = |e: &Engine, addr: &*mut c_void| e.unregister(addr.addr());
        handle::with(engine, |e| list.iter().map(|a| one(e, a)).fold(Ok(()), Result::and))
    })
}

fn allocate(
    engine: &Engine,
    size: usize,
    location: &str,
    permission: Permission,
) -> Result<*mut c_void> {
    if size == 0 {
        return Err(invalid("size is 0"));
    }
    let addr = engine.allocate_for(size, location, permission);
    addr.map(std::ptr::with_exposed_provenance_mut)
}

/// # Safety
/// Both arrays are NULL or hold `count` entries.
unsafe fn regions(
    addrs: *mut *mut c_void,
    sizes: *mut usize,
    count: usize,
    location: &str,
    permission: Permission,
) -> Result<Vec<RegionSpec>> {
    // SAFETY: this function's contract.
    let addrs = unsafe { text::array(addrs, count, "addrs") }?;
    // SAFETY: this function's contract.
    let sizes = unsafe { text::array(sizes, count, "sizes") }?;
    addrs.iter().zip(sizes).map(|(at, len)| region(*at, len, location, permission)).collect()
}

fn permission_of(number: c_int) -> Result<Permission> {
    u8::try_from(number).ok().and_then(Permission::from_u8).ok_or_else(|| {
        invalid(format!(
            "permission {number} is none of PERM_LOCAL_READ_WRITE 0, PERM_GLOBAL_READ_ONLY 1, \
             PERM_GLOBAL_READ_WRITE 2"
        ))
    })
}

/// Location and permission; everything that is not here is refused.
///
/// # Safety
/// `opts` is NULL or valid.
unsafe fn options(opts: *mut tent_memory_options) -> Result<(String, Permission)> {
    let place = text::out(opts, "opts")?;
    // SAFETY: not NULL, so valid (this function's contract).
    let opts = unsafe { place.read() };
    let unsupported = |text: String| Err(Error::new(ErrorKind::NotSupported, text));
    let transport = transport_name(opts.transport_type)?;
    if ![TRANSPORT_UNSPEC, TRANSPORT_SHM, TRANSPORT_TCP].contains(&opts.transport_type) {
        return unsupported(format!(
            "opts.transport_type {transport} is not here; TRANSPORT_UNSPEC serves every transport"
        ));
    }
    if opts.shm_path[0] != 0 || opts.shm_offset != 0 {
        return unsupported(
            "opts.shm_path and shm_offset must be empty: what tent_allocate_memory_ex gives is \
             mapped by peers on this host without a path"
                .into(),
        );
    }
    if opts.internal != 0 {
        return unsupported("opts.internal must be 0: there are no staging buffers here".into());
    }
    let location = text::from_field(&opts.location, "opts.location")?;
    let location = if location.is_empty() { "*".to_owned() } else { location };
    Ok((location, permission_of(opts.permission)?))
}
