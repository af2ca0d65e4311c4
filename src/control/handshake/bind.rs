//! A listener on a free port of a range, as upstream picks its RPC and data ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::evloop;

/// A listener on every local address, and its port: `explicit` (0 lets the kernel choose), else a free
/// one of `range`, inclusive, tried in random order. With `dual_stack` it takes both families, or IPv4
/// where IPv6 is off. The listener does not block.
///
/// # Errors
/// `InvalidArgument` for a range that is none; `Socket` if the explicit port, or every port tried, is
/// taken, or the kernel gives no socket.
pub fn bind_in_range(
    range: (u16, u16),
    explicit: Option<u16>,
    dual_stack: bool,
) -> Result<(TcpListener, u16)> {
    if let Some(port) = explicit {
        return bind(port, dual_stack).map_err(|e| {
            Error::os(ErrorKind::Socket, format_args!("listening on port {port}"), &e)
        });
    }
    let (first, last) = range;
    if first == 0 || first > last {
        let text = format!("port range {first}-{last} is empty or begins at 0");
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let mut failure = None;
    for port in ports(range, random()).take(MAX_TRIES) {
        match bind(port, dual_stack) {
            Ok(bound) => return Ok(bound),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
                ) =>
            {
                failure = Some(e);
            }
            Err(e) => return Err(Error::os(ErrorKind::Socket, "making a listener", &e)),
        }
    }
    let failure = failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(Error::os(ErrorKind::Socket, format_args!("no free port in {first}-{last}"), &failure))
}

fn bind(port: u16, dual_stack: bool) -> io::Result<(TcpListener, u16)> {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = if dual_stack {
        match evloop::listen(v6, false, BACKLOG) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => evloop::listen(v4, true, BACKLOG),
            done => done,
        }
    } else {
        evloop::listen(v4, true, BACKLOG)
    }?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Every port of `range` once: from a random one on, in steps that share no factor with their number.
fn ports((first, last): (u16, u16), random: u64) -> impl Iterator<Item = u16> {
    let count = u64::from(last - first) + 1;
    let start = random % count;
    let step = (random >> 32) % count;
    let step = (step..=step + count).find(|s| gcd(*s, count) == 1).unwrap_or(1);
    (0..count).map(move |i| {
        let offset = (start + i * step) % count;
        first + u16::try_from(offset).unwrap_or(0)
    })
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Chance for spreading engines over the ports, where nothing depends on its quality. A hasher's keys
/// are the only randomness that std gives; forked processes share them, hence the process id.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Upstream's bound.
const MAX_TRIES: usize = 500;
const BACKLOG: i32 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpStream;

    #[test]
    fn finds_the_free_port_of_a_range() {
        let (_a, port) = bind_in_range((15_000, 17_000), None, true).unwrap();
        assert!((15_000..=17_000).contains(&port));
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        let error = bind_in_range((port, port), None, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Socket);
        assert!(error.to_string().contains(&format!("no free port in {port}-{port}")), "{error}");
    }

    #[test]
    fn an_explicit_port_is_taken_or_refused() {
        let (a, port) = bind_in_range((1, 1), Some(0), false).unwrap();
        assert!(a.local_addr().unwrap().is_ipv4());
        let error = bind_in_range((1, 1), Some(port), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Socket);
        assert!(error.to_string().contains(&format!("port {port}")), "{error}");
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        for range in [(0, 5), (7, 6)] {
            let error = bind_in_range(range, None, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }

    proptest! {
        #[test]
        fn every_port_comes_once(first in 1..65_000_u16, more in 0..500_u16, random in any::<u64>()) {
            let last = first + more;
            let mut seen: Vec<_> = ports((first, last), random).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (first..=last).collect::<Vec<_>>());
        }
    }
}
