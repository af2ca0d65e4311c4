//! As Mooncake's own crate links by default: the archive, into a program with a Rust runtime of its own.

use std::ffi::{c_char, c_int, c_void};

unsafe extern "C" {
    fn createTransferEngine(
        store: *const c_char,
        name: *const c_char,
        host: *const c_char,
        port: u64,
        auto: c_int,
    ) -> *mut c_void;
    fn destroyTransferEngine(engine: *mut c_void);
    fn getLocalIpAndPort(engine: *mut c_void, buf: *mut c_char, len: usize) -> c_int;
}

fn main() {
    let mut name = [0; 64];
    let store = c"P2PHANDSHAKE".as_ptr();
    // SAFETY: the strings are terminated, and `name` has room for its 64 bytes.
    let engine = unsafe {
        let engine = createTransferEngine(store, c"127.0.0.1".as_ptr(), c"".as_ptr(), 0, 0);
        assert_eq!(getLocalIpAndPort(engine, name.as_mut_ptr(), name.len()), 0);
        engine
    };
    assert!(!engine.is_null() && name[0] != 0);
    // two runtimes in one program: neither may catch the other's panics, or lose a thread
    let caught = std::thread::spawn(|| std::panic::catch_unwind(|| panic!("as it should"))).join();
    assert!(matches!(caught, Ok(Err(_))));
    // SAFETY: an engine of this library, not used afterwards.
    unsafe { destroyTransferEngine(engine) };
}
