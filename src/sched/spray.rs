//! Which rail claims next, and how much (D3, policy `pull`). A rail claims while what it has in flight is
//! below its window; windows and pieces are times, turned into bytes by the rail's rate; near the end a
//! rail leaves to the others what they would finish sooner. `bench/rails` and the simulator measure it
//! against the other policies.

use super::meter::float;
use std::time::Duration;

/// What a decision knows of a rail, in the direction that is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RailView {
    /// Bytes per nanosecond; above zero.
    pub rate: f64,
    /// Shortest round trip, nanoseconds.
    pub rtt: f64,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Bytes that may be in flight at most, whatever the rate says: slow start.
    pub cap: u64,
    /// 0 is best; see [`TIER_FACTOR`].
    pub tier: u8,
    /// Idle for so long that its rate may be an old one: it is given a small piece to show what it carries
    /// now, though by the tail rule the others would do without.
    pub stale: bool,
    /// It carried urgent pieces just now: less bulk is kept in their way.
    pub shared: bool,
    /// Takes slices now.
    pub open: bool,
    /// Belongs to the lane that asks.
    pub own: bool,
}

/// The bounds of windows and pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time that a window holds besides the round trip, nanoseconds.
    pub quantum: u64,
    /// Shortest piece.
    pub shortest: u64,
    /// Longest piece.
    pub longest: u64,
    /// Largest window.
    pub window: u64,
}

/// Slow rails get the whole quantum; a fast one the time in which it carries [`QUANTUM_BYTES`].
fn quantum(rail: &RailView, limits: &Limits) -> f64 {
    let longest = float(limits.quantum) * if rail.shared { SHARED } else { 1.0 };
    (QUANTUM_BYTES / rail.rate).clamp(QUANTUM_MIN.min(longest), longest)
}

/// What a rail of that rate may be counted on to carry, when nothing was posted or completed on it for `quiet`
/// while `in_flight` bytes are: a rail that stalls is not waited for on the strength of what it once did.
pub fn rate_by_now(rate: f64, rtt: f64, in_flight: u64, quiet: Duration) -> f64 {
    let quiet = float(u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX));
    let late = quiet - 2.0 * rtt - LATE;
    if in_flight == 0 || late <= 0.0 { rate } else { rate.min(float(in_flight) / late) }
}

/// Bytes that the rail may have in flight before it stops to claim (I5).
pub fn window(rail: &RailView, limits: &Limits) -> u64 {
    let bytes = rail.rate * (rail.rtt + quantum(rail, limits));
    whole(bytes).clamp(2 * limits.shortest, limits.window.max(2 * limits.shortest)).min(rail.cap)
}

/// A rail and the length of its next piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Index into the views.
    pub rail: usize,
    /// Bytes, at most what was said to be left of the task.
    pub len: u64,
}

/// The rail of the asking lane that should claim next, and how much of a task of which `rest` bytes are
/// unclaimed, when `queued` bytes (those included) wait for the peer. `None`: no rail has room, or the
/// others finish sooner without it.
pub fn pick(rails: &[RailView], rest: u64, queued: u64, limits: &Limits) -> Option<Pick> {
    pick_piece(rails, rest, false, queued, limits)
}

/// As [`pick`] for a piece of `len` bytes that stays as it is.
pub fn pick_whole(rails: &[RailView], len: u64, queued: u64, limits: &Limits) -> Option<Pick> {
    pick_piece(rails, len, true, queued, limits)
}

fn pick_piece(
    rails: &[RailView],
    rest: u64,
    whole: bool,
    queued: u64,
    limits: &Limits,
) -> Option<Pick> {
    let (mut rate, mut in_flight) = (0.0, 0.0);
    for rail in rails.iter().filter(|r| r.open) {
        rate += rail.rate;
        in_flight += float(rail.in_flight);
    }
    let mut best: Option<(f64, Pick)> = None;
    for (index, rail) in rails.iter().enumerate() {
        if !(rail.open && rail.own) || rail.in_flight >= window(rail, limits) {
            continue;
        }
        let busy = float(rail.in_flight) / rail.rate;
        if best.is_some_and(|(least, _)| least <= busy) {
            continue;
        }
        let len = if whole { rest } else { piece(rail, rest, rate, limits) };
        let others = rate - rail.rate;
        if rail.stale && len <= limits.shortest {
            return Some(Pick { rail: index, len });
        }
        if others > 0.0 {
            let mine = ends(rail, len);
            let theirs = (in_flight - float(rail.in_flight) + float(queued)) / others;
            // all of them together cannot share one piece: one of them must be able to end it sooner
            let apart = |(at, r): (usize, &RailView)| (at != index && r.open).then(|| ends(r, len));
            if mine > theirs + TAIL_SLACK
                && rails.iter().enumerate().filter_map(apart).any(|one| mine > one + TAIL_SLACK)
            {
                continue;
            }
        }
        best = Some((busy, Pick { rail: index, len }));
    }
    best.map(|(_, pick)| pick)
}

