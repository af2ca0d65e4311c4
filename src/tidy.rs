//! What no compiler and no lint checks: the arrows between modules, the rooms of `unsafe`, the export
//! lists, the numbered invariants, and what must not get into the tree. Each finding names file and line,
//! and what to do about it.
//!
//! It reads text and knows Rust only as far as comments, literals and braces go: enough for lines that
//! rustfmt has laid out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which top-level modules of `src/` a module may name; `ground` stands for [`GROUND`]. Every arrow points
/// down the map in `lib.rs`.
const ARROWS: [(&str, &str); 13] = [
    ("engine", "control sched transport memory topology segment slice sys ground"),
    ("sched", "slice segment topology ground"),
    ("control", "segment slice topology sys ground"),
    ("transport", "memory segment slice topology sys ground"),
    ("memory", "segment slice sys ground"),
    ("topology", "segment slice ground"),
    ("slice", "segment ground"),
    ("segment", "ground"),
    ("config", "error id time"),
    ("error", ""),
    ("id", ""),
    ("time", ""),
    ("sync", ""),
];
const GROUND: &str = "error id time sync config";
/// The lowest floor: it names nothing of ours.
const BASEMENT: &str = "sys";

/// Arrows besides those: from, to, why.
const EXTRA_ARROWS: [(&str, &str, &str); 2] = [
    ("config", "slice", "the transports allowed are a knob; `slice` is data without behaviour"),
    ("topology", "sys", "`interfaces` lists what this host has; the rest are functions of lists"),
];

/// What a scheduler without IO, clock, threads and locks does not say.
const IMPURE: [&str; 7] =
    ["Instant::now", "std::net", "std::fs", "std::io", "std::thread", "Mutex", "RwLock"];

/// Where `unsafe` may be written.
const UNSAFE_ROOMS: [&str; 9] = [
    "src/sys.rs",
    "src/sys/",
    "src/memory.rs",
    "src/memory/",
    "src/transport/local.rs",
    "src/transport/shm.rs",
    "src/transport/cma.rs",
    "src/transport/tcp/io.rs",
    "src/bin/tent/",
];

/// Files that are tests as a whole, besides those called `tests.rs`.
const TEST_FILES: [&str; 2] = ["src/tidy.rs", "src/transport/contract.rs"];

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
const ALLOWED: [(&str, &str, &str); 3] = [
    ("src/bin/tent/clock.rs", "thread::sleep", "a command paces its load; nobody waits for it"),
    ("src/sys/mem/copy.rs", "#[ignore", "a measurement: proves nothing, run by hand"),
    ("src/memory/tests.rs", "#[ignore", "a measurement: proves nothing, run by hand"),
];

/// Where packages come from is the user's affair, and so is where the tree lies.
const PRIVATE: [&str; 12] = [
    "/work/",
    "/root/",
    "/home/",
    "sparse+",
    "registry+",
    "index-url",
    "replace-with",
    "artifactory",
    "index.crates.io",
    "static.crates.io",
    "pypi.org",
    "pythonhosted.org",
];
/// The source that cargo itself writes for packages of the public registry.
const PUBLIC_SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

const MAX_LINES: usize = 700;

#[test]
fn arrows_between_modules_point_down() {
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources("src", &["rs"]).iter().filter(|s| !s.is_test()) {
        let Some(from) = source.module().filter(|m| *m != "lib" && *m != "bin") else { continue };
        let Some(allowed) = allowed_from(from) else {
            found.push(format!("{}:1: module {from} has no arrows: add it to ARROWS", source.path));
            continue;
        };
        for (line, to) in source.names_of_modules() {
            let extra = EXTRA_ARROWS.iter().any(|(f, t, _)| *f == from && *t == to);
            if extra {
                used.insert((from.to_owned(), to.clone()));
            }
            if allowed_from(&to).is_none() {
                let cure = "name the module it lives in";
                found.push(format!("{}:{line}: crate::{to} is no module: {cure}", source.path));
            } else if to != from && !extra && !allowed.contains(to.as_str()) {
                let cure = "move the item down, or the decision up";
                found.push(format!("{}:{line}: {from} must not name {to}: {cure}", source.path));
            }
        }
    }
    for (from, to, _) in EXTRA_ARROWS {
        if !used.contains(&(from.to_owned(), to.to_owned())) {
            found.push(format!("src/tidy.rs: nobody needs {from} -> {to}: drop it there"));
        }
    }
    verdict(&found);
}

