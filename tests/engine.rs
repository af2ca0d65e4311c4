//! The engine through its Rust API: two engines of one process, real sockets.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test by panicking")]

use std::time::Duration;
use tent::{
    Buffer, Config, Engine, ErrorKind, Notification, Op, Permission, RegionSpec, Request,
    RequestOptions, SegmentId, TaskState, TransportKind, TransportMask,
};

/// A buffer that peers write to: leaked, so that nothing frees it under a transfer.
struct Memory {
    addr: usize,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Self {
        let bytes = Box::leak(vec![0_u8; len].into_boxed_slice());
        Self { addr: bytes.as_mut_ptr().expose_provenance(), len }
    }

    fn fill(&self, seed: u64) {
        for (i, b) in self.bytes().iter_mut().enumerate() {
            *b = pattern(seed, i);
        }
    }

    fn wrong(&self, seed: u64, from: usize, len: usize, shift: usize) -> usize {
        (0..len).filter(|i| self.bytes()[from + i] != pattern(seed, shift + i)).count()
    }

    #[expect(clippy::mut_from_ref, reason = "a test buffer used by one thread between transfers")]
    fn bytes(&self) -> &mut [u8] {
        let start: *mut u8 = std::ptr::with_exposed_provenance_mut(self.addr);
        // SAFETY: leaked memory of that length; no transfer is under way when a test looks at it.
        #[expect(unsafe_code, reason = "the buffer is raw memory by nature")]
        unsafe {
            std::slice::from_raw_parts_mut(start, self.len)
        }
    }
}

fn pattern(seed: u64, index: usize) -> u8 {
    let x = (index as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x >> 56) as u8
}

fn engine(transports: TransportMask) -> Engine {
    Engine::new(Config { transports, ..Config::default() }).unwrap()
}

fn spec(memory: &Memory, permission: Permission) -> RegionSpec {
    RegionSpec { addr: memory.addr, len: memory.len, location: "*".into(), permission }
}

struct Pair {
    a: Engine,
    b: Engine,
    ours: Memory,
    theirs: Memory,
    to: SegmentId,
}

fn pair(transports: TransportMask, len: usize) -> Pair {
    let (a, b) = (engine(transports), engine(transports));
    let (ours, theirs) = (Memory::new(len), Memory::new(len));
    a.register(&spec(&ours, Permission::ReadWrite)).unwrap();
    b.register(&spec(&theirs, Permission::ReadWrite)).unwrap();
    let to = a.open_segment(b.name()).unwrap();
    Pair { a, b, ours, theirs, to }
}

impl Pair {
    fn request(&self, op: Op, local: usize, remote: usize, len: usize) -> Request {
        Request {
            op,
            local: self.ours.addr + local,
            segment: self.to,
            remote: (self.theirs.addr + remote) as u64,
            len: len as u64,
            options: RequestOptions::default(),
        }
    }

    fn run(&self, requests: &[Request]) -> TaskState {
        let batch = self.a.allocate_batch(requests.len()).unwrap();
        self.a.submit(batch, requests).unwrap();
        let status = self.a.wait(batch, Duration::from_secs(20)).unwrap();
        self.a.free_batch(batch).unwrap();
        status.state
    }
}

const LOCAL: TransportMask = TransportMask(1 << TransportKind::Local as u8);
const TCP: TransportMask = TransportMask(1 << TransportKind::Tcp as u8);

