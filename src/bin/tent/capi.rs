//! The C API of the engine, found at run time in any library that has it. One method per C function,
//! which turns values into pointers and return codes into errors; no policy. What a foreign library lacks
//! is `None`, a normal state.
#![allow(
    unsafe_code,
    reason = "calls through C function pointers; each block says what it relies on"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fail::{Fail, Result};
use super::rails::rail::{Rail, RailEvent};

type Handle = *mut c_void;

/// `transfer_request` of the C header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    opcode: c_int,
    source: *mut u8,
    segment: i32,
    target_offset: u64,
    length: u64,
}

/// Direction, seen from the caller: READ brings remote bytes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    Read,
    Write,
}

impl Request {
    /// `source` must stay valid for `length` bytes until the batch has ended; `remote` is an address in
    /// the peer.
    pub(crate) fn new(op: Op, source: *mut u8, segment: i32, remote: u64, length: u64) -> Self {
        let opcode = c_int::from(op == Op::Write);
        Self { opcode, source, segment, target_offset: remote, length }
    }
}

#[repr(C)]
#[derive(Default)]
struct Status {
    status: c_int,
    transferred: u64,
}

/// What became of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Moving(u64),
    Completed,
    /// The status code: failed, canceled, timed out or invalid.
    Failed(i32),
}

#[repr(C)]
struct BufferInfo {
    base: u64,
    length: u64,
    location: [c_char; 64],
}

#[repr(C)]
struct SegmentInfo {
    kind: c_int,
    count: c_int,
    buffers: *mut BufferInfo,
}

type Create =
    unsafe extern "C" fn(*const c_char, *const c_char, *const c_char, u64, c_int) -> Handle;
type Register = unsafe extern "C" fn(Handle, *mut c_void, usize, *const c_char, c_int) -> c_int;
type Submit = unsafe extern "C" fn(Handle, u64, *mut Request, usize) -> c_int;
type Poll = unsafe extern "C" fn(Handle, u64, usize, *mut Status) -> c_int;
type Allocate = unsafe extern "C" fn(Handle, *mut *mut c_void, usize, *const c_char) -> c_int;

/// The functions of one loaded library. It is never closed: its threads may outlive any engine.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) path: String,
    create: Create,
    destroy: unsafe extern "C" fn(Handle),
    local_name: unsafe extern "C" fn(Handle, *mut c_char, usize) -> c_int,
    register: Register,
    unregister: unsafe extern "C" fn(Handle, *mut c_void) -> c_int,
    open_segment: unsafe extern "C" fn(Handle, *const c_char) -> i32,
    allocate_batch: unsafe extern "C" fn(Handle, usize) -> u64,
    submit: Submit,
    poll: Poll,
    free_batch: unsafe extern "C" fn(Handle, u64) -> c_int,
    last_error: Option<unsafe extern "C" fn() -> *const c_char>,
    allocate: Option<Allocate>,
    free: Option<unsafe extern "C" fn(Handle, *mut c_void) -> c_int>,
    segment_info: Option<unsafe extern "C" fn(Handle, u64, *mut SegmentInfo) -> c_int>,
    free_segment_info: Option<unsafe extern "C" fn(*mut SegmentInfo)>,
    wait: Option<unsafe extern "C" fn(Handle, u64, u64) -> c_int>,
    /// `int` also where the library returns a longer type: the length is small, and the low half is it.
    rails: Option<unsafe extern "C" fn(Handle, *mut c_char, usize) -> c_int>,
    events: Option<unsafe extern "C" fn(Handle, u64, *mut c_char, usize) -> c_int>,
    drain: Option<unsafe extern "C" fn(Handle, *const c_char, c_int) -> c_int>,
    config: Option<unsafe extern "C" fn(*mut c_char, usize) -> c_int>,
}

