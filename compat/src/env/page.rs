//! `compat/ENVIRONMENT.md`, made from the table.

use super::parse::Form;
use super::table::{self, Hand, Setting};
use super::{Settings, names};
use serde_json::Value as Json;
use std::fmt::Write;

/// `compat/ENVIRONMENT.md` is what the table makes today. `TENT_BLESS=1` writes it.
#[test]
fn environment_md_is_up_to_date() {
    let made = page();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ENVIRONMENT.md");
    if std::env::var_os("TENT_BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "compat/ENVIRONMENT.md is stale; run this test with TENT_BLESS=1");
}

fn page() -> String {
    let mut out = HEAD.to_owned();
    let settings = Settings::new();
    let (own, rdma): (Vec<_>, Vec<_>) =
        table::all().partition(|s| matches!(s.hand, Hand::Own { .. }));
    out += "\n## Honoured\n\n| variables | keys | accepts | default | what it does |\n|---|---|---|---|---|\n";
    own.iter().for_each(|s| row(&mut out, s, &settings));
    out += "\n## For RDMA rails\n\nChecked and kept; there is no RDMA transport yet, so nothing uses them.\n\n\
            | variables | keys | accepts | default | what it does |\n|---|---|---|---|---|\n";
    rdma.iter().for_each(|s| row(&mut out, s, &settings));
    out +=
        "\n## Known, without effect\n\nOne line of log says so.\n\n| variable | why |\n|---|---|\n";
    for (name, why) in names::IGNORED {
        writeln!(out, "| `{name}` | {why} |").unwrap();
    }
    out += "\n## Of others\n\nNothing is said of them: ";
    let foreign: Vec<_> = names::FOREIGN.iter().map(|name| format!("`{name}`")).collect();
    writeln!(out, "{}.", foreign.join(", ")).unwrap();
    out += "\n## Keys of TENT without effect\n\nSaid at level `debug`: ";
    let keys: Vec<_> = names::ignored_keys().map(|key| format!("`{key}`")).collect();
    writeln!(out, "{}.", keys.join(", ")).unwrap();
    out
}

fn row(out: &mut String, setting: &Setting, settings: &Settings) {
    let form = |form: Form| form.text().replace('|', "/");
    let vars: Vec<String> = setting
        .vars
        .iter()
        .map(|v| match v.form {
            Some(other) => format!("`{}` ({}{})", v.name, form(other), unit(setting, v.per)),
            None => format!("`{}`", v.name),
        })
        .collect();
    let own = format!("tent/{}", setting.key);
    let keys: Vec<String> =
        setting.json.iter().copied().chain([own.as_str()]).map(|key| format!("`{key}`")).collect();
    let default = match setting.show(settings) {
        Json::Null => String::new(),
        Json::String(text) => text,
        other => other.to_string(),
    };
    let unit = setting.unit;
    let live = if setting.live { " *Live.*" } else { "" };
    writeln!(
        out,
        "| {} | {} | {} | {} | {}{live} |",
        vars.join(", else "),
        keys.join(", "),
        form(setting.form),
        format!("{default} {unit}").trim(),
        setting.doc,
    )
    .unwrap();
}

fn unit(setting: &Setting, per: i64) -> String {
    match (setting.unit, per) {
        ("ms", 1000) => ", in s".into(),
        _ => String::new(),
    }
}

const HEAD: &str = "\
# Environment and configuration

<!-- Made from compat/src/env/table.rs by a test of tent-capi; do not edit. -->

What an engine is made with. The first that says something sensible counts: the variables, from left to right; the
keys in `MC_TENT_CONF` (the path of a JSON file, or JSON itself, in TENT's schema: nested objects or flat keys with
slashes); what the program set with `tent_set_config` or `tent_load_config_from_file`; the default. A value that makes
no sense costs one warning. `tent config` shows what is in force and where it comes from.

*Live*: while engines run, the file of `MC_TENT_CONF` is looked at once a second, and these take effect; of the others
the log says that they wait for the next engine.
";
