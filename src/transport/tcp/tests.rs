//! The data port against raw sockets: both languages, the fence, and whatever else may knock.

use super::frame::{HEAD_LEN, HELLO_LEN, Head, Hello, Kind, Status, UpstreamRequest};
use super::*;
use crate::memory::Regions;
use crate::segment::Permission;
use crate::slice::{Class, Op};
use crate::sys::{host, mem};
use crate::transport::contract::{self, Harness, contract_tests};
use std::io::{Read, Write};

contract_tests!(tcp, super::Pair::new);

fn regions() -> Arc<Regions> {
    Regions::new(Incarnation(host::random_u128().unwrap()))
}

/// A serving transport and its port.
fn serving(regions: &Arc<Regions>) -> (TcpTransport, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let shared = TcpShared::new(Arc::clone(regions), 1, 0).unwrap();
    (TcpTransport::new(shared, 0, Some(listener)).unwrap(), at)
}

/// A client under test and the server at its other end.
struct Pair {
    client: TcpTransport,
    server: TcpTransport,
    target: TcpTarget,
    next: std::cell::Cell<u32>,
}

impl Pair {
    fn new(peer: &Arc<Regions>) -> Self {
        let (server, remote) = serving(peer);
        let shared = TcpShared::new(regions(), 1, 0).unwrap();
        let client = TcpTransport::new(shared, 0, None).unwrap();
        let ways = Arc::from([Way { local: None, remote }]);
        let target = TcpTarget { ways, way: 0, peer: peer.incarnation(), slot: 0 };
        Self { client, server, target, next: std::cell::Cell::new(0) }
    }
}

impl Harness for Pair {
    fn transport(&mut self) -> &mut dyn Transport {
        &mut self.client
    }

    fn target(&self) -> RailTarget {
        let slot = self.next.get();
        self.next.set(slot + 1);
        RailTarget::Tcp(TcpTarget { slot, ..self.target.clone() })
    }

    fn settle(&mut self) {
        let mut events = Vec::new();
        self.server.poll(&mut events);
        assert!(events.is_empty(), "a server has no rails");
    }
}

/// A server on which a raw socket tries its luck.
struct Knock {
    regions: Arc<Regions>,
    addr: usize,
    server: TcpTransport,
    at: SocketAddr,
}

const LEN: usize = 64 << 10;

impl Knock {
    fn new() -> Self {
        let regions = regions();
        let addr = regions.allocate(LEN, "*").unwrap();
        let (server, at) = serving(&regions);
        Self { regions, addr, server, at }
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Lets the server work until `stream` has given `want` bytes or its end.
    fn hear(&mut self, stream: &mut TcpStream, want: usize) -> Vec<u8> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        let deadline = Instant::now().after(Duration::from_secs(10));
        while heard.len() < want {
            assert!(Instant::now() < deadline, "heard only {} bytes", heard.len());
            self.server.poll(&mut Vec::new());
            match stream.read(&mut buffer[..(want - heard.len()).min(4096)]) {
                Ok(0) => break,
                Ok(n) => heard.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        heard
    }

    fn is_closed(&mut self, stream: &mut TcpStream) -> bool {
        self.hear(stream, 1).is_empty()
    }

    fn byte(&self, at: usize) -> u64 {
        mem::peek_process(host::pid(), self.addr + at, 1).unwrap()
    }

    fn hello(&self, slot: u32, epoch: u64) -> [u8; HELLO_LEN] {
        let to = self.regions.incarnation();
        Hello { from: Incarnation(9), to, slot, epoch, urgent: false, fence: false }.encode()
    }

    fn key(&self) -> u64 {
        self.regions.access_of(self.addr as u64, 1).unwrap().key
    }

    fn write(&self, at: usize, bytes: &[u8], key: u64) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap();
        let addr = (self.addr + at) as u64;
        let head = Head { kind: Kind::Write, status: Status::Ok, len, id: 5, addr, key };
        [&head.encode()[..], bytes].concat()
    }
}

fn head(bytes: &[u8]) -> Head {
    Head::decode(bytes.try_into().unwrap()).unwrap()
}

#[test]
fn garbage_is_closed_and_changes_nothing() {
    let mut knock = Knock::new();
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 40]].concat();
    let huge = UpstreamRequest { size: 1 << 60, addr: 4096, write: true, v2: true }.encode();
    let mut bad_head = knock.hello(0, 1).to_vec();
    bad_head.extend_from_slice(&[0xff; HEAD_LEN]);
    for junk in [http, tls, huge.to_vec(), vec![0xff; 64], bad_head] {
        let mut stream = knock.dial();
        stream.write_all(&junk).unwrap();
        let answer = knock.hear(&mut stream, 1 << 10);
        assert!(answer.len() <= HEAD_LEN, "at most a welcome");
    }
    assert_eq!(knock.byte(0), 0);
    // half a head, then nothing: held without harm, and others are served
    let mut half = knock.dial();
    half.write_all(&knock.hello(0, 2)[..30]).unwrap();
    let mut stream = knock.dial();
    stream.write_all(&knock.hello(1, 3)).unwrap();
    assert_eq!(head(&knock.hear(&mut stream, HEAD_LEN)).status, Status::Ok);
}

