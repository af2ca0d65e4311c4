//! TENT's configuration: JSON from a file, from `MC_TENT_CONF` itself, or from the program. Keys are paths
//! with slashes; nested objects and flat keys with slashes say the same.

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A configuration, flat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conf {
    /// `file PATH`, `MC_TENT_CONF`, `the program`.
    pub(crate) name: String,
    /// Where it was read, if from a file.
    pub(crate) path: Option<PathBuf>,
    pub(crate) values: BTreeMap<String, Json>,
    /// Why there is nothing in it.
    pub(crate) warnings: Vec<String>,
}

impl Conf {
    /// What a program says that says nothing.
    pub(crate) const EMPTY: Self =
        Self { name: String::new(), path: None, values: BTreeMap::new(), warnings: Vec::new() };

    /// What `MC_TENT_CONF` says: JSON, or the path of a file. What cannot be read is empty, with a warning.
    pub(crate) fn load(said: &str) -> Self {
        if said.trim_start().starts_with('{') {
            return Self::parsed(VARIABLE.into(), None, Ok(said.to_owned()));
        }
        Self::file(Path::new(said.trim()))
    }

    /// What a file says.
    pub(crate) fn file(path: &Path) -> Self {
        let name = format!("file {}", path.display());
        Self::parsed(name, Some(path.to_owned()), read_text(path))
    }

    /// What a file says that has to be there and right.
    ///
    /// # Errors
    /// Which file, and why it is not.
    pub(crate) fn strict(path: &Path) -> Result<Self, String> {
        let conf = Self::file(path);
        let why = conf.warnings.first().map(|why| why.trim_start_matches("ignoring ").to_owned());
        why.map_or(Ok(conf), Err)
    }

    fn parsed(name: String, path: Option<PathBuf>, text: Result<String, String>) -> Self {
        let mut conf = Self { name, path, ..Self::default() };
        match text.and_then(|text| object(&text)) {
            Ok(values) => conf.add(&values),
            Err(why) => conf.warnings.push(format!("ignoring {}: {why}", conf.name)),
        }
        conf
    }

    fn add(&mut self, values: &serde_json::Map<String, Json>) {
        values.iter().for_each(|(key, value)| flatten(key, value, &mut self.values));
    }

    /// What a program says of one key.
    pub(crate) fn one(key: &str, value: &str) -> Self {
        let mut conf = Self { name: PROGRAM.into(), ..Self::EMPTY };
        let value = Json::from(value);
        flatten(key.trim_matches('/'), &value, &mut conf.values);
        conf
    }

    /// Adds what `other` says, which is newer.
    pub(crate) fn merge(&mut self, other: Self) {
        self.name = PROGRAM.into();
        self.values.extend(other.values);
    }
}

fn flatten(path: &str, value: &Json, into: &mut BTreeMap<String, Json>) {
    match value {
        Json::Object(fields) if !OBJECTS.contains(&path) => {
            for (key, value) in fields {
                flatten(&format!("{path}/{key}"), value, into);
            }
        }
        _ => {
            into.insert(path.to_owned(), value.clone());
        }
    }
}

/// The object that `text` is.
///
/// # Errors
/// With line and column where it is none.
pub(crate) fn object(text: &str) -> Result<serde_json::Map<String, Json>, String> {
    // the text of serde_json ends with "at line L column C"
    serde_json::from_str(text).map_err(|e| format!("it is no JSON object: {e}"))
}

/// The text of a small file.
///
/// # Errors
/// Why there is none. What is no plain file is not opened: reading a pipe could wait for ever.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !about.is_file() {
        return Err("it is no plain file".into());
    }
    if about.len() > MAX_BYTES {
        return Err(format!("it has {} bytes; at most {MAX_BYTES} are read", about.len()));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

/// The variable that names the configuration.
pub(crate) const VARIABLE: &str = "MC_TENT_CONF";
const PROGRAM: &str = "the program";
/// Keys whose value is an object.
pub(super) const OBJECTS: [&str; 2] = ["qos", "topology/priority_matrix"];
const MAX_BYTES: u64 = 1 << 20;