impl Library {
    /// Loads the library: `asked`, else `$TENT_LIB`, else what lies beside the executable, else whatever
    /// the loader finds under the name.
    pub(crate) fn load(asked: Option<&Path>) -> Result<&'static Self> {
        let path = asked.map_or_else(default_path, Path::to_path_buf);
        let (file, path) = (c_string(&path.to_string_lossy())?, path.display().to_string());
        // SAFETY: a valid C string; the library's initialisers are as trusted as the command itself.
        let lib = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if lib.is_null() {
            return Err(Fail::setup(
                format!("cannot load the engine: {}", loader_error()),
                "give --lib PATH or set TENT_LIB to libtransfer_engine.so",
            ));
        }
        let table = Self {
            create: need(lib, &path, c"createTransferEngine")?,
            destroy: need(lib, &path, c"destroyTransferEngine")?,
            local_name: need(lib, &path, c"getLocalIpAndPort")?,
            register: need(lib, &path, c"registerLocalMemory")?,
            unregister: need(lib, &path, c"unregisterLocalMemory")?,
            open_segment: need(lib, &path, c"openSegment")?,
            allocate_batch: need(lib, &path, c"allocateBatchID")?,
            submit: need(lib, &path, c"submitTransfer")?,
            poll: need(lib, &path, c"getTransferStatus")?,
            free_batch: need(lib, &path, c"freeBatchID")?,
            last_error: find(lib, c"tent_last_error"),
            allocate: find(lib, c"tent_allocate_memory"),
            free: find(lib, c"tent_free_memory"),
            segment_info: find(lib, c"tent_get_segment_info"),
            free_segment_info: find(lib, c"tent_free_segment_info"),
            wait: find(lib, c"tent_wait"),
            rails: find(lib, c"tent_rails_json"),
            events: find(lib, c"tent_events_json"),
            drain: find(lib, c"tent_rail_drain"),
            config: find(lib, c"tent_config_json"),
            path,
        };
        Ok(Box::leak(Box::new(table)))
    }

    pub(crate) fn can_wait(&self) -> bool {
        self.wait.is_some()
    }

    /// The settings that an engine would be made with now, as the library's JSON.
    pub(crate) fn config(&self) -> Result<String> {
        let cure = "give --lib a newer libtransfer_engine.so";
        let Some(config) = self.config else {
            return Err(Fail::setup(format!("{} has no tent_config_json", self.path), cure));
        };
        // SAFETY: `at` has room for `len` bytes.
        let text = long_text(|at, len| unsafe { config(at, len) });
        text.ok_or_else(|| Fail::setup(format!("tent_config_json failed{}", self.why()), cure))
    }

    /// The functions that a run with faults needs, found or named.
    pub(crate) fn need_rails(&self, events: bool, drain: bool) -> Result<()> {
        for (wanted, found, name) in [
            (true, self.rails.is_some(), "tent_rails_json"),
            (events, self.events.is_some(), "tent_events_json"),
            (drain, self.drain.is_some(), "tent_rail_drain"),
        ] {
            if wanted && !found {
                let cause = format!("{} has no {name}", self.path);
                return Err(Fail::setup(cause, "give --lib a newer libtransfer_engine.so"));
            }
        }
        Ok(())
    }

    fn why(&self) -> String {
        let Some(last) = self.last_error else { return String::new() };
        // SAFETY: the function takes nothing and returns null or a string of this thread.
        let text = unsafe { last() };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: it stays valid until the next call of this thread, which comes after the copy.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        if text.is_empty() { text } else { format!(": {text}") }
    }

    fn failed(&self, call: &str, code: impl std::fmt::Display) -> Fail {
        let cure = if self.last_error.is_some() { "" } else { "see the library's own log" };
        Fail::setup(format!("{call} failed ({code}){}", self.why()), cure)
    }
}

/// One engine, destroyed on drop; memory registered with it must live longer.
#[derive(Debug)]
pub(crate) struct Engine {
    lib: &'static Library,
    handle: Handle,
}

// SAFETY: the C API is documented to be called from any thread.
unsafe impl Send for Engine {}
// SAFETY: as above; a batch is used by one thread at a time here.
unsafe impl Sync for Engine {}

impl Engine {
    /// `name` is how peers reach this process: a host in P2PHANDSHAKE. Port 0 lets the engine choose.
    pub(crate) fn create(
        lib: &'static Library,
        metadata: &str,
        name: &str,
        port: u16,
    ) -> Result<Self> {
        let (conn, local, host) = (c_string(metadata)?, c_string(name)?, c_string("")?);
        // SAFETY: three C strings that outlive the call; the header says they may be freed after it.
        let handle = unsafe {
            (lib.create)(conn.as_ptr(), local.as_ptr(), host.as_ptr(), u64::from(port), 1)
        };
        if handle.is_null() {
            return Err(lib.failed("createTransferEngine", "null"));
        }
        Ok(Self { lib, handle })
    }

