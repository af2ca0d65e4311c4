//! One type per return convention of the C API, so that no function returns a bare number, and the map
//! from [`ErrorKind`] to upstream's two error spaces.
//!
//! Upstream's numbers: `error.h` (negative, what `ERR_*` names) and `common/base/status.h` (positive,
//! `Status::Code`). Which function uses which is upstream's accident and kept.

use ::tent::{BatchId, ErrorKind, SegmentId};
use std::ffi::{c_char, c_int, c_void};

/// A return type of the C API: how success and failure look in it.
pub trait Convention: Sized {
    /// What a success carries.
    type Value;
    /// The C value of a success.
    fn success(value: Self::Value) -> Self;
    /// The C value of a failure.
    fn failure(kind: ErrorKind) -> Self;
}

/// 0, or a negative `ERR_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct ErrCode(c_int);

impl Convention for ErrCode {
    type Value = ();
    fn success((): ()) -> Self {
        Self(0)
    }
    fn failure(kind: ErrorKind) -> Self {
        Self(err_number(kind))
    }
}

/// 0, or a positive `Status::Code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct StatusCode(c_int);

impl Convention for StatusCode {
    type Value = ();
    fn success((): ()) -> Self {
        Self(0)
    }
    fn failure(kind: ErrorKind) -> Self {
        Self(status_number(kind))
    }
}

/// `getNicLoadStats` alone: -1 for a bad argument, the positive code for everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct StatsCode(c_int);

impl Convention for StatsCode {
    type Value = ();
    fn success((): ()) -> Self {
        Self(0)
    }
    fn failure(kind: ErrorKind) -> Self {
        Self(if kind == ErrorKind::InvalidArgument { -1 } else { status_number(kind) })
    }
}

/// 0 or -1: TENT's convention, and that of `showLinks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct TentCode(c_int);

impl Convention for TentCode {
    type Value = ();
    fn success((): ()) -> Self {
        Self(0)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(-1)
    }
}

/// A wait: 0 all ended, 1 the time came first, -1 error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct WaitCode(c_int);

impl Convention for WaitCode {
    type Value = ();
    fn success((): ()) -> Self {
        Self(0)
    }
    fn failure(kind: ErrorKind) -> Self {
        Self(if kind == ErrorKind::TimedOut { 1 } else { -1 })
    }
}

/// A count or a file descriptor, or -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct NumberOrError(c_int);

impl Convention for NumberOrError {
    type Value = c_int;
    fn success(number: c_int) -> Self {
        Self(number)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(-1)
    }
}

/// A segment id ≥ 0, or -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct SegmentOrError(i32);

impl Convention for SegmentOrError {
    type Value = SegmentId;
    fn success(id: SegmentId) -> Self {
        // an id that upstream's 32 signed bits cannot hold is as good as none
        Self(i32::try_from(id.0).unwrap_or(-1))
    }
    fn failure(_: ErrorKind) -> Self {
        Self(-1)
    }
}

/// A batch id, or `INVALID_BATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct BatchOrInvalid(u64);

impl Convention for BatchOrInvalid {
    type Value = BatchId;
    fn success(id: BatchId) -> Self {
        Self(id.0)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(u64::MAX)
    }
}

/// A pointer or handle, or NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct NullOnError<T>(*mut T);

impl<T> Convention for NullOnError<T> {
    type Value = *mut T;
    fn success(pointer: *mut T) -> Self {
        Self(pointer)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(std::ptr::null_mut())
    }
}

/// `tent_available`: 1 or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct YesOrNo(c_int);

impl Convention for YesOrNo {
    type Value = ();
    fn success((): ()) -> Self {
        Self(1)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(0)
    }
}

/// `tent_create_engine`: a handle also for an engine that could not be made; NULL only after a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct TentEngine(*mut c_void);

impl Convention for TentEngine {
    type Value = *mut c_void;
    fn success(handle: *mut c_void) -> Self {
        Self(handle)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(std::ptr::null_mut())
    }
}

/// A text that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct StaticText(*const c_char);

impl Convention for StaticText {
    type Value = *const c_char;
    fn success(text: *const c_char) -> Self {
        Self(text)
    }
    fn failure(_: ErrorKind) -> Self {
        Self(c"".as_ptr())
    }
}

/// `void`: a failure is only in the last error.
impl Convention for () {
    type Value = ();
    fn success((): ()) {}
    fn failure(_: ErrorKind) {}
}

/// Upstream's `ERR_*` (`mooncake-transfer-engine/include/error.h`). There is none for a missing
/// transport or a dead engine; the nearest are "device not found" and "context".
fn err_number(kind: ErrorKind) -> c_int {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::Stale => -1,
        ErrorKind::TooManyRequests => -2,
        ErrorKind::NotRegistered => -3,
        ErrorKind::Busy => -4,
        ErrorKind::NoTransport => -6,
        ErrorKind::Overlap => -7,
        ErrorKind::Dns => -101,
        ErrorKind::Socket | ErrorKind::TimedOut => -102,
        ErrorKind::Malformed => -103,
        ErrorKind::Rejected => -104,
        ErrorKind::Metadata => -200,
        ErrorKind::Memory => -302,
        ErrorKind::NotSupported => -303,
        // EngineDown, and kinds that are younger than this table
        _ => -202,
    }
}

