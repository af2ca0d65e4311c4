//! What the settings are and where they come from, and what a program sets before it makes an engine.
#![allow(unsafe_code, reason = "the C side's pointers")]

use crate::entry::entry;
use crate::env::{self, conf};
use crate::ret::NumberOrError;
use crate::tent::report::report;
use crate::text::invalid;
use ::tent::Result;
use conf::Conf;
use std::cell::RefCell;
use std::ffi::c_char;

/// What an engine would be made with by this thread now, as a JSON object: `values`, an array of {key, value,
/// unit, source, for, live, doc}; `warnings`, `ignored` and `notes`, arrays of lines about what is not
/// used. Needs no engine. As snprintf: returns the length that is needed without the terminator, and cuts to
/// `len`; `buf` may be NULL if `len` is 0. -1 on error.
///
/// # Safety
/// `buf` is writable for `len` bytes, or NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_config_json(buf: *mut c_char, len: usize) -> NumberOrError {
    entry!(tent_config_json, {
        let settings = env::from_process().report();
        // SAFETY: the caller's contract.
        unsafe { report(buf, len, &settings) }
    })
}

thread_local! {
    /// What the program has set on this thread for engines to come.
    static PROGRAM: RefCell<Conf> = const { RefCell::new(Conf::EMPTY) };
}

/// What this thread's program has set so far.
pub(crate) fn of_program() -> Conf {
    PROGRAM.try_with(|program| program.borrow().clone()).unwrap_or_default()
}

/// Sets one key of TENT's, or `tent/KEY`, for the engines that this thread makes from now on; it
/// loses to `MC_TENT_CONF` and the environment.
///
/// # Errors
/// `InvalidArgument`: no such key, or none of its values; nothing is set then.
pub fn set(key: &str, value: &str) -> Result<()> {
    let conf = Conf::one(key, value);
    if let Some(why) = env::check(&conf).into_iter().next() {
        return Err(invalid(why));
    }
    keep(conf);
    Ok(())
}

/// Forgets what this thread's program has set.
pub(crate) fn forget() {
    let _ = PROGRAM.try_with(|program| *program.borrow_mut() = Conf::EMPTY);
}

fn keep(conf: Conf) {
    // lost only in a thread that is being torn down, which makes no engine any more
    let _ = PROGRAM.try_with(|program| program.borrow_mut().merge(conf));
}
