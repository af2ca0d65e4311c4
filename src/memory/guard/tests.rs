use super::*;
use crate::id::Incarnation;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;

fn table() -> (GuardTable, Arc<GuardView>) {
    let incarnation = Incarnation(host::random_u128().unwrap());
    let table = GuardTable::new(incarnation).unwrap();
    let view = GuardView::open(host::pid(), table.fd(), incarnation).unwrap();
    (table, Arc::new(view))
}

fn soon() -> Instant {
    Instant::now().after(Duration::from_secs(60))
}

fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_copier_enters_only_what_is_open_permitted_and_inside() {
    let (table, view) = table();
    let read_write = table.publish(7, 1000, 100, Permission::ReadWrite).unwrap();
    let read_only = table.publish(8, 5000, 100, Permission::Read).unwrap();
    let mut copier = view.copier().unwrap();
    let mut enters = |slot, key, addr, len, op| copier.enter(slot, key, addr, len, op).is_some();

    assert!(enters(read_write, 7, 1000, 100, Op::Write));
    assert!(enters(read_write, 7, 1099, 1, Op::Read));
    assert!(enters(read_only, 8, 5000, 100, Op::Read));
    let refused = [
        (read_write, 8, 1000, 100, Op::Read),      // another's key
        (read_write, 0, 1000, 100, Op::Read),      // the key of a closed slot
        (read_write, 7, 999, 10, Op::Read),        // begins before
        (read_write, 7, 1000, 101, Op::Read),      // ends after
        (read_write, 7, 1050, u64::MAX, Op::Read), // wraps around
        (read_only, 8, 5000, 100, Op::Write),      // not permitted
        (u32::MAX, 7, 1000, 1, Op::Read),          // no such slot
        (read_only + 1, 0, 0, 0, Op::Read),        // never published
    ];
    for (slot, key, addr, len, op) in refused {
        assert!(!enters(slot, key, addr, len, op), "{slot} {key} {addr} {len} {op:?}");
    }
    assert_eq!(table.refused(), 8, "I11: refusals are counted");

    table.close(read_write);
    assert!(!enters(read_write, 7, 1000, 1, Op::Read));
    table.reopen(read_write, 7);
    assert!(enters(read_write, 7, 1000, 1, Op::Read));
}

#[test]
fn a_released_slot_is_another_region_under_another_key() {
    let (table, view) = table();
    let mut copier = view.copier().unwrap();
    let slot = table.publish(7, 1000, 100, Permission::ReadWrite).unwrap();
    table.close(slot);
    assert!(table.wait_quiet(slot, now()));
    table.release(slot);
    assert_eq!(table.publish(9, 1000, 100, Permission::ReadWrite), Some(slot));
    assert!(!view.is_open(slot, 7) && view.is_open(slot, 9));
    assert!(copier.enter(slot, 7, 1000, 1, Op::Read).is_none(), "I7");
    assert!(copier.enter(slot, 9, 1000, 1, Op::Read).is_some());
}

#[test]
fn the_owner_waits_for_a_copier_until_its_deadline() {
    let (table, view) = table();
    let slot = table.publish(7, 1000, 100, Permission::ReadWrite).unwrap();
    let other = table.publish(8, 2000, 100, Permission::ReadWrite).unwrap();
    let mut copier = view.copier().unwrap();
    let held = copier.enter(slot, 7, 1000, 100, Op::Write).unwrap();
    table.close(slot);
    table.close(other);
    assert!(table.wait_quiet(other, now()), "nobody is in that one");
    assert!(!table.wait_quiet(slot, now().after(Duration::from_millis(1))));

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(table.wait_quiet(slot, soon()));
            assert!(over.load(Ordering::SeqCst), "I6: not before the copier has left");
        });
        over.store(true, Ordering::SeqCst);
        drop(held);
    });
}

#[test]
fn a_dead_copier_holds_nothing_and_its_entry_is_used_again() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    let dead = pack_owner(pid, 1).unwrap();

    let (table, view) = table();
    let slot = table.publish(7, 1000, 100, Permission::ReadWrite).unwrap();
    for copier in 0..LAYOUT.copiers {
        view.entry(copier, OWNER).store(dead, Ordering::SeqCst);
        view.entry(copier, IN_SLOT).store(u64::from(slot) + 1, Ordering::SeqCst);
    }
    view.live.word(USED).store(LAYOUT.copiers.into(), Ordering::SeqCst);
    table.close(slot);
    assert!(table.wait_quiet(slot, soon()), "I6: the dead do not copy");
    let copier = view.copier().unwrap();
    assert_eq!(copier.entry, 0);
    assert_eq!(view.entry(0, IN_SLOT).load(Ordering::SeqCst), 0);
}

#[test]
fn entries_are_distinct_limited_and_given_back() {
    let (_table, view) = table();
    let mut copiers: Vec<_> = (0..LAYOUT.copiers).map(|_| view.copier().unwrap()).collect();
    let entries: std::collections::BTreeSet<_> = copiers.iter().map(|c| c.entry).collect();
    assert_eq!(entries.len(), copiers.len());
    assert!(view.copier().is_none());
    let freed = copiers.swap_remove(5).entry;
    assert_eq!(view.copier().unwrap().entry, freed);
}

#[test]
fn slots_are_limited() {
    let (table, _view) = table();
    lock(&table.slots).next = LAYOUT.slots - 1;
    assert_eq!(table.publish(1, 1000, 1, Permission::Read), Some(LAYOUT.slots - 1));
    assert_eq!(table.publish(2, 1000, 1, Permission::Read), None);
}