/// The rail for an urgent piece: where it ends first. `extra` bytes may be in flight beyond the window,
/// for it never waits behind a full one.
pub fn pick_urgent(rails: &[RailView], len: u64, extra: u64, limits: &Limits) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (index, rail) in rails.iter().enumerate() {
        if !(rail.open && rail.own) || rail.in_flight >= window(rail, limits) + extra {
            continue;
        }
        let end = ends(rail, len) + rail.rtt;
        if best.is_none_or(|(least, _)| end < least) {
            best = Some((end, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Bytes of the next piece: a quarter of a quantum, and towards the end the rail's share of the rest, so
/// that the last piece of a slow rail keeps nobody waiting.
fn piece(rail: &RailView, rest: u64, total_rate: f64, limits: &Limits) -> u64 {
    let longest = limits.longest.max(limits.shortest);
    let quarter = whole(rail.rate * quantum(rail, limits) / 4.0);
    let share = whole(float(rest) * rail.rate / total_rate.max(rail.rate));
    let bytes = quarter.clamp(limits.shortest, longest).min(share.max(limits.shortest));
    // whole pages keep copies aligned
    let paged = (bytes / PAGE * PAGE).max(PAGE).min(rest);
    // a crumb behind a piece would cost a round of its own
    if rest - paged < limits.shortest / 2 && rest <= longest { rest } else { paged }
}

/// Nanoseconds until the rail has carried what it holds and `len` bytes more, as its tier weighs them.
fn ends(rail: &RailView, len: u64) -> f64 {
    float(rail.in_flight + len) / rail.rate * factor(rail.tier)
}

/// By how much the time of a rail of that tier is multiplied before it is compared: near ones first, and
/// a far one when it still helps.
fn factor(tier: u8) -> f64 {
    TIER_FACTOR[usize::from(tier).min(TIER_FACTOR.len() - 1)]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as wanted")]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

/// Same NUMA node or network; the neighbour's; across.
pub const TIER_FACTOR: [f64; 3] = [1.0, 3.0, 10.0];
const PAGE: u64 = 4096;
/// A pause that says nothing of a rail, nanoseconds: a lane's turn may be late by so much.
const LATE: f64 = 2e6;
/// Ends that differ by less are the same end.
const TAIL_SLACK: f64 = 1e4;
/// A fast rail's quantum is the time for so many bytes: beyond, longer pieces save nothing.
const QUANTUM_BYTES: f64 = 2_097_152.0;
/// Part of the quantum on a rail that carries urgent pieces too.
const SHARED: f64 = 0.4;
/// Shortest quantum, nanoseconds.
const QUANTUM_MIN: f64 = 2e4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { quantum: 1_000_000, shortest: 16 << 10, longest: 1 << 20, window: 16 << 20 };

    fn rail(mbit: f64, in_flight: u64) -> RailView {
        RailView {
            rate: mbit / 8e3,
            rtt: 4e5,
            in_flight,
            cap: u64::MAX,
            tier: 0,
            stale: false,
            shared: false,
            open: true,
            own: true,
        }
    }

    #[test]
    fn the_emptiest_rail_claims_and_a_full_one_does_not() {
        let rails = [rail(800.0, 100 << 10), rail(800.0, 20 << 10)];
        assert_eq!(pick(&rails, 1 << 30, 1 << 30, &LIMITS).map(|p| p.rail), Some(1));
        let full = [rail(800.0, 1 << 20), rail(800.0, 1 << 20)];
        assert_eq!(pick(&full, 1 << 30, 1 << 30, &LIMITS), None);
    }

    #[test]
    fn a_slow_rail_leaves_the_tail_to_the_fast_ones() {
        // 16 KiB take 13 ms on the slow one, and the fast one needs 2.6 ms for all that waits
        let rails = [rail(10.0, 0), rail(800.0, 200 << 10)];
        assert_eq!(pick(&rails, 64 << 10, 64 << 10, &LIMITS), None);
        assert_eq!(pick(&rails, 1 << 30, 1 << 30, &LIMITS).map(|p| p.rail), Some(0));
        // but when nobody knows what it carries by now it is tried
        let stale = [RailView { stale: true, ..rails[0] }, rails[1]];
        let pick_of = pick(&stale, 64 << 10, 64 << 10, &LIMITS);
        assert_eq!(pick_of, Some(Pick { rail: 0, len: 16 << 10 }));
        // alone it carries everything
        assert_eq!(pick(&rails[..1], 64 << 10, 64 << 10, &LIMITS).map(|p| p.rail), Some(0));
        // a closed one is no help
        let closed = [rail(10.0, 0), RailView { open: false, ..rail(800.0, 0) }];
        assert_eq!(pick(&closed, 64 << 10, 64 << 10, &LIMITS).map(|p| p.rail), Some(0));
    }

    #[test]
    fn a_rail_that_stalls_is_counted_on_for_less_and_less() {
        let by = |ms| rate_by_now(1.0, 1e5, 1 << 20, Duration::from_millis(ms));
        assert_eq!((by(0), by(2)), (1.0, 1.0));
        assert!(by(5) > 0.3 && by(5) < 0.4 && by(50) < 0.03, "{} {}", by(5), by(50));
        assert_eq!(rate_by_now(1.0, 1e5, 0, Duration::MAX), 1.0, "idle is no stall");
    }

    #[test]
    fn a_far_rail_joins_when_the_near_ones_are_busy_for_long() {
        let far = RailView { tier: 2, ..rail(800.0, 0) };
        let near = rail(800.0, 140 << 10);
        assert_eq!(pick(&[near, far], 16 << 10, 16 << 10, &LIMITS), None);
        assert_eq!(pick(&[near, far], 8 << 20, 8 << 20, &LIMITS).map(|p| p.rail), Some(1));
    }

    #[test]
    fn an_urgent_piece_goes_where_it_ends_first() {
        let rails = [rail(100.0, 0), rail(800.0, 60 << 10)];
        assert_eq!(pick_urgent(&rails, 16 << 10, 1 << 20, &LIMITS), Some(1));
        assert_eq!(pick_urgent(&[], 1, 0, &LIMITS), None);
    }

    fn any_rail() -> impl Strategy<Value = RailView> {
        let figures = (1e-4..50.0, 1e4..1e8, 0_u64..64 << 20, 16_u64 << 10..1 << 30, 0_u8..4);
        (figures, any::<bool>(), any::<bool>()).prop_map(
            |((rate, rtt, in_flight, cap, tier), open, own)| RailView {
                rate,
                rtt,
                in_flight,
                cap,
                tier,
                stale: false,
                shared: false,
                open,
                own,
            },
        )
    }

    proptest! {
        /// I1, the arithmetic half, and I4, I5: never empty, never beyond the rest, only where there is room.
        #[test]
        fn a_pick_is_within_bounds(
            rails in prop::collection::vec(any_rail(), 0..16),
            rest in 1_u64..1 << 40,
            more in 0_u64..1 << 40,
        ) {
            if let Some(Pick { rail, len }) = pick(&rails, rest, rest + more, &LIMITS) {
                prop_assert!(len >= 1 && len <= rest && len <= LIMITS.longest.max(rest.min(LIMITS.longest)));
                prop_assert!(rails[rail].open && rails[rail].own);
                prop_assert!(rails[rail].in_flight < window(&rails[rail], &LIMITS));
            }
        }

        /// I9: of idle rails with all the room there is, one always claims.
        #[test]
        fn work_is_never_left_lying_by_idle_rails(
            rates in prop::collection::vec(1e-3..50.0, 1..16),
            rest in 1_u64..1 << 40,
        ) {
            let idle = |rate| RailView { rate, ..rail(1.0, 0) };
            let rails: Vec<RailView> = rates.into_iter().map(idle).collect();
            prop_assert!(pick(&rails, rest, rest, &LIMITS).is_some());
        }

        #[test]
        fn a_task_takes_a_bounded_number_of_pieces(len in 1_u64..1 << 28, mbit in 10.0..1e5) {
            let rails = [rail(mbit, 0), rail(mbit / 3.0, 0)];
            let (mut rest, mut count) = (len, 0_u64);
            while rest > 0 {
                let Some(pick) = pick(&rails, rest, rest, &LIMITS) else { break };
                rest -= pick.len;
                count += 1;
            }
            prop_assert_eq!(rest, 0);
            prop_assert!(count <= len / LIMITS.shortest + 2);
        }
    }
}
