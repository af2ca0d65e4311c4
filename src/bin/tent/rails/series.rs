//! The progress of a run, millisecond by millisecond, as a file for other programs: CSV, or JSON where the
//! name ends so.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::aftermath;
use super::record::Record;
use crate::fail::{Fail, Result};

/// Writes the file.
pub(crate) fn write(path: &Path, record: &Record) -> Result<()> {
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let text = if is_json { as_json(record).to_string() } else { as_csv(record) };
    save(path, &text)
}

/// Writes any file that the user asked for.
pub(crate) fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| {
        let what = format!("cannot write {}", path.display());
        Fail::system(&what, &e, "give a path in a directory that is there and yours")
    })
}

/// One row per millisecond: what landed in it, in all and by rail.
fn as_csv(record: &Record) -> String {
    let mut text = "ms,bytes".to_string();
    (0..record.rails()).for_each(|rail| text += &format!(",r{rail}_bytes"));
    text.push('\n');
    for row in rows(record) {
        // writing to a String cannot fail
        let _ = write!(text, "{},{}", row.ms, row.bytes);
        row.rails.iter().for_each(|bytes| text += &format!(",{bytes}"));
        text.push('\n');
    }
    text
}

fn as_json(record: &Record) -> Value {
    let mut columns = vec!["ms".to_string(), "bytes".to_string()];
    columns.extend((0..record.rails()).map(|rail| format!("r{rail}_bytes")));
    let row = |row: Row| {
        let start = [row.ms, row.bytes].into_iter();
        start.chain(row.rails).map(Value::from).collect::<Value>()
    };
    let event = |s: &super::record::Seen| json!({"us": s.us, "rail": s.rail, "event": s.event, "why": s.why});
    json!({
        "rates_bps": record.rates_bps,
        "faults": aftermath::of(record),
        "events": record.seen.iter().map(event).collect::<Value>(),
        "columns": columns,
        "rows": rows(record).map(row).collect::<Value>(),
    })
}

struct Row {
    ms: u64,
    bytes: u64,
    rails: Vec<u64>,
}

fn rows(record: &Record) -> impl Iterator<Item = Row> + '_ {
    let last_ms = record.looks.last().map_or(0, |look| look.us.div_ceil(1000));
    let whole = |bytes: f64| crate::units::round(bytes);
    (0..last_ms).map(move |ms| {
        let (from, to) = (ms * 1000, (ms + 1) * 1000);
        // Differences of rounded sums, so that the rows add up to the whole.
        let total = |us| whole(record.bytes_at(us));
        let one = |rail, us| whole(record.rail_bytes_at(rail, us));
        let rails = (0..record.rails()).map(|rail| one(rail, to) - one(rail, from)).collect();
        Row { ms, bytes: total(to) - total(from), rails }
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::made;
    use super::*;

    #[test]
    fn rows_add_up_to_what_was_moved() {
        let mut record = made(&[8, 8], 50, |rail, ms| ms * 7 + rail as u64);
        // looks are never exactly a millisecond apart
        record.looks.iter_mut().skip(1).for_each(|look| look.us += look.us % 13 * 10);
        let csv = as_csv(&record);
        let mut lines = csv.lines();
        assert_eq!(lines.next(), Some("ms,bytes,r0_bytes,r1_bytes"));
        let rows: Vec<Vec<u64>> =
            lines.map(|line| line.split(',').map(|n| n.parse().unwrap()).collect()).collect();
        let sum = |column: usize| rows.iter().map(|row| row[column]).sum::<u64>();
        assert_eq!(sum(1), record.bytes());
        assert_eq!(sum(2) + sum(3), record.bytes());
        assert!((0..).zip(&rows).all(|(ms, row)| row[0] == ms));
    }

    #[test]
    fn json_holds_the_same_rows_and_the_faults() {
        let record = made(&[8, 8], 5, |_, _| 3);
        let json = as_json(&record);
        assert_eq!(json["columns"][3], "r1_bytes");
        assert_eq!(json["rows"][0], json!([0, 6, 3, 3]));
        assert_eq!(json["rows"].as_array().unwrap().len(), 5);
        assert!(json["faults"].as_array().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let fail = save(Path::new("/nowhere/at/all.csv"), "").unwrap_err();
        assert!(fail.cause.contains("/nowhere/at/all.csv") && !fail.cure.is_empty(), "{fail}");
    }
}
