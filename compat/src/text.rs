//! Strings and arrays across the edge. In: bounded, NULL is an error. Out: bounded, always terminated.
//! What the C side frees comes from libc malloc, for clients call `free` themselves.
#![allow(unsafe_code, reason = "reads and writes memory that the C caller owns")]

use ::tent::{Error, ErrorKind, Result};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// The bytes of a C string, without the terminator. `what` names it in the error.
///
/// # Safety
/// `text` is NULL or a terminated string that stays as it is for `'a`.
pub(crate) unsafe fn bytes<'a>(text: *const c_char, what: &str) -> Result<&'a [u8]> {
    if text.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    // SAFETY: not NULL, and terminated (the caller's contract); never looks past the terminator.
    let len = unsafe { libc::strnlen(text, MAX_TEXT + 1) };
    if len > MAX_TEXT {
        return Err(invalid(format!("{what} is longer than {MAX_TEXT} bytes")));
    }
    // SAFETY: `len` readable bytes begin at `text`, as just counted, and live for 'a.
    Ok(unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) })
}

/// As [`bytes`], where only UTF-8 makes sense (names, addresses, JSON).
///
/// # Safety
/// As for [`bytes`].
pub(crate) unsafe fn utf8<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: this function's own contract.
    let bytes = unsafe { bytes(text, what) }?;
    std::str::from_utf8(bytes).map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// The pointer, if it is not NULL. `what` names it in the error.
pub(crate) fn out<T>(pointer: *mut T, what: &str) -> Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(|| invalid(format!("{what} is NULL")))
}

/// Copies `count` plain values in, after refusing a NULL array and a count that cannot be meant.
///
/// # Safety
/// `list` is NULL or holds `count` values.
pub(crate) unsafe fn array<T: Copy>(list: *const T, count: usize, what: &str) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if list.is_null() {
        return Err(invalid(format!("{what} is NULL, yet its count is {count}")));
    }
    if count > MAX_COUNT {
        let message = format!("{what} has {count} entries, more than {MAX_COUNT}");
        return Err(Error::new(ErrorKind::TooManyRequests, message));
    }
    // SAFETY: the caller's contract; MAX_COUNT keeps the size below isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(list, count) }.to_vec())
}

/// Writes `text` as snprintf does: at most `len` bytes with the terminator, cut if it must be. Nothing is
/// written if `len` is 0.
///
/// # Safety
/// `buffer` has room for `len` bytes; it may be NULL if `len` is 0.
pub(crate) unsafe fn write(buffer: *mut c_char, len: usize, text: &str) {
    let Some(room) = len.checked_sub(1) else { return };
    let cut = text.floor_char_boundary(room);
    // SAFETY: `cut` < `len` bytes fit; our own string does not overlap the caller's buffer.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, cut) };
    // SAFETY: `cut` < `len`, so the pointer stays inside the buffer.
    let end = unsafe { buffer.add(cut) };
    // SAFETY: as above; the terminator's place.
    unsafe { end.write(0) };
}

/// A fixed field of a C struct, filled as [`write`] fills a buffer, zero to its end.
pub(crate) fn field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let cut = text.floor_char_boundary(N.saturating_sub(1));
    for (to, from) in field.iter_mut().zip(&text.as_bytes()[..cut]) {
        *to = from.cast_signed();
    }
    field
}

/// As [`field`] for any bytes, up to the first NUL; whether they were cut.
pub(crate) fn bytes_field<const N: usize>(bytes: &[u8]) -> ([c_char; N], bool) {
    let mut field = [0; N];
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let room = N.saturating_sub(1);
    for (to, from) in field.iter_mut().zip(&bytes[..len.min(room)]) {
        *to = from.cast_signed();
    }
    (field, len > room)
}

