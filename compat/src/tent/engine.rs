//! Engines: settings, create, destroy; the error text and the version.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{tent_engine_t, tent_nic_load_stat_t};
use crate::entry::{entry, last_error, note_error};
use crate::env::{self, conf::Conf};
use crate::handle;
use crate::mooncake::engine::{metadata_of, raise_descriptor_limit};
use crate::ret::{StaticText, TentCode, TentEngine, YesOrNo};
use crate::text::{self, invalid};
use ::tent::control::P2pName;
use ::tent::policy::Policies;
use ::tent::{Config, Engine, Error, ErrorKind, Metadata, RailStat, Result, topology};
use serde_json::Value;
use std::cell::RefCell;
use std::ffi::c_char;
use std::path::Path;

/// Why this thread's last call failed, in one line; empty if it did not. After a status call that
/// succeeded it tells why the task failed. Valid until this thread's next call. Never NULL.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_last_error() -> StaticText {
    entry!(keep tent_last_error, { Ok(last_error()) })
}

/// The version of the library, such as `0.1.0`.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_version() -> StaticText {
    entry!(keep tent_version, { Ok(VERSION.as_ptr().cast()) })
}

/// Names a JSON file with settings for the engines that this thread makes from now on; NULL names none. It
/// is read by `tent_create_engine`; one that cannot be read, or is no JSON object, makes that fail.
///
/// # Safety
/// `path` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_load_config_from_file(path: *const c_char) {
    entry!(void tent_load_config_from_file, {
        // SAFETY: the caller's contract.
        let path = if path.is_null() { Ok("") } else { unsafe { text::utf8(path, "path") } }?;
        DRAFT.with_borrow_mut(|draft| path.clone_into(&mut draft.file));
        Ok(())
    });
}

/// Sets one key for the engines that this thread makes from now on; it goes before the file's. NULL as value
/// takes it back. Keys: `metadata_type` (p2p, etcd, redis, http), `metadata_servers`, `local_segment_name`,
/// `rpc_server_hostname`, `rpc_server_port`, `log_level`, `policy` (JSON), and those of `tent config`; the
/// environment wins over the latter. Others are logged and ignored.
///
/// # Safety
/// `key` and `value` are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_set_config(key: *const c_char, value: *const c_char) {
    entry!(void tent_set_config, {
        // SAFETY: the caller's contract.
        let key = unsafe { text::utf8(key, "key") }?;
        // SAFETY: the caller's contract.
        let value = (!value.is_null()).then(|| unsafe { text::utf8(value, "value") }).transpose()?;
        DRAFT.with_borrow_mut(|draft| draft.set(key, value))
    });
}

/// Makes an engine with this thread's settings and starts it. Never NULL, as in TENT: what could not be
/// started answers every call with -1 and the reason in `tent_last_error`, and `tent_available` with 0.
/// Destroy it in both cases.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_create_engine() -> TentEngine {
    entry!(tent_create_engine, {
        let made = DRAFT.with_borrow(create);
        made.or_else(|error| {
            log::error!("cannot create an engine: {error}");
            note_error(&format!("tent_create_engine: {error}"));
            Ok(handle::failed(&error))
        })
    })
}

/// Shuts an engine down and frees it. NULL, and an engine that is gone already, do nothing.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_destroy_engine(engine: tent_engine_t) {
    entry!(void tent_destroy_engine, { handle::destroy(engine) });
}

/// 1 if the engine runs, 0 if it could not be made, is gone, or is none; then `tent_last_error` says which.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_available(engine: tent_engine_t) -> YesOrNo {
    entry!(tent_available, { handle::with(engine, |e| e.check()) })
}

/// Writes the name under which peers open this engine's segment. -1 if it does not fit with its terminator;
/// then it is cut, and terminated all the same.
///
/// # Safety
/// `buf` is NULL or has room for `buf_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_segment_name(
    engine: tent_engine_t,
    buf: *mut c_char,
    buf_len: usize,
) -> TentCode {
    entry!(tent_segment_name, {
        let name = handle::with(engine, |e| Ok(e.name().to_owned()))?;
        // SAFETY: the caller's contract.
        unsafe { whole_text(buf, buf_len, &name) }
    })
}

/// Writes the host of the RPC listener, as `tent_segment_name` writes the name, and its port.
///
/// # Safety
/// `addr_buf` is NULL or has room for `buf_len` bytes; `port` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_rpc_server_addr_port(
    engine: tent_engine_t,
    addr_buf: *mut c_char,
    buf_len: usize,
    port: *mut u16,
) -> TentCode {
    entry!(tent_rpc_server_addr_port, {
        let place = text::out(port, "port")?;
        let (host, port) = handle::with(engine, |e| Ok(e.rpc_address()))?;
        // SAFETY: the caller's contract.
        unsafe { place.write(port) };
        // SAFETY: the caller's contract.
        unsafe { whole_text(addr_buf, buf_len, &host) }
    })
}

