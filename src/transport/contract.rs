//! What every transport must do, as one body of tests (see the contract in `transport.rs`).
//!
//! The peer whose memory is moved is an engine of this process, so that its memory can be looked at. A
//! transport enters the list by a [`Harness`] and one line `contract_tests!(name, MyHarness::new);`.

#![cfg(not(loom))]
#![allow(unsafe_code, reason = "looks at memory that transports write behind the compiler's back")]

use super::cma::CmaTransport;
use super::local::LocalTransport;
use super::shm::ShmTransport;
use super::{RailTarget, Transport};
use crate::id::Incarnation;
use crate::memory::link::HostLink;
use crate::memory::link::tests::facts_of;
use crate::memory::{NO_SLOT, Regions};
use crate::segment::{Access, Permission};
use crate::slice::{Class, DownCause, Op, SliceFault, SliceOp, TransportEvent};
use crate::sys::{host, mem};
use crate::time::Instant;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A transport, and whatever serves the peer's end of it.
pub(super) trait Harness {
    /// The transport under test.
    fn transport(&mut self) -> &mut dyn Transport;
    /// Where the peer is; a rail per call.
    fn target(&self) -> RailTarget;
    /// Nothing moved: waits, within a bound, until `poll` may have something to do.
    fn settle(&mut self);
}

/// The body, as a module of tests; `$make` turns the peer's regions into a harness.
macro_rules! contract_tests {
    ($name:ident, $make:expr) => {
        mod $name {
            use $crate::transport::contract as body;

            #[test]
            fn right_bytes_land_and_nothing_else_changes() {
                body::right_bytes_land_and_nothing_else_changes($make);
            }
            #[test]
            fn any_range_lands() {
                body::any_range_lands($make);
            }
            #[test]
            fn each_slice_completes_once() {
                body::each_slice_completes_once($make);
            }
            #[test]
            fn what_is_refused_changes_nothing() {
                body::what_is_refused_changes_nothing($make);
            }
            #[test]
            fn what_is_gone_is_refused() {
                body::what_is_gone_is_refused($make);
            }
            #[test]
            fn abort_completes_all_and_the_rail_can_come_back() {
                body::abort_completes_all_and_the_rail_can_come_back($make);
            }
            #[test]
            fn a_cancel_ends_one_slice_and_no_other() {
                body::a_cancel_ends_one_slice_and_no_other($make);
            }
            #[test]
            fn rails_are_apart() {
                body::rails_are_apart($make);
            }
        }
    };
}
#[allow(unused_imports, reason = "for transports whose harness lies beside them")]
pub(super) use contract_tests;

contract_tests!(local, super::LocalHarness::new);
contract_tests!(shm, super::HostHarness::<super::ShmTransport>::new);
contract_tests!(cma, super::HostHarness::<super::CmaTransport>::new);

struct LocalHarness(LocalTransport, Arc<Regions>);

impl LocalHarness {
    fn new(peer: &Arc<Regions>) -> Self {
        Self(LocalTransport::new(), Arc::clone(peer))
    }
}

impl Harness for LocalHarness {
    fn transport(&mut self) -> &mut dyn Transport {
        &mut self.0
    }
    fn target(&self) -> RailTarget {
        RailTarget::Local(Arc::clone(&self.1))
    }
    fn settle(&mut self) {}
}

/// `shm` and `cma`, attached to our own process as if it were another one.
struct HostHarness<T>(T, Arc<HostLink>);

impl<T: Default> HostHarness<T> {
    fn new(peer: &Arc<Regions>) -> Self {
        Self(T::default(), Arc::new(HostLink::attach(&facts_of(peer)).unwrap()))
    }
}

impl<T: Transport> Harness for HostHarness<T> {
    fn transport(&mut self) -> &mut dyn Transport {
        &mut self.0
    }
    fn target(&self) -> RailTarget {
        RailTarget::Host(Arc::clone(&self.1))
    }
    fn settle(&mut self) {}
}

/// Registered memory of the peer, or our own.
#[derive(Clone, Copy)]
struct Area {
    addr: usize,
    access: Access,
}

