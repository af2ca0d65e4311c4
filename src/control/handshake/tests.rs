use super::*;
use crate::sync::lock;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Long enough that no test waits for it, short enough that a hang is seen.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

struct Engine {
    descriptor: Vec<u8>,
    notes: Mutex<Vec<Notify>>,
    ticked: Sender<Instant>,
    tick_after: Option<Duration>,
    stops: OnceLock<Arc<Server>>,
}

impl Handler for Engine {
    fn describe(&self, requester: &[u8]) -> Vec<u8> {
        assert_ne!(requester, b"{\"name\":\"panic\"}\n", "asked to");
        self.descriptor.clone()
    }

    fn notify(&self, message: Notify) -> bool {
        let welcome = message.message != b"no";
        lock(&self.notes).push(message);
        welcome
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        // before the test hears of this tick, so that it cannot ask this one to stop
        if let Some(server) = self.stops.get() {
            server.stop();
        }
        let _ = self.ticked.send(now);
        self.tick_after.map(|d| now.after(d))
    }
}

/// A server with its engine, and how to reach it.
struct Fixture {
    server: Arc<Server>,
    engine: Arc<Engine>,
    ticks: Receiver<Instant>,
    addr: SocketAddr,
}

impl Fixture {
    fn new(limits: ServerLimits) -> Self {
        Self::with(limits, b"{\"name\":\"me\"}".to_vec(), None)
    }

    fn with(limits: ServerLimits, descriptor: Vec<u8>, tick_after: Option<Duration>) -> Self {
        let (ticked, ticks) = channel();
        let engine = Arc::new(Engine {
            descriptor,
            notes: Mutex::default(),
            ticked,
            tick_after,
            stops: OnceLock::new(),
        });
        let (listener, port) = bind_in_range((1, 1), Some(0), true).unwrap();
        let handler: Arc<dyn Handler> = engine.clone();
        let server = Arc::new(Server::start(listener, handler, limits).unwrap());
        Self { server, engine, ticks, addr: (Ipv4Addr::LOCALHOST, port).into() }
    }

    fn call(&self, kind: FrameKind, body: &str) -> Result<Vec<u8>> {
        call(&[self.addr], kind, body.as_bytes(), &limits())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// For servers so impatient that a busy machine makes them give a good client up.
    fn assert_alive_at_last(&self) {
        assert!((0..100).any(|_| self.call(FrameKind::Probe, "{}").is_ok()));
    }

    fn assert_alive(&self) {
        assert_eq!(self.call(FrameKind::Probe, "{}").unwrap(), b"{\"status\":\"success\"}\n");
    }
}

fn limits() -> CallLimits {
    CallLimits { connect_timeout: LONG, rpc_timeout: LONG, max_len: 64 << 20 }
}

fn patient() -> ServerLimits {
    ServerLimits { timeout: LONG, linger: LONG, ..ServerLimits::default() }
}

/// Everything up to the peer's close, whichever way it closed.
fn read_rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Err(e) if e.kind() != io::ErrorKind::ConnectionReset => panic!("not closed: {e}"),
        _ => got,
    }
}

