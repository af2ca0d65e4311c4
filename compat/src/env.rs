//! Environment and configuration files → settings: upstream's variables (`MC_*`,
//! `mooncake-transfer-engine/src/config.cpp` and `environ.cpp`), ours (`TENT_*`), and TENT's JSON
//! (`MC_TENT_CONF`). Nowhere else is the environment read. `table` says what there is.
//!
//! A setting is taken from the first that says it: the environment, the file or text of `MC_TENT_CONF`, what
//! the program has set, the default. As upstream does it, a value that makes no sense costs one warning,
//! and the next one counts.

pub(crate) mod conf;
mod names;
#[cfg(test)]
mod page;
mod parse;
mod rdma;
pub(crate) mod reload;
pub(crate) mod store;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use self::conf::Conf;
use self::parse::Form;
use self::store::StoreVars;
use self::table::{Hand, Setting, Var};
use ::log::LevelFilter;
use ::tent::{Config, TransportMask};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The variables of the environment that may concern us.
pub(crate) type Env = BTreeMap<String, String>;

/// What the environment and the configuration say.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The engine's configuration; host and RPC port come from `createTransferEngine`.
    pub(crate) config: Config,
    /// Bind the port of the local name (`MC_LEGACY_RPC_PORT_BINDING`).
    pub(crate) legacy_port: bool,
    /// Port of names that have none.
    pub(crate) handshake_port: u16,
    /// Show TIMEOUT and CANCELED instead of FAILED.
    pub(crate) native_status: bool,
    /// Where the log goes; empty = stderr.
    pub(crate) log_dir: String,
    /// For engines that are made from the configuration alone.
    pub(crate) node: Node,
    pub(crate) store: StoreVars,
    wanted_level: Option<LevelFilter>,
    metrics: bool,
    metrics_interval: Duration,
    tcp_enable: bool,
    shm_enable: bool,
    topology_file: String,
    /// Where the settings come from that are not the defaults, by key.
    origins: BTreeMap<&'static str, Origin>,
    /// One line per value that was not taken, and per name that nobody knows.
    pub(crate) warnings: Vec<String>,
    /// One line per name that is known and has no effect.
    pub(crate) ignored: Vec<String>,
    /// As it, for what only the curious want to know.
    pub(crate) notes: Vec<String>,
}

/// Who an engine is, as a configuration says it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Node {
    pub(crate) metadata_type: String,
    pub(crate) metadata_servers: String,
    pub(crate) segment_name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Name and value of a variable.
    Env(&'static str, String),
    /// Which configuration, and the key there.
    Conf(String, String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name, value) => write!(f, "environment {name}={value}"),
            Self::Conf(name, key) => write!(f, "{name}: {key}"),
        }
    }
}

