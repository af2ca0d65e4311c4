//! Submitting with more to say than TENT's requests can: deadlines, intents, policies, strides.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::transfer::{notification, priority_of, request, requests};
use super::{tent_engine_t, tent_request, tent_request_t};
use crate::entry::entry;
use crate::handle;
use crate::ret::{NumberOrError, TentCode};
use crate::text::{self, invalid};
use ::tent::policy::{Intent, Policies};
use ::tent::time::Instant;
use ::tent::{
    BatchId, Error, ErrorKind, Extras, Op, Priority, Request, RequestOptions, Result, TransportMask,
};
use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

/// `tent_submit_options.flags`: the priority of the options counts, and not the requests' or the intent's.
pub const TENT_SUBMIT_PRIORITY: u64 = 1;
/// `tent_submit_options.flags`: the requests are urgent, whatever their size.
pub const TENT_SUBMIT_URGENT: u64 = 2;
/// `tent_submit_options.flags`: keep times, reasons and the shares of rails for `tent_batch_report_json`.
pub const TENT_SUBMIT_REPORT: u64 = 4;

/// `tent_submit_options.transports`: a copy within the process.
pub const TENT_ALLOW_LOCAL: u64 = 1;
/// `tent_submit_options.transports`: a mapping of the peer's memory, on one host.
pub const TENT_ALLOW_SHM: u64 = 2;
/// `tent_submit_options.transports`: a copy across processes by the kernel, on one host.
pub const TENT_ALLOW_CMA: u64 = 4;
/// `tent_submit_options.transports`: TCP.
pub const TENT_ALLOW_TCP: u64 = 8;

/// `tent_submit_options.intent`: nothing is said.
pub const TENT_INTENT_UNSPEC: c_int = 0;
/// Somebody waits for it now: high priority, urgent up to 1 MiB.
pub const TENT_INTENT_FOREGROUND_GET: c_int = 1;
/// It may be wanted later: low priority, ten times the usual time limit.
pub const TENT_INTENT_BACKGROUND_PREFETCH: c_int = 2;
/// Data that moves to another place: as a prefetch.
pub const TENT_INTENT_MIGRATION: c_int = 3;
/// State that is put away: as a prefetch.
pub const TENT_INTENT_CHECKPOINT: c_int = 4;
/// The weights of a model: medium priority, ten times the usual time limit.
pub const TENT_INTENT_WEIGHT_LOADING: c_int = 5;
/// One hop of a longer way: as a foreground get.
pub const TENT_INTENT_STAGING_INTERNAL: c_int = 6;

/// Wishes for all requests of a submit. Must be zeroed, and `size` set, before it is filled; a library that
/// knows more fields takes those that are not there for zero.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_submit_options {
    /// `sizeof(tent_submit_options_t)`.
    pub size: usize,
    /// Longest time to the end, in nanoseconds; 0 leaves the engine's rule.
    pub timeout_ns: u64,
    /// When it must have ended, on `CLOCK_MONOTONIC` in nanoseconds; 0 for none. One that has passed makes
    /// tasks that end as TIMEOUT. With both, what comes first counts.
    pub deadline_ns: u64,
    /// Name of the policy to take, whatever its conditions; NULL for the first that matches.
    pub policy: *const c_char,
    /// With `notify_message`: sent to the first request's segment when the batch has completed, as by
    /// `tent_submit_notif`. Both or none.
    pub notify_name: *const c_char,
    /// See `notify_name`.
    pub notify_message: *const c_char,
    /// `TENT_ALLOW_*` of the transports that may carry it; 0 for any. None other is used.
    pub transports: u64,
    /// `TENT_SUBMIT_*`.
    pub flags: u64,
    /// A `TENT_INTENT_*`. One other than UNSPEC goes before the requests' priorities.
    pub intent: c_int,
    /// 0 high, 1 medium, 2 low; only with `TENT_SUBMIT_PRIORITY`.
    pub priority: c_int,
}
/// For symmetry.
pub type tent_submit_options_t = tent_submit_options;

