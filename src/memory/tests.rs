use super::*;
use proptest::prelude::*;

fn regions() -> Arc<Regions> {
    Regions::new(Incarnation(host::random_u128().unwrap()))
}

/// Memory that stays mapped for the whole test, and is never looked at.
fn arena(len: usize) -> Mapping {
    let fd = mem::sealed_memfd(c"tent-test", len as u64).unwrap();
    Mapping::of_sealed(&fd, 0, len, true).unwrap()
}

fn kind(result: Result<()>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

const NO_WAIT: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);
const ALL: Permission = Permission::ReadWrite;

#[test]
fn senseless_ranges_are_refused() {
    let (regions, arena) = (regions(), arena(8192));
    let base = arena.addr();
    for (addr, len) in [(0, 10), (base, 0), (usize::MAX - 3, 10), (8, 10), (base, usize::MAX / 2)] {
        let refused = regions.register(addr, len, "*", ALL, None);
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{addr:#x} {len}");
    }
    assert_eq!(kind(regions.unregister(base, NO_WAIT)), Some(ErrorKind::NotRegistered));
    assert_eq!((regions.len(), regions.version()), (0, 0));
}

#[test]
fn a_batch_registers_all_or_none() {
    let (regions, arena) = (regions(), arena(16384));
    let base = arena.addr();
    let new = |offset, len| NewRegion {
        addr: base + offset,
        len,
        location: "cpu:0",
        permission: ALL,
        shm: None,
    };
    regions.register_batch(&[new(4096, 4096), new(0, 4096)]).unwrap(); // adjacent is fine
    let before = (regions.describe(), regions.version());
    for batch in [
        [new(8192, 100), new(8000, 10)],  // one overlaps an old one
        [new(8192, 100), new(8291, 100)], // they overlap each other
        [new(8192, 100), new(8192, 100)], // twice the same
        [new(9000, 10), new(8192, 0)],    // one is senseless
    ] {
        assert!(regions.register_batch(&batch).is_err());
        assert_eq!((regions.describe(), regions.version()), before);
    }
    regions.register_batch(&[]).unwrap();
    // what failed left no slot taken: the next one gets the lowest
    regions.register(base + 8192, 10, "*", ALL, None).unwrap();
    let slots: Vec<_> = regions.describe().iter().map(|b| b.access.unwrap().slot).collect();
    assert!(slots.iter().all(|slot| *slot < 8), "{slots:?}");
}

#[test]
fn a_pin_for_a_peer_needs_range_key_and_permission() {
    let (regions, arena) = (regions(), arena(16384));
    let base = arena.addr();
    for (offset, permission) in [(0, ALL), (4096, Permission::Read), (8192, Permission::Local)] {
        regions.register(base + offset, 4096, "*", permission, None).unwrap();
    }
    let described = regions.describe();
    assert_eq!(described.len(), 2, "peers do not hear of private memory");
    let key = |i: usize| described[i].access.unwrap().key;
    assert_ne!(key(0), key(1));
    let base = base as u64;
    let refusal = |addr, len, key, op| regions.pin_remote(addr, len, key, op).err();

    for op in [Op::Read, Op::Write] {
        assert_eq!(refusal(base, 4096, Some(key(0)), op), None);
        assert_eq!(refusal(base, 4096, None, op), None, "upstream sends no key");
        assert_eq!(refusal(base + 8192, 1, None, op), Some(Refusal::Permission));
        assert_eq!(refusal(base, 1, Some(key(1)), op), Some(Refusal::Key));
    }
    assert_eq!(refusal(base + 4096, 4096, Some(key(1)), Op::Read), None);
    assert_eq!(refusal(base + 4096, 1, Some(key(1)), Op::Write), Some(Refusal::Permission));
    let outside = Some(Refusal::NotRegistered);
    assert_eq!(refusal(base + 4000, 97, None, Op::Read), outside, "adjacent regions do not merge");
    assert_eq!(refusal(base - 1, 10, None, Op::Read), outside);
    assert_eq!(refusal(base + 12288, 1, None, Op::Read), outside);
    assert_eq!(refusal(base + 1, u64::MAX, None, Op::Read), outside);
    assert_eq!(refusal(u64::MAX, 1, None, Op::Read), outside);
    assert_eq!(regions.refused(), 10, "I11: each refusal is counted");
    assert!(regions.pin_local(arena.addr() + 8192, 4096).is_some(), "ours, whatever peers may do");
    assert!(regions.pin_local(arena.addr() + 8192, 4097).is_none());
}

#[test]
fn a_region_in_use_is_not_unregistered() {
    let (regions, arena) = (regions(), arena(4096));
    let addr = arena.addr();
    regions.register(addr, 4096, "*", ALL, None).unwrap();
    let pin = regions.pin_local(addr + 100, 10).unwrap();
    assert_eq!(pin.addr(), addr + 100);
    let version = regions.version();
    let refused = regions.unregister(addr, Duration::from_millis(1));
    assert_eq!(kind(refused), Some(ErrorKind::Busy), "I6");
    assert_eq!(regions.version(), version);
    assert!(!pin.closing() && regions.pin_local(addr, 1).is_some(), "it is open again");

    std::thread::scope(|scope| {
        let ends = scope.spawn(|| regions.unregister(addr, LONG));
        while !pin.closing() {
            std::thread::yield_now();
        }
        assert!(regions.pin_local(addr, 1).is_none());
        let refusal = regions.pin_remote(addr as u64, 1, None, Op::Read).err();
        assert_eq!(refusal, Some(Refusal::Closing));
        assert_eq!(kind(regions.unregister(addr, LONG)), Some(ErrorKind::Busy), "one is enough");
        drop(pin);
        ends.join().unwrap().unwrap();
    });
    assert!(regions.is_empty());
    regions.register(addr, 4096, "*", ALL, None).unwrap();
}

#[test]
fn a_copy_by_a_peer_holds_the_region_too() {
    let (regions, arena) = (regions(), arena(4096));
    let addr = arena.addr();
    regions.register(addr, 4096, "*", ALL, None).unwrap();
    let access = regions.describe()[0].access.unwrap();
    let link = link::HostLink::attach(&link::tests::facts_of(&regions)).unwrap();
    let mut copier = link.copier().unwrap();
    let mut again = link.copier().unwrap();
    let at = addr as u64;
    let held = copier.enter(access.slot, access.key, at, 4096, Op::Write).unwrap();
    assert_eq!(kind(regions.unregister(addr, Duration::from_millis(1))), Some(ErrorKind::Busy));
    assert!(again.enter(access.slot, access.key, at, 1, Op::Read).is_some(), "open again");
    drop(held);
    regions.unregister(addr, NO_WAIT).unwrap();
    regions.register(addr, 4096, "*", ALL, None).unwrap();
    assert!(copier.enter(access.slot, access.key, at, 1, Op::Read).is_none(), "the key is stale");
}

#[test]
fn allocated_memory_is_shared_registered_and_given_back() {
    let regions = regions();
    let addr = regions.allocate(5000, "cpu:0").unwrap();
    let described = regions.describe();
    assert_eq!((described[0].addr, described[0].location.as_str()), (addr as u64, "cpu:0"));
    assert_eq!(described[0].len, 5000_u64.next_multiple_of(mem::page_len() as u64));
    let shm = described[0].access.unwrap().shm.unwrap();
    let file = mem::open_peer_memfd(host::pid(), shm.fd, true).unwrap();
    let other = Mapping::of_sealed(&file, shm.offset, 4096, true).unwrap();
    other.word(0).store(0x5a, Ordering::Relaxed);
    assert_eq!(mem::peek_process(host::pid(), addr, 1).unwrap(), 0x5a);

    // a part of it registered by itself is backed by the same file, and keeps the whole
    regions.unregister(addr, NO_WAIT).unwrap();
    regions.register(addr + 64, 100, "*", Permission::Read, None).unwrap();
    let part = regions.describe()[0].access.unwrap();
    assert_eq!(part.shm, Some(ShmBacking { fd: shm.fd, offset: 64 }));
    assert_eq!(kind(regions.free(addr, NO_WAIT)), Some(ErrorKind::Busy));
    regions.unregister(addr + 64, NO_WAIT).unwrap();

    regions.free(addr, NO_WAIT).unwrap();
    assert_eq!(other.word(0).load(Ordering::Relaxed), 0, "not kept alive by a peer's mapping");
    assert_eq!(kind(regions.free(addr, NO_WAIT)), Some(ErrorKind::NotRegistered));
    for len in [0, usize::MAX] {
        let refused = regions.allocate(len, "*").map(|_| ());
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    }
}

#[test]
fn memory_in_use_outlives_its_engine() {
    let regions = regions();
    let addr = regions.allocate(4096, "*").unwrap();
    let busy = regions.allocate(4096, "*").unwrap();
    let facts = link::tests::facts_of(&regions);
    let described = regions.describe();
    let link = link::HostLink::attach(&facts).unwrap();
    let mut copier = link.copier().unwrap();
    let pin = regions.pin_local(busy, 1).unwrap();
    drop(regions);
    assert!(mem::is_mapped(busy, 4096), "I3: an unfinished copy must not land in another's memory");
    drop(pin);
    let access = described.iter().find(|b| b.addr == addr as u64).unwrap().access.unwrap();
    let entered = copier.enter(access.slot, access.key, addr as u64, 1, Op::Read);
    assert!(entered.is_none(), "I11: an engine that is gone has no regions");
}

#[test]
fn engines_of_one_process_find_each_other() {
    let regions = regions();
    let found = Regions::of_this_process(regions.incarnation()).unwrap();
    assert!(Arc::ptr_eq(&found, &regions));
    let incarnation = regions.incarnation();
    drop((found, regions));
    assert!(Regions::of_this_process(incarnation).is_none());
}

#[test]
fn what_a_forked_child_inherits_is_not_its_own() {
    let incarnation = Incarnation(host::random_u128().unwrap());
    let inherited = Regions::of_generation(incarnation, host::fork_generation() + 1);
    let arena = arena(4096);
    assert!(Regions::of_this_process(incarnation).is_none());
    let down = Some(ErrorKind::EngineDown);
    assert_eq!(kind(inherited.register(arena.addr(), 10, "*", ALL, None)), down);
    assert_eq!(kind(inherited.unregister(arena.addr(), NO_WAIT)), down);
    assert_eq!(kind(inherited.allocate(10, "*").map(|_| ())), down);
    assert_eq!(kind(inherited.free(arena.addr(), NO_WAIT)), down);
}

/// What the property tests do with a registry, in units of one arena.
#[derive(Debug, Clone)]
enum Step {
    Register { at: usize, len: usize, permission: Permission },
    Unregister { at: usize },
    Pin { at: usize, len: usize, op: Op },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let permission = prop_oneof![Just(Permission::Local), Just(Permission::Read), Just(ALL)];
    let op = prop_oneof![Just(Op::Read), Just(Op::Write)];
    let step = prop_oneof![
        3 => (0_usize..200, 1_usize..40, permission)
            .prop_map(|(at, len, permission)| Step::Register { at, len, permission }),
        1 => (0_usize..200).prop_map(|at| Step::Unregister { at }),
        4 => (0_usize..240, 0_usize..40, op).prop_map(|(at, len, op)| Step::Pin { at, len, op }),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// I11, I6: the registry answers as a plain list does that looks at every region.
    #[test]
    fn the_registry_is_a_list_of_disjoint_ranges(steps in steps()) {
        let (regions, arena) = (regions(), arena(4096));
        let mut list: Vec<(usize, usize, Permission)> = Vec::new();
        for step in steps {
            match step {
                Step::Register { at, len, permission } => {
                    let free = list.iter().all(|(a, l, _)| at + len <= *a || a + l <= at);
                    let result = regions.register(arena.addr() + at, len, "*", permission, None);
                    prop_assert_eq!(kind(result), (!free).then_some(ErrorKind::Overlap));
                    if free {
                        list.push((at, len, permission));
                    }
                }
                Step::Unregister { at } => {
                    let known = list.iter().position(|(a, ..)| *a == at);
                    let result = regions.unregister(arena.addr() + at, NO_WAIT);
                    prop_assert_eq!(result.is_ok(), known.is_some());
                    if let Some(known) = known {
                        list.swap_remove(known);
                    }
                }
                Step::Pin { at, len, op } => {
                    let addr = arena.addr() + at;
                    // an empty range belongs to the region of its first byte
                    let inside = list.iter().find(|(a, l, _)| *a <= at && at + len.max(1) <= a + l);
                    let local = regions.pin_local(addr, len as u64);
                    prop_assert_eq!(local.is_some(), inside.is_some());
                    let allowed = inside.is_some_and(|(_, _, permission)| match permission {
                        Permission::Local => false,
                        Permission::Read => op == Op::Read,
                        Permission::ReadWrite => true,
                    });
                    let remote = regions.pin_remote(addr as u64, len as u64, None, op);
                    prop_assert_eq!(remote.is_ok(), allowed);
                }
            }
            let addrs: Vec<_> = regions.describe().iter().map(|b| b.addr).collect();
            prop_assert!(addrs.is_sorted());
            prop_assert_eq!(regions.len(), list.len());
        }
    }
}
