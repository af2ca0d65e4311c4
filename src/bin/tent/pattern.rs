//! The bytes a transfer is checked with: every 8-byte word tells where it belongs and in which run, so
//! that a lost, doubled, shifted or stale piece shows. Pure functions; no IO, no unsafe.

/// The word at `index` (in words from the start of the buffer). For one seed all words differ, since
/// both steps are one-to-one.
fn word(seed: u64, index: u64) -> u64 {
    let x = seed.wrapping_mul(SPREAD).wrapping_add(index.wrapping_mul(STRIDE));
    x ^ (x >> 32)
}

fn byte(seed: u64, offset: u64) -> u8 {
    let at = usize::try_from(offset % 8).unwrap_or(0);
    word(seed, offset / 8).to_le_bytes()[at]
}

/// Writes the pattern of the bytes that start at `offset` of the buffer. Any offset and length.
pub(crate) fn fill(bytes: &mut [u8], seed: u64, offset: u64) {
    let (head, rest) = bytes.split_at_mut(head_len(bytes.len(), offset));
    for (at, b) in (offset..).zip(head.iter_mut()) {
        *b = byte(seed, at);
    }
    let size = len(rest);
    let at = offset + len(head);
    let (words, tail) = rest.as_chunks_mut::<8>();
    for (index, w) in (at / 8..).zip(words) {
        *w = word(seed, index).to_le_bytes();
    }
    for (at, b) in (at + size - size % 8..).zip(tail) {
        *b = byte(seed, at);
    }
}

/// How many of these bytes are not the pattern's. Every byte is looked at.
pub(crate) fn wrong(bytes: &[u8], seed: u64, offset: u64) -> u64 {
    let (head, rest) = bytes.split_at(head_len(bytes.len(), offset));
    let mut bad = count_wrong(head, seed, offset);
    let mut at = offset + len(head);
    for page in rest.chunks(PAGE) {
        // The fast pass only says "all right"; counting is for the rare page that is not.
        if !page_is_right(page, seed, at) {
            bad += count_wrong(page, seed, at);
        }
        at += len(page);
    }
    bad
}

fn page_is_right(page: &[u8], seed: u64, at: u64) -> bool {
    let first = at / 8;
    let (words, tail) = page.as_chunks::<8>();
    let mut differ = 0;
    for (index, w) in (first..).zip(words) {
        differ |= u64::from_le_bytes(*w) ^ word(seed, index);
    }
    differ == 0 && count_wrong(tail, seed, at + len(page) - len(tail)) == 0
}

fn count_wrong(bytes: &[u8], seed: u64, offset: u64) -> u64 {
    (offset..).zip(bytes).map(|(at, b)| u64::from(*b != byte(seed, at))).sum()
}

/// Bytes before the first word boundary.
fn head_len(bytes: usize, offset: u64) -> usize {
    let to_boundary = usize::try_from(offset.next_multiple_of(8) - offset).unwrap_or(0);
    to_boundary.min(bytes)
}

fn len(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// Odd, so that stepping by it visits every 64-bit value once.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Odd; sets neighbouring seeds far apart, so that stale bytes differ in most places.
const SPREAD: u64 = 0xd6e8_feb8_6659_fd93;
/// The stretch that one fast pass covers; a multiple of the word.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(seed: u64, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        fill(&mut bytes, seed, offset);
        bytes
    }

    #[test]
    fn any_offset_and_length_gives_the_same_bytes() {
        let whole = filled(7, 0, 20_000);
        for offset in [0usize, 1, 7, 8, 9, 4095, 4096, 4099] {
            for size in [0usize, 1, 2, 7, 8, 9, 15, 4095, 4096, 4097, 12_345] {
                let part = filled(7, offset as u64, size);
                assert_eq!(part, whole[offset..offset + size], "{offset} {size}");
                assert_eq!(wrong(&part, 7, offset as u64), 0, "{offset} {size}");
            }
        }
    }

    #[test]
    fn each_wrong_byte_is_counted_wherever_it_is() {
        let right = filled(1, 3, 9_001);
        for at in [0, 4, 5, 6, 4095, 4101, 4102, 8999, 9000] {
            let mut bytes = right.clone();
            bytes[at] ^= 0x10;
            assert_eq!(wrong(&bytes, 1, 3), 1, "at {at}");
        }
    }

    #[test]
    fn other_seed_other_place_and_shift_are_seen() {
        let bytes = filled(1, 0, 8192);
        assert!(wrong(&bytes, 2, 0) > 8000);
        assert!(wrong(&bytes, 1, 4096) > 4000);
        assert!(wrong(&bytes[1..], 1, 0) > 8000);
        let mut swapped = bytes[4096..].to_vec();
        swapped.extend_from_slice(&bytes[..4096]);
        assert!(wrong(&swapped, 1, 0) > 4000);
        assert!(wrong(&[0; 64], 1, 0) > 32);
    }
}
