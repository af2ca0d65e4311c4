//! What no compiler and no lint checks: the arrows between modules, the rooms of `unsafe`, the export
//! lists, the numbered invariants, and what must not get into the tree. Each finding names file and line,
//! and what to do about it.
//!
//! It reads lines as rustfmt lays them out, and knows no more of Rust than that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which top-level modules of `src/` a module may name; `ground` stands for [`GROUND`]. Every arrow points
/// down the map in `lib.rs`.
const ARROWS: [(&str, &str); 17] = [
    ("sim", "engine transport slice ground"),
    ("engine", "control sched policy transport memory topology segment slice sys ground"),
    ("policy", "slice ground"),
    ("sched", "slice segment topology ground"),
    ("control", "segment slice topology sys ground"),
    ("transport", "memory segment slice topology sys ground"),
    ("memory", "segment slice sys ground"),
    ("topology", "segment slice ground"),
    ("slice", "segment ground"),
    ("segment", "ground"),
    ("config", "error id time"),
    ("event", "sync time"),
    ("error", ""),
    ("id", ""),
    ("time", "sys"),
    ("sync", ""),
    ("sys", ""),
];
const GROUND: &str = "error id time sync event config";

/// Arrows besides those: from, to, why.
const EXTRA_ARROWS: [(&str, &str, &str); 2] = [
    ("config", "slice", "the transports allowed are a knob; `slice` is data without behaviour"),
    ("topology", "sys", "`interfaces` lists what this host has; the rest are functions of lists"),
];

/// What a scheduler without IO, clock, threads and locks does not say.
const IMPURE: [&str; 5] = ["Instant::now", "std::net", "std::fs", "std::io", "Mutex"];

/// Where `unsafe` may be written. (`contract` is a test: it looks at the memory that was moved.)
const UNSAFE_ROOMS: &str = "src/sys.rs src/sys/ src/memory.rs src/memory/ src/transport/local.rs \
     src/transport/shm.rs src/transport/cma.rs src/transport/tcp/io.rs \
     src/transport/contract.rs src/bin/tent/";

/// What must not be written, and what to do instead.
const BANNED: [(&str, &str); 6] = [
    ("TODO", "finish it, or say what is missing in the docs"),
    ("FIXME", "fix it"),
    ("todo!", "answer with an error"),
    ("unimplemented!", "answer with an error"),
    ("#[ignore", "a test that does not run proves nothing: make it run, or delete it"),
    ("thread::sleep", "wait on a condition, with a bound"),
];

/// Banned words that may stay: file, word, why.
const ALLOWED: [(&str, &str, &str); 1] =
    [("src/bin/tent/clock.rs", "thread::sleep", "a command paces its load; nobody waits for it")];

/// Where packages come from is the user's affair, and so is where the tree lies.
const PRIVATE: &str = "/work/ /root/ /home/ sparse+ registry+ index-url replace-with artifactory \
     index.crates.io static.crates.io pypi.org pythonhosted.org";
/// The source that cargo itself writes for packages of the public registry.
const PUBLIC_SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
const MAX_LINES: usize = 700;

#[test]
fn arrows_between_modules_point_down() {
    let (mut found, mut used) = (Vec::new(), BTreeSet::new());
    for source in sources("src", &["rs"]).iter().filter(|s| !s.is_test()) {
        let Some(from) = source.module().filter(|m| *m != "lib" && *m != "bin") else { continue };
        let Some(allowed) = allowed_from(from) else {
            found.push(format!("{}:1: module {from} has no arrows: add it to ARROWS", source.path));
            continue;
        };
        for (line, to) in source.names_of_modules() {
            let extra = EXTRA_ARROWS.iter().find(|(f, t, _)| *f == from && *t == to);
            used.insert(extra);
            let cure = if allowed_from(&to).is_none() {
                "is no module: name the one where the item lives, one per `use`"
            } else if to != from && extra.is_none() && !allowed.contains(to.as_str()) {
                "lies above: move the item down, or the decision up"
            } else {
                continue;
            };
            found.push(format!("{}:{line}: {from} -> {to}: {to} {cure}", source.path));
        }
    }
    let idle = EXTRA_ARROWS.iter().filter(|arrow| !used.contains(&Some(*arrow)));
    found.extend(idle.map(|(f, t, _)| format!("src/tidy.rs: nobody needs {f} -> {t}: drop it")));
    verdict(&found);
}

