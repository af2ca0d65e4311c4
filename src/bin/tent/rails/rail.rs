//! Rails and their events as the library tells them. Plain data.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One rail as `tent_rails_json` tells it; what a library leaves out is zero, or not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rail {
    pub(crate) peer: String,
    pub(crate) rail: String,
    pub(crate) transport: String,
    pub(crate) up: bool,
    pub(crate) in_flight_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) retried_slices: u64,
    pub(crate) rate_bps: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) window_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rtt_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retried_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hedged_slices: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) downs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event: Option<String>,
    /// On the clock all processes of the host share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event_us: Option<u64>,
}

impl Rail {
    pub(crate) fn state(&self) -> &str {
        self.state.as_deref().unwrap_or(if self.up { "up" } else { "down" })
    }

    /// What it has carried, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.read_bytes + self.write_bytes
    }
}

/// A move in the life of a rail as `tent_events_json` tells it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RailEvent {
    pub(crate) seq: u64,
    /// On the clock all processes of the host share.
    pub(crate) us: u64,
    pub(crate) peer: String,
    pub(crate) rail: String,
    pub(crate) event: String,
    pub(crate) why: String,
}

/// Whether the name of a rail holds this address: names are made of them.
pub(crate) fn is_of(name: &str, address: Ipv4Addr) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    name.split(|c| !is_part(c)).any(|word| word.parse() == Ok(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rail_is_known_by_its_address() {
        let at = |last| Ipv4Addr::new(127, 0, 0, last);
        for name in ["tcp 127.0.0.11 -> 127.0.0.11", "tcp:127.0.0.1>127.0.0.11:40001", "127.0.0.11"]
        {
            assert!(is_of(name, at(11)), "{name}");
            assert!(!is_of(name, at(12)) && !is_of(name, at(110)), "{name}");
        }
        assert!(!is_of("tcp 127.0.0.110", at(11)) && !is_of("tcp 127.0.0.11", at(1)));
        assert!(!is_of("", at(11)));
    }

    #[test]
    fn what_is_not_told_is_not_known() {
        let rail: Rail = serde_json::from_str(
            r#"{"rail":"a","up":true,"read_bytes":2,"write_bytes":3,"rtt_us":null,"new":[1]}"#,
        )
        .unwrap();
        assert_eq!((rail.state(), rail.bytes(), rail.rtt_us), ("up", 5, None));
        let rail: Rail = serde_json::from_str(r#"{"state":"slow_start","rtt_us":120}"#).unwrap();
        assert_eq!((rail.state(), rail.rtt_us), ("slow_start", Some(120.0)));
        let event: RailEvent = serde_json::from_str(r#"{"seq":3,"event":"down"}"#).unwrap();
        assert_eq!((event.seq, event.event.as_str()), (3, "down"));
    }
}