impl Area {
    fn new(regions: &Regions, permission: Permission) -> Self {
        let addr = regions.allocate(AREA, "cpu:0").unwrap();
        if permission != Permission::ReadWrite {
            regions.unregister(addr, Duration::ZERO).unwrap();
            regions.register(addr, AREA, "cpu:0", permission, None).unwrap();
        }
        let described = regions.describe().into_iter().find(|b| b.addr == addr as u64);
        let access = described.and_then(|b| b.access).unwrap_or(Access {
            key: 1,
            permission,
            slot: NO_SLOT,
            shm: None,
        });
        Self { addr, access }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; AREA];
        let to = bytes.as_mut_ptr().expose_provenance();
        // SAFETY: the area is mapped as long as its regions live, which the callers hold.
        unsafe { mem::copy(to, self.addr, AREA) };
        bytes
    }

    fn fill(&self, seed: usize) -> Vec<u8> {
        let pattern = PATTERN.get_or_init(|| {
            (0..AREA + 256).map(|i| u8::try_from((i * 31 + i / 251) % 253).unwrap()).collect()
        });
        let bytes = pattern[seed % 256..][..AREA].to_vec();
        // SAFETY: as above, and no transfer is under way.
        unsafe { mem::copy(self.addr, bytes.as_ptr().expose_provenance(), AREA) };
        bytes
    }
}

/// Writes to memory that a test allocated from some regions, while nothing moves.
pub(super) fn poke(addr: usize, bytes: &[u8]) {
    // SAFETY: the callers pass memory of regions that they hold, with room for the bytes.
    unsafe { mem::copy(addr, bytes.as_ptr().expose_provenance(), bytes.len()) };
}

struct Bench<H> {
    peer: Arc<Regions>,
    /// Ours; another engine's, so that it cannot be mistaken for the peer's.
    ours: Area,
    theirs: Area,
    _own: Arc<Regions>,
    harness: H,
    events: Vec<TransportEvent>,
    tokens: u64,
}

impl<H: Harness> Bench<H> {
    /// With rail 0 up.
    fn new(make: impl Fn(&Arc<Regions>) -> H) -> Self {
        let engine = || Regions::new(Incarnation(host::random_u128().unwrap()));
        let (peer, own) = (engine(), engine());
        let theirs = Area::new(&peer, Permission::ReadWrite);
        let ours = Area::new(&own, Permission::Local);
        let harness = make(&peer);
        let (events, tokens) = (Vec::new(), 0);
        let mut bench = Self { peer, ours, theirs, _own: own, harness, events, tokens };
        bench.connect(0);
        bench
    }

    fn connect(&mut self, rail: u32) {
        let target = self.harness.target();
        self.harness.transport().connect(rail, &target);
        self.until(|event| event == TransportEvent::RailUp { rail });
    }

    /// Polls until such an event is among those that were not looked at yet, and forgets these.
    fn until(&mut self, is_it: impl Fn(TransportEvent) -> bool) -> Vec<TransportEvent> {
        let give_up = Instant::now().after(Duration::from_secs(30));
        while !self.events.iter().any(|event| is_it(*event)) {
            assert!(Instant::now() < give_up, "never happened; so far: {:?}", self.events);
            if self.harness.transport().poll(&mut self.events) == 0 {
                self.harness.settle();
            }
        }
        std::mem::take(&mut self.events)
    }

    fn slice(&mut self, op: Op, ours: usize, theirs: usize, len: usize) -> SliceOp {
        self.tokens += 1;
        SliceOp {
            token: self.tokens,
            op,
            class: Class::Bulk,
            local: self.ours.addr + ours,
            remote: (self.theirs.addr + theirs) as u64,
            len: len as u64,
            key: self.theirs.access.key,
            slot: self.theirs.access.slot,
            shm: self.theirs.access.shm,
        }
    }

