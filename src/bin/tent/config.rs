//! `tent config`: the settings that an engine of this environment would be made with.

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
    if args.json {
        println!("{text}");
    } else {
        println!("# {}", library.path);
        print!("{}", table(&report));
    }
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
