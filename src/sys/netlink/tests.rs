use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::sys::evloop::{self, Interest};

/// Command and messages, as recorded.
fn recorded() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let mut all: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
    for line in include_str!("veth.hex").lines() {
        if let Some(command) = line.strip_prefix("# ") {
            all.push((command, Vec::new()));
        } else {
            let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let bytes = (0..line.len()).step_by(2).map(byte).collect();
            all.last_mut().unwrap().1.push(bytes);
        }
    }
    all
}

fn events_of(command: &str) -> Vec<LinkEvent> {
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| *c == command).unwrap();
    let mut events = Vec::new();
    messages.iter().for_each(|bytes| parse(bytes, &mut events));
    events
}

fn link(index: u32, name: &str, running: bool) -> LinkEvent {
    LinkEvent::Link { index, name: name.to_owned(), running }
}

fn address(addr: &str, gone: bool) -> LinkEvent {
    LinkEvent::Address { index: 3, addr: addr.parse().unwrap(), gone }
}

/// A message of this kind around `body`.
fn message_of(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(16 + body.len()).unwrap();
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.resize(16, 0);
    bytes.extend(body);
    bytes
}

#[test]
fn a_link_set_down_is_not_running_at_either_end() {
    assert_eq!(
        events_of("ip link set t1 down"),
        [
            link(2, "t1", false),
            LinkEvent::Address {
                index: 2,
                addr: "fe80::a82f:18ff:fe8e:e430".parse().unwrap(),
                gone: true
            },
            // still switched on, but without a carrier
            link(3, "t0", false),
        ]
    );
}

#[test]
fn a_link_set_up_runs_once_the_kernel_says_so_of_both_layers() {
    assert_eq!(
        events_of("ip link set t1 up"),
        [link(2, "t1", false), link(2, "t1", true), link(3, "t0", true),]
    );
}

#[test]
fn a_link_runs_only_with_all_three_flags() {
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| *c == "ip link set t1 up").unwrap();
    for flag in [libc::IFF_UP, libc::IFF_RUNNING, libc::IFF_LOWER_UP] {
        let (mut bytes, mut events) = (messages[2].clone(), Vec::new());
        let at = 16 + offset_of!(libc::ifinfomsg, ifi_flags);
        let flags = u32_at(&bytes, at).unwrap() & !flag.cast_unsigned();
        bytes[at..at + 4].copy_from_slice(&flags.to_ne_bytes());
        parse(&bytes, &mut events);
        assert_eq!(events, [link(3, "t0", false)], "without {flag:#x}");
    }
}

#[test]
fn a_deleted_link_is_not_running() {
    assert_eq!(events_of("ip link del t0"), [link(3, "t0", false), link(2, "t1", false)]);
}

#[test]
fn a_port_that_leaves_its_bridge_is_no_news() {
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| *c == "ip link set t1 nomaster").unwrap();
    let kinds: Vec<u16> = messages.iter().map(|bytes| message(bytes).unwrap().0).collect();
    assert_eq!(kinds, [libc::RTM_NEWLINK, libc::RTM_DELLINK]);
    assert_eq!(events_of("ip link set t1 nomaster"), []);
}

#[test]
fn addresses_come_and_go() {
    assert_eq!(events_of("ip addr add 10.9.0.1/30 dev t0"), [address("10.9.0.1", false)]);
    assert_eq!(events_of("ip addr del 10.9.0.1/30 dev t0"), [address("10.9.0.1", true)]);
    // the far end's address is in the message too
    assert_eq!(
        events_of("ip addr add 10.9.0.5 peer 10.9.0.6 dev t0"),
        [address("10.9.0.5", false)]
    );
}

