//! What a run with weather is told as: tables for people, JSON lines for programs.

use serde_json::{Value, json};

use super::aftermath::{self, Aftermath, Phase, ms};
use super::record::Record;
use crate::fail::{Fail, Result};
use crate::units;

/// Phases, faults and sums.
pub(crate) fn text(record: &Record) -> String {
    let mut lines = vec![format!(
        "{:<15}{:<34}{:>7}{:>12}{:>9}{:>12}",
        "phase", "weather", "GB/s", "live links", "reached", "stall ms"
    )];
    lines.extend(aftermath::phases(record).iter().map(phase));
    if !record.applied.is_empty() {
        lines.push(String::new());
        lines.push(format!(
            "{:<24}{:>8}{:>9}{:>9}{:>8}{:>9}{:>18}  {}",
            "fault (times in ms)",
            "detect",
            "reroute",
            "recover",
            "stall",
            "slowest",
            "resent",
            "why"
        ));
        lines.extend(aftermath::of(record).iter().map(fault));
        if !record.has_events {
            lines.push("detect: unknown, this library has no tent_events_json".into());
        }
    }
    lines.push(String::new());
    lines.extend(sums(record));
    lines.join("\n")
}

/// The same as JSON: one line for the run, one per phase, one per fault.
pub(crate) fn json(record: &Record) -> Vec<Value> {
    let mut lines = vec![json!({
        "kind": "rails", "rates_bps": record.rates_bps, "seconds": seconds(record.end_us),
        "bytes": record.bytes(), "gb_per_s": gb_per_s(record), "requests": record.requests.len(),
        "median_request_us": record.median_request_us(),
        "failed": record.failed, "why_failed": record.why_failed,
        "checked_bytes": record.checked_bytes, "wrong_bytes": record.wrong_bytes,
        "longest_stall_us": record.longest_stall_us(0, record.end_us),
        "longest_blink_us": record.longest_blink_us(),
        "resent_slices": record.looks.last().map(|look| look.resent_slices),
        "resent_bytes": record.looks.last().map(|look| look.resent_bytes),
        "starved_us": record.starved_us, "efficiency": aftermath::efficiency(record),
        "cpu_s": {"initiator": record.cpu.initiator_s, "target": record.cpu.target_s,
                  "relays": record.cpu.relays_s},
    })];
    let tagged = |kind: &str, value: Value| {
        let mut line = json!({ "kind": kind });
        if let (Value::Object(line), Value::Object(value)) = (&mut line, value) {
            line.extend(value);
        }
        line
    };
    lines.extend(aftermath::phases(record).iter().map(|p| tagged("phase", json!(p))));
    lines.extend(aftermath::of(record).iter().map(|f| tagged("fault", json!(f))));
    lines
}

/// The picture's headline.
pub(crate) fn title(record: &Record, what: &str) -> String {
    let stall = units::as_f64(record.longest_stall_us(0, record.end_us)) / 1e3;
    format!(
        "{what} over {} rails: {:.3} GB/s, longest stall {stall:.1} ms, {} wrong bytes",
        record.rails(),
        gb_per_s(record),
        record.wrong_bytes
    )
}

/// An error when bytes are wrong or a transfer failed.
pub(crate) fn judge(record: &Record) -> Result<()> {
    if record.wrong_bytes > 0 {
        let cause = format!("{} bytes are wrong", record.wrong_bytes);
        return Err(Fail::transfer(cause, "do not use this library"));
    }
    if record.failed > 0 {
        let s = if record.failed == 1 { "" } else { "s" };
        let cause = format!("{} request{s} failed, first: {}", record.failed, record.why_failed);
        return Err(Fail::transfer(cause, "leave one rail alive; see the library's log"));
    }
    if record.requests.is_empty() {
        return Err(Fail::transfer("no request came to its end", "a longer --duration"));
    }
    Ok(())
}

fn phase(p: &Phase) -> String {
    let span = format!("{:.1}-{:.1} s", seconds(p.from_us), seconds(p.to_us));
    let reached = if p.live_gb_per_s > 0.0 {
        format!("{:.1}%", p.gb_per_s / p.live_gb_per_s * 100.0)
    } else {
        "-".into()
    };
    let stall = ms(Some(p.stall_us));
    format!(
        "{span:<15}{:<34}{:>7.3}{:>12.3}{reached:>9}{stall:>12}",
        p.weather, p.gb_per_s, p.live_gb_per_s
    )
}