/// Load of each rail. In `*count` comes the capacity of `stats`; out of it the number of rails, which may
/// be larger.
///
/// # Safety
/// `stats` has room for `*count` entries, or is NULL with `*count` 0; `count` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tent_get_nic_load_stats(
    engine: tent_engine_t,
    stats: *mut tent_nic_load_stat_t,
    count: *mut usize,
) -> TentCode {
    entry!(tent_get_nic_load_stats, {
        let count = text::out(count, "count")?;
        let rails = handle::with(engine, |e| Ok(e.rails()))?;
        let loads: Vec<_> = rails.iter().map(load_of).collect();
        // SAFETY: the caller's contract.
        unsafe { text::list(stats, count, &loads, "stats") }
    })
}

/// Writes a text that is of no use in part.
///
/// # Safety
/// `buf` is NULL or has room for `len` bytes.
unsafe fn whole_text(buf: *mut c_char, len: usize, value: &str) -> Result<()> {
    let place = text::out(buf, "the buffer")?;
    // SAFETY: the caller's contract.
    unsafe { text::write(place.as_ptr(), len, value) };
    if value.len() < len {
        return Ok(());
    }
    let need = value.len() + 1;
    Err(invalid(format!("{value:?} needs {need} bytes, and the buffer has {len}")))
}

fn load_of(rail: &RailStat) -> tent_nic_load_stat_t {
    tent_nic_load_stat_t {
        device_name: text::field(&rail.rail),
        inflight_bytes: rail.in_flight_bytes,
        ewma_bandwidth_bps: rail.rate_bps,
    }
}

/// Settings for the engines that a thread makes.
#[derive(Debug, Default)]
struct Draft {
    /// Path of a file; empty for none.
    file: String,
    /// What `tent_set_config` said, latest last.
    keys: Vec<(String, String)>,
}

impl Draft {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        self.keys.retain(|(k, _)| k != key);
        if self.keys.len() >= MAX_KEYS {
            return Err(invalid(format!("more than {MAX_KEYS} settings: {key} is not taken")));
        }
        self.keys.extend(value.map(|value| (key.to_owned(), value.to_owned())));
        Ok(())
    }

    /// File first, so that what was set by call replaces it.
    fn values(&self) -> Result<Vec<(String, String)>> {
        let mut values = Vec::new();
        if !self.file.is_empty() {
            let conf = Conf::strict(Path::new(&self.file)).map_err(invalid)?;
            values.extend(conf.values.into_iter().map(|(key, value)| match value {
                Value::String(text) => (key, text),
                other => (key, other.to_string()),
            }));
        }
        values.extend(self.keys.iter().cloned());
        Ok(values)
    }
}

/// What the settings come to.
#[derive(Debug, Default)]
struct Wanted {
    store: String,
    servers: String,
    segment: String,
    host: String,
    port: u16,
    log_level: Option<log::LevelFilter>,
    policies: Option<Policies>,
}

impl Wanted {
    /// Takes from the environment's configuration what the program has not said.
    fn complete(&mut self, node: &env::Node) {
        let fields = [
            (&mut self.store, &node.metadata_type),
            (&mut self.servers, &node.metadata_servers),
            (&mut self.segment, &node.segment_name),
            (&mut self.host, &node.host),
        ];
        for (own, other) in fields.into_iter().filter(|(own, _)| own.is_empty()) {
            own.clone_from(other);
        }
        if self.port == 0 {
            self.port = node.port;
        }
    }
}

fn wanted(values: Vec<(String, String)>) -> Result<Wanted> {
    let mut to = Wanted::default();
    for (key, value) in values {
        let bad = |what: &str| invalid(format!("setting {key} is {value:?}: {what}"));
        match key.as_str() {
            "metadata_type" => to.store = value,
            "metadata_servers" => to.servers = value,
            "local_segment_name" => to.segment = value,
            "rpc_server_hostname" => to.host = value,
            "rpc_server_port" => {
                to.port = value.parse().map_err(|_| bad("a port is 0 to 65535"))?;
            }
            "log_level" => {
                let level = crate::log::parse_level(&value);
                to.log_level = Some(level.ok_or_else(|| bad("no level; info, for example"))?);
            }
            "policy" => {
                let parsed = Policies::parse(&value);
                to.policies = Some(parsed.map_err(|e| bad(&e.to_string()))?);
            }
            _ => {
                if let Err(why) = crate::config::set(&key, &value) {
                    log::info!("setting {key} has no effect here: {why}");
                }
            }
        }
    }
    Ok(to)
}