#[test]
fn an_address_that_is_still_being_looked_for_is_not_there() {
    let command = "ip addr add fd09::1/64 dev t0";
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| *c == command).unwrap();
    assert_eq!(messages.len(), 2, "tentative, then settled");
    assert_eq!(events_of(command), [address("fd09::1", false)]);
    // found to be in use elsewhere
    let mut duplicate = messages[0].clone();
    duplicate[16 + offset_of!(libc::ifaddrmsg, ifa_flags)] |= 0x08;
    let mut events = Vec::new();
    parse(&duplicate, &mut events);
    assert_eq!(events, [address("fd09::1", true)]);
}

#[test]
fn several_messages_in_one_datagram_are_all_read() {
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| *c == "ip link set t1 up").unwrap();
    let mut bytes = messages.concat();
    // one of no interest, whose length needs padding, and the kernel's word for lost
    bytes.extend(message_of(libc::RTM_NEWADDRLABEL, &[1, 2, 3]));
    bytes.push(0);
    bytes.extend(message_of(4, &[]));
    bytes.extend(&messages[1]);
    let mut events = Vec::new();
    parse(&bytes, &mut events);
    let mut expected = events_of("ip link set t1 up");
    expected.extend([LinkEvent::Lost, link(2, "t1", true)]);
    assert_eq!(events, expected);
}

#[test]
fn what_is_cut_off_anywhere_is_skipped() {
    for (_, messages) in recorded() {
        for bytes in messages {
            for len in 0..bytes.len() {
                let mut events = Vec::new();
                parse(&bytes[..len], &mut events);
                assert_eq!(events, [], "{len} bytes");
                // a message that says it is short: never more than it had in full
                let kind = u16_at(&bytes, 4).unwrap();
                parse(&message_of(kind, bytes.get(16..len).unwrap_or_default()), &mut events);
                assert!(events.len() <= 1);
            }
        }
    }
}

/// The kernel's own words, on whatever host this runs: a dump is made of the same messages as the news.
#[test]
fn the_loopback_interface_is_read_from_the_kernel() {
    let mut watch = LinkWatch::new().unwrap();
    let lo = LinkEvent::Address { index: 1, addr: Ipv4Addr::LOCALHOST.into(), gone: false };
    let is_lo =
        |e: &LinkEvent| matches!(e, LinkEvent::Link { name, running: true, .. } if name == "lo");
    let found = dump(&mut watch, libc::RTM_GETLINK, is_lo);
    assert!(found.contains(&link(1, "lo", true)), "{found:?}");
    let found = dump(&mut watch, libc::RTM_GETADDR, |e| *e == lo);
    assert!(found.contains(&lo), "{found:?}");
}

/// Asks for all links or addresses, and reads until the one wanted has come.
fn dump(watch: &mut LinkWatch, kind: u16, wanted: impl Fn(&LinkEvent) -> bool) -> Vec<LinkEvent> {
    let mut ask = message_of(kind, &[0; 16]);
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap();
    ask[6..8].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the pointer and the length describe `ask`, which outlives the call
    let sent = unsafe { libc::send(watch.fd(), ask.as_ptr().cast(), ask.len(), 0) };
    assert_eq!(usize::try_from(sent).unwrap(), ask.len());
    let mut events = Vec::new();
    while !events.iter().any(&wanted) {
        assert!(evloop::poll(watch.fd(), Interest::READ, Some(Duration::from_secs(10))).unwrap());
        watch.read(&mut events);
    }
    events
}