/// Blocks at even distances on both sides. Must be zeroed before it is filled.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct tent_strided {
    /// `OPCODE_READ` or `OPCODE_WRITE`.
    pub opcode: c_int,
    /// First byte of the first local block.
    pub source: *mut c_void,
    /// From one local block to the next, in bytes.
    pub source_stride: u64,
    /// Whose memory.
    pub target_id: u64,
    /// First byte of the first block in the segment.
    pub target_offset: u64,
    /// From one block in the segment to the next, in bytes.
    pub target_stride: u64,
    /// Bytes of a block.
    pub length: u64,
    /// Blocks.
    pub count: u64,
    /// As in `tent_request`.
    pub priority: c_int,
    /// As in `tent_request`.
    pub transport_hint: c_int,
}
/// For symmetry.
pub type tent_strided_t = tent_strided;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<tent_submit_options>() == 72);
    assert!(offset_of!(tent_submit_options, policy) == 24);
    assert!(offset_of!(tent_submit_options, transports) == 48);
    assert!(offset_of!(tent_submit_options, intent) == 64);
    assert!(size_of::<tent_strided>() == 72 && offset_of!(tent_strided, target_id) == 24);
    assert!(offset_of!(tent_strided, count) == 56 && offset_of!(tent_strided, priority) == 64);
};

/// As `tent_submit`, with wishes; NULL for none.
///
/// # Safety
/// As for `tent_submit`; `options` is NULL or has `size` readable bytes, its strings NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_submit_ex(
    engine: tent_engine_t,
    batch_id: u64,
    entries: *mut tent_request_t,
    count: usize,
    options: *const tent_submit_options_t,
) -> TentCode {
    entry!(tent_submit_ex, {
        // SAFETY: the caller's contract.
        let entries = unsafe { text::array(entries, count, "entries") }?;
        let mut requests = requests(&entries)?;
        // SAFETY: the caller's contract.
        let wishes = unsafe { wishes(options) }?;
        let extras = wishes.apply(&mut requests)?;
        handle::with(engine, |e| e.submit_with(BatchId(batch_id), &requests, extras))
    })
}

/// Submits blocks at even distances, each as a task of its own; entries whose blocks join without a gap on
/// both sides are one task. Returns how many tasks it has made, or -1 and none is made. NULL for no options.
///
/// # Safety
/// `entries` is NULL or holds `count` entries; all blocks stay mapped until their tasks have ended; `options`
/// as for `tent_submit_ex`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_submit_strided(
    engine: tent_engine_t,
    batch_id: u64,
    entries: *mut tent_strided_t,
    count: usize,
    options: *const tent_submit_options_t,
) -> NumberOrError {
    entry!(tent_submit_strided, {
        // SAFETY: the caller's contract.
        let entries = unsafe { text::array(entries, count, "entries") }?;
        let mut blocks = blocks(&entries)?;
        // SAFETY: the caller's contract.
        let wishes = unsafe { wishes(options) }?;
        let extras = wishes.apply(&mut blocks)?;
        handle::with(engine, |e| e.submit_with(BatchId(batch_id), &blocks, extras))?;
        // MAX_BLOCKS fits
        Ok(c_int::try_from(blocks.len()).unwrap_or(c_int::MAX))
    })
}

/// Replaces the policies: a JSON list of rules as TENT's setting `policy` holds it, first match first. NULL
/// for none. What is wrong with it is in `tent_last_error`, and the old ones stay.
///
/// # Safety
/// `json` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_set_policy(engine: tent_engine_t, json: *const c_char) -> TentCode {
    entry!(tent_set_policy, {
        // SAFETY: the caller's contract.
        let json = if json.is_null() { Ok("[]") } else { unsafe { text::utf8(json, "json") } }?;
        let policies = Policies::parse(json)?;
        handle::with(engine, |e| {
            e.check()?;
            e.set_policies(policies);
            Ok(())
        })
    })
}

/// Options, read.
#[derive(Debug)]
struct Wishes<'a> {
    timeout: Option<Duration>,
    policy: Option<&'a str>,
    message: Option<::tent::Notification>,
    transports: TransportMask,
    intent: Intent,
    priority: Option<Priority>,
    urgent: bool,
    report: bool,
}

impl<'a> Wishes<'a> {
    fn apply(self, requests: &mut [Request]) -> Result<Extras<'a>> {
        for request in requests.iter_mut() {
            let own = RequestOptions {
                transports: self.transports,
                timeout: self.timeout,
                urgent: self.urgent,
                ..request.options
            };
            request.options = own.with_intent(self.intent, request.len);
            request.options.priority = self.priority.unwrap_or(request.options.priority);
        }
        let first = requests.first();
        let message = self.message.map(|message| match first {
            Some(first) => Ok((first.segment, message)),
            None => Err(invalid("a notification needs a request")),
        });
        let message = message.transpose()?;
        Ok(Extras { policy: self.policy, report: self.report, message })
    }
}