#[test]
fn every_kind_of_request_is_answered() {
    let f = Fixture::new(patient());
    assert_eq!(f.call(FrameKind::Metadata, "{\"name\":\"x\"}").unwrap(), b"{\"name\":\"me\"}\n");
    f.assert_alive();
    let connection = [wire::CONNECTION_REPLY, b"\n"].concat();
    assert_eq!(f.call(FrameKind::Connection, "{}").unwrap(), connection);
    assert_eq!(f.call(FrameKind::Untyped, "{}").unwrap(), connection);

    let reply = f.call(FrameKind::Notify, r#"{"name":"n","notify_msg":"m"}"#).unwrap();
    wire::check_notify_reply(&reply).unwrap();
    let reply = f.call(FrameKind::Notify, r#"{"name":"n","notify_msg":"no"}"#).unwrap();
    assert_eq!(wire::check_notify_reply(&reply).unwrap_err().kind(), ErrorKind::Rejected);
    let notes = lock(&f.engine.notes);
    assert_eq!(notes[0], Notify { name: b"n".into(), message: b"m".into(), origin: None });
    assert_eq!(notes.len(), 2);
}

#[test]
fn the_server_half_closes_and_waits_for_the_client() {
    let f = Fixture::new(patient());
    let mut client = f.send(&wire::encode_frame(FrameKind::Probe, b"{}"));
    let reply = wire::encode_frame(FrameKind::Probe, wire::PROBE_REPLY);
    assert_eq!(read_rest(&mut client), reply);
    // were it closed already, this would draw a reset and the next write would fail
    for _ in 0..3 {
        client.write_all(b"more").unwrap();
        f.assert_alive();
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let f = Fixture::new(patient());
    let mut client = f.connect();
    client.set_nodelay(true).unwrap();
    for byte in wire::encode_frame(FrameKind::Metadata, b"{}") {
        client.write_all(&[byte]).unwrap();
    }
    assert_eq!(
        read_rest(&mut client),
        wire::encode_frame(FrameKind::Metadata, b"{\"name\":\"me\"}")
    );
}

#[test]
fn garbage_is_closed_without_a_reply() {
    let f = Fixture::new(patient());
    let framed = |body: &[u8]| [&(body.len() as u64).to_le_bytes(), body].concat();
    for garbage in [
        b"GET /metrics HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        (1_u64 << 60).to_le_bytes().to_vec(),
        0_u64.to_le_bytes().to_vec(),
        framed(b"\x07{}"),
        framed(b"\x01{"),
        framed(b"\x02{}"),
        framed(b"{\"a\""),
        framed(b"\x01"),
    ] {
        let mut client = f.send(&garbage);
        assert_eq!(read_rest(&mut client), b"", "{garbage:?}");
    }
    f.assert_alive();
}

#[test]
fn half_a_request_ends_with_the_time() {
    let f = Fixture::new(ServerLimits { timeout: SHORT, linger: SHORT, ..ServerLimits::default() });
    let begin = Instant::now();
    let mut clients =
        [f.connect(), f.send(b"\x05\0\0"), f.send(b"\x05\0\0\0\0\0\0\0\x01{"), f.connect()];
    for client in &mut clients {
        assert_eq!(read_rest(client), b"");
    }
    assert!(Instant::now().since(begin) >= SHORT);
    f.assert_alive_at_last();
}

/// Upstream's serial listener would answer none of these before the slow ones time out (#2044).
#[test]
fn slow_clients_do_not_block_others() {
    let f = Fixture::new(patient());
    let _slow: Vec<_> = (0..50).map(|_| f.send(b"\x05\0\0\0\0\0\0\0\x01")).collect();
    for _ in 0..50 {
        f.assert_alive();
    }
}

#[test]
fn two_hundred_clients_at_once() {
    let descriptor = format!("{{\"name\":\"{}\"}}", "x".repeat(100_000)).into_bytes();
    let f = Fixture::with(patient(), descriptor.clone(), None);
    let request = wire::encode_frame(FrameKind::Metadata, b"{}");
    let mut clients: Vec<_> = (0..200).map(|_| f.connect()).collect();
    for client in &mut clients {
        client.write_all(&request).unwrap();
    }
    let reply = wire::encode_frame(FrameKind::Metadata, &descriptor);
    for client in &mut clients {
        assert!(read_rest(client) == reply, "a reply differs");
    }
}

#[test]
fn callers_on_many_threads_all_get_answers() {
    let f = Fixture::new(patient());
    let addr = [f.addr];
    let ask = || {
        for _ in 0..25 {
            call(&addr, FrameKind::Probe, b"{}", &limits()).unwrap();
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(ask))));
}

#[test]
fn a_reply_larger_than_every_socket_buffer_arrives() {
    let descriptor = format!("\"{}\"", "y".repeat(20 << 20)).into_bytes();
    let f = Fixture::with(patient(), descriptor.clone(), None);
    let got = f.call(FrameKind::Metadata, "{}").unwrap();
    assert!(got[..descriptor.len()] == descriptor, "the reply differs");
}

#[test]
fn a_client_that_takes_no_reply_is_closed() {
    let descriptor = vec![b'y'; 40 << 20];
    let limits = ServerLimits { timeout: SHORT, ..ServerLimits::default() };
    let f = Fixture::with(limits, descriptor.clone(), Some(SHORT * 2));
    let mut client = f.send(&wire::encode_frame(FrameKind::Metadata, b"{}"));
    client.read_exact(&mut [0]).unwrap();
    // connections expire before a tick is called, and two ticks lie further apart than the limit
    f.server.wake();
    for _ in 0..4 {
        f.ticks.recv_timeout(LONG).unwrap();
    }
    let got = read_rest(&mut client).len();
    assert!(got < descriptor.len(), "{got}");
    f.assert_alive_at_last();
}

#[test]
fn the_connection_missed_least_makes_room() {
    let f = Fixture::new(ServerLimits { max_connections: 4, ..patient() });
    let mut busy = f.send(b"\x04\0\0\0\0\0\0\0\x03{");
    f.assert_alive();
    let mut idle: Vec<_> = (0..10).map(|_| f.connect()).collect();
    f.assert_alive();
    for client in &mut idle[..6] {
        assert_eq!(read_rest(client), b"", "an idle one is closed");
    }
    busy.write_all(b"}\n").unwrap();
    assert_eq!(read_rest(&mut busy), wire::encode_frame(FrameKind::Probe, wire::PROBE_REPLY));
}

#[test]
fn bytes_held_for_unfinished_requests_are_limited() {
    let max_len = 256 << 10;
    let f = Fixture::new(ServerLimits { max_len, max_held_bytes: 0, ..patient() });
    let head = [&(max_len as u64).to_le_bytes()[..], b"\x01"].concat();
    let mut clients: Vec<_> = (0..4).map(|_| f.send(&head)).collect();
    let part = vec![b' '; 200 << 10];
    let mut refused = 0;
    for client in &mut clients {
        refused += usize::from(client.write_all(&part).is_err());
        f.assert_alive();
    }
    // two longest frames fit, so at least one of the four had to go; the others finish
    let rest = vec![b' '; max_len - 1 - part.len() - 2];
    let finish = [&rest[..], b"{}"].concat();
    let mut answered = 0;
    for client in &mut clients {
        let sent = client.write_all(&finish).is_ok();
        answered += usize::from(sent && !read_rest(client).is_empty());
    }
    assert!((1..=3).contains(&answered), "{answered} answered, {refused} refused");
    f.assert_alive();
}

#[test]
fn a_panicking_handler_ends_only_its_request() {
    let f = Fixture::new(patient());
    let error = f.call(FrameKind::Metadata, "{\"name\":\"panic\"}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("closed without an answer"), "{error}");
    f.assert_alive();
}

#[test]
fn ticks_come_at_the_start_after_a_wake_and_when_asked_for() {
    let f = Fixture::new(patient());
    let first = f.ticks.recv_timeout(LONG).unwrap();
    f.server.wake();
    assert!(f.ticks.recv_timeout(LONG).unwrap() >= first);
    // nothing was asked for
    assert!(f.ticks.recv_timeout(SHORT).is_err());

    let every = Duration::from_millis(5);
    let f = Fixture::with(patient(), Vec::new(), Some(every));
    let mut last = f.ticks.recv_timeout(LONG).unwrap();
    for _ in 0..5 {
        let next = f.ticks.recv_timeout(LONG).unwrap();
        assert!(next.since(last) >= every);
        last = next;
    }
}

#[test]
fn an_instant_that_has_passed_does_not_spin() {
    let f = Fixture::with(patient(), Vec::new(), Some(Duration::ZERO));
    let mut last = f.ticks.recv_timeout(LONG).unwrap();
    for _ in 0..5 {
        let next = f.ticks.recv_timeout(LONG).unwrap();
        assert!(next.since(last) >= MIN_TICK);
        last = next;
    }
}

#[test]
fn stop_ends_everything_once() {
    let f = Fixture::new(patient());
    f.assert_alive();
    let mut open = f.send(b"\x05");
    f.assert_alive();
    f.server.stop();
    f.server.stop();
    f.server.wake();
    assert_eq!(read_rest(&mut open), b"");
    assert_eq!(f.call(FrameKind::Probe, "{}").unwrap_err().kind(), ErrorKind::Socket);
}

#[test]
fn stop_from_the_servers_own_thread_does_not_wait_for_itself() {
    let f = Fixture::new(patient());
    f.ticks.recv_timeout(LONG).unwrap();
    assert!(f.engine.stops.set(f.server.clone()).is_ok());
    f.server.wake();
    f.ticks.recv_timeout(LONG).unwrap();
    // the thread drops the listener on its way out
    while f.call(FrameKind::Probe, "{}").is_ok() {}
}

#[test]
fn log_lines_are_limited_and_counted() {
    let (mut log, start) = (LogLimiter::default(), Instant(1 << 40));
    assert_eq!(log.admit(start), Some(0));
    assert_eq!(log.admit(start), None);
    assert_eq!(log.admit(start.after(LOG_INTERVAL / 2)), None);
    assert_eq!(log.admit(start.after(LOG_INTERVAL)), Some(2));
    assert_eq!(log.admit(start.after(LOG_INTERVAL * 3)), Some(0));
}

// ---- the call

/// A peer that takes one connection, reads a request, writes `answer` and closes.
fn scripted(answer: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let peer = sync::spawn("peer", move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 12];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&answer).unwrap();
    });
    (addr, peer.unwrap())
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn answers_that_are_none_are_malformed() {
    for (answer, why) in [
        (Vec::new(), "closed without an answer"),
        (b"\x09\0\0".to_vec(), "closed within its answer"),
        (wire::encode_frame(FrameKind::Notify, b"{}"), "answered Notify to Probe"),
        (wire::encode_frame(FrameKind::Untyped, b"{}"), "answered Untyped to Probe"),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "http"),
        ((1_u64 << 40).to_le_bytes().to_vec(), "exceeds the limit"),
    ] {
        let (addr, peer) = scripted(answer);
        let error = call(&[addr], FrameKind::Probe, b"{}", &limits()).unwrap_err();
        peer.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let text = error.to_string();
        assert!(text.contains(why) && text.contains(&addr.to_string()), "{why}: {text}");
    }
}