#[test]
fn the_scheduler_is_pure() {
    let sched = sources("src", &["rs"]).into_iter().filter(|s| s.module() == Some("sched"));
    let cure = "take the figure as an argument";
    verdict(&lines_with(sched, &IMPURE, |word| format!("`{word}` in sched: {cure}")));
}

#[test]
fn no_file_is_too_long() {
    let all = [sources("src", &["rs"]), sources("compat/src", &["rs"])].concat();
    let count = |s: &Source| (s.path.clone(), s.text.lines().count());
    let long = all.iter().map(count).filter(|(_, lines)| *lines > MAX_LINES);
    let text =
        |(path, lines)| format!("{path}:{MAX_LINES}: {lines} lines: split by what it is for");
    verdict(&long.map(text).collect::<Vec<_>>());
}

#[test]
fn the_root_crate_exports_nothing_to_c() {
    let cure = "exports belong in compat/src, behind entry!";
    let all = sources("src", &["rs"]).into_iter();
    verdict(&lines_with(all, &["no_mangle", "export_name"], |w| format!("`{w}`: {cure}")));
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let rooms = |s: &Source| UNSAFE_ROOMS.iter().any(|room| s.path.starts_with(room));
    let all = sources("src", &["rs"]).into_iter().filter(|s| !rooms(s));
    let cure = "put a safe function into one of UNSAFE_ROOMS and call that";
    verdict(&lines_with(all, &["unsafe"], |word| format!("`{word}`: {cure}")));
}

#[test]
fn lists_sources_and_headers_name_the_same_exports() {
    let mut found = Vec::new();
    for (list, header, is_ours) in [
        ("compat/exports/mooncake.txt", "compat/include/transfer_engine_c.h", false),
        ("compat/exports/tent.txt", "include/tent.h", true),
    ] {
        let listed: Vec<String> = read(list).lines().map(str::to_owned).collect();
        for (at, pair) in listed.windows(2).enumerate().filter(|(_, pair)| pair[0] >= pair[1]) {
            found.push(format!("{list}:{}: {} is out of order or twice: sort -u", at + 2, pair[1]));
        }
        let listed: BTreeSet<String> = listed.into_iter().collect();
        let mut exported = BTreeMap::new();
        for source in sources("compat/src", &["rs"]) {
            source.exports(&mut exported, &mut found);
        }
        exported.retain(|name, _| name.starts_with("tent_") == is_ours);
        for (name, at) in exported.iter().filter(|(name, _)| !listed.contains(*name)) {
            found.push(format!("{at}: {name} is exported but not in {list}: add it there"));
        }
        let declared = declared_functions(&read(header));
        for name in &listed {
            if !exported.contains_key(name) {
                found.push(format!("{list}: {name} is exported nowhere in compat/src: write it"));
            }
            if !declared.contains(name) {
                found.push(format!("{header}: {name} is not declared: declare it"));
            }
        }
        for name in declared.difference(&listed) {
            found.push(format!("{header}: {name} is declared but not in {list}: drop it"));
        }
    }
    verdict(&found);
}

#[test]
fn every_exported_function_goes_through_entry() {
    let mut found = Vec::new();
    let mut exported = BTreeMap::new();
    for source in sources("compat/src", &["rs"]) {
        source.exports(&mut exported, &mut found);
    }
    assert!(exported.len() > 30, "found only {} exported functions", exported.len());
    verdict(&found);
}

#[test]
fn every_invariant_is_explained_and_cited() {
    let page = read("ARCHITECTURE.md");
    let cited: Vec<Source> = ["src", "compat", "tests", "cpp_tests"]
        .into_iter()
        .flat_map(|dir| sources(dir, &["rs", "c", "h", "cpp", "sh"]))
        .filter(|s| s.path != "src/tidy.rs")
        .collect();
    let mut found = Vec::new();
    for name in (1..=12).map(|n| format!("I{n}")) {
        if !has_word(&page, &name) {
            found.push(format!("ARCHITECTURE.md: {name} is not explained: add it to the table"));
        }
        if !cited.iter().any(|s| has_word(&s.text, &name)) {
            let cure =
                "cite it in a comment where code relies on it, and in the test that proves it";
            found.push(format!("{name} is cited nowhere: {cure}"));
        }
    }
    verdict(&found);
}

#[test]
fn every_decision_that_is_cited_is_explained() {
    let page = read("ARCHITECTURE.md");
    let mut found = Vec::new();
    for source in ["src", "compat", "tests", "cpp_tests"]
        .into_iter()
        .flat_map(|dir| sources(dir, &["rs", "c", "h", "cpp", "sh", "md"]))
        .filter(|s| s.path != "src/tidy.rs")
    {
        for (line, text) in source.numbered() {
            let missing = (1..100).map(|n| format!("D{n}")).find(|name| {
                text.contains(name.as_str()) && has_word(text, name) && !has_word(&page, name)
            });
            if let Some(name) = missing {
                found.push(format!("{}:{line}: {name} is not in ARCHITECTURE.md", source.path));
            }
        }
    }
    verdict(&found);
}