#[test]
fn what_is_not_the_expected_table_is_not_opened() {
    let (table, _view) = table();
    let pid = host::pid();
    assert!(GuardView::open(pid, table.fd(), Incarnation(1)).is_err());
    assert!(GuardView::open(pid, -1, Incarnation(1)).is_err());
    let short = mem::sealed_memfd(c"tent-test", 4096).unwrap();
    assert!(GuardView::open(pid, short.as_raw_fd(), Incarnation(1)).is_err());
    // a header that claims more than the file has
    let claims = mem::sealed_memfd(c"tent-test", PAGE as u64).unwrap();
    let header = Mapping::of_sealed(&claims, 0, PAGE, true).unwrap();
    for (at, value) in [
        (MAGIC_AT, MAGIC),
        (VERSION_AT, VERSION),
        (SLOTS_AT, 100),
        (COPIERS_AT, 10),
        (INCARNATION_AT, 1),
    ] {
        header.word(at).store(value, Ordering::Relaxed);
    }
    assert!(GuardView::open(pid, claims.as_raw_fd(), Incarnation(1)).is_err());
    for (slots, copiers) in [(0, 1), (1, 0), (u64::MAX, 1), (1, u64::MAX), (1 << 32, 1)] {
        assert!(Layout::checked(slots, copiers).is_none());
    }
}

/// The owner uses one piece of memory for one region after another; whoever is inside a guard sees the
/// memory belong to the region that it entered (I6, I11).
#[test]
fn nobody_copies_once_the_owner_has_moved_on() {
    const ROUNDS: u64 = 20_000;
    const ENOUGH: u64 = 1000;
    let (table, view) = table();
    let memory_of = AtomicU64::new(0);
    let offered = AtomicU64::new(0); // key in the low half, slot in the high one
    let entered = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut copier = view.copier().unwrap();
            let (memory_of, offered) = (&memory_of, &offered);
            let (entered, over) = (&entered, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let offer = offered.load(Ordering::Relaxed);
                    let (slot, key) = (offer >> 32, offer & u64::from(u32::MAX));
                    let slot = u32::try_from(slot).unwrap();
                    if let Some(_held) = copier.enter(slot, key, 1000, 100, Op::Write) {
                        assert_eq!(memory_of.load(Ordering::Relaxed), key);
                        std::hint::spin_loop();
                        assert_eq!(memory_of.load(Ordering::Relaxed), key);
                        entered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let give_up = soon();
        let mut key = 1;
        // until both sides have met often enough, however the threads are scheduled
        while key <= ROUNDS || entered.load(Ordering::Relaxed) < ENOUGH {
            memory_of.store(key, Ordering::SeqCst);
            let slot = table.publish(key, 1000, 100, Permission::ReadWrite).unwrap();
            offered.store(u64::from(slot) << 32 | key, Ordering::Relaxed);
            if key.is_multiple_of(64) {
                std::thread::yield_now();
                assert!(Instant::now() < give_up, "the copiers never got in");
            }
            table.close(slot);
            assert!(table.wait_quiet(slot, soon()));
            memory_of.store(0, Ordering::SeqCst);
            table.release(slot);
            key += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(table.is_quiet(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I12: whatever a peer writes where it can, the owner comes back by its deadline.
    #[test]
    fn the_owner_survives_any_content(
        words in proptest::collection::vec((0_usize..1200, any::<u64>()), 1..80),
        used in prop_oneof![Just(u64::MAX), 0_u64..2000],
    ) {
        let (table, view) = table();
        let slot = table.publish(7, 1000, 100, Permission::ReadWrite).unwrap();
        for (at, value) in words {
            view.live.word(at * 8).store(value, Ordering::Relaxed);
        }
        view.live.word(USED).store(used, Ordering::Relaxed);
        // the worst: a living process that never leaves
        let me = pack_owner(host::pid(), host::start_ticks(host::pid()).unwrap()).unwrap();
        view.entry(3, OWNER).store(me, Ordering::Relaxed);
        view.entry(3, IN_SLOT).store(u64::from(slot) + 1, Ordering::Relaxed);
        table.close(slot);
        let quiet = table.wait_quiet(slot, now().after(Duration::from_micros(100)));
        prop_assert_eq!(quiet, used <= 3);
        let _count = table.refused();
    }

    /// Everything lies in the file, on a line of its own, and what copiers write begins on a new page.
    #[test]
    fn the_parts_of_the_table_do_not_meet(slots in 1..=SLOTS_MAX, copiers in 1..=COPIERS_MAX) {
        let layout = Layout::checked(slots.into(), copiers.into()).unwrap();
        prop_assert!(layout.slot(0) > INCARNATION_AT + 16);
        prop_assert!(layout.slot(slots - 1) + LINE <= layout.live());
        prop_assert!(layout.live().is_multiple_of(PAGE));
        prop_assert!(layout.copier(0) >= layout.live() + REFUSED + 8);
        prop_assert!(layout.copier(copiers - 1) + LINE <= layout.end());
    }

    #[test]
    fn owners_are_told_apart(pid in 1..1 << PID_BITS, ticks in 0..1_u64 << (64 - PID_BITS)) {
        let owner = pack_owner(pid, ticks).unwrap();
        prop_assert_ne!(owner, 0);
        prop_assert_eq!(owner >> PID_BITS, ticks);
        prop_assert_eq!(i32::try_from(owner & ((1 << PID_BITS) - 1)).unwrap(), pid);
        prop_assert!(pack_owner(0, ticks).is_none() && pack_owner(-pid, ticks).is_none());
        prop_assert!(pack_owner(pid, 1 << (64 - PID_BITS)).is_none());
    }
}