#[test]
fn the_scheduler_is_pure() {
    let sched = sources("src", &["rs"]).into_iter().filter(|s| s.module() == Some("sched"));
    verdict(&lines_with(sched, &IMPURE, "sched knows figures only: take one as an argument"));
}

#[test]
fn no_file_is_too_long() {
    let all = [sources("src", &["rs"]), sources("compat/src", &["rs"])].concat();
    let count = |s: &Source| (s.text.lines().count(), s.path.clone());
    let long = all.iter().map(count).filter(|(count, _)| *count > MAX_LINES);
    let text = |(count, path)| format!("{path}:{MAX_LINES}: {count} lines: split by purpose");
    verdict(&long.map(text).collect::<Vec<_>>());
}

#[test]
fn the_root_crate_exports_nothing_to_c() {
    let cure = "exports belong into compat/src, behind entry!";
    verdict(&lines_with(sources("src", &["rs"]).into_iter(), &["no_mangle", "export_name"], cure));
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let is_room = |s: &Source| UNSAFE_ROOMS.split(' ').any(|room| s.path.starts_with(room));
    let others = sources("src", &["rs"]).into_iter().filter(|s| !is_room(s));
    verdict(&lines_with(others, &["unsafe"], "call a safe function of one of UNSAFE_ROOMS"));
}

#[test]
fn lists_sources_and_headers_name_the_same_exports() {
    let mut found = Vec::new();
    let exported = exports(&mut Vec::new());
    for (list, header, is_ours) in [
        ("compat/exports/mooncake.txt", "compat/include/transfer_engine_c.h", false),
        ("compat/exports/tent.txt", "include/tent.h", true),
    ] {
        let (lines, declared) = (read(list), declared_functions(&read(header)));
        let lines: Vec<&str> = lines.lines().collect();
        for (at, pair) in lines.windows(2).enumerate().filter(|(_, pair)| pair[0] >= pair[1]) {
            found.push(format!("{list}:{}: {} is out of order or twice: sort -u", at + 2, pair[1]));
        }
        for (at, name) in (1..).zip(&lines) {
            if !exported.contains_key(*name) {
                found.push(format!("{list}:{at}: {name} is not in compat/src: write it"));
            }
            if !declared.contains(*name) {
                found.push(format!("{list}:{at}: {name} is not in {header}: declare it"));
            }
        }
        let ours = exported.keys().filter(|name| name.starts_with("tent_") == is_ours);
        let all: BTreeSet<&String> = ours.chain(&declared).collect();
        for name in all.into_iter().filter(|name| !lines.contains(&name.as_str())) {
            let at = exported.get(name).map_or(header, String::as_str);
            found.push(format!("{at}: {name} is not in {list}: add it there"));
        }
    }
    verdict(&found);
}

#[test]
fn every_exported_function_goes_through_entry() {
    let mut found = Vec::new();
    let count = exports(&mut found).len();
    verdict(&found);
    assert!(count > 30, "found only {count} exported functions: tidy reads them wrongly");
}

#[test]
fn every_invariant_is_explained_and_cited() {
    let (page, cited) = (read("ARCHITECTURE.md"), citing());
    let mut found = Vec::new();
    for name in (1..=12).map(|n| format!("I{n}")) {
        if !has_word(&page, &name) {
            found.push(format!("ARCHITECTURE.md: {name} is missing: explain it"));
        }
        if !cited.iter().any(|s| has_word(&s.text, &name)) {
            let cure = "cite it where code relies on it and in the test that proves it";
            found.push(format!("src: {name} is cited nowhere: {cure}"));
        }
    }
    verdict(&found);
}

