use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn loads(tiers: &[u8]) -> Vec<RailLoad> {
    tiers.iter().map(|tier| RailLoad { in_flight: 0, tier: *tier }).collect()
}

fn idle() -> RailLoad {
    RailLoad { in_flight: 0, tier: 0 }
}

/// How many slices each rail was given, and the lengths in order.
fn dealt(out: &[(usize, u64)], rails: usize) -> (Vec<usize>, Vec<u64>) {
    let count = |rail| out.iter().filter(|(r, _)| *r == rail).count();
    ((0..rails).map(count).collect(), out.iter().map(|(_, len)| *len).collect())
}

fn sorted(mut counts: Vec<usize>) -> Vec<usize> {
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

#[test]
fn two_sockets_get_the_split_of_the_text() {
    let near_and_far = loads(&[0, 0, 0, 0, 2, 2, 2, 2]);
    let mut out = Vec::new();
    for seed in 0..50 {
        let mut gen3 = Gen3::new(8, 0.0, seed);
        gen3.split(64 * MIB, true, &near_and_far, &mut out);
        let (counts, lens) = dealt(&out, 8);
        assert_eq!(counts[4..], [0, 0, 0, 0]);
        assert_eq!(sorted(counts), [11, 7, 7, 7, 0, 0, 0, 0]);
        assert_eq!(lens, [2 * MIB; 32]);
        // what rounding left over comes last, and all of it on the rail that came first
        assert!(out[28..].iter().all(|(rail, _)| *rail == out[0].0), "{out:?}");

        gen3.split(MIB, true, &near_and_far, &mut out);
        let (counts, lens) = dealt(&out, 8);
        assert_eq!(sorted(counts), [7, 3, 3, 3, 0, 0, 0, 0]);
        assert_eq!(lens, [64 * KIB; 16]);
    }
}

#[test]
fn with_more_rails_than_slices_a_large_request_is_all_on_one_rail() {
    let mut gen3 = Gen3::new(17, 0.0, 7);
    let mut out = Vec::new();
    gen3.split(MIB, true, &loads(&[0; 17]), &mut out);
    assert_eq!(sorted(dealt(&out, 17).0)[..2], [16, 0]);
}

#[test]
fn the_slices_of_a_small_request_see_each_other() {
    let mut gen3 = Gen3::new(6, 1e9, 7);
    let mut out = Vec::new();
    gen3.split(5 * 64 * KIB, true, &loads(&[0; 6]), &mut out);
    assert_eq!(sorted(dealt(&out, 6).0), [1, 1, 1, 1, 1, 0]);
    // and the next request starts from what it is told
    gen3.split(6 * 64 * KIB, true, &loads(&[0; 6]), &mut out);
    assert_eq!(dealt(&out, 6).0, [1; 6]);
}

#[test]
fn slices_grow_with_the_request() {
    assert_eq!(slices(1, 32), (64 * KIB, 1));
    assert_eq!(slices(64 * MIB, 32), (2 * MIB, 32));
    assert_eq!(slices(64 * MIB, 64), (MIB, 64));
    assert_eq!(slices(1 << 30, 32), (32 * MIB, 32));
    // rounding the slice up leaves fewer of them
    assert_eq!(slices(33 * 64 * KIB, 32), (128 * KIB, 17));
    // a tail below 16 KiB goes with the slice before it
    assert_eq!(slices(2 * 64 * KIB + 16 * KIB - 1, 64), (64 * KIB, 2));
    assert_eq!(slices(2 * 64 * KIB + 16 * KIB, 64), (64 * KIB, 3));
    assert_eq!(slices(0, 64), (64 * KIB, 0));
    assert_eq!(slices(u64::MAX, 64).1, 64);
}

#[test]
fn a_single_slice_goes_to_the_best_and_a_busy_near_rail_is_left_for_a_far_one_five_times_later() {
    let mut gen3 = Gen3::new(2, 1e9, 1);
    let (mut out, len) = (Vec::new(), 64 * KIB);
    let mut rail_with = |in_flight| {
        gen3.split(
            len,
            false,
            &[RailLoad { in_flight, tier: 0 }, RailLoad { in_flight: 0, tier: 1 }],
            &mut out,
        );
        assert_eq!(out.len(), 1);
        out[0]
    };
    assert_eq!(rail_with(3 * len), (0, len));
    assert_eq!(rail_with(5 * len), (1, len));
}

#[test]
fn the_hundredth_large_request_is_dealt_to_all_in_turn() {
    let (mut gen3, mut out) = (Gen3::new(4, 1e9, 3), Vec::new());
    let lame = [0, 0, 0, 1 << 40].map(|in_flight| RailLoad { in_flight, tier: 0 });
    for at in 1..=300 {
        // small ones do not count
        gen3.split(MIB, false, &lame, &mut out);
        gen3.split(64 * MIB, false, &lame, &mut out);
        let counts = dealt(&out, 4).0;
        if at % 100 == 0 {
            assert_eq!(counts, [16; 4], "split {at}");
        } else {
            assert_eq!(counts[3], 0, "split {at}");
        }
    }
}

#[test]
fn generation_3_believes_the_newest_sample_within_its_clamp() {
    let mut gen3 = Gen3::new(2, 1e9, 0);
    let rate = |gen3: &Gen3| 1e6 / gen3.predict(0, idle(), 1_000_000);
    gen3.observed(0, 1_000_000, 0.002);
    let expected = 0.01 * 1e9 + 0.99 * 0.5e9;
    assert!((rate(&gen3) - expected).abs() < 1.0, "{}", rate(&gen3));
    // a healthy rail with a queue of 100 slices falls to a tenth, whatever it delivers
    gen3.observed(0, 1_000_000, 0.1);
    assert!((rate(&gen3) - 1e8).abs() < 1.0);
    gen3.observed(0, u64::MAX, 1e-9);
    assert!((rate(&gen3) - 1e10).abs() < 1.0);
    // what has no time teaches nothing
    let before = rate(&gen3);
    [0.0, -1.0, f64::NAN, f64::INFINITY].iter().for_each(|s| gen3.observed(0, 1, *s));
    assert_eq!(rate(&gen3).to_bits(), before.to_bits());
    assert!((gen3.predict(1, idle(), 1_000_000_000) - 1.0).abs() < 1e-9, "rails learn apart");
}

#[test]
fn generation_2_takes_equals_in_turn_and_follows_the_load() {
    let mut gen2 = Gen2::new(4);
    let picked: Vec<usize> = (0..8).map(|_| gen2.pick(&loads(&[0; 4]), MIB)).collect();
    assert_eq!(picked, [0, 1, 2, 3, 0, 1, 2, 3]);
    // within 1.05 of the best counts as equal, and beyond it does not
    let with = |in_flight| [RailLoad { in_flight, tier: 0 }, idle()];
    let picks = |gen2: &mut Gen2, loads: &[RailLoad]| {
        (0..4).map(|_| gen2.pick(loads, MIB)).collect::<Vec<_>>()
    };
    assert_eq!(picks(&mut gen2, &with(MIB / 25)), [1, 0, 1, 0]);
    assert_eq!(picks(&mut gen2, &with(MIB / 15)), [1; 4]);
}

#[test]
fn generation_2_goes_across_sockets_only_if_nothing_else_is_left() {
    let mut gen2 = Gen2::new(3);
    let busy = |tier| RailLoad { in_flight: 1 << 40, tier };
    assert_eq!(gen2.pick(&[busy(1), busy(0), RailLoad { in_flight: 0, tier: 2 }], 1), 1);
    assert_eq!(gen2.pick(&[busy(RailLoad::OUT), busy(RailLoad::OUT), busy(2)], 1), 2);
    // a tier 1 rail costs three times its time
    let mixed = |in_flight| [RailLoad { in_flight, tier: 0 }, RailLoad { in_flight: 0, tier: 1 }];
    assert_eq!(gen2.pick(&mixed(MIB), MIB), 0);
    assert_eq!(gen2.pick(&mixed(3 * MIB), MIB), 1);
}

#[test]
fn generation_2_learns_by_the_formula() {
    let mut gen2 = Gen2::new(1);
    // 25 MB at 200 Gbit/s are a millisecond; it took two: 100 % off, so alpha is 0.05
    gen2.observed(0, 25_000_000, 0, 0.002);
    let thread = (0.9 * 0.05 * 0.001, 1.0 + 0.9 * 0.05);
    let process = (0.1 * 0.05 * 0.001, 1.0 + 0.1 * 0.05);
    let beta0 = 0.9 * thread.0 + 0.1 * process.0;
    let beta1 = 0.9 * thread.1 + 0.1 * process.1;
    let predicted = gen2.predict(0, RailLoad { in_flight: 25_000_000, tier: 2 }, 25_000_000);
    assert!((predicted - (0.002 * beta1 + beta0)).abs() < 1e-12, "{predicted}");

    // 2 % off: alpha is 0.01; and the queue in front is part of what was predicted
    let mut gen2 = Gen2::new(1);
    gen2.observed(0, 5_000_000, 20_000_000, 0.001_02);
    let shift = |w: f64| (w * 0.01 * 0.000_02, 1.0 + w * 0.01 * 0.02);
    let (thread, process) = (shift(0.9), shift(0.1));
    let beta0 = 0.9 * thread.0 + 0.1 * process.0;
    let beta1 = 0.9 * thread.1 + 0.1 * process.1;
    let predicted = gen2.predict(0, idle(), 25_000_000);
    assert!((predicted - (0.001 * beta1 + beta0)).abs() < 1e-12, "{predicted}");
}

#[test]
fn generation_2_cannot_believe_a_rail_of_a_gigabit() {
    let mut gen2 = Gen2::new(1);
    (0..1000).for_each(|_| gen2.observed(0, MIB, 0, MIB as f64 / 125e6));
    let clamped = MIB as f64 / 25e9 * 20.0 + 5e-4;
    assert!((gen2.predict(0, idle(), MIB) - clamped).abs() < 1e-9);
}

#[test]
fn rails_join_later_and_the_rest_is_remembered() {
    let mut gen2 = Gen2::new(1);
    gen2.observed(0, MIB, 0, 1.0);
    let before = gen2.predict(0, idle(), MIB);
    assert_eq!(gen2.predict(1, idle(), MIB), f64::INFINITY);
    assert_eq!(gen2.pick(&loads(&[0, 0]), MIB), 0, "only rails that it knows");
    gen2.grow(2);
    gen2.grow(1);
    assert_eq!(gen2.predict(0, idle(), MIB).to_bits(), before.to_bits());
    assert_eq!(gen2.pick(&loads(&[0, 0]), MIB), 1);

    let mut gen3 = Gen3::new(1, 1e9, 0);
    gen3.observed(0, 1, 1.0);
    gen3.grow(2);
    assert!(gen3.predict(0, idle(), MIB) > 9.0 * gen3.predict(1, idle(), MIB));
}

#[test]
fn a_rail_that_is_out_gets_nothing_unless_all_are() {
    let out_of = RailLoad::OUT;
    let (mut gen2, mut gen3, mut out) = (Gen2::new(3), Gen3::new(3, 1e9, 0), Vec::new());
    for _ in 0..200 {
        assert_ne!(gen2.pick(&loads(&[0, out_of, 0]), MIB), 1);
        gen3.split(MIB, false, &loads(&[0, out_of, 2]), &mut out);
        assert!(out.iter().all(|(rail, _)| *rail != 1));
    }
    gen3.split(MIB, false, &loads(&[out_of; 3]), &mut out);
    assert_eq!(out.iter().map(|(_, len)| len).sum::<u64>(), MIB);
    assert!(gen2.pick(&loads(&[out_of; 3]), MIB) < 3);
}

#[test]
#[should_panic(expected = "no rail to choose from")]
fn no_rail_at_all_is_not_taken_for_an_answer() {
    Gen3::new(4, 1e9, 0).split(1, false, &[], &mut Vec::new());
}

#[test]
fn a_seed_repeats_its_decisions() {
    let run = |seed| {
        let (mut gen3, mut out, mut all) = (Gen3::new(4, 50e9, seed), Vec::new(), Vec::new());
        for _ in 0..20 {
            gen3.split(MIB + 5, false, &loads(&[0; 4]), &mut out);
            all.extend_from_slice(&out);
        }
        all
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

fn any_loads() -> impl Strategy<Value = Vec<RailLoad>> {
    let tier = prop_oneof![0_u8..5, Just(RailLoad::OUT)];
    vec((any::<u64>(), tier).prop_map(|(in_flight, tier)| RailLoad { in_flight, tier }), 1..12)
}

fn any_len() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..1 << 20, 0_u64..1 << 33, any::<u64>()]
}

/// Rail, length, in flight, and any bit pattern for a time.
fn any_samples() -> impl Strategy<Value = Vec<(usize, u64, u64, f64)>> {
    let seconds = prop_oneof![1e-9_f64..10.0, any::<u64>().prop_map(f64::from_bits)];
    vec((0_usize..14, any_len(), any::<u64>(), seconds), 0..60)
}

proptest! {
    /// I1: the slices cover the request exactly, none is empty, and each has a rail that may be used.
    #[test]
    fn a_split_covers_exactly(
        loads in any_loads(), lens in vec((any_len(), any::<bool>()), 1..120),
        samples in any_samples(), rate in 1e3_f64..1e12, seed in any::<u64>(),
    ) {
        let mut gen3 = Gen3::new(loads.len(), rate, seed);
        samples.iter().for_each(|(rail, len, _, s)| gen3.observed(*rail, *len, *s));
        let mut out = Vec::with_capacity(MAX_SLICES);
        let (room, kept) = (out.capacity(), gen3.order.capacity());
        let all_out = loads.iter().all(|load| load.tier == RailLoad::OUT);
        for (len, write) in lens {
            gen3.split(len, write, &loads, &mut out);
            prop_assert_eq!(out.iter().map(|(_, len)| u128::from(*len)).sum::<u128>(), u128::from(len));
            let most = if write { 32 } else { 64 };
            prop_assert!(out.len() <= most);
            prop_assert!(out.iter().all(|(_, len)| *len > 0));
            let ok = |rail: usize| all_out || loads[rail].tier != RailLoad::OUT;
            prop_assert!(out.iter().all(|(rail, _)| ok(*rail)));
        }
        // no decision allocates
        prop_assert_eq!((out.capacity(), gen3.order.capacity()), (room, kept));
    }

    #[test]
    fn generation_3_keeps_its_clamp(samples in any_samples(), rate in 1e3_f64..1e12) {
        let mut gen3 = Gen3::new(12, rate, 0);
        for (rail, len, in_flight, seconds) in samples {
            gen3.observed(rail, len, seconds);
            for learned in &gen3.rates {
                prop_assert!((0.1 * rate..=10.0 * rate).contains(learned), "{}", learned);
            }
            let time = gen3.predict(rail, RailLoad { in_flight, tier: 0 }, len);
            prop_assert!(!time.is_nan() && time >= 0.0);
        }
    }

    #[test]
    fn generation_2_keeps_its_clamps_and_picks_a_rail(
        loads in any_loads(), samples in any_samples(), lens in vec(any_len(), 1..20),
    ) {
        let mut gen2 = Gen2::new(loads.len());
        let kept = gen2.window.capacity();
        for (rail, len, in_flight, seconds) in samples {
            gen2.observed(rail, len, in_flight, seconds);
            for betas in gen2.rails.iter().flat_map(|rail| [rail.thread, rail.process]) {
                prop_assert!((0.0..=5e-4).contains(&betas.0) && (0.5..=20.0).contains(&betas.1));
            }
            let time = gen2.predict(rail, RailLoad { in_flight, tier: 0 }, len);
            prop_assert!(!time.is_nan() && time >= 0.0);
        }
        let all_out = loads.iter().all(|load| load.tier == RailLoad::OUT);
        for len in lens {
            let rail = gen2.pick(&loads, len);
            prop_assert!(rail < loads.len());
            prop_assert!(all_out || loads[rail].tier != RailLoad::OUT);
        }
        prop_assert_eq!(gen2.window.capacity(), kept);
    }
}
