//! `tent config`: the settings that an engine of this environment would be made with.

use std::io::Write;

use serde::Deserialize;
use serde_json::Value;

use super::capi::Library;
use super::cli::ConfigArgs;
use super::fail::{Fail, Result};

/// What the library says of a setting; it says more.
#[derive(Debug, Deserialize)]
struct Setting {
    key: String,
    value: Value,
    unit: String,
    source: String,
    r#for: String,
}

/// What the library says.
#[derive(Debug, Deserialize)]
struct Report {
    values: Vec<Setting>,
    warnings: Vec<String>,
    ignored: Vec<String>,
}

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let library = Library::load(args.lib.lib.as_deref())?;
    let text = library.config()?;
    let mut report = parse(&text, &library.path)?;
    if args.changed {
        report.values.retain(|s| s.source != DEFAULT);
    }
    let shown = if args.json {
        format!("{text}\n")
    } else {
        format!("# {}\n{}", library.path, table(&report))
    };
    // who stops reading has seen enough
    let _ = std::io::stdout().write_all(shown.as_bytes());
    Ok(())
}

fn parse(text: &str, path: &str) -> Result<Report> {
    serde_json::from_str(text).map_err(|e| {
        let cause = format!("{path} tells its settings in words that are not understood: {e}");
        Fail::setup(cause, "use the `tent` that came with the library")
    })
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    for (user, heading) in
        [("tent", ""), ("rdma", "\nfor RDMA rails, of which there are none yet:\n")]
    {
        let mut rows = report.values.iter().filter(|s| s.r#for == user).peekable();
        if rows.peek().is_some() {
            out += heading;
        }
        for setting in rows {
            let value = format!("{} {}", plain(&setting.value), setting.unit);
            let (key, source) = (&setting.key, &setting.source);
            out += &format!("{key:<22} {:<30} {source}\n", value.trim_end());
        }
    }
    let lines: Vec<_> = report.warnings.iter().chain(&report.ignored).collect();
    if !lines.is_empty() {
        out += "\nnot used:\n";
    }
    for line in lines {
        out += &format!("  {line}\n");
    }
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

const DEFAULT: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_values_units_sources_and_what_is_not_used() {
        let text = r#"{"values": [
            {"key": "spin", "value": 7, "unit": "us", "source": "environment TENT_SPIN_US=7", "for": "tent"},
            {"key": "log_dir", "value": "", "unit": "", "source": "default", "for": "tent"},
            {"key": "rdma_mtu", "value": "4096", "unit": "bytes", "source": "default", "for": "rdma"}],
            "warnings": ["ignoring X"], "ignored": ["Y has no effect: why"], "notes": []}"#;
        let shown = table(&parse(text, "lib.so").unwrap());
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["spin", "7", "us", "environment", "TENT_SPIN_US=7"]);
        assert_eq!(lines[1], ["log_dir", "-", "default"]);
        assert_eq!(lines[4], ["rdma_mtu", "4096", "bytes", "default"]);
        assert!(shown.ends_with("not used:\n  ignoring X\n  Y has no effect: why\n"), "{shown}");
    }

    #[test]
    fn a_library_of_another_make_is_named() {
        let fail = parse("[]", "lib.so").unwrap_err();
        assert!(fail.cause.contains("lib.so"), "{fail}");
    }
}