    /// Posts all of it, as room is made; the faults by token, each exactly once.
    fn run(&mut self, rail: u32, ops: &[SliceOp]) -> BTreeMap<u64, Option<SliceFault>> {
        let give_up = Instant::now().after(Duration::from_secs(30));
        let (mut posted, mut done) = (0, BTreeMap::new());
        while done.len() < ops.len() {
            assert!(Instant::now() < give_up, "{posted} posted, {} done", done.len());
            posted += self.harness.transport().post(rail, &ops[posted..]);
            assert!(posted <= ops.len());
            if self.harness.transport().poll(&mut self.events) == 0 {
                self.harness.settle();
            }
            for event in self.events.drain(..) {
                let TransportEvent::Done { token, fault } = event else {
                    panic!("the rail changed: {event:?}");
                };
                let known = ops[..posted].iter().any(|op| op.token == token);
                assert!(known, "{token} was not posted");
                assert!(done.insert(token, fault).is_none(), "{token} completed twice");
            }
        }
        done
    }

    /// Moves one range, and looks at both sides.
    fn check(&mut self, op: Op, ours: usize, theirs: usize, len: usize) {
        let (mut left, mut right) = (self.ours.fill(len), self.theirs.fill(len + 7));
        let slice = self.slice(op, ours, theirs, len);
        assert_eq!(self.run(0, &[slice])[&slice.token], None);
        match op {
            Op::Read => left[ours..ours + len].copy_from_slice(&right[theirs..theirs + len]),
            Op::Write => right[theirs..theirs + len].copy_from_slice(&left[ours..ours + len]),
        }
        assert!(self.ours.bytes() == left, "ours: {op:?} {ours} {theirs} {len}");
        assert!(self.theirs.bytes() == right, "theirs: {op:?} {ours} {theirs} {len}");
    }
}

pub(super) fn right_bytes_land_and_nothing_else_changes<H: Harness>(
    make: impl Fn(&Arc<Regions>) -> H,
) {
    let mut bench = Bench::new(make);
    for len in [1, 2, 7, 4095, 4096, 4097, 65_535, 1 << 20] {
        for (ours, theirs) in [(0, 0), (1, 0), (0, 4095), (63, 17), (4097, 8190)] {
            bench.check(Op::Read, ours, theirs, len);
            bench.check(Op::Write, ours, theirs, len);
        }
    }
    // up to the last byte
    bench.check(Op::Write, AREA - 5000, AREA - 5000, 5000);
    bench.check(Op::Read, AREA - 5000, AREA - 5000, 5000);
}

pub(super) fn any_range_lands<H: Harness>(make: impl Fn(&Arc<Regions>) -> H) {
    let bench = std::cell::RefCell::new(Bench::new(make));
    let range = (any::<bool>(), 0..9000_usize, 0..9000_usize, 1..600_000_usize);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) };
    let result = TestRunner::new(config).run(&range, |(read, ours, theirs, len)| {
        let op = if read { Op::Read } else { Op::Write };
        bench.borrow_mut().check(op, ours, theirs, len);
        Ok(())
    });
    result.unwrap();
}

pub(super) fn each_slice_completes_once<H: Harness>(make: impl Fn(&Arc<Regions>) -> H) {
    const LEN: usize = 1001;
    const COUNT: usize = 1000;
    let mut bench = Bench::new(make);
    for op in [Op::Write, Op::Read] {
        let source = [bench.ours.fill(1), bench.theirs.fill(2)];
        // backwards over there, so that a mix-up of two slices shows
        let slices: Vec<_> =
            (0..COUNT).map(|i| bench.slice(op, i * LEN, (COUNT - 1 - i) * LEN, LEN)).collect();
        let done = bench.run(0, &slices);
        assert!(done.values().all(Option::is_none));
        let (left, right) = (bench.ours.bytes(), bench.theirs.bytes());
        for i in 0..COUNT {
            let (l, r) = (i * LEN, (COUNT - 1 - i) * LEN);
            assert!(left[l..l + LEN] == right[r..r + LEN], "slice {i}");
        }
        let unchanged = if op == Op::Write { left == source[0] } else { right == source[1] };
        assert!(unchanged, "the source changed");
    }
    assert_eq!(bench.harness.transport().poll(&mut bench.events), 0, "nothing is left to tell");
    assert_eq!(bench.harness.transport().post(0, &[]), 0);
}