/// I11: with a wrong key, outside the region or beyond the permission nothing is written, and the
/// connection goes on.
#[test]
fn refused_writes_are_answered_and_change_nothing() {
    let mut knock = Knock::new();
    let mut stream = knock.dial();
    stream.write_all(&knock.hello(0, 1)).unwrap();
    assert_eq!(head(&knock.hear(&mut stream, HEAD_LEN)).kind, Kind::Welcome);
    let key = knock.key();
    for bad in [
        knock.write(0, b"xx", key ^ 1),
        knock.write(LEN - 1, b"xx", key),
        knock.write(usize::MAX - knock.addr, b"xx", key),
    ] {
        stream.write_all(&bad).unwrap();
        let answer = head(&knock.hear(&mut stream, HEAD_LEN));
        assert_eq!((answer.kind, answer.status, answer.id), (Kind::Ack, Status::Refused, 5));
    }
    assert_eq!((knock.byte(0), knock.byte(LEN - 1), knock.regions.refused()), (0, 0, 3));
    stream.write_all(&knock.write(7, b"y", key)).unwrap();
    assert_eq!(head(&knock.hear(&mut stream, HEAD_LEN)).status, Status::Ok);
    assert_eq!(knock.byte(7), u64::from(b'y'));
}

#[test]
fn a_hello_for_another_life_is_told_so() {
    let mut knock = Knock::new();
    let mut stream = knock.dial();
    let to = Incarnation(1);
    let hello = Hello { from: Incarnation(9), to, slot: 0, epoch: 1, urgent: false, fence: false };
    stream.write_all(&hello.encode()).unwrap();
    assert_eq!(head(&knock.hear(&mut stream, HEAD_LEN)).status, Status::WrongPeer);
    assert!(knock.is_closed(&mut stream));
}

/// I3: once the newcomer is welcomed, what the old connection had sent is not written any more.
#[test]
fn a_new_connection_in_the_same_place_fences_the_old_one() {
    let mut knock = Knock::new();
    let key = knock.key();
    let mut old = knock.dial();
    old.write_all(&knock.hello(0, 1)).unwrap();
    knock.hear(&mut old, HEAD_LEN);
    // half a payload arrives, the rest stays behind
    let write = knock.write(0, &[1; 1000], key);
    old.write_all(&write[..HEAD_LEN + 500]).unwrap();
    let deadline = Instant::now().after(Duration::from_secs(10));
    while knock.byte(499) != 1 {
        assert!(Instant::now() < deadline);
        knock.server.poll(&mut Vec::new());
    }
    let mut new = knock.dial();
    new.write_all(&knock.hello(0, 2)).unwrap();
    assert_eq!(head(&knock.hear(&mut new, HEAD_LEN)).status, Status::Ok);
    old.write_all(&write[HEAD_LEN + 500..]).ok();
    assert!(knock.is_closed(&mut old));
    assert_eq!((knock.byte(499), knock.byte(500)), (1, 0));
    // and an older epoch does not come back
    let mut late = knock.dial();
    late.write_all(&knock.hello(0, 1)).unwrap();
    assert!(knock.is_closed(&mut late));
}

#[test]
fn upstream_requests_are_served_in_both_versions() {
    let mut knock = Knock::new();
    let at = |write, v2, size: u64| UpstreamRequest { size, addr: knock.addr as u64, write, v2 };
    let (write2, read2) = (at(true, true, 3).encode(), at(false, true, 3).encode());
    let (write1, read1) = (at(true, false, 3).encode(), at(false, false, 3).encode());
    let refused = UpstreamRequest { addr: 4096, ..at(true, true, 3) }.encode();
    let refused1 = UpstreamRequest { addr: 4096, ..at(false, false, 3) }.encode();
    let mut stream = knock.dial();
    // pipelined: two writes and two reads in one go
    let all = [&write2[..], b"abc", &read2, &write1, b"xyz", &read1].concat();
    stream.write_all(&all).unwrap();
    let ok = [0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d];
    let want = [&ok[..], &ok, b"abc", b"xyz"].concat();
    assert_eq!(knock.hear(&mut stream, want.len()), want);
    stream.write_all(&[&refused[..], b"abc"].concat()).unwrap();
    assert_eq!(knock.hear(&mut stream, 9), [1, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d]);
    let mut stream = knock.dial();
    stream.write_all(&refused1).unwrap();
    assert!(knock.is_closed(&mut stream));
    assert_eq!(knock.regions.refused(), 2);
}