#[test]
fn every_size_both_ways_and_every_byte_right() {
    for transports in [LOCAL, TCP] {
        let p = pair(transports, 9 << 20);
        for (round, len) in
            [1, 7, 64, 4095, 4096, 65_537, 1 << 20, (8 << 20) + 13].into_iter().enumerate()
        {
            let (from, to) = (round * 3 + 1, round * 5 + 2);
            p.ours.fill(round as u64);
            p.theirs.bytes().fill(0xEE);
            assert_eq!(p.run(&[p.request(Op::Write, from, to, len)]), TaskState::Completed);
            assert_eq!(p.theirs.wrong(round as u64, to, len, from), 0, "WRITE of {len}");
            assert_eq!((p.theirs.bytes()[to - 1], p.theirs.bytes()[to + len]), (0xEE, 0xEE));
            p.theirs.fill(77 + round as u64);
            p.ours.bytes().fill(0xEE);
            assert_eq!(p.run(&[p.request(Op::Read, from, to, len)]), TaskState::Completed);
            assert_eq!(p.ours.wrong(77 + round as u64, from, len, to), 0, "READ of {len}");
            assert_eq!((p.ours.bytes()[from - 1], p.ours.bytes()[from + len]), (0xEE, 0xEE));
        }
    }
}

#[test]
fn a_batch_of_many_small_ones() {
    for transports in [LOCAL, TCP] {
        let p = pair(transports, 4 << 20);
        p.ours.fill(5);
        let many: Vec<_> =
            (0..4096).map(|i| p.request(Op::Write, i * 1000, i * 1000, 999)).collect();
        assert_eq!(p.run(&many), TaskState::Completed);
        for i in 0..4096 {
            assert_eq!(p.theirs.wrong(5, i * 1000, 999, i * 1000), 0);
        }
        assert_eq!(p.theirs.bytes()[999], 0);
    }
}