    /// `host:port`, which in P2PHANDSHAKE is the name that peers open.
    pub(crate) fn address(&self) -> Result<String> {
        let mut text = [0u8; 256];
        let (at, len) = (text.as_mut_ptr().cast(), text.len());
        // SAFETY: the engine is alive and the buffer has `len` bytes.
        let rc = unsafe { (self.lib.local_name)(self.handle, at, len) };
        let name = CStr::from_bytes_until_nul(&text).map(|s| s.to_string_lossy().into_owned());
        match name {
            Ok(name) if rc == 0 => Ok(name),
            _ => Err(self.lib.failed("getLocalIpAndPort", rc)),
        }
    }

    /// The memory must live until it is unregistered or the engine is gone. Memory the engine `lent` may be
    /// registered already, depending on the library.
    pub(crate) fn register(&self, base: *mut u8, len: u64, lent: bool) -> Result<()> {
        let size = usize::try_from(len).map_err(|_| self.lib.failed("registerLocalMemory", len))?;
        let location = c"*".as_ptr();
        // SAFETY: the engine is alive; the range is valid by this function's contract.
        let rc = unsafe { (self.lib.register)(self.handle, base.cast(), size, location, 1) };
        if rc == 0 || (lent && rc == ERR_ADDRESS_OVERLAPPED) {
            return Ok(());
        }
        Err(self.lib.failed("registerLocalMemory", rc))
    }

    pub(crate) fn unregister(&self, base: *mut u8) -> Result<()> {
        // SAFETY: the engine is alive; an unknown address is an error by contract.
        let rc = unsafe { (self.lib.unregister)(self.handle, base.cast()) };
        if rc == 0 { Ok(()) } else { Err(self.lib.failed("unregisterLocalMemory", rc)) }
    }

    /// Memory that the engine shares with peers of this host; give it back with `free`.
    pub(crate) fn allocate(&self, len: u64) -> Result<*mut u8> {
        let Some(allocate) = self.lib.allocate else {
            let cause = format!("{} has no tent_allocate_memory", self.lib.path);
            return Err(Fail::setup(cause, "use --buffer any"));
        };
        let size =
            usize::try_from(len).map_err(|_| self.lib.failed("tent_allocate_memory", len))?;
        let mut base = std::ptr::null_mut();
        let location = c"cpu:0".as_ptr();
        // SAFETY: the engine is alive and `base` is a place for one pointer.
        let rc = unsafe { allocate(self.handle, &raw mut base, size, location) };
        if rc != 0 || base.is_null() {
            return Err(self.lib.failed("tent_allocate_memory", rc));
        }
        Ok(base.cast())
    }

    /// Ends the use of memory from `allocate`.
    pub(crate) fn free(&self, base: *mut u8) {
        if let Some(free) = self.lib.free {
            // SAFETY: `base` came from `allocate` of this engine and is not used any more.
            unsafe { free(self.handle, base.cast()) };
        }
    }

    pub(crate) fn open_segment(&self, name: &str) -> Result<i32> {
        let text = c_string(name)?;
        // SAFETY: the engine is alive; the string outlives the call.
        let id = unsafe { (self.lib.open_segment)(self.handle, text.as_ptr()) };
        if id >= 0 {
            return Ok(id);
        }
        let mut fail = self.lib.failed(&format!("openSegment(\"{name}\")"), id);
        fail.cure = "is the target running, and reachable from here?".into();
        Err(fail)
    }

    /// (address, length) of the peer's buffers; None when this library cannot tell.
    pub(crate) fn segment_buffers(&self, segment: i32) -> Result<Option<Vec<(u64, u64)>>> {
        let (Some(info), Some(free)) = (self.lib.segment_info, self.lib.free_segment_info) else {
            return Ok(None);
        };
        let id = u64::try_from(segment).map_err(|_| self.lib.failed("segment id", segment))?;
        let mut desc = SegmentInfo { kind: 0, count: 0, buffers: std::ptr::null_mut() };
        // SAFETY: the engine is alive and `desc` is a place for one description.
        let rc = unsafe { info(self.handle, id, &raw mut desc) };
        if rc != 0 {
            return Err(self.lib.failed("tent_get_segment_info", rc));
        }
        let count = usize::try_from(desc.count).unwrap_or(0);
        let mut buffers = Vec::new();
        if !desc.buffers.is_null() && count > 0 {
            // SAFETY: on success the library filled in `count` entries, valid until freed below.
            let list = unsafe { std::slice::from_raw_parts(desc.buffers, count) };
            buffers.extend(list.iter().map(|b| (b.base, b.length)));
        }
        // SAFETY: `desc` was filled by the library and is not used after this.
        unsafe { free(&raw mut desc) };
        Ok(Some(buffers))
    }