#[test]
fn every_decision_that_is_cited_is_explained() {
    let (page, sources) = (read("ARCHITECTURE.md"), citing());
    let mut found = Vec::new();
    for name in (1..100).map(|n| format!("D{n}")).filter(|name| !has_word(&page, name)) {
        for source in &sources {
            let lines = source.numbered().filter(|(_, text)| has_word(text, &name));
            let text = |(line, _)| format!("{}:{line}: {name}: explain it there", source.path);
            found.extend(lines.map(text));
        }
    }
    verdict(&found);
}

#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    for source in ["src", "compat", "tests"].into_iter().flat_map(|dir| sources(dir, &[])) {
        for (line, text) in source.numbered() {
            for (word, cure) in BANNED.iter().filter(|(word, _)| text.contains(word)) {
                if !ALLOWED.iter().any(|(file, w, _)| *file == source.path && w == word) {
                    found.push(format!("{}:{line}: `{word}`: {cure}", source.path));
                }
            }
        }
    }
    let idle = ALLOWED.iter().filter(|(file, word, _)| !read(file).contains(word));
    found.extend(idle.map(|(file, word, _)| format!("{file}: no `{word}`: drop it from ALLOWED")));
    verdict(&found);
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let mut found = Vec::new();
    for source in sources("", &[]) {
        for (line, text) in source.numbered().filter(|(_, text)| *text != PUBLIC_SOURCE) {
            // `$DIR/work/x` is a path of whoever runs it
            let is_free = |at: usize| !text[..at].ends_with(|c| is_ident(c) || "-.}/".contains(c));
            let is_hit = |word: &&str| text.match_indices(*word).any(|(at, _)| is_free(at));
            if let Some(word) = PRIVATE.split(' ').find(is_hit) {
                found.push(format!("{}:{line}: `{word}`: take it from the user", source.path));
            }
        }
    }
    verdict(&found);
}

/// A text file of the repository.
#[derive(Debug, Clone)]
struct Source {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path == "src/transport/contract.rs"
    }

    /// The top-level module of `src/` that the file belongs to.
    fn module(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split(['/', '.']).next()
    }

    /// The lines outside of test items, without their comments.
    fn production(&self) -> Vec<(usize, &str)> {
        let mut lines = Vec::new();
        // the line that would end the test item we are in, and whether its body has begun
        let mut test: Option<(String, bool)> = None;
        for (line, text) in self.numbered() {
            let code = uncommented(text);
            if let Some((end, open)) = &mut test {
                let is_end = code == end || (!*open && code.ends_with(';'));
                *open |= code.ends_with('{');
                test = test.filter(|_| !is_end);
            } else if let Some(at) = TEST_ITEM.iter().find_map(|start| code.find(start)) {
                test = Some((format!("{}}}", &code[..at]), false));
            } else {
                lines.push((line, code));
            }
        }
        lines
    }

    /// The top-level modules that code outside of tests names, with the lines.
    fn names_of_modules(&self) -> Vec<(usize, String)> {
        let up = "super::".repeat(self.path.matches('/').count());
        let mut names = Vec::new();
        for (line, code) in self.production() {
            for root in ["crate::", &up] {
                let is_root = |at: usize| !code[..at].ends_with(|c| is_ident(c) || c == ':');
                let hits = code.match_indices(root).filter(|(at, _)| is_root(*at));
                let name = |(at, _)| first_name(&code[at + root.len()..]).to_owned();
                names.extend(hits.map(|hit| (line, name(hit))));
            }
        }
        names
    }
}