#[test]
fn bad_requests_change_nothing() {
    let p = pair(TransportMask::ALL, 1 << 16);
    let batch = p.a.allocate_batch(2).unwrap();
    let kind = |r: &[Request]| p.a.submit(batch, r).unwrap_err().kind();
    let good = p.request(Op::Write, 0, 0, 10);
    assert_eq!(kind(&[good; 3]), ErrorKind::TooManyRequests);
    assert_eq!(kind(&[good, p.request(Op::Write, 1 << 16, 0, 10)]), ErrorKind::NotRegistered);
    assert_eq!(kind(&[p.request(Op::Read, (1 << 16) - 5, 0, 10)]), ErrorKind::NotRegistered);
    assert_eq!(kind(&[Request { len: u64::MAX, ..good }]), ErrorKind::NotRegistered);
    assert_eq!(kind(&[Request { segment: SegmentId(99), ..good }]), ErrorKind::InvalidArgument);
    assert_eq!(p.a.task_count(batch).unwrap(), 0);
    p.a.submit(batch, &[Request { len: 0, ..good }]).unwrap();
    assert_eq!(p.a.status(batch, 0).unwrap().state, TaskState::Completed);
    // a remote range is the peer's business: the task fails, as upstream's does
    p.a.submit(batch, &[Request { remote: u64::MAX - 3, ..good }]).unwrap();
    assert_eq!(p.a.wait(batch, Duration::from_secs(5)).unwrap().state, TaskState::Failed);
    assert!(p.a.failure_text(batch).contains("not inside one buffer"));
    assert_eq!(p.a.status(batch, 2).unwrap_err().kind(), ErrorKind::InvalidArgument);
    p.a.free_batch(batch).unwrap();
    assert_eq!(p.a.status(batch, 0).unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(p.a.free_batch(batch).unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(p.b.status(batch, 0).unwrap_err().kind(), ErrorKind::Stale);
}

/// I11: outside the peer's regions, read-only, local-only and unregistered: refused, nothing changed.
#[test]
fn a_peer_is_not_touched_outside_what_it_permits() {
    for transports in [LOCAL, TCP] {
        let p = pair(transports, 1 << 16);
        p.ours.fill(1);
        let state = |r| p.run(&[r]);
        assert_eq!(state(p.request(Op::Write, 0, 1 << 16, 10)), TaskState::Failed);
        assert_eq!(state(p.request(Op::Write, 0, (1 << 16) - 5, 10)), TaskState::Failed);
        let read_only = Memory::new(4096);
        p.b.register(&spec(&read_only, Permission::Read)).unwrap();
        p.a.refresh_segment(p.to).unwrap();
        let at = |op| Request { remote: read_only.addr as u64, ..p.request(op, 0, 0, 4096) };
        assert_eq!(state(at(Op::Write)), TaskState::Failed);
        assert!(read_only.bytes().iter().all(|b| *b == 0));
        assert_eq!(state(at(Op::Read)), TaskState::Completed);
        p.b.unregister(p.theirs.addr).unwrap();
        assert_eq!(state(p.request(Op::Write, 0, 0, 10)), TaskState::Failed);
        assert!(p.theirs.bytes().iter().all(|b| *b == 0));
        p.b.register(&spec(&p.theirs, Permission::ReadWrite)).unwrap();
        assert_eq!(state(p.request(Op::Write, 0, 0, 10)), TaskState::Completed);
    }
}

#[test]
fn a_peer_that_is_gone_fails_in_time_and_nothing_hangs() {
    let p = pair(TCP, 1 << 20);
    assert_eq!(p.run(&[p.request(Op::Write, 0, 0, 100)]), TaskState::Completed);
    p.b.shutdown();
    assert_eq!(p.run(&[p.request(Op::Write, 0, 0, 1 << 20)]), TaskState::Failed);
    assert_eq!(p.run(&[p.request(Op::Read, 0, 0, 100)]), TaskState::Failed);
    assert_eq!(p.b.allocate_batch(1).unwrap_err().kind(), ErrorKind::EngineDown);
}

#[test]
fn a_message_follows_its_batch_once_and_in_order() {
    let p = pair(TCP, 1 << 16);
    for n in 0..20_u8 {
        let batch = p.a.allocate_batch(1).unwrap();
        let message = Notification { name: b"a\0b".to_vec(), message: vec![n, 0, 255] };
        let request = [p.request(Op::Write, 0, 0, 1 << 16)];
        p.a.submit_notify(batch, &request, p.to, message).unwrap();
        p.a.wait(batch, Duration::from_secs(5)).unwrap();
        p.a.free_batch(batch).unwrap();
    }
    let mut got = Vec::new();
    let deadline = Duration::from_secs(10);
    let begin = tent::time::Instant::now();
    while got.len() < 20 && tent::time::Instant::now().since(begin) < deadline {
        got.extend(p.b.take_notifications());
        std::thread::yield_now();
    }
    let bytes: Vec<_> = got.iter().map(|n| n.message[0]).collect();
    assert_eq!(bytes, (0..20).collect::<Vec<_>>());
    assert_eq!(
        (got[3].name.as_slice(), got[3].message.as_slice()),
        (&b"a\0b"[..], &[3, 0, 255][..])
    );
    p.a.notify(p.to, &Notification { name: vec![], message: b"x".to_vec() }).unwrap();
    assert_eq!(p.b.take_notifications().len(), 1);
}

#[test]
fn a_message_is_not_lost_when_its_sender_ends_at_once() {
    for _ in 0..10 {
        let p = pair(TCP, 4096);
        let batch = p.a.allocate_batch(1).unwrap();
        let message = Notification { name: vec![], message: b"last".to_vec() };
        p.a.submit_notify(batch, &[p.request(Op::Write, 0, 0, 4096)], p.to, message).unwrap();
        while !p.a.status(batch, 0).unwrap().state.is_final() {}
        p.a.shutdown();
        assert_eq!(p.b.take_notifications().len(), 1);
    }
}

#[test]
fn a_deadline_and_a_cancel_end_a_task_quietly() {
    let p = pair(TCP, 64 << 20);
    let batch = p.a.allocate_batch(2).unwrap();
    p.a.submit(batch, &[p.request(Op::Read, 0, 0, 64 << 20)]).unwrap();
    p.a.cancel(batch, 0).unwrap();
    let status = p.a.wait(batch, Duration::from_secs(10)).unwrap();
    assert_eq!(status.state, TaskState::Canceled);
    // I3: what the peer changes now is not seen here any more
    p.ours.bytes().fill(0xAB);
    p.theirs.bytes().fill(0xCD);
    let short = RequestOptions { timeout: Some(Duration::from_millis(5)), ..Default::default() };
    let timed = Request { options: short, ..p.request(Op::Read, 0, 0, 64 << 20) };
    assert!(p.ours.bytes().iter().all(|b| *b == 0xAB));
    p.a.submit(batch, &[timed]).unwrap();
    let status = p.a.wait(batch, Duration::from_secs(10)).unwrap();
    assert!(matches!(status.state, TaskState::Canceled | TaskState::TimedOut), "{status:?}");
    assert_eq!(p.a.status(batch, 1).unwrap().state, TaskState::TimedOut);
    assert_eq!(p.run(&[p.request(Op::Read, 0, 0, 1 << 20)]), TaskState::Completed);
}

/// D2, I1, I9: one range is pulled by every rail, here two pairs of loopback addresses.
#[test]
fn a_large_range_goes_over_all_rails() {
    let addrs = ["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
    // a hedged piece would be carried, and counted, twice
    let hedge = false;
    let config = Config { transports: TCP, rail_addrs: addrs.into(), hedge, ..Config::default() };
    let (a, b) = (Engine::new(config.clone()).unwrap(), Engine::new(config).unwrap());
    let (ours, theirs) = (Memory::new(32 << 20), Memory::new(32 << 20));
    a.register(&spec(&ours, Permission::ReadWrite)).unwrap();
    b.register(&spec(&theirs, Permission::ReadWrite)).unwrap();
    let to = a.open_segment(b.name()).unwrap();
    let p = Pair { a, b, ours, theirs, to };
    p.ours.fill(3);
    assert_eq!(p.run(&[p.request(Op::Write, 0, 0, 32 << 20)]), TaskState::Completed);
    assert_eq!(p.theirs.wrong(3, 0, 32 << 20, 0), 0);
    let rails = p.a.rails();
    assert_eq!(rails.len(), 2, "{rails:?}");
    assert!(rails.iter().all(|r| r.write_bytes > 0 && r.in_flight_bytes == 0), "I5: {rails:?}");
    assert_eq!(rails.iter().map(|r| r.write_bytes).sum::<u64>(), 32 << 20);
}

#[test]
fn ipv6_serves_as_well() {
    let config = Config {
        transports: TCP,
        host: "::1".into(),
        prefer_ipv6: true,
        rail_addrs: vec!["::1".parse().unwrap()],
        ..Config::default()
    };
    let (a, b) = (Engine::new(config.clone()).unwrap(), Engine::new(config).unwrap());
    assert!(b.name().starts_with("[::1]:"));
    let (ours, theirs) = (Memory::new(1 << 20), Memory::new(1 << 20));
    a.register(&spec(&ours, Permission::ReadWrite)).unwrap();
    b.register(&spec(&theirs, Permission::ReadWrite)).unwrap();
    let to = a.open_segment(b.name()).unwrap();
    let p = Pair { a, b, ours, theirs, to };
    p.ours.fill(4);
    assert_eq!(p.run(&[p.request(Op::Write, 0, 0, 1 << 20)]), TaskState::Completed);
    assert_eq!(p.theirs.wrong(4, 0, 1 << 20, 0), 0);
    assert!(p.a.rails()[0].rail.contains("::1"), "{:?}", p.a.rails());
}

#[test]
fn an_eventfd_tells_the_end_without_any_poll() {
    for transports in [LOCAL, TCP] {
        let p = pair(transports, 8 << 20);
        let batch = p.a.allocate_batch(2).unwrap();
        let fd = p.a.event_fd(batch).unwrap();
        for _ in 0..2 {
            p.a.submit(batch, &[p.request(Op::Write, 0, 0, 8 << 20)]).unwrap();
            let interest = tent::sys::evloop::Interest::READ;
            let limit = Some(Duration::from_secs(10));
            assert!(tent::sys::evloop::poll(fd, interest, limit).unwrap());
            assert_eq!(p.a.batch_status(batch).unwrap().state, TaskState::Completed);
        }
        p.a.free_batch(batch).unwrap();
    }
}

/// I6: a region in use is not withdrawn under a transfer.
#[test]
fn unregister_waits_for_quiet() {
    let p = pair(TCP, 64 << 20);
    let batch = p.a.allocate_batch(1).unwrap();
    p.a.submit(batch, &[p.request(Op::Write, 0, 0, 64 << 20)]).unwrap();
    let outcome = p.a.unregister(p.ours.addr);
    let over = p.a.status(batch, 0).unwrap().state.is_final();
    assert!(outcome.is_err() || over, "withdrawn while the task was under way");
    p.a.wait(batch, Duration::from_secs(20)).unwrap();
}

#[test]
fn a_buffer_outlives_what_uses_it() {
    let (a, b) = (engine(TCP), engine(TCP));
    let (ours, theirs) = (Buffer::new(&a, 8 << 20).unwrap(), Buffer::new(&b, 8 << 20).unwrap());
    let bytes: Vec<u8> = (0..8 << 20).map(|i| pattern(8, i)).collect();
    ours.put(0, &bytes).unwrap();
    assert_eq!(ours.put(8 << 20, b"x").unwrap_err().kind(), ErrorKind::NotRegistered);
    let to = a.open_segment(b.name()).unwrap();
    let batch = a.allocate_batch(1).unwrap();
    let request = Request {
        op: Op::Write,
        local: ours.addr(),
        segment: to,
        remote: theirs.addr() as u64,
        len: 8 << 20,
        options: RequestOptions::default(),
    };
    a.submit(batch, &[request]).unwrap();
    drop(ours); // I6: waits for the transfer
    assert_eq!(a.wait(batch, Duration::from_secs(10)).unwrap().state, TaskState::Completed);
    let mut landed = vec![0; 8 << 20];
    theirs.take(0, &mut landed).unwrap();
    assert!(landed == bytes);
}

#[test]
fn what_is_registered_after_the_open_is_found() {
    for transports in [LOCAL, TCP] {
        let p = pair(transports, 1 << 16);
        let late = Memory::new(1 << 16);
        p.b.register(&spec(&late, Permission::ReadWrite)).unwrap();
        p.ours.fill(9);
        let request = Request { remote: late.addr as u64, ..p.request(Op::Write, 0, 0, 1 << 16) };
        assert_eq!(p.run(&[request]), TaskState::Completed);
        assert_eq!(late.wrong(9, 0, 1 << 16, 0), 0);
    }
}

#[test]
fn many_threads_share_an_engine() {
    for transports in [LOCAL, TCP] {
        let p = pair(transports, 8 << 20);
        p.ours.fill(6);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let p = &p;
                scope.spawn(move || {
                    for round in 0..20 {
                        let at = (thread << 20) + round * 1000;
                        let request = p.request(Op::Write, at, at, 1000 * (round + 1));
                        assert_eq!(p.run(&[request]), TaskState::Completed);
                    }
                });
            }
        });
        for thread in 0..8 {
            assert_eq!(p.theirs.wrong(6, thread << 20, 39_000, thread << 20), 0);
        }
    }
}

