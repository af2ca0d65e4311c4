//! Plain sockets through a relay: what it carries, how fast, and each way in which it fails.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use super::*;
use crate::clock;

const WITHIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_millis(50);

/// A relay and what lies behind it.
struct Setup {
    relays: Relays,
    target: TcpListener,
}

fn setup(rate_bps: u64) -> Setup {
    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(to) = target.local_addr().unwrap() else { panic!("no IPv4") };
    let relays = Relays::start(&[LinkSpec { to, rate_bps }]).unwrap();
    Setup { relays, target }
}

impl Setup {
    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.relays.ports()[0]))?;
        stream.set_read_timeout(Some(WITHIN))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Both ends of a connection through the relay.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect().unwrap();
        let server = self.target.accept().unwrap().0;
        server.set_read_timeout(Some(WITHIN)).unwrap();
        (client, server)
    }

    fn apply(&self, fault: Fault) -> u64 {
        self.relays.apply(0, fault).unwrap()
    }
}

fn say(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.write_all(text).unwrap();
    let mut got = vec![0; text.len()];
    to.read_exact(&mut got).unwrap();
    assert_eq!(got, text);
}

/// Bytes per second of `total` bytes from one end to the other.
fn rate(from: &mut TcpStream, to: &mut TcpStream, total: usize) -> f64 {
    let begin = clock::now();
    thread::scope(|s| {
        s.spawn(|| from.write_all(&vec![7; total]).unwrap());
        let mut left = total;
        let mut block = vec![0; 65_536];
        while left > 0 {
            let n = to.read(&mut block).unwrap();
            assert!(n > 0, "the stream ended early");
            assert!(block[..n].iter().all(|b| *b == 7));
            left -= n;
        }
    });
    units::as_f64(total as u64) / clock::s_since(begin)
}

#[test]
fn bytes_pass_both_ways_and_are_counted() {
    let s = setup(1_000_000_000);
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"there");
    say(&mut server, &mut client, b"and back");
    let carried = s.relays.carried().unwrap();
    assert_eq!(carried, [Carried { connections: 1, bytes: [5, 8] }]);
    // the end of one direction is passed on, the other stays
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    say(&mut server, &mut client, b"still");
}

#[test]
fn the_rate_is_kept_and_changed() {
    let s = setup(80_000_000);
    let (mut client, mut server) = s.pair();
    // 10 MB/s; the bounds are wide because other tests share the machine. Too fast is never right, but for
    // what is saved up at the start and lies in the receiver's kernel.
    let up = rate(&mut client, &mut server, 1_000_000);
    assert!((2e6..11e6).contains(&up), "{up}");
    let down = rate(&mut server, &mut client, 1_000_000);
    assert!((2e6..11e6).contains(&down), "{down}");
    s.apply(Fault::Slow(0.2));
    let slow = rate(&mut client, &mut server, 300_000);
    assert!((0.4e6..2.5e6).contains(&slow), "{slow}");
    s.apply(Fault::Heal);
    let healed = rate(&mut client, &mut server, 1_000_000);
    assert!((2e6..11e6).contains(&healed), "{healed}");
}

#[test]
fn connections_of_a_link_share_its_rate() {
    let s = setup(80_000_000);
    let (mut a, mut b) = (s.pair(), s.pair());
    let begin = clock::now();
    thread::scope(|scope| {
        scope.spawn(|| rate(&mut a.0, &mut a.1, 500_000));
        scope.spawn(|| rate(&mut b.0, &mut b.1, 500_000));
    });
    // 1 MB at 10 MB/s, less what was saved up
    let s = clock::s_since(begin);
    assert!(s > 0.09, "{s}");
}

#[test]
fn a_hole_swallows_silently_and_gives_back_when_it_heals() {
    let s = setup(1_000_000_000);
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"before");
    s.apply(Fault::Hole);
    client.write_all(b"into the hole").unwrap();
    server.write_all(b"and from there").unwrap();
    // the kernel makes the connection, nobody answers on it
    let mut second = s.connect().unwrap();
    second.write_all(b"hello").unwrap();
    for end in [&mut client, &mut server, &mut second] {
        end.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        end.set_read_timeout(Some(WITHIN)).unwrap();
    }
    s.apply(Fault::Heal);
    let mut late = [0; 13];
    server.read_exact(&mut late).unwrap();
    assert_eq!(&late, b"into the hole");
    let mut late = [0; 14];
    client.read_exact(&mut late).unwrap();
    let mut third = s.target.accept().unwrap().0;
    let mut hello = [0; 5];
    third.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
}

#[test]
fn a_reset_breaks_what_is_there_and_nothing_else() {
    let s = setup(1_000_000_000);
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"before");
    s.apply(Fault::Rst);
    for end in [&mut client, &mut server] {
        assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"after");
}

#[test]
fn down_refuses_until_it_heals() {
    let s = setup(1_000_000_000);
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"before");
    s.apply(Fault::Down);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    for _ in 0..3 {
        assert_eq!(s.connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    s.apply(Fault::Heal);
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"after");
}

#[test]
fn a_target_that_is_gone_shows_as_a_reset() {
    let Setup { relays, target } = setup(1_000_000_000);
    drop(target);
    let at = (Ipv4Addr::LOCALHOST, relays.ports()[0]);
    let mut client = TcpStream::connect(at).unwrap();
    client.set_read_timeout(Some(WITHIN)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn orders_tell_when_they_took_effect_and_wrong_ones_are_refused() {
    let s = setup(1_000_000);
    let before = os::host_us();
    let at = s.apply(Fault::Hole);
    assert!((before..=os::host_us()).contains(&at));
    assert!(s.relays.apply(1, Fault::Hole).is_err());
    assert!(s.relays.apply(0, Fault::Drain).is_err());
}

#[test]
fn who_gave_up_in_a_hole_is_given_up_when_it_heals() {
    let s = setup(1_000_000_000);
    let (mut client, mut server) = s.pair();
    say(&mut client, &mut server, b"before");
    s.apply(Fault::Hole);
    client.write_all(b"into the hole").unwrap();
    net::reset_on_close(&client);
    drop(client);
    s.apply(Fault::Heal);
    // what had been taken in may come; then the reset does
    let mut late = Vec::new();
    let end = server.read_to_end(&mut late);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(b"into the hole".starts_with(&late));
}
