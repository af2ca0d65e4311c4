//! The file of `MC_TENT_CONF` while engines run: what is safe to change takes effect, of the rest the log
//! says that it does not.

use super::conf::Conf;
use super::{Env, Settings, table};
use ::tent::{Source, Tuning};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file, as one engine sees it.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    /// What the engine was made with besides the file.
    env: Env,
    program: Conf,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    values: BTreeMap<&'static str, Json>,
    tuning: Tuning,
    told: BTreeSet<String>,
}

/// Changes when the file does: device and inode, size, time of the last write.
type Stamp = (u64, u64, u64, i64, i64);

impl File {
    pub(crate) fn new(path: PathBuf, env: Env, program: Conf, now: &Settings) -> Self {
        let seen = Mutex::new(Seen {
            // as it was before it was read is not known: the first look may read it once more
            stamp: None,
            values: values(now),
            tuning: Tuning::of(&now.config),
            told: now.warnings.iter().cloned().collect(),
        });
        Self { path, env, program, seen }
    }
}

impl Source for File {
    fn changed(&self) -> Option<Tuning> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // taken before the file is read, so that a write meanwhile is seen at the next look
        let stamp = stamp(&self.path);
        if stamp.is_none() || stamp == seen.stamp {
            // a file that is gone, or being replaced, has not changed anything
            return None;
        }
        seen.stamp = stamp;
        let conf = Conf::file(&self.path);
        let is_broken = !conf.warnings.is_empty();
        let settings = Settings::read(&self.env, Some(&conf), &self.program);
        for line in &settings.warnings {
            if seen.told.insert(line.clone()) {
                ::log::warn!("{line}");
            }
        }
        // mended and broken again in the same way is to be told again
        seen.told.retain(|line| settings.warnings.contains(line));
        if is_broken {
            return None;
        }
        seen.take(&settings, &conf.name)
    }
}

impl Seen {
    /// Says what is new, and gives the tuning if it is.
    fn take(&mut self, settings: &Settings, name: &str) -> Option<Tuning> {
        let now = values(settings);
        for setting in table::all() {
            let (old, new) = (&self.values[setting.key], &now[setting.key]);
            if old == new {
                continue;
            }
            if setting.live {
                ::log::info!("{name}: {} is {new} from now on, was {old}", setting.key);
            } else {
                ::log::warn!(
                    "{name}: {} is {new} for the next engine; this one keeps {old}",
                    setting.key
                );
            }
        }
        self.values = now;
        crate::log::set_level(settings.log_level());
        let tuning = Tuning::of(&settings.config);
        let changed = tuning != self.tuning;
        self.tuning = tuning;
        changed.then_some(tuning)
    }
}

fn values(settings: &Settings) -> BTreeMap<&'static str, Json> {
    table::all().map(|s| (s.key, s.show(settings))).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let m = std::fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}