fn create(draft: &Draft) -> Result<tent_engine_t> {
    crate::config::forget();
    let mut wanted = wanted(draft.values()?)?;
    let settings = env::from_process();
    wanted.complete(&settings.node);
    let level = wanted.log_level.unwrap_or_else(|| settings.log_level());
    crate::log::install(level, &settings.log_dir);
    settings.warn_once();
    let metadata = metadata_of(&connection(&wanted)?, &wanted.segment, &settings.store)?;
    let mut config = Config { metadata, ..settings.config };
    let named = P2pName::parse(&wanted.segment, 0);
    // in a store a name is only a name
    let by_name = config.metadata == Metadata::P2pHandshake;
    config.host = [wanted.host, if by_name { named.host } else { String::new() }]
        .into_iter()
        .find(|host| !host.is_empty())
        .unwrap_or_else(|| own_address(&config));
    config.rpc_port = (wanted.port != 0).then_some(wanted.port);
    handle::watch_forks();
    raise_descriptor_limit();
    let engine = Engine::new(config)?;
    if let Some(policies) = wanted.policies {
        engine.set_policies(policies);
    }
    handle::insert(engine, true)
}

/// TENT's two keys as the Mooncake API's connection string.
fn connection(wanted: &Wanted) -> Result<String> {
    match wanted.store.as_str() {
        "" | "p2p" => Ok("P2PHANDSHAKE".into()),
        "etcd" | "redis" | "http" | "https" if wanted.servers.is_empty() => {
            let why = format!("metadata_type {} needs metadata_servers", wanted.store);
            Err(Error::new(ErrorKind::Metadata, why))
        }
        store @ ("etcd" | "redis" | "http" | "https") => {
            let servers = &wanted.servers;
            let whole = servers.contains("://");
            Ok(if whole { servers.clone() } else { format!("{store}://{servers}") })
        }
        other => Err(invalid(format!(
            "metadata_type {other:?} is none of p2p, etcd, redis, http, https"
        ))),
    }
}

/// As TENT does it where no host is named: the first address that peers may reach.
fn own_address(config: &Config) -> String {
    let found = topology::interfaces(Path::new(topology::SYSFS_NET)).unwrap_or_default();
    let first = topology::rail_addrs(&found, &config.rail_addrs).into_iter().next();
    first.map_or_else(|| config.host.clone(), |rail| rail.ip.to_string())
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
/// Settings that a thread may make.
const MAX_KEYS: usize = 1024;

thread_local! {
    static DRAFT: RefCell<Draft> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn settings_are_read_and_bad_ones_named() {
        let good = wanted(pairs(&[
            ("metadata_type", "p2p"),
            ("rpc_server_port", "0"),
            ("rpc_server_port", "15001"),
            ("transports/rdma/enable", "true"),
            ("policy", r#"[{"name":"a","transports":["tcp"]}]"#),
        ]));
        let good = good.unwrap();
        assert_eq!((good.port, connection(&good).unwrap().as_str()), (15_001, "P2PHANDSHAKE"));
        assert!(good.policies.is_some());
        for (key, value) in [("rpc_server_port", "70000"), ("log_level", "loud"), ("policy", "{")] {
            let error = wanted(pairs(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
        for (store, servers) in [("etcd", ""), ("carrier", "h:1")] {
            let of = wanted(pairs(&[("metadata_type", store), ("metadata_servers", servers)]));
            assert!(connection(&of.unwrap()).is_err(), "{store}");
        }
        let of = pairs(&[("metadata_type", "etcd"), ("metadata_servers", "a:1,b:2")]);
        assert_eq!(connection(&wanted(of).unwrap()).unwrap(), "etcd://a:1,b:2");
    }

    #[test]
    fn what_was_said_last_counts_and_a_missing_file_is_an_error() {
        let mut draft = Draft::default();
        draft.set("log_level", Some("info")).unwrap();
        draft.set("log_level", Some("warn")).unwrap();
        draft.set("rpc_server_port", Some("1")).unwrap();
        draft.set("rpc_server_port", None).unwrap();
        assert_eq!(draft.values().unwrap(), pairs(&[("log_level", "warn")]));
        draft.file = "/nonexistent/settings.json".into();
        assert!(draft.values().unwrap_err().to_string().contains("/nonexistent/settings.json"));
        for key in 0..2 * MAX_KEYS {
            let _ = draft.set(&key.to_string(), Some(""));
        }
        assert_eq!(draft.keys.len(), MAX_KEYS);
    }
}