/// The functions that compat exports, with their places; `found`: those without `entry!`.
fn exports(found: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut exported = BTreeMap::new();
    for source in sources("compat/src", &["rs"]) {
        let lines = source.production();
        for at in (0..lines.len()).filter(|at| has_word(lines[*at].1, "no_mangle")) {
            let item = lines[at..].iter().map(|(_, code)| code.trim()).take(20);
            let item = item.collect::<Vec<_>>().join(" ");
            let name = item.split_once(" fn ").map_or("", |(_, rest)| first_name(rest));
            let body = item.split_once("{ entry!(").map_or("", |(_, rest)| rest);
            let call = ["keep ", "void "].iter().find_map(|word| body.strip_prefix(word));
            let place = format!("{}:{}", source.path, lines[at].0 + 1);
            if first_name(call.unwrap_or(body)) != name {
                found.push(format!("{place}: make the body entry!({name}, {{ .. }})"));
            }
            exported.insert(name.to_owned(), place);
        }
    }
    exported
}

/// The functions that a C header declares: names in front of a parenthesis.
fn declared_functions(header: &str) -> BTreeSet<String> {
    let code = header.split("/*").map(|part| part.rsplit_once("*/").map_or(part, |(_, code)| code));
    let code = code.collect::<String>();
    let lines = code.lines().map(uncommented).filter(|line| !line.starts_with('#'));
    let name = |before: &str| before.rsplit(|c| !is_ident(c)).next().unwrap_or("").to_owned();
    let names = lines.filter_map(|line| Some(name(line.split_once('(')?.0)));
    names.filter(|name| !name.is_empty()).collect()
}

/// The text files below `dir` with one of these endings (all, if none is given), by path, but this one.
fn sources(dir: &str, endings: &[&str]) -> Vec<Source> {
    let (mut all, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&dir)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let ending = path.rsplit('.').next().unwrap_or("");
            // git's own, what .gitignore names, and this file, which names all that is banned
            let is_built = path.starts_with("target") || path.starts_with("build");
            if is_built || path == ".git" || ending == "jsonl" || path == "src/tidy.rs" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if (endings.is_empty() || endings.contains(&ending))
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                all.push(Source { path, text });
            }
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!all.is_empty(), "no files in {dir:?}");
    all
}

/// Where invariants and decisions are cited.
fn citing() -> Vec<Source> {
    let dirs = ["src", "compat", "tests", "cpp_tests"].into_iter();
    dirs.flat_map(|dir| sources(dir, &["rs", "c", "h", "cpp", "sh"])).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Where code, tests included, holds one of these words.
fn lines_with(sources: impl Iterator<Item = Source>, words: &[&str], cure: &str) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (line, text) in source.numbered() {
            let hits = words.iter().filter(|word| has_word(uncommented(text), word));
            found.extend(hits.map(|word| format!("{}:{line}: `{word}`: {cure}", source.path)));
        }
    }
    found
}

fn verdict(found: &[String]) {
    assert!(found.is_empty(), "{} findings\n{}\n", found.len(), found.join("\n"));
}

/// Which modules `from` may name; `None` if there is no such module.
fn allowed_from(from: &str) -> Option<BTreeSet<&'static str>> {
    let (_, to) = ARROWS.iter().find(|(name, _)| *name == from)?;
    let expand = |name| if name == "ground" { GROUND } else { name };
    Some(to.split_whitespace().flat_map(|name| expand(name).split_whitespace()).collect())
}

/// The line without its comment: what follows two slashes that are not inside a string.
fn uncommented(line: &str) -> &str {
    let quotes = |at: usize| line[..at].replace("\\\"", "").matches('"').count();
    let is_outside = |at: &usize| quotes(*at).is_multiple_of(2);
    let comment = line.match_indices("//").map(|(at, _)| at).find(is_outside);
    line[..comment.unwrap_or(line.len())].trim_end()
}

fn first_name(text: &str) -> &str {
    &text[..text.find(|c| !is_ident(c)).unwrap_or(text.len())]
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| is_ident(c) || c == '-';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_ident)
    })
}

const TEST_ITEM: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test"];
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