/// # Safety
/// `options` is NULL or has `size` readable bytes; its strings are NULL or terminated.
unsafe fn wishes<'a>(options: *const tent_submit_options) -> Result<Wishes<'a>> {
    // SAFETY: this function's contract.
    let o = unsafe { sized(options) }?;
    if o.flags & !(TENT_SUBMIT_PRIORITY | TENT_SUBMIT_URGENT | TENT_SUBMIT_REPORT) != 0 {
        return Err(invalid(format!(
            "options.flags {:#x} has bits that are no TENT_SUBMIT_*",
            o.flags
        )));
    }
    let all = u64::from(TransportMask::ALL.0);
    if o.transports & !all != 0 {
        let why =
            format!("options.transports {:#x} has bits that are no TENT_ALLOW_*", o.transports);
        return Err(invalid(why));
    }
    let mask = if o.transports == 0 { all } else { o.transports };
    let intent = usize::try_from(o.intent).ok().and_then(|n| Intent::ALL.get(n)).copied();
    let intent = intent
        .ok_or_else(|| invalid(format!("options.intent {} is no TENT_INTENT_*", o.intent)))?;
    let has = |flag| o.flags & flag != 0;
    let priority = has(TENT_SUBMIT_PRIORITY).then(|| priority_of(o.priority)).transpose()?;
    // SAFETY: this function's contract.
    let policy = (!o.policy.is_null()).then(|| unsafe { text::utf8(o.policy, "options.policy") });
    let message = match (o.notify_name.is_null(), o.notify_message.is_null()) {
        (true, true) => None,
        // SAFETY: this function's contract.
        (false, false) => Some(unsafe { notification(o.notify_name, o.notify_message) }?),
        _ => return Err(invalid("options.notify_name and notify_message: both or none")),
    };
    Ok(Wishes {
        timeout: time_left(&o),
        policy: policy.transpose()?,
        message,
        transports: TransportMask(u8::try_from(mask).unwrap_or(u8::MAX)),
        intent,
        priority,
        urgent: has(TENT_SUBMIT_URGENT),
        report: has(TENT_SUBMIT_REPORT),
    })
}

fn time_left(o: &tent_submit_options) -> Option<Duration> {
    let timeout = (o.timeout_ns != 0).then(|| Duration::from_nanos(o.timeout_ns));
    let now = || Instant::now().monotonic_ns();
    let deadline =
        (o.deadline_ns != 0).then(|| Duration::from_nanos(o.deadline_ns.saturating_sub(now())));
    timeout.into_iter().chain(deadline).min()
}

/// Options of a caller that knows fewer fields, or more: what it does not know is zero, and what we do not
/// know must be.
///
/// # Safety
/// `options` is NULL or has `size` readable bytes.
unsafe fn sized(options: *const tent_submit_options) -> Result<tent_submit_options> {
    const KNOWN: usize = size_of::<tent_submit_options>();
    // SAFETY: all zero is a value of it: numbers, and pointers that may be NULL.
    let mut own = unsafe { std::mem::zeroed::<tent_submit_options>() };
    if options.is_null() {
        return Ok(own);
    }
    // SAFETY: not NULL, so at least the size is there (this function's contract).
    let size = unsafe { options.cast::<usize>().read() };
    if !(size_of::<usize>()..=MAX_OPTIONS).contains(&size) {
        let why = "set it to sizeof(tent_submit_options_t), and zero the rest first";
        return Err(invalid(format!("options.size is {size}: {why}")));
    }
    // SAFETY: `size` bytes are readable (this function's contract).
    let bytes = unsafe { std::slice::from_raw_parts(options.cast::<u8>(), size) };
    if let Some(at) = bytes.iter().skip(KNOWN).position(|b| *b != 0) {
        let text = format!(
            "options has something at byte {}, which this version does not know",
            KNOWN + at
        );
        return Err(Error::new(ErrorKind::NotSupported, text));
    }
    let len = size.min(KNOWN);
    // SAFETY: `len` bytes are readable there and fit here; every value of its fields is valid.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut own).cast::<u8>(), len) };
    Ok(own)
}

