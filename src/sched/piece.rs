//! How large the next piece of a task is. Rails pull (D3): whoever has room claims a piece; pieces shrink
//! towards the end, so that the last rail does not keep the others waiting.

/// Bytes of the next piece, given what is unclaimed, how many rails pull from the task, and the longest
/// piece of the rail that asks. Between `min(rest, FLOOR)` and `longest`, and never more than `rest`.
pub fn next_len(rest: u64, rails: u32, longest: u64) -> u64 {
    let share = if rails <= 1 { rest } else { rest.div_ceil(2 * u64::from(rails)) };
    // whole pages keep copies aligned; the last piece takes what is left
    let paged = share.div_ceil(PAGE) * PAGE;
    let len = paged.clamp(FLOOR, longest.max(FLOOR)).min(rest);
    // a crumb behind a piece would cost a round of its own
    if rest - len < FLOOR / 2 && rest <= longest { rest } else { len }
}

/// Pieces are not cut smaller: below, a system call costs more than it carries.
pub const FLOOR: u64 = 64 << 10;
const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// I1, the arithmetic half: a piece is never empty and never beyond the rest or the rail.
        #[test]
        fn within_bounds(rest in 1_u64..1 << 40, rails in 0_u32..64, longest in 1_u64..64 << 20) {
            let len = next_len(rest, rails, longest);
            prop_assert!(len >= 1 && len <= rest);
            prop_assert!(len <= longest.max(FLOOR));
        }

        #[test]
        fn a_task_takes_a_bounded_number_of_pieces(len in 1_u64..1 << 30, rails in 1_u32..16) {
            let (mut rest, mut count) = (len, 0_u64);
            while rest > 0 {
                rest -= next_len(rest, rails, 1 << 20);
                count += 1;
            }
            let tail = 2 * u64::from(rails) * 20;
            prop_assert!(count <= len / (1 << 20) + tail + len.min(1 << 25) / FLOOR + 1);
        }
    }

    #[test]
    fn one_rail_takes_long_pieces_and_several_share_the_end() {
        assert_eq!(next_len(10 << 20, 1, 1 << 20), 1 << 20);
        assert_eq!(next_len(1 << 20, 2, 1 << 20), 256 << 10);
        assert_eq!(next_len(70 << 10, 2, 1 << 20), 70 << 10);
        assert_eq!(next_len(5, 4, 1 << 20), 5);
    }
}
