//! Connection strings of stores, read as upstream reads them, and keys in URLs.

use std::fmt::Write;

use crate::control::address::{DEFAULT_RPC_PORT, P2pName};
use crate::error::{Error, ErrorKind, Result};

/// Where descriptions are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// No store.
    P2pHandshake,
    /// Endpoints, each `host:port` or a URL.
    Etcd(Vec<String>),
    /// A redis server.
    Redis(P2pName),
    /// The whole URL; keys are added as `?key=`.
    Http(String),
}

impl StoreAddress {
    /// Reads upstream's `metadata_conn_string`. Upstream aborts the process on a scheme that it does not
    /// know. → `transfer_metadata_plugin.cpp`, `parseConnectionString`
    ///
    /// # Errors
    /// `InvalidArgument`: no known scheme, or nothing behind it.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "P2PHANDSHAKE" {
            return Ok(Self::P2pHandshake);
        }
        // without a scheme it is etcd
        let (scheme, rest) = text.split_once("://").unwrap_or(("etcd", text));
        let refused = |why: &str| {
            let cure =
                "use P2PHANDSHAKE, etcd://HOST:PORT, redis://HOST:PORT or http://HOST:PORT/PATH";
            Error::new(
                ErrorKind::InvalidArgument,
                format!("metadata store {text:?}: {why}; {cure}"),
            )
        };
        match scheme {
            "etcd" => {
                let ends = rest.split([',', ';']).map(|e| e.trim().trim_end_matches('/'));
                // every endpoint of a list may repeat the scheme
                let ends = ends.map(|e| e.strip_prefix("etcd://").unwrap_or(e));
                let ends: Vec<_> = ends.filter(|e| !e.is_empty()).map(str::to_owned).collect();
                if ends.is_empty() || ends.len() > MAX_ENDPOINTS {
                    return Err(refused(&format!("it has to name 1 to {MAX_ENDPOINTS} endpoints")));
                }
                if ends.iter().any(|e| e.contains(|c: char| c.is_whitespace() || c.is_control())) {
                    return Err(refused("an endpoint holds a space"));
                }
                Ok(Self::Etcd(ends))
            }
            "redis" => {
                // upstream reads this with its reader of host names, hence its port
                let at = P2pName::parse(rest.trim_end_matches('/'), DEFAULT_RPC_PORT);
                if at.host.is_empty() { Err(refused("no host")) } else { Ok(Self::Redis(at)) }
            }
            "http" | "https" => {
                let host = rest.split(['/', '?', ':']).next().unwrap_or_default();
                let odd = text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#');
                if host.is_empty() || odd {
                    return Err(refused("no host, or a space or # in it"));
                }
                Ok(Self::Http(text.to_owned()))
            }
            _ => Err(refused("no known scheme")),
        }
    }
}

/// A key as part of a URL: everything but letters, digits and `-._~` as `%XX`, as upstream's
/// `curl_easy_escape` writes it.
pub fn percent_encode(key: &str) -> String {
    let mut text = String::with_capacity(key.len() * 2);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").unwrap_or_default(); // a String takes all
        }
    }
    text
}

/// More than any etcd cluster has.
const MAX_ENDPOINTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn etcd(ends: &[&str]) -> StoreAddress {
        StoreAddress::Etcd(ends.iter().map(|e| (*e).to_owned()).collect())
    }

    fn redis(host: &str, port: u16) -> StoreAddress {
        StoreAddress::Redis(P2pName { host: host.into(), port })
    }

    #[test]
    fn reads_every_form() {
        let http = |text: &str| StoreAddress::Http(text.into());
        for (text, wanted) in [
            ("P2PHANDSHAKE", StoreAddress::P2pHandshake),
            ("etcd://a:1", etcd(&["a:1"])),
            ("a:2379", etcd(&["a:2379"])),
            ("etcd://a:1,b:2;c:3", etcd(&["a:1", "b:2", "c:3"])),
            ("etcd://a:1, etcd://b:2/", etcd(&["a:1", "b:2"])),
            ("etcd://https://a:1", etcd(&["https://a:1"])),
            ("etcd://[::1]:2379", etcd(&["[::1]:2379"])),
            ("redis://h", redis("h", 12_001)),
            ("redis://h:6379", redis("h", 6379)),
            ("redis://[::1]:6379/", redis("::1", 6379)),
            ("http://h:8080/metadata", http("http://h:8080/metadata")),
            ("https://h/m?tenant=1", http("https://h/m?tenant=1")),
        ] {
            assert_eq!(StoreAddress::parse(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_store() {
        for text in [
            "",
            "foo://h",
            "etcd://",
            "etcd://,;",
            "redis://",
            "redis://:6379",
            "http://",
            "http:///m",
            "http://:80/m",
            "http://a b/",
            "https://h/#m",
            "p2phandshake://",
            "etcd://a b:1",
            "ETCD://a:1",
        ] {
            let error = StoreAddress::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains("P2PHANDSHAKE"), "{error}");
        }
    }

    #[test]
    fn keys_are_escaped_as_curl_does() {
        assert_eq!(percent_encode("mooncake/ram/nodeA:12001"), "mooncake%2Fram%2FnodeA%3A12001");
        assert_eq!(percent_encode("a b%2F+é~"), "a%20b%252F%2B%C3%A9~");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = StoreAddress::parse(&text);
        }

        #[test]
        fn an_escaped_key_is_plain_and_reads_back(key in ".{0,60}") {
            let text = percent_encode(&key);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
            let mut bytes = Vec::new();
            let mut rest = text.as_bytes();
            while let Some((&first, tail)) = rest.split_first() {
                if first == b'%' {
                    let hex = std::str::from_utf8(&tail[..2]).unwrap();
                    bytes.push(u8::from_str_radix(hex, 16).unwrap());
                    rest = &tail[2..];
                } else {
                    bytes.push(first);
                    rest = tail;
                }
            }
            prop_assert_eq!(bytes, key.into_bytes());
        }
    }
}