    /// A batch for `size` tasks; ends with `free_batch`.
    pub(crate) fn allocate_batch(&self, size: usize) -> Result<u64> {
        // SAFETY: the engine is alive.
        let batch = unsafe { (self.lib.allocate_batch)(self.handle, size) };
        if batch == INVALID_BATCH {
            Err(self.lib.failed("allocateBatchID", "invalid"))
        } else {
            Ok(batch)
        }
    }

    /// The engine does not write to the requests, though C lets it.
    pub(crate) fn submit(&self, batch: u64, requests: &mut [Request]) -> Result<()> {
        // SAFETY: the engine is alive, the list lives through the call, and each source is valid until
        // the batch ends by the contract of `Request::new`.
        let rc =
            unsafe { (self.lib.submit)(self.handle, batch, requests.as_mut_ptr(), requests.len()) };
        if rc == 0 { Ok(()) } else { Err(self.lib.failed("submitTransfer", rc)) }
    }

    pub(crate) fn poll(&self, batch: u64, task: usize) -> Result<Progress> {
        let mut status = Status::default();
        // SAFETY: the engine is alive and `status` is a place for one status.
        let rc = unsafe { (self.lib.poll)(self.handle, batch, task, &raw mut status) };
        if rc != 0 {
            return Err(self.lib.failed("getTransferStatus", rc));
        }
        Ok(match status.status {
            0 | 1 => Progress::Moving(status.transferred),
            4 => Progress::Completed,
            other => Progress::Failed(other),
        })
    }

    /// The error of a task that did not complete, with the library's reason.
    pub(crate) fn task_failed(&self, status: i32) -> Fail {
        let word = match status {
            2 => "invalid",
            3 => "canceled",
            5 => "timed out",
            _ => "failed",
        };
        let cause = format!("a transfer {word} (status {status}){}", self.lib.why());
        Fail::transfer(cause, "see the library's log; is the peer alive and its memory registered?")
    }

    pub(crate) fn free_batch(&self, batch: u64) -> Result<()> {
        // SAFETY: the engine is alive; a wrong id is an error by contract.
        let rc = unsafe { (self.lib.free_batch)(self.handle, batch) };
        if rc == 0 { Ok(()) } else { Err(self.lib.failed("freeBatchID", rc)) }
    }

    /// Sleeps until all tasks of the batch ended (true) or the time is over (false).
    pub(crate) fn wait(&self, batch: u64, timeout_ms: u64) -> Result<bool> {
        let Some(wait) = self.lib.wait else {
            let cause = format!("{} has no tent_wait", self.lib.path);
            return Err(Fail::setup(cause, "use --wait poll"));
        };
        // SAFETY: the engine is alive; a wrong batch is an error by contract.
        match unsafe { wait(self.handle, batch, timeout_ms) } {
            0 => Ok(true),
            1 => Ok(false),
            rc => Err(self.lib.failed("tent_wait", rc)),
        }
    }

    pub(crate) fn can_wait(&self) -> bool {
        self.lib.can_wait()
    }

    /// The rails with their counters; None when this library cannot tell.
    pub(crate) fn rails(&self) -> Option<Vec<Rail>> {
        let rails = self.lib.rails?;
        let text = long_text(|at, len| {
            // SAFETY: the engine is alive and `at` has `len` bytes.
            unsafe { rails(self.handle, at, len) }
        })?;
        serde_json::from_str(&text).ok()
    }

    /// What has happened to the rails after the event `since` (0: from the start); None when this library
    /// cannot tell.
    pub(crate) fn events(&self, since: u64) -> Option<Vec<RailEvent>> {
        let events = self.lib.events?;
        let text = long_text(|at, len| {
            // SAFETY: the engine is alive and `at` has `len` bytes.
            unsafe { events(self.handle, since, at, len) }
        })?;
        serde_json::from_str(&text).ok()
    }