#[test]
fn a_watch_does_not_block_and_is_not_inherited() {
    let mut watch = LinkWatch::new().unwrap();
    // if this blocked, the test would hang
    watch.read(&mut Vec::new());
    // SAFETY: takes no pointers
    let flags = unsafe { libc::fcntl(watch.fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

/// A watch that reads what `.1` writes.
fn fed() -> (LinkWatch, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    (LinkWatch { socket: ours.into(), buffer: vec![0; LONGEST] }, theirs)
}

#[test]
fn what_does_not_fit_is_lost_and_what_follows_is_read() {
    let (mut watch, feed) = fed();
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| *c == "ip link del t0").unwrap();
    let mut long = messages[0].clone();
    long.resize(LONGEST + 1, 0);
    for bytes in [&long, &long, &messages[1]] {
        feed.send(bytes).unwrap();
    }
    let mut events = Vec::new();
    watch.read(&mut events);
    assert_eq!(events, [LinkEvent::Lost, link(2, "t1", false)]);
}

#[test]
fn an_error_is_lost_news_and_reading_ends() {
    let (mut watch, _feed) = fed();
    watch.socket = std::fs::File::open("/dev/null").unwrap().into();
    let mut events = Vec::new();
    watch.read(&mut events);
    assert_eq!(events, [LinkEvent::Lost]);
}

#[test]
fn one_read_is_bounded_and_the_next_goes_on() {
    let (mut watch, feed) = fed();
    feed.set_nonblocking(true).unwrap();
    let all = recorded();
    let (_, messages) = all.iter().find(|(c, _)| c.starts_with("ip addr del 10")).unwrap();
    (0..MOST_READS + 9).for_each(|_| assert_eq!(feed.send(&messages[0]).unwrap(), 76));
    for count in [MOST_READS, 9, 0] {
        let mut events = Vec::new();
        watch.read(&mut events);
        assert_eq!(events, vec![address("10.9.0.1", true); count]);
    }
}

#[test]
fn only_the_kernel_is_believed() {
    let (mut watch, _feed) = fed();
    // a sender's port id lies where this socket has the sender's address, and the kernel's is 0
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    let all = recorded();
    theirs.send_to(&all.last().unwrap().1[0], ours.local_addr().unwrap()).unwrap();
    watch.socket = ours.into();
    assert!(evloop::poll(watch.fd(), Interest::READ, Some(Duration::from_secs(10))).unwrap());
    let mut events = Vec::new();
    watch.read(&mut events);
    assert_eq!(events, []);
    assert!(!evloop::poll(watch.fd(), Interest::READ, Some(Duration::ZERO)).unwrap(), "not read");
}

proptest! {
    /// Any bytes: no panic, an end, and no more events than messages have room.
    #[test]
    fn any_bytes_are_read(bytes in vec(any::<u8>(), 0..4096)) {
        let mut events = Vec::new();
        parse(&bytes, &mut events);
        prop_assert!(events.len() <= bytes.len() / 16);
    }

    /// The same where most of it makes sense: recorded messages with some bytes changed.
    #[test]
    fn damaged_messages_are_read(
        pick in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let all: Vec<Vec<u8>> = recorded().into_iter().flat_map(|(_, messages)| messages).collect();
        let mut bytes = pick.get(&all).clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len().min(128));
            bytes[at] = byte;
        }
        let mut events = Vec::new();
        parse(&bytes, &mut events);
        prop_assert!(events.len() <= bytes.len() / 16);
    }

    /// Whatever the address, it is read as it was written.
    #[test]
    fn addresses_survive(v6 in any::<u128>(), v4 in any::<u32>(), index in any::<u32>()) {
        let v4 = (2_u8, Ipv4Addr::from_bits(v4).octets().to_vec());
        let v6 = (10_u8, Ipv6Addr::from_bits(v6).octets().to_vec());
        for (family, octets) in [v4, v6] {
            let mut body = vec![family, 8, 0, 0];
            body.extend(index.to_ne_bytes());
            body.extend(u16::try_from(4 + octets.len()).unwrap().to_ne_bytes());
            body.extend(libc::IFA_ADDRESS.to_ne_bytes());
            body.extend(&octets);
            let mut events = Vec::new();
            parse(&message_of(libc::RTM_DELADDR, &body), &mut events);
            let addr = match <[u8; 4]>::try_from(octets.as_slice()) {
                Ok(four) => IpAddr::from(four),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets.as_slice()).unwrap()),
            };
            prop_assert_eq!(events, [LinkEvent::Address { index, addr, gone: true }]);
        }
    }
}