pub(super) fn what_is_refused_changes_nothing<H: Harness>(make: impl Fn(&Arc<Regions>) -> H) {
    let mut bench = Bench::new(make);
    let read_only = Area::new(&bench.peer, Permission::Read);
    let private = Area::new(&bench.peer, Permission::Local);
    let areas = [bench.ours, bench.theirs, read_only, private];
    let before: Vec<_> = areas.iter().enumerate().map(|(i, area)| area.fill(i)).collect();
    let good = bench.slice(Op::Write, 0, 0, 4096);
    let to = |area: Area, slice: SliceOp| SliceOp {
        remote: area.addr as u64,
        key: area.access.key,
        slot: area.access.slot,
        shm: area.access.shm,
        ..slice
    };
    let both = |slice: SliceOp| [slice, SliceOp { op: Op::Read, ..slice }];
    let mut wrong = vec![to(read_only, good)]; // to write is not permitted
    for slice in [
        to(private, good),
        SliceOp { key: good.key ^ 1, ..good },
        SliceOp { remote: good.remote - 1, ..good },
        SliceOp { remote: good.remote + AREA as u64 - 4095, ..good },
        SliceOp { remote: u64::MAX - 4000, ..good },
        SliceOp { remote: 64, ..good },
        // another region's range under this region's key and slot
        SliceOp { remote: read_only.addr as u64, ..good },
    ] {
        wrong.extend(both(slice));
    }
    let refused = bench.peer.refused();
    for (i, slice) in wrong.iter_mut().enumerate() {
        slice.token = 1000 + i as u64;
    }
    for slice in &wrong {
        let done = bench.run(0, &[*slice]);
        assert_eq!(done[&slice.token], Some(SliceFault::Refused), "I11: {slice:?}");
    }
    for (area, before) in areas.iter().zip(&before) {
        assert!(area.bytes() == *before, "I11: a refused slice changed something");
    }
    assert_eq!(bench.peer.refused(), refused + wrong.len() as u64, "I11: each is counted once");
    let readable = SliceOp { op: Op::Read, token: 1, ..to(read_only, good) };
    assert_eq!(bench.run(0, &[readable])[&1], None);
    bench.check(Op::Write, 3, 5, 10_000); // the rail is as good as before
}

pub(super) fn what_is_gone_is_refused<H: Harness>(make: impl Fn(&Arc<Regions>) -> H) {
    let mut bench = Bench::new(make);
    bench.check(Op::Write, 0, 0, 100);
    let addr = bench.theirs.addr;
    bench.peer.unregister(addr, Duration::from_secs(30)).unwrap();
    let before = bench.theirs.fill(9);
    for op in [Op::Read, Op::Write] {
        let slice = bench.slice(op, 0, 0, 100);
        assert_eq!(bench.run(0, &[slice])[&slice.token], Some(SliceFault::Refused));
    }
    // registered again it is another region: what peers know of the old one is stale (I7)
    bench.peer.register(addr, AREA, "*", Permission::ReadWrite, None).unwrap();
    let stale = bench.slice(Op::Write, 0, 0, 100);
    assert_eq!(bench.run(0, &[stale])[&stale.token], Some(SliceFault::Refused));
    assert!(bench.theirs.bytes() == before);
    bench.theirs.access = bench.peer.describe()[0].access.unwrap();
    bench.check(Op::Write, 0, 0, 100);
}