    /// Takes a rail out of use by hand, or back in.
    pub(crate) fn drain(&self, rail: &str, on: bool) -> Result<()> {
        self.lib.need_rails(false, true)?;
        let Some(drain) = self.lib.drain else { return Ok(()) };
        let name = c_string(rail)?;
        // SAFETY: the engine is alive; the string outlives the call.
        let rc = unsafe { drain(self.handle, name.as_ptr(), c_int::from(on)) };
        if rc < 0 { Err(self.lib.failed("tent_rail_drain", rc)) } else { Ok(()) }
    }
}

/// Text from a function that, as snprintf, writes what fits and returns the length it needs.
fn long_text(write: impl Fn(*mut c_char, usize) -> c_int) -> Option<String> {
    let mut text = vec![0u8; TEXT_FIRST];
    // It may have grown between two calls, so the size is asked for more than once.
    for _ in 0..4 {
        let need = usize::try_from(write(text.as_mut_ptr().cast(), text.len())).ok()?;
        if need < text.len() {
            return CStr::from_bytes_until_nul(&text).ok()?.to_str().ok().map(str::to_string);
        }
        text.resize((need + 1).min(TEXT_MAX), 0);
    }
    None
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: the handle is alive and dies here; all its users borrow this value.
        unsafe { (self.lib.destroy)(self.handle) };
    }
}

fn find<T: Copy>(lib: *mut c_void, name: &CStr) -> Option<T> {
    assert_eq!(size_of::<T>(), size_of::<*mut c_void>(), "T is a function pointer");
    // SAFETY: `lib` is an open library and the name a C string.
    let symbol = unsafe { libc::dlsym(lib, name.as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: a non-null code address; `T` is the function's type in the published header.
    Some(unsafe { std::mem::transmute_copy(&symbol) })
}

fn need<T: Copy>(lib: *mut c_void, path: &str, name: &CStr) -> Result<T> {
    find(lib, name).ok_or_else(|| {
        let cause = format!("{path} has no {}", name.to_string_lossy());
        Fail::setup(cause, "give --lib a library with the Transfer Engine C API")
    })
}

fn loader_error() -> String {
    // SAFETY: no precondition; null when there was no error.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown".into();
    }
    // SAFETY: the loader's string is valid until this thread calls the loader again.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("TENT_LIB").filter(|p| !p.is_empty()) {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().unwrap_or_else(|| Path::new(""));
    ["", "../lib", "deps"]
        .iter()
        .map(|dir| beside.join(dir).join(NAME))
        .find(|path| path.is_file())
        .unwrap_or_else(|| NAME.into())
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Fail::usage(format!("`{text}` holds a zero byte"), "remove it"))
}

const NAME: &str = "libtransfer_engine.so";
const ERR_ADDRESS_OVERLAPPED: c_int = -7;
const INVALID_BATCH: u64 = u64::MAX;
const TEXT_FIRST: usize = 1 << 14;
const TEXT_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_headers() {
        assert_eq!(size_of::<Request>(), 40);
        assert_eq!(size_of::<Status>(), 16);
        assert_eq!(size_of::<BufferInfo>(), 80);
        assert_eq!(size_of::<SegmentInfo>(), 16);
    }

    #[test]
    fn a_missing_library_says_what_to_do() {
        let fail = Library::load(Some(Path::new("/nowhere/lib.so"))).unwrap_err();
        assert!(fail.cause.contains("/nowhere/lib.so"), "{fail}");
        assert!(fail.cure.contains("--lib"), "{fail}");
    }

    #[test]
    fn a_library_without_the_api_is_named() {
        let fail = Library::load(Some(Path::new("libc.so.6"))).unwrap_err();
        assert!(fail.cause.contains("createTransferEngine"), "{fail}");
    }

    #[test]
    fn long_texts_are_asked_for_again() {
        let full = "x".repeat(TEXT_FIRST * 3);
        let text = long_text(|at, len| {
            let n = full.len().min(len - 1);
            // SAFETY: `at` has `len` bytes, and `n` is less.
            let out = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), len) };
            out[..n].copy_from_slice(&full.as_bytes()[..n]);
            out[n] = 0;
            c_int::try_from(full.len()).unwrap()
        });
        assert_eq!(text.as_deref(), Some(full.as_str()));
        assert_eq!(long_text(|_, _| -1), None);
    }
}