/// As initiator towards an upstream node, played by our own server's upstream half.
#[test]
fn an_upstream_node_is_written_and_read_in_both_versions() {
    for v1 in [false, true] {
        let (mut knock, ours) = (Knock::new(), regions());
        let local = ours.allocate(LEN, "*").unwrap();
        let shared = TcpShared::new(Arc::clone(&ours), 1, 0).unwrap();
        let mut client = TcpTransport::new(shared, 0, None).unwrap();
        client.connect(0, &RailTarget::Upstream(UpstreamTarget { remote: knock.at, v1, conns: 3 }));
        let mut events = Vec::new();
        let mut until = |events: &mut Vec<TransportEvent>, client: &mut TcpTransport, count| {
            let deadline = Instant::now().after(Duration::from_secs(10));
            while events.len() < count {
                assert!(Instant::now() < deadline, "{events:?}");
                client.poll(events);
                knock.server.poll(&mut Vec::new());
            }
        };
        until(&mut events, &mut client, 1);
        assert_eq!(events.pop(), Some(TransportEvent::RailUp { rail: 0 }));
        let slice = |token, op, at: usize, remote: usize| SliceOp {
            token,
            op,
            class: Class::Bulk,
            local: local + at,
            remote: remote as u64,
            len: 1000,
            key: 0,
            slot: 0,
            shm: None,
        };
        contract::poke(local, &[7; 1000]);
        let ops: Vec<_> =
            (0..8).map(|i| slice(i as u64, Op::Write, 0, knock.addr + i * 2000)).collect();
        assert_eq!(client.post(0, &ops), 8);
        until(&mut events, &mut client, 8);
        assert!(events.iter().all(|e| matches!(e, TransportEvent::Done { fault: None, .. })));
        events.clear();
        assert_eq!((knock.byte(14_999), knock.byte(15_001)), (7, 0));
        assert_eq!(client.post(0, &[slice(1, Op::Read, 4000, knock.addr + 500)]), 1);
        let mut until = |events: &mut Vec<TransportEvent>, client: &mut TcpTransport, count| {
            while events.len() < count {
                client.poll(events);
                knock.server.poll(&mut Vec::new());
            }
        };
        until(&mut events, &mut client, 1);
        assert_eq!(mem::peek_process(host::pid(), local + 4499, 1).unwrap(), 7);
        assert_eq!(mem::peek_process(host::pid(), local + 4500, 1).unwrap(), 0);
        events.clear();
        // what their server refuses ends the connection; the rail reports the piece and goes on or down
        client.post(0, &[slice(2, Op::Write, 0, 4096)]);
        until(&mut events, &mut client, 1);
        let fault = match events[0] {
            TransportEvent::Done { token: 2, fault } => fault,
            ref other => panic!("{other:?}"),
        };
        let want = if v1 { SliceFault::RailLostUnfenced } else { SliceFault::Refused };
        assert_eq!(fault, Some(want));
    }
}

/// I4: before it is up, and after it went down, a rail takes nothing.
#[test]
fn a_rail_that_is_not_up_takes_nothing() {
    let peer = regions();
    let mut pair = Pair::new(&peer);
    let op = SliceOp {
        token: 0,
        op: Op::Read,
        class: Class::Bulk,
        local: 4096,
        remote: 4096,
        len: 1,
        key: 0,
        slot: 0,
        shm: None,
    };
    assert_eq!(pair.client.post(0, &[op]), 0);
    let target = pair.target();
    pair.client.connect(0, &target);
    assert_eq!(pair.client.post(0, &[op]), 0, "still connecting");
    let mut events = Vec::new();
    let deadline = Instant::now().after(Duration::from_secs(10));
    while events.is_empty() {
        assert!(Instant::now() < deadline);
        pair.client.poll(&mut events);
        pair.settle();
    }
    assert_eq!(events, [TransportEvent::RailUp { rail: 0 }]);
    pair.client.abort(0);
    assert_eq!(pair.client.post(0, &[op]), 0);
}

#[test]
fn a_permission_is_asked_of_every_request() {
    let mut knock = Knock::new();
    let spare = knock.regions.allocate(LEN, "*").unwrap();
    knock.regions.unregister(spare, Duration::ZERO).unwrap();
    knock.regions.register(spare, LEN, "*", Permission::Read, None).unwrap();
    let key = knock.regions.access_of(spare as u64, 1).unwrap().key;
    let mut stream = knock.dial();
    stream.write_all(&knock.hello(0, 1)).unwrap();
    knock.hear(&mut stream, HEAD_LEN);
    let addr = spare as u64;
    for (kind, status) in [(Kind::Write, Status::Refused), (Kind::Read, Status::Ok)] {
        let request = Head { kind, status: Status::Ok, len: 1, id: 1, addr, key };
        let body: &[u8] = if kind == Kind::Write { b"z" } else { b"" };
        stream.write_all(&[&request.encode()[..], body].concat()).unwrap();
        assert_eq!(head(&knock.hear(&mut stream, HEAD_LEN)).status, status);
    }
}