#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    let all = ["src", "compat", "tests"].into_iter().flat_map(|dir| sources(dir, &[]));
    for source in all.filter(|s| s.path != "src/tidy.rs") {
        for (line, text) in source.numbered() {
            for (word, cure) in BANNED.iter().filter(|(word, _)| text.contains(word)) {
                if !ALLOWED.iter().any(|(file, w, _)| *file == source.path && w == word) {
                    found.push(format!("{}:{line}: `{word}`: {cure}", source.path));
                }
            }
        }
    }
    for (file, word, _) in ALLOWED.iter().filter(|(file, word, _)| !read(file).contains(word)) {
        found.push(format!("src/tidy.rs: {file} has no `{word}` any more: drop it from ALLOWED"));
    }
    verdict(&found);
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let mut found = Vec::new();
    for source in sources("", &[]).iter().filter(|s| s.path != "src/tidy.rs") {
        for (line, text) in source.numbered().filter(|(_, text)| *text != PUBLIC_SOURCE) {
            // `$DIR/work/x` is a path of whoever runs it
            let free =
                |at: usize| !text[..at].ends_with(|c: char| is_ident(c) || "-.}/".contains(c));
            let hit = |word: &&&str| text.match_indices(**word).any(|(at, _)| free(at));
            if let Some(word) = PRIVATE.iter().find(hit) {
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
        self.path.ends_with("/tests.rs") || TEST_FILES.contains(&self.path.as_str())
    }

    /// The top-level module of `src/` that the file belongs to.
    fn module(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split(['/', '.']).next()
    }

    /// The top-level modules that code outside of tests names, with the lines.
    fn names_of_modules(&self) -> Vec<(usize, String)> {
        let code = without_tests(&code_of(&self.text));
        let up = "super::".repeat(self.path.matches('/').count());
        let mut names = Vec::new();
        for root in ["crate::", up.as_str()] {
            for (at, _) in code.match_indices(root) {
                if code[..at].ends_with(|c: char| is_ident(c) || c == ':') {
                    continue;
                }
                let rest = &code[at + root.len()..];
                let paths = if rest.starts_with('{') { group(rest) } else { vec![rest] };
                let line = code[..at].matches('\n').count() + 1;
                names.extend(paths.into_iter().map(|path| (line, first_name(path).to_owned())));
            }
        }
        names.retain(|(_, name)| !name.is_empty());
        names
    }

    /// Adds the functions that the file exports, with their places; and what is wrong with their bodies.
    fn exports(&self, exported: &mut BTreeMap<String, String>, found: &mut Vec<String>) {
        let code = without_tests(&code_of(&self.text));
        for (at, _) in code.match_indices("no_mangle") {
            let item = &code[at..];
            let name = item.find("fn ").map_or("", |f| first_name(&item[f + "fn ".len()..]));
            let place = format!("{}:{}", self.path, code[..at].matches('\n').count() + 2);
            let body = item.find('{').map_or("", |brace| item[brace + 1..].trim_start());
            let call = body.strip_prefix("entry!(").unwrap_or("");
            let call = ["keep ", "void "].iter().find_map(|k| call.strip_prefix(k)).unwrap_or(call);
            if name.is_empty() || first_name(call) != name {
                found.push(format!(
                    "{place}: the body of `{name}` must be entry!({name}, {{ .. }})"
                ));
            }
            exported.insert(name.to_owned(), place);
        }
    }
}

/// The text files below `dir` with one of these endings (all, if none is given), by path.
fn sources(dir: &str, endings: &[&str]) -> Vec<Source> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&dir)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            // what .gitignore names, and git's own
            let is_built =
                dir.is_empty() && (name.starts_with("target") || name.starts_with("build"));
            let is_junk = name == ".git" || name == "__pycache__" || name.ends_with(".jsonl");
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if is_built || is_junk {
                continue;
            }
            let wanted =
                endings.is_empty() || path.rsplit('.').next().is_some_and(|e| endings.contains(&e));
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if wanted && let Ok(text) = fs::read_to_string(entry.path()) {
                all.push(Source { path, text });
            }
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!all.is_empty(), "no files in {dir:?}");
    all
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Where code, not a comment or a literal, holds one of these words.
fn lines_with(
    sources: impl Iterator<Item = Source>,
    words: &[&str],
    text: impl Fn(&str) -> String,
) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.filter(|s| s.path != "src/tidy.rs") {
        for (line, code) in (1..).zip(code_of(&source.text).lines()) {
            let hits = words.iter().filter(|word| has_word(code, word));
            found.extend(hits.map(|word| format!("{}:{line}: {}", source.path, text(word))));
        }
    }
    found
}