fn blocks(entries: &[tent_strided]) -> Result<Vec<Request>> {
    let mut all = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let bad = |why: &str| invalid(format!("entry {at}: {why}"));
        let first = request(&tent_request {
            opcode: entry.opcode,
            source: entry.source,
            target_id: entry.target_id,
            target_offset: entry.target_offset,
            length: entry.length,
            priority: entry.priority,
            transport_hint: entry.transport_hint,
        })?;
        let whole = entry.length.checked_mul(entry.count);
        let whole = whole.ok_or_else(|| bad("length times count wraps"))?;
        let (local, remote) = (entry.source_stride, entry.target_stride);
        if entry.count == 0 || (local == entry.length && remote == entry.length) {
            if entry.count > 0 {
                all.push(Request { len: whole, ..first });
            }
            continue;
        }
        let written = if first.op == Op::Read { local } else { remote };
        if entry.count > 1 && written < entry.length {
            return Err(bad(
                "the blocks that are written overlap: their stride is below the length",
            ));
        }
        if all.len() as u64 + entry.count.min(MAX_BLOCKS + 1) > MAX_BLOCKS {
            let text = format!("entry {at}: more than {MAX_BLOCKS} blocks in one submit");
            return Err(Error::new(ErrorKind::TooManyRequests, text));
        }
        for block in 0..entry.count {
            let to = |from: u64, stride: u64| {
                block.checked_mul(stride).and_then(|by| from.checked_add(by))
            };
            let here = to(first.local as u64, local).and_then(|at| usize::try_from(at).ok());
            let there = to(first.remote, remote);
            let (local, remote) = here.zip(there).ok_or_else(|| bad("a block's address wraps"))?;
            all.push(Request { local, remote, ..first });
        }
    }
    Ok(all)
}

/// Largest options that a newer caller may have, in bytes.
const MAX_OPTIONS: usize = 4096;
/// Most blocks of a submit; a batch holds no more tasks.
const MAX_BLOCKS: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: tent_strided = tent_strided {
        opcode: 0,
        source: std::ptr::without_provenance_mut(1000),
        source_stride: 10,
        target_id: 1,
        target_offset: 5000,
        target_stride: 20,
        length: 10,
        count: 3,
        priority: 1,
        transport_hint: 0,
    };

    fn ranges(entry: tent_strided) -> Vec<(usize, u64, u64)> {
        blocks(&[entry]).unwrap().iter().map(|r| (r.local, r.remote, r.len)).collect()
    }

    #[test]
    fn blocks_are_tasks_unless_they_join() {
        assert_eq!(ranges(ENTRY), [(1000, 5000, 10), (1010, 5020, 10), (1020, 5040, 10)]);
        assert_eq!(ranges(tent_strided { target_stride: 10, ..ENTRY }), [(1000, 5000, 30)]);
        assert!(ranges(tent_strided { count: 0, ..ENTRY }).is_empty());
        // one row read many times is fine, one row written many times is not
        assert_eq!(ranges(tent_strided { target_stride: 0, ..ENTRY }).len(), 3);
        assert!(blocks(&[tent_strided { source_stride: 9, ..ENTRY }]).is_err());
        assert!(blocks(&[tent_strided { opcode: 1, target_stride: 9, ..ENTRY }]).is_err());
        for wrong in [
            tent_strided { count: u64::MAX, ..ENTRY },
            tent_strided { length: u64::MAX, ..ENTRY },
            tent_strided { target_stride: u64::MAX, ..ENTRY },
            tent_strided { length: 0, count: u64::MAX, ..ENTRY },
            tent_strided { opcode: 2, ..ENTRY },
            tent_strided { priority: 3, ..ENTRY },
            tent_strided { transport_hint: 13, ..ENTRY },
            tent_strided { target_id: u64::MAX, ..ENTRY },
        ] {
            assert!(blocks(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn options_of_other_versions_are_read_as_far_as_they_go() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { sized(std::ptr::null()) }.unwrap().size, 0);
        let mut words = [0_u64; 16];
        words[1] = 7;
        for (size, timeout) in [
            (8, Some(0)),
            (16, Some(7)),
            (72, Some(7)),
            (128, Some(7)),
            (7, None),
            (0, None),
            (u64::MAX, None),
        ] {
            words[0] = size;
            // SAFETY: 128 bytes are there; larger sizes are refused before they are read.
            let read = unsafe { sized(words.as_ptr().cast()) };
            assert_eq!(read.map(|o| o.timeout_ns).ok(), timeout, "{size}");
        }
        words[0] = 80;
        words[9] = 1;
        // SAFETY: as above.
        let newer = unsafe { sized(words.as_ptr().cast()) }.unwrap_err();
        assert!(newer.to_string().contains("byte 72"), "{newer}");
    }
}