#[test]
fn engines_come_and_go_without_leaving_anything() {
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    drop(pair(TransportMask::ALL, 4096));
    // other tests of this process make engines too: compare growth over many rounds with none
    let before = count("fd");
    for _ in 0..50 {
        let p = pair(TransportMask::ALL, 4096);
        assert_eq!(p.run(&[p.request(Op::Read, 0, 0, 4096)]), TaskState::Completed);
    }
    assert!(count("fd") < before + 50 * 8, "descriptors leak");
}

/// One engine asks the other for its description by itself, so that new memory is known before it is used.
#[test]
fn descriptions_are_refreshed_by_themselves() {
    let every = Duration::from_millis(100);
    let config = Config { transports: TCP, refresh_every: Some(every), ..Config::default() };
    let (a, b) = (Engine::new(config).unwrap(), engine(TCP));
    let to = a.open_segment(b.name()).unwrap();
    assert!(a.segment(to).unwrap().buffers.is_empty());
    let memory = Memory::new(4096);
    b.register(&spec(&memory, Permission::ReadWrite)).unwrap();
    // a bound in looks: each comes after a wait
    for look in 0.. {
        if !a.segment(to).unwrap().buffers.is_empty() {
            break;
        }
        assert!(look < 400, "not refreshed");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn descriptions_are_fetched_for_every_request_on_demand() {
    let mut p = pair(TCP, 1 << 16);
    p.a =
        Engine::new(Config { transports: TCP, always_refresh: true, ..Config::default() }).unwrap();
    p.a.register(&spec(&p.ours, Permission::ReadWrite)).unwrap();
    p.to = p.a.open_segment(p.b.name()).unwrap();
    p.ours.fill(3);
    assert_eq!(p.run(&[p.request(Op::Write, 0, 0, 1 << 16)]), TaskState::Completed);
    assert_eq!(p.theirs.wrong(3, 0, 1 << 16, 0), 0);
    // what is withdrawn is known at once, before any byte is sent
    p.b.unregister(p.theirs.addr).unwrap();
    let batch = p.a.allocate_batch(1).unwrap();
    p.a.submit(batch, &[p.request(Op::Write, 0, 0, 10)]).unwrap();
    assert_eq!(p.a.wait(batch, Duration::from_secs(20)).unwrap().state, TaskState::Failed);
    let why = p.a.failure_text(batch);
    assert!(why.contains("not inside one buffer"), "{why}");
}

#[test]
fn filters_that_leave_nothing_leave_everything() {
    let interfaces = vec!["mlx5_77".to_owned()];
    let config = Config { transports: TCP, interfaces, ..Config::default() };
    let mut p = pair(TCP, 1 << 16);
    p.a = Engine::new(config).unwrap();
    p.a.register(&spec(&p.ours, Permission::ReadWrite)).unwrap();
    p.to = p.a.open_segment(p.b.name()).unwrap();
    assert_eq!(p.run(&[p.request(Op::Read, 0, 0, 1 << 16)]), TaskState::Completed);
}

/// Takes the lines of the log.
struct Lines(std::sync::Mutex<Option<std::sync::mpsc::Sender<String>>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(to) = self.0.lock().unwrap().as_ref() {
            to.send(record.args().to_string()).ok();
        }
    }

    fn flush(&self) {}
}

static LINES: Lines = Lines(std::sync::Mutex::new(None));

#[test]
fn the_throughput_is_told_if_that_is_asked_for() {
    let (to, lines) = std::sync::mpsc::channel();
    *LINES.0.lock().unwrap() = Some(to);
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let mut p = pair(TCP, 1 << 20);
    let every = Some(Duration::from_millis(100));
    let config = Config { transports: TCP, metrics_every: every, ..Config::default() };
    p.a = Engine::new(config).unwrap();
    p.a.register(&spec(&p.ours, Permission::ReadWrite)).unwrap();
    p.to = p.a.open_segment(p.b.name()).unwrap();
    assert_eq!(p.run(&[p.request(Op::Write, 0, 0, 1 << 20)]), TaskState::Completed);
    let name = p.a.name().to_owned();
    let line = loop {
        let line = lines.recv_timeout(Duration::from_secs(20)).expect("a line");
        if line.starts_with(&name) && line.contains("GB/s") {
            break line;
        }
    };
    let figure =
        |word: &str| line.split(word).nth(1)?.split_whitespace().next()?.parse::<f64>().ok();
    assert_eq!(figure("read "), Some(0.0), "{line}");
    assert!(figure("written ").is_some_and(|rate| rate > 0.0), "{line}");
}