/// Upstream's `Status::Code` (`mooncake-transfer-engine/include/common/base/status.h`).
fn status_number(kind: ErrorKind) -> c_int {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::Stale => 1,
        ErrorKind::TooManyRequests => 2,
        ErrorKind::NotRegistered => 3,
        ErrorKind::Busy => 4,
        ErrorKind::Overlap => 7,
        ErrorKind::NoTransport => 8,
        ErrorKind::Dns => 101,
        ErrorKind::Socket | ErrorKind::TimedOut => 102,
        ErrorKind::Malformed => 103,
        ErrorKind::Rejected => 104,
        ErrorKind::Metadata => 200,
        ErrorKind::Memory => 302,
        ErrorKind::NotSupported => 999,
        _ => 202,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ErrCode {
        pub(crate) fn number(self) -> c_int {
            self.0
        }
    }
    impl StatusCode {
        pub(crate) fn number(self) -> c_int {
            self.0
        }
    }
    impl StatsCode {
        pub(crate) fn number(self) -> c_int {
            self.0
        }
    }
    impl TentCode {
        pub(crate) fn number(self) -> c_int {
            self.0
        }
    }
    impl WaitCode {
        pub(crate) fn number(self) -> c_int {
            self.0
        }
    }
    impl NumberOrError {
        pub(crate) fn number(self) -> c_int {
            self.0
        }
    }
    impl SegmentOrError {
        pub(crate) fn number(self) -> i32 {
            self.0
        }
    }
    impl BatchOrInvalid {
        pub(crate) fn number(self) -> u64 {
            self.0
        }
    }
    impl<T> NullOnError<T> {
        pub(crate) fn pointer(self) -> *mut T {
            self.0
        }
    }
    impl StaticText {
        pub(crate) fn pointer(self) -> *const c_char {
            self.0
        }
    }

    /// The whole map, for review: kind, `ERR_*`, `Status::Code`, `getNicLoadStats`.
    const MAP: [(ErrorKind, c_int, c_int, c_int); 16] = [
        (ErrorKind::InvalidArgument, -1, 1, -1),
        (ErrorKind::TooManyRequests, -2, 2, 2),
        (ErrorKind::NotRegistered, -3, 3, 3),
        (ErrorKind::Overlap, -7, 7, 7),
        (ErrorKind::Busy, -4, 4, 4),
        (ErrorKind::Stale, -1, 1, 1),
        (ErrorKind::NoTransport, -6, 8, 8),
        (ErrorKind::Dns, -101, 101, 101),
        (ErrorKind::Socket, -102, 102, 102),
        (ErrorKind::Malformed, -103, 103, 103),
        (ErrorKind::Rejected, -104, 104, 104),
        (ErrorKind::Metadata, -200, 200, 200),
        (ErrorKind::Memory, -302, 302, 302),
        (ErrorKind::NotSupported, -303, 999, 999),
        (ErrorKind::TimedOut, -102, 102, 102),
        (ErrorKind::EngineDown, -202, 202, 202),
    ];

    #[test]
    fn every_kind_has_its_number_in_every_convention() {
        for (kind, err, status, stats) in MAP {
            println!("{kind:?}: ERR {err}, Status {status}, getNicLoadStats {stats}");
            assert_eq!(ErrCode::failure(kind).number(), err, "{kind:?}");
            assert_eq!(StatusCode::failure(kind).number(), status, "{kind:?}");
            assert_eq!(StatsCode::failure(kind).number(), stats, "{kind:?}");
            assert_eq!(TentCode::failure(kind).number(), -1);
            assert_eq!(NumberOrError::failure(kind).number(), -1);
            assert_eq!(SegmentOrError::failure(kind).number(), -1);
            assert_eq!(BatchOrInvalid::failure(kind).number(), u64::MAX);
            assert!(NullOnError::<u8>::failure(kind).pointer().is_null());
            let wait = if kind == ErrorKind::TimedOut { 1 } else { -1 };
            assert_eq!(WaitCode::failure(kind).number(), wait);
        }
    }

    #[test]
    fn successes_are_zero_or_the_value() {
        assert_eq!(ErrCode::success(()).number(), 0);
        assert_eq!(StatusCode::success(()).number(), 0);
        assert_eq!(StatsCode::success(()).number(), 0);
        assert_eq!(TentCode::success(()).number(), 0);
        assert_eq!(WaitCode::success(()).number(), 0);
        assert_eq!(NumberOrError::success(9).number(), 9);
        assert_eq!(SegmentOrError::success(SegmentId(3)).number(), 3);
        assert_eq!(SegmentOrError::success(SegmentId(u32::MAX)).number(), -1);
        assert_eq!(BatchOrInvalid::success(BatchId(5)).number(), 5);
    }
}
