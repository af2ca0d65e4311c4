//! The address space of one simulated process, with a pattern in it that says of every byte where it
//! belongs, and the ranges whose task has ended: what lands there afterwards is late (I3).

use super::rng::mix;
use std::collections::BTreeMap;

/// See the module. Without bytes (a large scenario) it only knows its bounds.
#[derive(Debug)]
pub(super) struct Memory {
    base: u64,
    len: u64,
    bytes: Vec<u8>,
    /// First byte to the byte behind the last one.
    closed: BTreeMap<u64, u64>,
}

impl Memory {
    /// `len` bytes from `base` on that hold the pattern of `key`; none are kept if `kept` is false.
    pub(super) fn new(base: u64, len: u64, key: u64, kept: bool) -> Self {
        let size = if kept { usize::try_from(len).unwrap_or(0) } else { 0 };
        let mut memory = Self { base, len, bytes: vec![0; size], closed: BTreeMap::new() };
        memory.fill(base, len, key);
        memory
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_kept(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Whether the range lies inside.
    pub(super) fn holds(&self, addr: u64, len: u64) -> bool {
        let end = addr.checked_add(len);
        addr >= self.base && end.is_some_and(|end| end <= self.base + self.len)
    }

    /// The bytes of a range that [`Memory::holds`]; none if they are not kept.
    pub(super) fn slice(&self, addr: u64, len: u64) -> &[u8] {
        if self.bytes.is_empty() { &[] } else { &self.bytes[self.range(addr, len)] }
    }

    pub(super) fn slice_mut(&mut self, addr: u64, len: u64) -> &mut [u8] {
        if self.bytes.is_empty() {
            return &mut [];
        }
        let range = self.range(addr, len);
        &mut self.bytes[range]
    }

    fn range(&self, addr: u64, len: u64) -> std::ops::Range<usize> {
        let at = usize::try_from(addr - self.base).unwrap_or(usize::MAX);
        at..at + usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// Writes the pattern of `key` over a range.
    pub(super) fn fill(&mut self, addr: u64, len: u64, key: u64) {
        let bytes = self.slice_mut(addr, len);
        let mut at = addr;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = word(key, at).to_le_bytes();
            let from = usize::try_from(at % 8).unwrap_or(0);
            let count = (8 - from).min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(&word[from..from + count]);
            at += count as u64;
            rest = tail;
        }
    }

    /// The first byte of a range that is not what the pattern of `key` has at its address plus `shift`
    /// (wrapping).
    pub(super) fn differs(&self, addr: u64, len: u64, key: u64, shift: u64) -> Option<u64> {
        let bytes = self.slice(addr, len);
        let mut at = addr.wrapping_add(shift);
        let mut done = 0;
        while done < bytes.len() {
            let word = word(key, at).to_le_bytes();
            let from = usize::try_from(at % 8).unwrap_or(0);
            let count = (8 - from).min(bytes.len() - done);
            if bytes[done..done + count] != word[from..from + count] {
                let odd = (0..count).find(|i| bytes[done + i] != word[from + i]).unwrap_or(0);
                return Some(addr + (done + odd) as u64);
            }
            done += count;
            at = at.wrapping_add(count as u64);
        }
        None
    }

    /// From now on nothing may land in the range.
    pub(super) fn close(&mut self, addr: u64, len: u64) {
        self.closed.insert(addr, addr + len);
    }

    /// Whether a landing in this range is late.
    pub(super) fn is_closed(&self, addr: u64, len: u64) -> bool {
        self.closed.range(..addr + len).next_back().is_some_and(|(_, end)| *end > addr)
    }
}

/// What the pattern of `key` has at an address.
pub(super) fn pattern(key: u64, addr: u64) -> u8 {
    word(key, addr).to_le_bytes()[usize::try_from(addr % 8).unwrap_or(0)]
}

/// The aligned word of the pattern around an address: any byte depends on its whole address.
fn word(key: u64, addr: u64) -> u64 {
    mix((addr >> 3) ^ key.rotate_left(40))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wrong_byte_is_found_wherever_it_is(begin in 0_u64..64, len in 1_u64..200, at in 0_u64..200, shift in 0_u64..99) {
            let mut memory = Memory::new(1000, 400, 7, true);
            let addr = 1000 + begin;
            for i in 0..len {
                memory.slice_mut(addr + i, 1)[0] = pattern(9, addr + i + shift);
            }
            prop_assert_eq!(memory.differs(addr, len, 9, shift), None);
            prop_assert_eq!(memory.differs(1000, begin, 7, 0), None);
            let odd = addr + at % len;
            memory.slice_mut(odd, 1)[0] ^= 1;
            prop_assert_eq!(memory.differs(addr, len, 9, shift), Some(odd));
        }

        #[test]
        fn a_range_is_closed_where_it_was_closed(addr in 0_u64..300, len in 1_u64..50) {
            let mut memory = Memory::new(0, 400, 1, false);
            memory.close(100, 50);
            memory.close(200, 10);
            let hit = |begin: u64, end: u64| addr < end && begin < addr + len;
            prop_assert_eq!(memory.is_closed(addr, len), hit(100, 150) || hit(200, 210));
        }
    }

    #[test]
    fn bounds() {
        let memory = Memory::new(100, 50, 1, false);
        assert!(memory.holds(100, 50) && !memory.holds(99, 1) && !memory.holds(150, 1));
        assert!(!memory.holds(u64::MAX, 2));
        assert!(memory.slice(110, 10).is_empty());
    }
}
