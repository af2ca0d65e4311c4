//! The keys that upstream uses, and the small value under `rpc_meta`.

use serde::{Deserialize, Serialize};

use crate::control::address::P2pName;
use crate::error::{Error, ErrorKind, Result};

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// With a cluster every key begins with `mooncake/CLUSTER/` (`MC_METADATA_CLUSTER_ID`).
    pub fn new(cluster: &str) -> Self {
        let cluster = cluster.trim_end_matches('/');
        let prefix =
            if cluster.is_empty() { "mooncake/".into() } else { format!("mooncake/{cluster}/") };
        Self { prefix }
    }

    /// Where the engine of that name answers on its RPC port.
    pub fn rpc_meta(&self, name: &str) -> String {
        format!("{}rpc_meta/{name}", self.prefix)
    }

    /// The description of a segment. A name with a slash is a path of its own, as upstream has it
    /// (`transfer_metadata.cpp`, `getFullMetadataKey`).
    pub fn segment(&self, name: &str) -> String {
        let ram = if name.contains('/') { "" } else { "ram/" };
        format!("{}{ram}{name}", self.prefix)
    }
}

#[derive(Serialize, Deserialize)]
struct RpcMeta {
    ip_or_host_name: String,
    rpc_port: u16,
}

/// The value under [`Keys::rpc_meta`].
pub fn encode_rpc_meta(at: &P2pName) -> Vec<u8> {
    let meta = RpcMeta { ip_or_host_name: at.host.clone(), rpc_port: at.port };
    serde_json::to_vec(&meta).unwrap_or_default() // a text and a number always have a JSON
}

/// Reads it.
///
/// # Errors
/// `Malformed`: no JSON object with a host and a port, or one that is empty, zero or too long.
pub fn decode_rpc_meta(json: &[u8]) -> Result<P2pName> {
    let broken = |why: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Malformed, format!("no host and port in it: {why}"))
    };
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(broken(&"not a JSON object"));
    }
    let meta: RpcMeta = serde_json::from_slice(json).map_err(|e| broken(&e))?;
    let host = meta.ip_or_host_name;
    if host.is_empty() || host.len() > MAX_HOST || meta.rpc_port == 0 {
        return Err(broken(&"a host without a name, one that is too long, or port 0"));
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host);
    Ok(P2pName { host: bare.to_owned(), port: meta.rpc_port })
}

/// Longest host name, in bytes.
const MAX_HOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_upstreams() {
        let plain = Keys::new("");
        assert_eq!(plain.rpc_meta("n:1"), "mooncake/rpc_meta/n:1");
        assert_eq!(plain.segment("n:1"), "mooncake/ram/n:1");
        assert_eq!(plain.segment("nvmeof/n"), "mooncake/nvmeof/n");
        for cluster in ["cl1", "cl1/"] {
            assert_eq!(Keys::new(cluster).rpc_meta("n"), "mooncake/cl1/rpc_meta/n");
            assert_eq!(Keys::new(cluster).segment("n"), "mooncake/cl1/ram/n");
        }
    }

    #[test]
    fn the_address_of_an_engine() {
        let at = P2pName { host: "10.0.0.1".into(), port: 15_001 };
        let json = encode_rpc_meta(&at);
        assert_eq!(json, br#"{"ip_or_host_name":"10.0.0.1","rpc_port":15001}"#);
        assert_eq!(decode_rpc_meta(&json).unwrap(), at);
        let theirs = b"{\"ip_or_host_name\":\"[fe80::1]\",\"rpc_port\":7,\"x\":{}}\n";
        assert_eq!(decode_rpc_meta(theirs).unwrap(), P2pName { host: "fe80::1".into(), port: 7 });
        for bad in [
            &b""[..],
            b"[\"h\",1]",
            b"{",
            b"{}",
            b"null",
            br#"{"ip_or_host_name":"","rpc_port":1}"#,
            br#"{"ip_or_host_name":"h","rpc_port":0}"#,
            br#"{"ip_or_host_name":"h","rpc_port":65536}"#,
            br#"{"ip_or_host_name":7,"rpc_port":1}"#,
        ] {
            assert_eq!(decode_rpc_meta(bad).unwrap_err().kind(), ErrorKind::Malformed);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_rpc_meta(&bytes);
        }
    }
}
