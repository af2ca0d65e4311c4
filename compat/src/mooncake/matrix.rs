//! Upstream's priority matrix: JSON in, JSON out (`mooncake-transfer-engine/src/topology.cpp`).
//! `{"cpu:0": [[preferred devices], [others]]}`.

use crate::text::invalid;
use ::tent::Result;
use ::tent::topology::machine::{self, Machine, Matrix, Place};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::path::Path;

/// Reads a matrix; the error says what is wrong with which location.
pub(crate) fn parse(text: &str) -> Result<Matrix> {
    let object = serde_json::from_str::<Map<String, Value>>(text)
        .map_err(|cause| invalid(format!("this is no priority matrix: {cause}")))?;
    if object.len() > MAX_PLACES {
        return Err(invalid(format!(
            "the matrix has {} locations, not {MAX_PLACES}",
            object.len()
        )));
    }
    let mut matrix = object.iter().map(|(l, lists)| place(l, lists)).collect::<Result<Matrix>>()?;
    matrix.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(matrix)
}

/// The matrix as the JSON that [`parse`] reads.
pub(crate) fn value(matrix: &Matrix) -> Value {
    let lists = |p: &Place| (p.location.clone(), json!([p.preferred, p.available]));
    Value::Object(matrix.iter().map(lists).collect())
}

/// One line per list, for readers without JSON: the location, 0 or 1 (preferred, others) and the devices,
/// separated by tabs.
pub(crate) fn lines(matrix: &Matrix) -> String {
    let mut text = String::new();
    for place in matrix {
        for (rank, devices) in [("0", &place.preferred), ("1", &place.available)] {
            let head = [place.location.as_str(), rank].into_iter();
            let line: Vec<&str> = head.chain(devices.iter().map(String::as_str)).collect();
            text.push_str(&line.join("\t"));
            text.push('\n');
        }
    }
    text
}

/// This machine, seen by an engine that may use these addresses only (empty: any).
pub(crate) fn here(only: &[IpAddr]) -> Result<Machine> {
    machine::machine(Path::new(machine::SYSFS), only)
}

/// The devices that a matrix names, each once, with the memory node of the first place that names it.
pub(crate) fn devices(matrix: &Matrix) -> Vec<(&str, Option<u32>)> {
    let mut found: Vec<(&str, Option<u32>)> = Vec::new();
    for place in matrix {
        let node = place.location.strip_prefix("cpu:").and_then(|n| n.parse().ok());
        let ranked = [(&place.preferred, node), (&place.available, None)];
        for (device, node) in ranked.into_iter().flat_map(|(l, n)| l.iter().map(move |d| (d, n))) {
            match found.iter_mut().find(|(name, _)| name == device) {
                Some((_, known)) => *known = known.or(node),
                None => found.push((device, node)),
            }
        }
    }
    found
}

fn place(location: &str, lists: &Value) -> Result<Place> {
    let bad = || {
        let want = "[[preferred devices], [other devices]]";
        invalid(format!("location {location:?} of the matrix must be {want}"))
    };
    let [preferred, available] = lists.as_array().map(Vec::as_slice).ok_or_else(bad)? else {
        return Err(bad());
    };
    let names = |list: &Value| {
        let name = |v: &Value| v.as_str().filter(|s| is_name(s)).map(ToOwned::to_owned);
        let names = list.as_array().map(|list| list.iter().map(name).collect::<Option<Vec<_>>>());
        names.flatten().filter(|names| names.len() <= MAX_DEVICES).ok_or_else(bad)
    };
    if !is_name(location) {
        return Err(bad());
    }
    Ok(Place {
        location: location.into(),
        preferred: names(preferred)?,
        available: names(available)?,
    })
}

/// Not empty, not long, one line: it is printed, and kept in fields of 64 bytes.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.contains(char::is_control)
}

const MAX_PLACES: usize = 4096;
const MAX_DEVICES: usize = 4096;
const MAX_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_survives_the_way_there_and_back() {
        let text = r#"{"cuda:0":[[],["b"]],"cpu:0":[["a"],["b"]]}"#;
        let matrix = parse(text).unwrap();
        assert_eq!(value(&matrix).to_string(), r#"{"cpu:0":[["a"],["b"]],"cuda:0":[[],["b"]]}"#);
        assert_eq!(lines(&matrix), "cpu:0\t0\ta\ncpu:0\t1\tb\ncuda:0\t0\ncuda:0\t1\tb\n");
        assert_eq!(devices(&matrix), [("a", Some(0)), ("b", None)]);
        assert_eq!(parse("{}").unwrap(), []);
    }

    #[test]
    fn what_is_no_matrix_is_refused_with_its_location() {
        for bad in [
            "",
            "[]",
            "7",
            "{",
            r#"{"cpu:0":7}"#,
            r#"{"cpu:0":[["a"]]}"#,
            r#"{"cpu:0":[["a"],[1]]}"#,
            r#"{"cpu:0":[["a"],[],[]]}"#,
            r#"{"":[[],[]]}"#,
            r#"{"cpu:0":[["a\tb"],[]]}"#,
            r#"{"cpu:0":[[""],[]]}"#,
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("matrix"), "{bad}: {error}");
        }
        assert!(parse(r#"{"cpu:3":7}"#).unwrap_err().to_string().contains("cpu:3"));
        let deep = "[".repeat(100_000);
        assert!(parse(&format!("{{\"a\":{deep}")).is_err());
        let long = format!(r#"{{"cpu:0":[["{}"],[]]}}"#, "x".repeat(MAX_NAME + 1));
        assert!(parse(&long).is_err());
    }
}
