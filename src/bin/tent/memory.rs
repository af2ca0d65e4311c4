//! The buffer that transfers read and write: owned bytes at a fixed address, filled and checked with the
//! pattern. Nothing may be in flight on a range while it is filled or checked; the callers see to that.
#![allow(unsafe_code, reason = "raw memory that other processes write to")]

use std::thread;

use super::fail::{Fail, Result};
use super::os::Map;
use super::pattern;
use super::proto::Range;

/// Memory of this process: mapped by the command (any memory) or lent by the engine.
#[derive(Debug)]
pub(crate) struct Buffer {
    base: *mut u8,
    len: usize,
    /// None: the engine owns it and `Node` gives it back.
    _map: Option<Map>,
}

// SAFETY: an address range belongs to no thread.
unsafe impl Send for Buffer {}
// SAFETY: methods that touch the bytes are called while nothing else uses the same range (module text);
// a copy race would damage benchmark bytes, which the check then shows.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Anonymous memory, touched, so that no page fault is measured.
    pub(crate) fn anonymous(len: u64) -> Result<Self> {
        Self::mapped(len, Map::anonymous)
    }

    /// A shared mapping, touched.
    pub(crate) fn shared(len: u64) -> Result<Self> {
        Self::mapped(len, Map::shared)
    }

    fn mapped(len: u64, map: impl Fn(usize) -> std::io::Result<Map>) -> Result<Self> {
        let size = to_usize(len)?;
        let map = map(size).map_err(|e| Fail::system("no memory for the buffer", &e, SMALLER))?;
        let buffer = Self { base: map.base(), len: size, _map: Some(map) };
        buffer.fill(SEED_UNTOUCHED, &[buffer.whole()])?;
        Ok(buffer)
    }

    /// Memory the engine allocated: `base` must stay valid for `len` bytes until this value is dropped.
    pub(crate) fn lent(base: *mut u8, len: u64) -> Result<Self> {
        let buffer = Self { base, len: to_usize(len)?, _map: None };
        buffer.fill(SEED_UNTOUCHED, &[buffer.whole()])?;
        Ok(buffer)
    }

    pub(crate) fn address(&self) -> u64 {
        self.base as u64
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(crate) fn whole(&self) -> Range {
        Range { offset: 0, len: self.len() }
    }

    /// The address of a range, which lies inside the buffer for sure.
    pub(crate) fn at(&self, range: Range) -> Result<*mut u8> {
        let end = range.offset.checked_add(range.len).ok_or_else(outside)?;
        if end > self.len() {
            return Err(outside());
        }
        Ok(self.base.wrapping_add(to_usize(range.offset)?))
    }

    /// Writes the pattern of `seed` into the ranges.
    pub(crate) fn fill(&self, seed: u64, ranges: &[Range]) -> Result<()> {
        for range in ranges {
            let at = self.at(*range)?;
            // SAFETY: `at` checked that the range is inside; nothing else uses it now (module text).
            let bytes = unsafe { std::slice::from_raw_parts_mut(at, to_usize(range.len)?) };
            thread::scope(|s| {
                let part = part_len(bytes.len());
                for (chunk, offset) in bytes.chunks_mut(part).zip(offsets(*range, part)) {
                    s.spawn(move || pattern::fill(chunk, seed, offset));
                }
            });
        }
        Ok(())
    }

    /// How many bytes of the ranges are not the pattern of `seed`.
    pub(crate) fn wrong(&self, seed: u64, ranges: &[Range]) -> Result<u64> {
        let mut bad = 0;
        for range in ranges {
            let at = self.at(*range)?;
            // SAFETY: `at` checked that the range is inside; nothing writes to it now (module text).
            let bytes = unsafe { std::slice::from_raw_parts(at, to_usize(range.len)?) };
            bad += thread::scope(|s| {
                let part = part_len(bytes.len());
                let parts: Vec<_> = bytes
                    .chunks(part)
                    .zip(offsets(*range, part))
                    .map(|(chunk, offset)| s.spawn(move || pattern::wrong(chunk, seed, offset)))
                    .collect();
                // A checker that died has not found its bytes right.
                parts.into_iter().map(|p| p.join().unwrap_or(part as u64)).sum::<u64>()
            });
        }
        Ok(bad)
    }

    /// memcpy of one range from `source` to the same place here; for the bound only.
    pub(crate) fn copy_from(&self, source: &Self, range: Range) -> Result<()> {
        let (from, to) = (source.at(range)?, self.at(range)?);
        // SAFETY: both ranges were checked; the buffers are different maps, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, to, to_usize(range.len)?) };
        Ok(())
    }
}

/// The offset of each part of a range.
fn offsets(range: Range, part: usize) -> impl Iterator<Item = u64> {
    (range.offset..).step_by(part)
}

/// Two parts are enough to keep memory busy on small machines; small ranges are not worth a thread.
fn part_len(len: usize) -> usize {
    if len >= PARALLEL_FROM { len.div_ceil(PARTS).next_multiple_of(8) } else { len.max(1) }
}

fn to_usize(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| outside())
}

fn outside() -> Fail {
    Fail::usage("a range lies outside the buffer", "a larger --total_buffer_size")
}

/// What fresh memory holds: not zero, and no pattern that a check looks for.
pub(crate) const SEED_UNTOUCHED: u64 = 0x00de_ad00;
const SMALLER: &str = "a smaller --size or --total_buffer_size";
const PARALLEL_FROM: usize = 8 << 20;
const PARTS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_and_small_ranges_fill_and_check_alike() {
        let buffer = Buffer::anonymous(20 << 20).unwrap();
        let odd = Range { offset: 4099, len: (17 << 20) + 13 };
        buffer.fill(5, &[odd]).unwrap();
        assert_eq!(buffer.wrong(5, &[odd]).unwrap(), 0);
        assert_eq!(buffer.wrong(5, &[Range { offset: 9_000_001, len: 77 }]).unwrap(), 0);
        let before = Range { offset: 0, len: 4099 };
        assert_eq!(buffer.wrong(SEED_UNTOUCHED, &[before]).unwrap(), 0);
        buffer.fill(6, &[Range { offset: 12_000_000, len: 1 }]).unwrap();
        assert!(buffer.wrong(5, &[odd]).unwrap() <= 1);
    }

    #[test]
    fn ranges_outside_are_refused() {
        let buffer = Buffer::anonymous(8192).unwrap();
        for (offset, len) in [(8192, 1), (0, 8193), (u64::MAX, 2)] {
            assert!(buffer.at(Range { offset, len }).is_err());
        }
    }

    #[test]
    fn copies_land_in_place() {
        let (a, b) = (Buffer::anonymous(1 << 20).unwrap(), Buffer::shared(1 << 20).unwrap());
        a.fill(9, &[a.whole()]).unwrap();
        let part = Range { offset: 65_536, len: 131_072 };
        b.copy_from(&a, part).unwrap();
        assert_eq!(b.wrong(9, &[part]).unwrap(), 0);
    }
}