/// The text in a fixed field of a C struct. `what` names it in the error.
pub(crate) fn from_field<const N: usize>(field: &[c_char; N], what: &str) -> Result<String> {
    let end = field.iter().position(|&c| c == 0);
    let end = end.ok_or_else(|| invalid(format!("{what} is not terminated in its {N} bytes")))?;
    let bytes = field[..end].iter().map(|c| c.cast_unsigned()).collect();
    String::from_utf8(bytes).map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// Gives a list as far as there is room: in `*count` comes the capacity of `to`, out of it the length of
/// `values`.
///
/// # Safety
/// `to` has room for `*count` values, or is NULL with `*count` 0; `count` is valid.
pub(crate) unsafe fn list<T: Copy>(
    to: *mut T,
    count: NonNull<usize>,
    values: &[T],
    what: &str,
) -> Result<()> {
    // SAFETY: this function's contract.
    let capacity = unsafe { count.read() };
    if to.is_null() && capacity > 0 {
        return Err(invalid(format!("{what} is NULL, yet its count is {capacity}")));
    }
    for (index, value) in values.iter().take(capacity).enumerate() {
        // SAFETY: `index` is below the capacity (this function's contract).
        let place = unsafe { to.add(index) };
        // SAFETY: as above.
        unsafe { place.write(*value) };
    }
    // SAFETY: this function's contract.
    unsafe { count.write(values.len()) };
    Ok(())
}

/// A copy of `bytes` up to the first NUL, as a C string from malloc.
pub(crate) fn malloc_string(bytes: &[u8]) -> Result<NonNull<c_char>> {
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let copy = malloc_array::<c_char>(len + 1)?;
    // SAFETY: the allocation holds `len + 1` bytes and is new, so nothing overlaps.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), copy.as_ptr(), len) };
    // SAFETY: `len` is inside the allocation.
    let end = unsafe { copy.add(len) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    Ok(copy)
}

/// Room for `count` zeroed values from malloc; never NULL.
pub(crate) fn malloc_array<T>(count: usize) -> Result<NonNull<T>> {
    // SAFETY: calloc checks the product itself; any size is allowed.
    let memory = unsafe { libc::calloc(count.max(1), size_of::<T>()) };
    NonNull::new(memory.cast()).ok_or_else(|| {
        Error::new(ErrorKind::Memory, format!("no memory for {count} x {} bytes", size_of::<T>()))
    })
}

/// Gives malloc'ed memory back; NULL is fine.
///
/// # Safety
/// `memory` is NULL or came from libc malloc, and nobody uses it any more.
pub(crate) unsafe fn free<T>(memory: *mut T) {
    // SAFETY: this function's own contract.
    unsafe { libc::free(memory.cast::<c_void>()) };
}

/// An [`ErrorKind::InvalidArgument`].
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Longest string taken from C, in bytes: a message for a peer may be as long as an RPC frame.
const MAX_TEXT: usize = 16 << 20;
/// Longest array taken from C.
const MAX_COUNT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn strings_in_are_checked() {
        // SAFETY: NULL is allowed.
        let null = unsafe { bytes(std::ptr::null(), "name") };
        assert_eq!(null.unwrap_err().to_string(), "name is NULL");
        // SAFETY: a literal is terminated.
        assert_eq!(unsafe { bytes(c"a\xff".as_ptr(), "x") }.unwrap(), b"a\xff");
        // SAFETY: as above.
        assert!(unsafe { utf8(c"a\xff".as_ptr(), "x") }.is_err());
        let long = std::ffi::CString::new(vec![b'x'; MAX_TEXT + 1]).unwrap();
        // SAFETY: a CString is terminated.
        assert!(unsafe { bytes(long.as_ptr(), "x") }.is_err());
    }

    #[test]
    fn arrays_in_are_checked() {
        let list = [1_u64, 2, 3];
        // SAFETY: three values are there.
        assert_eq!(unsafe { array(list.as_ptr(), 3, "l") }.unwrap(), list);
        // SAFETY: NULL and impossible counts are refused before any access.
        assert!(unsafe { array::<u64>(std::ptr::null(), 1, "l") }.is_err());
        // SAFETY: as above.
        let many = unsafe { array(list.as_ptr(), MAX_COUNT + 1, "l") };
        assert_eq!(many.unwrap_err().kind(), ErrorKind::TooManyRequests);
        // SAFETY: nothing is read.
        assert!(unsafe { array::<u64>(std::ptr::null(), 0, "l") }.unwrap().is_empty());
    }

    #[test]
    fn text_out_is_cut_and_terminated_for_every_length() {
        let text = "127.0.0.1:15000é";
        for len in 0..text.len() + 3 {
            let mut buffer = [b'#'.cast_signed(); 32];
            // SAFETY: `len` is below 32.
            unsafe { write(buffer.as_mut_ptr(), len, text) };
            assert_eq!(buffer[len], b'#'.cast_signed(), "wrote past {len}");
            if len > 0 {
                // SAFETY: `write` terminated it.
                let got = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap();
                assert!(text.starts_with(got) && got.len() < len);
            }
        }
        assert_eq!(field::<4>("abcdef"), [97, 98, 99, 0]);
        assert_eq!(field::<4>("a"), [97, 0, 0, 0]);
    }

    #[test]
    fn malloced_strings_end_at_the_first_nul() {
        for (bytes, want) in [(&b"ab\0c"[..], c"ab"), (b"", c""), (b"xyz", c"xyz")] {
            let copy = malloc_string(bytes).unwrap();
            // SAFETY: terminated by `malloc_string`.
            assert_eq!(unsafe { CStr::from_ptr(copy.as_ptr()) }, want);
            // SAFETY: it came from malloc and is not used again.
            unsafe { free(copy.as_ptr()) };
        }
    }
}