impl Settings {
    fn new() -> Self {
        Self {
            config: Config::default(),
            legacy_port: false,
            handshake_port: DEFAULT_PORT,
            native_status: false,
            log_dir: String::new(),
            node: Node { metadata_type: "p2p".into(), ..Node::default() },
            store: StoreVars::default(),
            wanted_level: None,
            metrics: false,
            metrics_interval: METRICS_INTERVAL,
            tcp_enable: true,
            shm_enable: true,
            topology_file: String::new(),
            origins: BTreeMap::new(),
            warnings: Vec::new(),
            ignored: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// What `env` says, else `conf`, else `program`.
    fn read(env: &Env, conf: Option<&Conf>, program: &Conf) -> Self {
        let mut settings = Self::new();
        for setting in table::all() {
            settings.read_one(setting, env, conf, program);
        }
        settings.finish();
        names::check(env, &mut settings);
        for conf in conf.into_iter().chain([program]) {
            settings.warnings.extend(conf.warnings.iter().cloned());
            names::check_keys(conf, &mut settings);
        }
        let mut seen = std::collections::BTreeSet::new();
        settings.warnings.retain(|line| seen.insert(line.clone()));
        settings
    }

    fn read_one(&mut self, setting: &Setting, env: &Env, conf: Option<&Conf>, program: &Conf) {
        for Var { name, form, per } in setting.vars {
            let Some(text) = env.get(*name) else { continue };
            let form = form.unwrap_or(setting.form);
            // upstream looks only whether such a variable is there
            let text = if form == Form::Present { "" } else { text };
            let shown = if form == Form::Secret { "***" } else { &env[*name] };
            let origin = Origin::Env(name, shown.to_owned());
            if self.take(setting, form, *per, text, origin) {
                return;
            }
        }
        let own = format!("tent/{}", setting.key);
        for conf in conf.into_iter().chain([program]) {
            for key in setting.json.iter().copied().chain([own.as_str()]) {
                let Some(value) = conf.values.get(key) else { continue };
                let origin = Origin::Conf(conf.name.clone(), key.to_owned());
                let Some(text) = parse::plain(value) else {
                    self.warnings
                        .push(format!("ignoring {origin}: it is no {}", setting.form.text()));
                    continue;
                };
                if self.take(setting, setting.form, 1, &text, origin) {
                    return;
                }
            }
        }
    }

    /// Takes a value, if it makes sense; true if the setting is settled with it.
    fn take(&mut self, s: &Setting, form: Form, per: i64, text: &str, origin: Origin) -> bool {
        match form.parse(text) {
            Ok(None) => return false,
            Ok(Some(value)) => {
                if s.take(self, &value.times(per)) {
                    self.origins.insert(s.key, origin);
                    return true;
                }
            }
            Err(()) => {}
        }
        let expected = form.text();
        let said = match &origin {
            _ if form == Form::Secret => "a secret".to_owned(),
            Origin::Env(name, value) => format!("{name}={value:?}"),
            Origin::Conf(..) => format!("{origin} = {text:?}"),
        };
        self.warnings.push(format!("ignoring {said}, not {expected}; using the default"));
        false
    }

    /// What several settings say together.
    fn finish(&mut self) {
        let (low, high) = self.config.port_range;
        let ephemeral = low <= *EPHEMERAL.end() && high >= *EPHEMERAL.start();
        if low > high || low < FIRST_UNPRIVILEGED || ephemeral {
            let default = Config::default().port_range;
            self.warnings.push(format!(
                "ignoring the RPC port range {low}-{high} (reversed, below 1024 or within \
                 32768-60999); using {}-{}",
                default.0, default.1
            ));
            self.config.port_range = default;
            self.origins.remove("port_low");
            self.origins.remove("port_high");
        }
        let off = [(self.tcp_enable, 3), (self.shm_enable, 1)];
        let off = off.iter().filter(|(on, _)| !on).fold(0, |mask, (_, bit)| mask | 1 << bit);
        let left = TransportMask(self.config.transports.0 & !off);
        if left == TransportMask::NONE {
            self.warnings.push("no transport is left: none is taken out".into());
        } else {
            self.config.transports = left;
        }
        self.config.metrics_every = self.metrics.then_some(self.metrics_interval);
    }

    /// How much is logged. Who wants to see the throughput wants a level that shows it.
    pub(crate) fn log_level(&self) -> LevelFilter {
        let default = if self.metrics { LevelFilter::Info } else { LevelFilter::Warn };
        self.wanted_level.unwrap_or(default)
    }

    /// Logs the warnings, once in the life of the process.
    pub(crate) fn warn_once(&self) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            self.warnings.iter().for_each(|line| ::log::warn!("{line}"));
            self.ignored.iter().for_each(|line| ::log::warn!("{line}"));
            self.notes.iter().for_each(|line| ::log::debug!("{line}"));
        }
    }

    /// Every value in force, its unit and where it comes from, and what was not taken.
    pub(crate) fn report(&self) -> serde_json::Value {
        let one = |s: &Setting| {
            let source =
                self.origins.get(s.key).map_or_else(|| "default".to_owned(), Origin::to_string);
            let user = if matches!(s.hand, Hand::Rdma(_)) { "rdma" } else { "tent" };
            json!({
                "key": s.key, "value": s.show(self), "unit": s.unit, "source": source, "for": user,
                "live": s.live, "doc": s.doc,
            })
        };
        let values: Vec<_> = table::all().map(one).collect();
        json!({
            "values": values, "warnings": self.warnings, "ignored": self.ignored, "notes": self.notes,
        })
    }
}

/// The settings of this process and thread.
pub(crate) fn from_process() -> Settings {
    settings(of_process(), &crate::config::of_program())
}

/// What is wrong with a configuration.
pub(crate) fn check(conf: &Conf) -> Vec<String> {
    Settings::read(&Env::new(), None, conf).warnings
}

fn settings(env: Env, program: &Conf) -> Settings {
    let conf = env.get(conf::VARIABLE).filter(|text| !text.trim().is_empty());
    let conf = conf.map(|text| Conf::load(text));
    let mut settings = Settings::read(&env, conf.as_ref(), program);
    if let Some(path) = conf.and_then(|conf| conf.path) {
        let file = reload::File::new(path, env, program.clone(), &settings);
        settings.config.source = Some(Arc::new(file));
    }
    settings
}

fn of_process() -> Env {
    let ours = |name: &str| {
        name.starts_with("MC_") || name.starts_with("TENT_") || names::OTHERS.contains(&name)
    };
    std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| ours(name))
        .collect()
}

/// Upstream's default port of names without one.
const DEFAULT_PORT: u16 = 12_001;
const METRICS_INTERVAL: Duration = Duration::from_secs(5);
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Linux's default range of ephemeral ports.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
