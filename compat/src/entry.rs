//! What every exported function does besides its work: forget the thread's last error, catch a panic,
//! keep the text of a failure, and convert the result to what the C side expects.

use crate::ret::Convention;
use ::tent::{Error, ErrorKind, Result};
use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The body of an exported function: a block that gives `tent::Result`, converted by the function's
/// return type. It is a body and not a wrapper of the item so that cbindgen sees the function.
///
/// With `keep` in front the thread's last error is left as it is; `void` is for functions that return
/// nothing.
macro_rules! entry {
    (void $name:ident, $body:block) => {{
        $crate::entry::forget_error();
        $crate::entry::guard::<()>(stringify!($name), move || $body)
    }};
    (keep $name:ident, $body:block) => {
        $crate::entry::guard(stringify!($name), move || $body)
    };
    ($name:ident, $body:block) => {{
        $crate::entry::forget_error();
        $crate::entry::guard(stringify!($name), move || $body)
    }};
}
pub(crate) use entry;

/// Runs `body` and converts its result; a panic becomes the convention's failure, for unwinding into C
/// would abort the host.
pub(crate) fn guard<C: Convention>(
    name: &'static str,
    body: impl FnOnce() -> Result<C::Value>,
) -> C {
    ::log::trace!("{name} called");
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => C::success(value),
        Ok(Err(error)) => {
            ::log::debug!("{name}: {error}");
            note_error(&format!("{name}: {error}"));
            C::failure(error.kind())
        }
        Err(panic) => {
            let error = panic_error(name, panic);
            ::log::error!("{error}");
            note_error(&error.to_string());
            C::failure(error.kind())
        }
    }
}

/// The thread's last error; an empty text if the last call succeeded. Valid until the thread's next call.
pub(crate) fn last_error() -> *const c_char {
    // a thread that is being torn down has no text any more
    LAST.try_with(|last| {
        let text = last.borrow();
        if text.is_empty() { c"".as_ptr() } else { text.as_ptr().cast() }
    })
    .unwrap_or(c"".as_ptr())
}

/// Sets the thread's last error, also for calls that succeed but have something to tell.
pub(crate) fn note_error(text: &str) {
    let cut = text.floor_char_boundary(MAX_ERROR_TEXT);
    let fill = |last: &RefCell<Vec<u8>>| {
        let mut last = last.borrow_mut();
        last.clear();
        last.extend(text.as_bytes()[..cut].iter().map(|&b| if b == 0 { b' ' } else { b }));
        last.push(0);
    };
    // lost only in a thread that is being torn down
    let _ = LAST.try_with(fill);
}

/// Empties the thread's last error.
pub(crate) fn forget_error() {
    let _ = LAST.try_with(|last| last.borrow_mut().clear());
}

fn panic_error(name: &str, panic: Box<dyn Any + Send>) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into());
    // dropping a foreign payload could panic again, outside the guard
    std::mem::forget(panic);
    let message = format!("{name} panicked ({text}): a defect of the library; destroy the engine");
    Error::new(ErrorKind::EngineDown, message)
}

/// Longest error text kept, in bytes.
const MAX_ERROR_TEXT: usize = 4096;

thread_local! {
    /// NUL-terminated text, or empty.
    static LAST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
#[allow(unsafe_code, reason = "reads the C string back")]
pub(crate) fn last_error_text() -> String {
    // SAFETY: `last_error` gives a terminated string that lives until this thread's next call.
    unsafe { std::ffi::CStr::from_ptr(last_error()) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ret::{ErrCode, StatusCode};

    #[test]
    fn a_panic_becomes_the_failure_of_the_convention() {
        let rc: ErrCode = entry!(registerLocalMemory, { panic!("boom {}", 1) });
        assert_eq!(rc.number(), -202);
        assert!(last_error_text().contains("registerLocalMemory panicked (boom 1)"));
        let rc: StatusCode = entry!(submitTransfer, { std::panic::panic_any(7_u8) });
        assert_eq!(rc.number(), 202);
    }

    #[test]
    fn success_empties_the_last_error_unless_told_to_keep_it() {
        let fail = || Err(Error::new(ErrorKind::Busy, "still at work"));
        let rc: StatusCode = entry!(freeBatchID, { fail() });
        assert_eq!(rc.number(), 4);
        assert_eq!(last_error_text(), "freeBatchID: still at work");
        let rc: StatusCode = entry!(keep getTransferStatus, { Ok(()) });
        assert_eq!((rc.number(), last_error_text().is_empty()), (0, false));
        let rc: StatusCode = entry!(getTransferStatus, { Ok(()) });
        assert_eq!((rc.number(), last_error_text().as_str()), (0, ""));
    }

    #[test]
    fn the_text_is_bounded_and_holds_no_nul() {
        note_error(&"é\0".repeat(5000));
        let text = last_error_text();
        assert!(text.len() <= MAX_ERROR_TEXT && text.starts_with("é é "));
    }
}
