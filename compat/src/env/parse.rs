//! From text to values, and back for reports.

use ::log::LevelFilter;
use ::tent::{Spray, TransportKind, TransportMask};
use serde_json::Value as Json;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

/// What a variable or a key accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A whole number from, to.
    Number(i64, i64),
    /// As it, and -1 says nothing.
    OrOff(i64, i64),
    /// A number of the last two bounds, of which what the first two allow is taken.
    Clamped(i64, i64, i64, i64),
    /// Off says so: 0, false, no, off. Older upstreams look whether a switch is there, newer ones at its
    /// value; this agrees with both on what people write.
    Switch,
    /// On when the variable is there, whatever its value (upstream's older switches).
    Present,
    /// One of these, in any case.
    Words(&'static [&'static str]),
    /// An IP address.
    Address,
    /// Any text; what it should be.
    Free(&'static str),
    /// Any text that is not to be shown.
    Secret,
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Number(i64),
    On(bool),
    Text(String),
}

impl Form {
    /// What `text` says, `None` if that is nothing.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) fn parse(self, text: &str) -> Result<Option<Value>, ()> {
        let text = text.trim();
        let number =
            |low: i64, high: i64| text.parse().ok().filter(|n| (low..=high).contains(n)).ok_or(());
        Ok(Some(match self {
            Self::Number(low, high) => Value::Number(number(low, high)?),
            Self::OrOff(..) if text == "-1" => return Ok(None),
            Self::OrOff(low, high) => Value::Number(number(low, high)?),
            Self::Clamped(least, most, low, high) => {
                Value::Number(number(low, high)?.clamp(least, most))
            }
            Self::Switch | Self::Present => {
                Value::On(!["0", "false", "no", "off"].contains(&&*text.to_ascii_lowercase()))
            }
            _ if text.is_empty() => return Ok(None),
            Self::Words(words) => {
                let text = text.to_ascii_lowercase();
                words.contains(&&*text).then_some(Value::Text(text)).ok_or(())?
            }
            Self::Address => bare(text).map(|ip: IpAddr| Value::Text(ip.to_string())).ok_or(())?,
            Self::Free(_) | Self::Secret => Value::Text(text.to_owned()),
        }))
    }

    /// What it accepts, in words.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Number(low, high) | Self::Clamped(_, _, low, high) => {
                format!("a number in {low}-{high}")
            }
            Self::OrOff(low, high) => format!("a number in {low}-{high}, or -1"),
            Self::Switch => "on, or one of 0, false, no, off".into(),
            Self::Present => "anything".into(),
            Self::Words(words) => format!("one of {}", words.join(", ")),
            Self::Address => "an IP address".into(),
            Self::Free(what) => what.into(),
            Self::Secret => "text".into(),
        }
    }
}

impl Value {
    /// The number, as far as `T` goes; forms see to it that it does.
    pub(crate) fn to<T: TryFrom<i64> + Default>(&self) -> T {
        if let Self::Number(n) = self { T::try_from(*n).unwrap_or_default() } else { T::default() }
    }

    pub(crate) fn on(&self) -> bool {
        match self {
            Self::Number(n) => *n != 0,
            Self::On(on) => *on,
            Self::Text(_) => true,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::On(on) => (if *on { "on" } else { "off" }).to_owned(),
            Self::Text(text) => text.clone(),
        }
    }

    /// As it, in units of which one has `per`.
    pub(crate) fn times(self, per: i64) -> Self {
        match self {
            Self::Number(n) => Self::Number(n.saturating_mul(per)),
            other => other,
        }
    }
}

/// What a JSON value would be in the environment; `None` for what no setting takes.
pub(crate) fn plain(value: &Json) -> Option<String> {
    Some(match value {
        Json::String(text) => text.clone(),
        Json::Number(n) => n.to_string(),
        Json::Bool(on) => (if *on { "1" } else { "0" }).to_owned(),
        Json::Array(items) => {
            items.iter().map(plain).collect::<Option<Vec<_>>>().map(|all| all.join(","))?
        }
        Json::Null | Json::Object(_) => return None,
    })
}

pub(super) fn transports(text: &str) -> Option<TransportMask> {
    let mut mask = TransportMask::NONE;
    for name in text.split(',') {
        mask = mask.with(TransportKind::parse(name.trim())?);
    }
    Some(mask)
}

pub(super) fn transport_names(mask: TransportMask) -> String {
    list(TransportKind::ALL.iter().filter(|kind| mask.has(**kind)).map(|kind| kind.name()))
}

/// `rail=address:port,...`: connect there instead.
pub(super) fn via(text: &str) -> Option<Vec<(IpAddr, SocketAddr)>> {
    let one = |pair: &str| {
        let (rail, at) = pair.split_once('=')?;
        Some((rail.trim().parse().ok()?, at.trim().parse().ok()?))
    };
    text.split(',').map(one).collect()
}

pub(super) fn addresses(text: &str) -> Option<Vec<IpAddr>> {
    text.split(',').map(bare).collect()
}

fn bare(address: &str) -> Option<IpAddr> {
    address.trim().trim_matches(['[', ']']).parse().ok()
}

pub(super) fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The devices that a priority matrix names: `{"cpu:0": [["eth0"], ["eth1"]], ...}`.
pub(super) fn matrix_devices(text: &str) -> Option<Vec<String>> {
    type Matrix = std::collections::BTreeMap<String, Vec<Vec<String>>>;
    let matrix: Matrix = serde_json::from_str(text).ok()?;
    let mut found: Vec<String> = matrix.into_values().flatten().flatten().collect();
    found.sort();
    found.dedup();
    Some(found)
}

pub(super) fn list<T: Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

pub(super) fn spray(text: &str) -> Option<Spray> {
    SPRAYS.iter().find(|(_, name)| *name == text).map(|(spray, _)| *spray)
}

pub(super) fn spray_name(spray: Spray) -> &'static str {
    SPRAYS.iter().find(|(s, _)| *s == spray).map_or("", |(_, name)| name)
}

const SPRAYS: [(Spray, &str); 5] = [
    (Spray::Pull, "pull"),
    (Spray::Predict2, "predict2"),
    (Spray::Predict3, "predict3"),
    (Spray::RoundRobin, "round_robin"),
    (Spray::Static, "static"),
];

pub(super) fn level_name(level: LevelFilter) -> String {
    level.as_str().to_ascii_lowercase()
}