pub(super) fn abort_completes_all_and_the_rail_can_come_back<H: Harness>(
    make: impl Fn(&Arc<Regions>) -> H,
) {
    let mut bench = Bench::new(make);
    for op in [Op::Write, Op::Read] {
        bench.ours.fill(3);
        bench.theirs.fill(4);
        let slices: Vec<_> =
            (0..16).map(|i| bench.slice(op, i * 65_536, i * 65_536, 65_536)).collect();
        let mut posted = 0;
        loop {
            let taken = bench.harness.transport().post(0, &slices[posted..]);
            posted += taken;
            if taken == 0 || posted == slices.len() {
                break;
            }
        }
        assert!(posted > 0);
        bench.harness.transport().abort(0);
        let is_down = |event| matches!(event, TransportEvent::RailDown { rail: 0, .. });
        let events = bench.until(is_down);
        let (last, done) = events.split_last().unwrap();
        let cause = DownCause::Aborted;
        assert_eq!(*last, TransportEvent::RailDown { rail: 0, cause }, "told last");
        let mut tokens: Vec<_> = done
            .iter()
            .filter_map(|event| match event {
                TransportEvent::Done { token, .. } => Some(*token),
                TransportEvent::RailBroken { rail: 0, .. } => None,
                other => panic!("{other:?}"),
            })
            .collect();
        tokens.sort_unstable();
        let expected: Vec<_> = slices[..posted].iter().map(|slice| slice.token).collect();
        assert_eq!(tokens, expected, "each accepted slice completes once");
        assert_eq!(bench.harness.transport().post(0, &slices[..1]), 0, "the rail is down");
        bench.connect(0);
        bench.check(op, 1, 2, 5000);
    }
}

/// I3: a slice that is canceled completes once, landed or not, and writes nothing after that; the others
/// land.
pub(super) fn a_cancel_ends_one_slice_and_no_other<H: Harness>(make: impl Fn(&Arc<Regions>) -> H) {
    let mut bench = Bench::new(make);
    bench.connect(1); // another path, over which a transport may ask
    for op in [Op::Write, Op::Read] {
        bench.ours.fill(3);
        bench.theirs.fill(4);
        let slices: Vec<_> =
            (0..16).map(|i| bench.slice(op, i * 65_536, i * 65_536, 65_536)).collect();
        let posted = bench.harness.transport().post(0, &slices);
        let victim = slices[posted / 2];
        bench.harness.transport().cancel(0, victim.token);
        bench.harness.transport().cancel(0, victim.token);
        bench.harness.transport().cancel(0, u64::MAX);
        let (mut left, mut stamped) = (posted, None);
        while left > 0 {
            for event in bench.until(|event| matches!(event, TransportEvent::Done { .. })) {
                let TransportEvent::Done { token, fault } = event else { panic!("{event:?}") };
                left -= 1;
                if token == victim.token && fault.is_some() {
                    assert_eq!(fault, Some(SliceFault::RailLost));
                    let at = match op {
                        Op::Write => usize::try_from(victim.remote).unwrap(),
                        Op::Read => victim.local,
                    };
                    poke(at, &[0xab; 65_536]);
                    stamped = Some(at);
                } else {
                    assert_eq!(fault, None);
                }
            }
        }
        // what goes the same way later has arrived: nothing of the victim is behind it
        let later = bench.slice(op, 16 * 65_536, 16 * 65_536, 100);
        assert_eq!(bench.run(0, &[later])[&later.token], None);
        if let Some(at) = stamped {
            let memory = if op == Op::Write { &bench.theirs } else { &bench.ours };
            let begin = at - memory.addr;
            assert!(memory.bytes()[begin..begin + 65_536].iter().all(|b| *b == 0xab));
        }
    }
}

pub(super) fn rails_are_apart<H: Harness>(make: impl Fn(&Arc<Regions>) -> H) {
    let mut bench = Bench::new(make);
    bench.connect(2);
    bench.connect(1);
    let slice = bench.slice(Op::Write, 0, 0, 3000);
    assert_eq!(bench.harness.transport().post(7, &[slice]), 0, "there is no such rail");
    let left = bench.ours.fill(5);
    for rail in 0..3 {
        bench.theirs.fill(6);
        let slice = bench.slice(Op::Write, 0, 100, 3000);
        assert_eq!(bench.run(rail, &[slice])[&slice.token], None);
        assert!(bench.theirs.bytes()[100..3100] == left[..3000]);
    }
    bench.harness.transport().abort(1);
    bench.until(|event| matches!(event, TransportEvent::RailDown { rail: 1, .. }));
    for rail in [0, 2] {
        let slice = bench.slice(Op::Read, 0, 0, 10);
        assert_eq!(bench.run(rail, &[slice])[&slice.token], None);
    }
}

static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();

const AREA: usize = (1 << 20) + (64 << 10);