fn fault(f: &Aftermath) -> String {
    let what = format!("{:.3} s {}", seconds(f.at_us), f.what);
    let resent = match f.resent_slices {
        0 => "-".into(),
        n => format!("{n} ({})", units::size(f.resent_bytes)),
    };
    let line = format!(
        "{what:<24}{:>8}{:>9}{:>9}{:>8}{:>9}{resent:>18}  {}",
        ms(f.detect_us),
        ms(f.reroute_us),
        ms(f.recover_us),
        ms(Some(f.stall_us)),
        ms(f.slowest_us),
        f.why
    );
    line.trim_end().to_string()
}

fn sums(record: &Record) -> Vec<String> {
    let resent = record.looks.last().copied().unwrap_or_default();
    let (bytes, us) = (record.bytes(), record.end_us);
    let mut lines = vec![
        format!(
            "moved {} in {:.1} s = {:.3} GB/s, {} requests of {} ms (median), {} failed",
            units::size(bytes),
            seconds(us),
            gb_per_s(record),
            record.requests.len() as u64 + record.failed,
            ms(record.median_request_us()),
            record.failed
        ),
        format!(
            "longest stall {} ms (looked at it at least every {} ms), {} pieces resent ({}), {} wrong \
             bytes of {} checked",
            ms(Some(record.longest_stall_us(0, us))),
            ms(Some(record.longest_blink_us())),
            resent.resent_slices,
            units::size(resent.resent_bytes),
            record.wrong_bytes,
            units::size(record.checked_bytes),
        ),
    ];
    let per_gb = |cpu_s: f64| cpu_s / (units::as_f64(bytes.max(1)) / 1e9);
    lines.push(format!(
        "CPU s/GB: initiator {:.2}, target {:.2} (each with filling or checking), relays {:.2}",
        per_gb(record.cpu.initiator_s),
        per_gb(record.cpu.target_s),
        per_gb(record.cpu.relays_s)
    ));
    if record.starved_us * 50 > us {
        lines.push(format!(
            "for {} ms there was no prepared buffer: this machine checks too slowly for these rates",
            ms(Some(record.starved_us))
        ));
    }
    lines
}

fn gb_per_s(record: &Record) -> f64 {
    record.rate(0, record.end_us) / 1e9
}

fn seconds(us: u64) -> f64 {
    units::as_f64(us) / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::made;
    use super::super::record::{Applied, Span};
    use super::super::script;
    use super::*;

    fn run() -> Record {
        let mut record = made(&[400_000_000; 4], 1000, |_, _| 49_000);
        let entry = script::parse("500ms slow r1", 4).unwrap()[0];
        record.applied = vec![Applied { entry, us: 500_100 }];
        record.requests = vec![Span { begin_us: 499_000, end_us: 540_000 }];
        record.checked_bytes = 8 << 20;
        record
    }

    #[test]
    fn people_read_phases_faults_and_sums() {
        let text = text(&run());
        for words in [
            "as built                            0.196       0.200    98.0%         1.0",
            "r1 x0.1 40M                         0.196       0.155   126.5%         1.0",
            "0.500 s slow r1 x0.1           -      0.0        -     1.0     41.0",
            "1 requests of 41.0 ms (median), 0 failed",
            "longest stall 1.0 ms",
            "0 wrong bytes of 8 MiB checked",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains("no prepared buffer"));
        let starved = Record { starved_us: 100_000, ..run() };
        assert!(super::text(&starved).contains("no prepared buffer"));
    }

    #[test]
    fn programs_read_the_same() {
        let lines = json(&run());
        let kinds: Vec<_> = lines.iter().map(|l| l["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["rails", "phase", "phase", "fault"]);
        assert_eq!(
            (lines[0]["wrong_bytes"].as_u64(), lines[3]["what"].as_str()),
            (Some(0), Some("slow r1 x0.1"))
        );
    }

    #[test]
    fn wrong_bytes_and_failures_are_errors() {
        assert!(judge(&run()).is_ok());
        assert!(judge(&Record { wrong_bytes: 1, ..run() }).unwrap_err().cause.contains("1 bytes"));
        let failed = Record { failed: 2, why_failed: "no path".into(), ..run() };
        assert!(judge(&failed).unwrap_err().cause.contains("2 requests failed, first: no path"));
        assert!(judge(&Record { requests: Vec::new(), ..run() }).is_err());
    }
}
