//! Host names and ports as text: reading them as upstream does, writing them, and resolving them.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::error::{Error, ErrorKind, Result};

/// The port that upstream takes where a name carries none (`MC_HANDSHAKE_PORT` overrides it there).
pub const DEFAULT_RPC_PORT: u16 = 12_001;

/// A segment name under P2PHANDSHAKE: where its engine answers on the RPC port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct P2pName {
    /// Name or address, never bracketed; an IPv6 address may carry a scope (`fe80::1%eth0`).
    pub host: String,
    /// The RPC port.
    pub port: u16,
}

impl P2pName {
    /// Reads `host`, `host:port`, `v6`, `[v6]` or `[v6]:port`; where the port is missing or is none,
    /// `default_port` stands in. Never fails, as upstream's reader never does: what is not an address
    /// is a host name, and resolving it tells. → upstream's `common.h`, `parseHostNameWithPort`
    pub fn parse(text: &str, default_port: u16) -> Self {
        if let Some((host, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']'))
            && is_ipv6(host)
        {
            let port = rest.strip_prefix(':').and_then(parse_port).unwrap_or(default_port);
            return Self { host: host.to_owned(), port };
        }
        if is_ipv6(text) {
            return Self { host: text.to_owned(), port: default_port };
        }
        match text.rsplit_once(':') {
            Some((host, port)) => {
                Self { host: host.to_owned(), port: parse_port(port).unwrap_or(default_port) }
            }
            None => Self { host: text.to_owned(), port: default_port },
        }
    }

    /// The addresses of this name, at most [`MAX_ADDRESSES`], those of the preferred family first. May
    /// wait for a name server, without a limit of ours; an address in numbers never waits.
    ///
    /// # Errors
    /// `Dns`: the name is empty or has no address.
    pub fn resolve(&self, prefer_v6: bool) -> Result<Vec<SocketAddr>> {
        resolve(&self.host, self.port, prefer_v6)
    }
}

impl fmt::Display for P2pName {
    /// `host:port`, an IPv6 host in brackets; [`P2pName::parse`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_ipv6(&self.host) {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether `host` is an IPv6 address, with or without a scope, without brackets.
pub fn is_ipv6(host: &str) -> bool {
    match host.split_once('%') {
        Some((address, scope)) => {
            !scope.is_empty() && !scope.contains(['[', ']']) && address.parse::<Ipv6Addr>().is_ok()
        }
        None => host.parse::<Ipv6Addr>().is_ok(),
    }
}

/// As [`P2pName::resolve`].
///
/// # Errors
/// `Dns`: the name is empty or has no address.
pub fn resolve(host: &str, port: u16, prefer_v6: bool) -> Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Err(Error::new(ErrorKind::Dns, "the host name is empty"));
    }
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|e| Error::os(ErrorKind::Dns, format_args!("resolving {host:?}"), &e))?;
    let mut addresses = Vec::new();
    for address in found {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(Error::new(ErrorKind::Dns, format!("{host:?} has no address")));
    }
    // stable: within a family the resolver's order stands
    addresses.sort_by_key(|a| a.is_ipv6() != prefer_v6);
    Ok(addresses)
}

/// A decimal port; upstream's reader takes no sign and no space.
fn parse_port(text: &str) -> Option<u16> {
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok()
}

/// The most addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (String, u16) {
        let name = P2pName::parse(text, DEFAULT_RPC_PORT);
        (name.host, name.port)
    }

    /// Upstream's `common_test.cpp`, suite `ParseHostNameWithPort`, and the forms it leaves out.
    #[test]
    fn reads_every_form() {
        for (text, host, port) in [
            ("[2001:db8::1]:1234", "2001:db8::1", 1234),
            ("[2001:db8::1]", "2001:db8::1", DEFAULT_RPC_PORT),
            ("2001:db8::1", "2001:db8::1", DEFAULT_RPC_PORT),
            ("8.8.8.8:4321", "8.8.8.8", 4321),
            ("8.8.8.8", "8.8.8.8", DEFAULT_RPC_PORT),
            ("example.com:4321", "example.com", 4321),
            ("example.com", "example.com", DEFAULT_RPC_PORT),
            ("[fe80::1%eth0]:77", "fe80::1%eth0", 77),
            ("fe80::1%eth0", "fe80::1%eth0", DEFAULT_RPC_PORT),
            ("[fe80::1%]:77", "[fe80::1%]", 77),
            ("[::1]:", "::1", DEFAULT_RPC_PORT),
            ("[::1]junk", "::1", DEFAULT_RPC_PORT),
            ("[not::an::ip]:80", "[not::an::ip]", 80),
            ("host:", "host", DEFAULT_RPC_PORT),
            (":80", "", 80),
            ("", "", DEFAULT_RPC_PORT),
        ] {
            assert_eq!(parsed(text), (host.to_owned(), port), "{text:?}");
        }
    }

    /// Suites `ParseFromString` and `GetPortFromString`.
    #[test]
    fn a_port_that_is_none_gives_the_default() {
        assert_eq!(parse_port("8080"), Some(8080));
        for bad in ["forty-two", "70000", "", "+5", "-5", " 5", "5 ", "0x5"] {
            assert_eq!(parse_port(bad), None, "{bad:?}");
            assert_eq!(parsed(&format!("h:{bad}")).1, DEFAULT_RPC_PORT, "{bad:?}");
        }
    }

    /// Suites `IsValidIpV6` and `MaybeWrapIpV6`.
    #[test]
    fn only_ipv6_is_bracketed() {
        assert!(is_ipv6("2001:0db8:85a3:0000:0000:8a2e:0370:7334"));
        assert!(!is_ipv6("not::an::ip") && !is_ipv6("1.2.3.4") && !is_ipv6(""));
        for (host, text) in [
            ("2001:db8::1", "[2001:db8::1]:5"),
            ("example.com", "example.com:5"),
            ("fe80::1%eth0", "[fe80::1%eth0]:5"),
        ] {
            assert_eq!(P2pName { host: host.into(), port: 5 }.to_string(), text);
        }
    }

    #[test]
    fn numbers_resolve_without_a_name_server() {
        let v4 = P2pName::parse("127.0.0.1:9", 1).resolve(true).unwrap();
        assert_eq!(v4, ["127.0.0.1:9".parse().unwrap()]);
        let v6 = P2pName::parse("[::1]:9", 1).resolve(false).unwrap();
        assert_eq!(v6, ["[::1]:9".parse().unwrap()]);
    }

    #[test]
    fn the_preferred_family_comes_first() {
        for prefer_v6 in [false, true] {
            let found = resolve("localhost", 9, prefer_v6).unwrap();
            let families: Vec<_> = found.iter().map(SocketAddr::is_ipv6).collect();
            assert!(families.is_sorted_by_key(|v6| *v6 != prefer_v6), "{found:?}");
        }
    }

    #[test]
    fn what_has_no_address_is_a_dns_error() {
        for host in ["", "no such host", "a\0b"] {
            assert_eq!(resolve(host, 1, false).unwrap_err().kind(), ErrorKind::Dns, "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_written_back(text in ".{0,40}", default in any::<u16>()) {
            let name = P2pName::parse(&text, default);
            // a host that ends like "x:1" is ambiguous without brackets, as it is upstream
            if !name.host.contains(':') || is_ipv6(&name.host) {
                prop_assert_eq!(P2pName::parse(&name.to_string(), default), name);
            }
        }
    }
}