fn verdict(found: &[String]) {
    assert!(found.is_empty(), "{} findings\n{}\n", found.len(), found.join("\n"));
}

/// Which modules `from` may name; `None` if there is no such module.
fn allowed_from(from: &str) -> Option<BTreeSet<&'static str>> {
    if from == BASEMENT {
        return Some(BTreeSet::new());
    }
    let (_, to) = ARROWS.iter().find(|(name, _)| *name == from)?;
    let expand = |name| if name == "ground" { GROUND } else { name };
    Some(to.split_whitespace().flat_map(|name| expand(name).split_whitespace()).collect())
}

/// The functions that a C header declares: names in front of a parenthesis.
fn declared_functions(header: &str) -> BTreeSet<String> {
    let code = code_of(header);
    let lines = code.lines().filter(|line| !line.starts_with('#'));
    let calls = lines.flat_map(|line| line.match_indices('(').map(move |(at, _)| &line[..at]));
    let name = |before: &str| {
        let begin = before.rfind(|c| !is_ident(c)).map_or(0, |at| at + 1);
        before[begin..].to_owned()
    };
    calls.map(name).filter(|name| !name.is_empty()).collect()
}

/// The paths in a `{a::b, c}` group, up to its end.
fn group(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut paths = Vec::new();
    let mut begin = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            paths.push(&text[begin..at]);
            begin = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    paths
}

fn first_name(text: &str) -> &str {
    let text = text.trim_start();
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

/// The text with comments and the insides of literals blanked; every byte stays where it is.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    while code.len() < text.len() {
        let rest = &text[code.len()..];
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let token = literal(rest).unwrap_or(0);
        if token == 0 {
            code.push_str(&rest[..first]);
            continue;
        }
        let blank = |(at, b): (usize, u8)| match b {
            b'\n' => '\n',
            // a string keeps its quotes, so that `extern "C"` still looks like one
            b'"' if at == 0 || at == token - 1 => '"',
            _ => ' ',
        };
        code.extend(rest[..token].bytes().enumerate().map(blank));
    }
    code
}

/// Bytes of the comment or literal at the start of the text.
fn literal(text: &str) -> Option<usize> {
    let end_of = |begin: usize, end: &str| {
        text[begin..].find(end).map_or(text.len(), |at| begin + at + end.len())
    };
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(end_of(2, "*/"));
    }
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let opens = raw[hashes..].starts_with('"');
        return opens.then(|| end_of(hashes + 2, &format!("\"{}", "#".repeat(hashes))));
    }
    let quote = text.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let inside = &text[1..];
    // 'a is a lifetime, 'a' a character
    let one = inside.chars().next().map_or(0, char::len_utf8);
    if quote == '\'' && !inside.starts_with('\\') && !inside[one..].starts_with('\'') {
        return None;
    }
    let mut escaped = false;
    let is_end = |c: char| {
        let end = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        end
    };
    Some(inside.find(is_end).map_or(text.len(), |at| at + 2))
}

/// The code with the items under `#[cfg(test)]` and its kin blanked.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    while let Some(at) = code[out.len()..].find("#[cfg(").map(|at| out.len() + at) {
        let attribute = &code[at..];
        let close = attribute.find(']').map_or(attribute.len(), |end| end + 1);
        let is_test =
            attribute.starts_with("#[cfg(test)") || attribute.starts_with("#[cfg(all(test");
        let end = at + if is_test { item_end(attribute) } else { close };
        out.push_str(&code[out.len()..at]);
        let kept = |c: char| if is_test && c != '\n' { ' ' } else { c };
        out.extend(code[at..end].chars().map(kept));
    }
    out.push_str(&code[out.len()..]);
    out
}

/// Bytes up to the end of the item: its `;`, or the brace that closes its body.
fn item_end(code: &str) -> usize {
    let (mut braces, mut others) = (0_i32, 0_i32);
    for (at, c) in code.char_indices() {
        match c {
            '{' => braces += 1,
            '}' => braces -= 1,
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            _ => {}
        }
        if braces == 0 && others == 0 && (c == ';' || c == '}') {
            return at + 1;
        }
    }
    code.len()
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