#[test]
fn nobody_there_is_a_socket_error_that_names_every_address() {
    let gone = [nobody(), nobody()];
    let error = call(&gone, FrameKind::Probe, b"{}", &limits()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Socket);
    let text = error.to_string();
    assert!(gone.iter().all(|a| text.contains(&a.to_string())), "{text}");
    assert!(text.contains("refused"), "{text}");
    let error = call(&[], FrameKind::Probe, b"{}", &limits()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Dns);
}

#[test]
fn the_next_candidate_is_tried() {
    let f = Fixture::new(patient());
    call(&[nobody(), f.addr], FrameKind::Probe, b"{}", &limits()).unwrap();
}

#[test]
fn a_silent_peer_costs_the_limit_and_no_more() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let quick = CallLimits { rpc_timeout: SHORT, ..limits() };
    let begin = Instant::now();
    let addr = silent.local_addr().unwrap();
    let error = call(&[addr], FrameKind::Probe, b"{}", &quick).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Socket);
    assert!(error.to_string().contains("timed out"), "{error}");
    let took = Instant::now().since(begin);
    assert!(took >= SHORT && took < LONG, "{took:?}");
}

#[test]
fn an_unreachable_candidate_leaves_time_to_the_next() {
    // a full accept queue drops what comes: the connect neither succeeds nor fails
    let full = crate::sys::evloop::listen("127.0.0.1:0".parse().unwrap(), true, 0).unwrap();
    let addr = full.local_addr().unwrap();
    let _queued: Vec<_> =
        (0..4).map(|_| crate::sys::evloop::connect_start(addr, None).unwrap()).collect();
    let f = Fixture::new(patient());
    let shared = CallLimits { connect_timeout: Duration::from_secs(2), ..limits() };
    call(&[addr, f.addr], FrameKind::Probe, b"{}", &shared).unwrap();
    let quick = CallLimits { connect_timeout: SHORT, ..limits() };
    let error = call(&[addr], FrameKind::Probe, b"{}", &quick).unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
}
