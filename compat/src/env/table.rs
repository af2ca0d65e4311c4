//! Every setting: its names in the environment and in TENT's configuration, what it accepts, what it does.
//! The reading, the warnings, `tent config` and `compat/ENVIRONMENT.md` all come from this table.

use super::Settings;
use super::parse::{self, Form, Value, addresses, level_name, list, names, spray_name, via};
use super::rdma::RDMA;
use crate::log::parse_level;
use ::tent::{TransportKind, TransportMask};
use serde_json::{Value as Json, json};
use std::time::Duration;

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its own name, and `tent/KEY` in a configuration.
    pub(crate) key: &'static str,
    /// Of the number shown; empty if it has none.
    pub(crate) unit: &'static str,
    /// What a configuration may say.
    pub(crate) form: Form,
    /// Variables that say it; the first that makes sense counts.
    pub(crate) vars: &'static [Var],
    /// TENT's keys that say it, with slashes.
    pub(crate) json: &'static [&'static str],
    /// A change takes effect while engines run.
    pub(crate) live: bool,
    /// What it does.
    pub(crate) doc: &'static str,
    pub(crate) hand: Hand,
}

/// Who uses a setting.
#[derive(Debug)]
pub(crate) enum Hand {
    /// The engine or this library. `take` says whether the value makes sense.
    Own { take: fn(&mut Settings, &Value) -> bool, show: fn(&Settings) -> Json },
    /// Rails over RDMA, once there are some: the value is checked and kept. With its default.
    Rdma(&'static str),
}

/// A variable that says a setting.
#[derive(Debug)]
pub(crate) struct Var {
    pub(crate) name: &'static str,
    /// What it accepts, if not what the setting does.
    pub(crate) form: Option<Form>,
    /// Units of the setting per unit of the variable.
    pub(crate) per: i64,
}

const fn var(name: &'static str) -> Var {
    Var { name, form: None, per: 1 }
}

const fn other(name: &'static str, form: Form, per: i64) -> Var {
    Var { name, form: Some(form), per }
}

impl Setting {
    const fn new(
        key: &'static str,
        unit: &'static str,
        form: Form,
        doc: &'static str,
        hand: Hand,
    ) -> Self {
        Self { key, unit, form, vars: &[], json: &[], live: false, doc, hand }
    }

    const fn vars(mut self, vars: &'static [Var]) -> Self {
        self.vars = vars;
        self
    }

    const fn json(mut self, keys: &'static [&'static str]) -> Self {
        self.json = keys;
        self
    }

    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The value in force, as `tent config` shows it.
    pub(crate) fn show(&self, settings: &Settings) -> Json {
        match self.hand {
            Hand::Own { show, .. } => show(settings),
            Hand::Rdma(default) => {
                let kept = settings.config.rdma.get(self.key);
                kept.map_or_else(|| json!(default), |text| json!(text))
            }
        }
    }

    /// Takes a value that its form allows; false if it makes no sense all the same.
    pub(crate) fn take(&self, settings: &mut Settings, value: &Value) -> bool {
        match self.hand {
            Hand::Own { take, .. } => take(settings, value),
            Hand::Rdma(_) => {
                settings.config.rdma.insert(self.key, value.text());
                true
            }
        }
    }
}

/// A setting of which a number is kept: place and conversions.
macro_rules! own {
    ($s:ident, $v:ident => $take:expr, $show:expr) => {
        Hand::Own {
            take: |$s: &mut Settings, $v: &Value| {
                $take;
                true
            },
            show: |$s: &Settings| json!($show),
        }
    };
}

/// A setting whose text has to make sense to a parser.
macro_rules! parsed {
    ($s:ident, $v:ident => $parse:expr, $place:expr, $show:expr) => {
        Hand::Own {
            take: |$s: &mut Settings, $v: &Value| {
                let parsed = $parse;
                let ok = parsed.is_some();
                if let Some(value) = parsed {
                    $place = value;
                }
                ok
            },
            show: |$s: &Settings| json!($show),
        }
    };
}

const SECONDS: &str = "s";
const BYTES: &str = "bytes";
const DAY: i64 = 86_400;
const PORT: Form = Form::Number(1, 65_535);
const ADDRESSES: Form = Form::Free("IP addresses, comma separated");
const NAMES: Form = Form::Free("names, comma separated");
const TEXT: Form = Form::Free("text");

/// What the engine and this library use.
pub(crate) static OWN: &[Setting] = &[
    // ---- who this is
    Setting::new("metadata_type", "", Form::Words(&["p2p", "etcd", "redis", "http", "https"]),
        "kind of metadata store of `tent_create_engine`; `createTransferEngine` is told by its caller",
        own!(s, v => s.node.metadata_type = v.text(), s.node.metadata_type)).json(&["metadata_type"]),
    Setting::new("metadata_servers", "", TEXT, "where that store is",
        own!(s, v => s.node.metadata_servers = v.text(), s.node.metadata_servers)).json(&["metadata_servers"]),
    Setting::new("segment_name", "", TEXT, "name of the segment of `tent_create_engine`",
        own!(s, v => s.node.segment_name = v.text(), s.node.segment_name)).json(&["local_segment_name"]),
    Setting::new("rpc_host", "", TEXT, "host under which peers reach an engine of `tent_create_engine`",
        own!(s, v => s.node.host = v.text(), s.node.host)).json(&["rpc_server_hostname"]),
    Setting::new("rpc_port", "", Form::Number(0, 65_535), "RPC port of `tent_create_engine`; 0 = one in the range",
        own!(s, v => s.node.port = v.to(), s.node.port)).json(&["rpc_server_port"]),
    // ---- stores
    Setting::new("cluster_id", "", TEXT, "part of the keys in a metadata store",
        own!(s, v => s.store.cluster_id = v.text(), s.store.cluster_id)).vars(&[var("MC_METADATA_CLUSTER_ID")]),
    Setting::new("redis_username", "", TEXT, "for a redis store",
        own!(s, v => s.store.redis_username = v.text(), s.store.redis_username)).vars(&[var("MC_REDIS_USERNAME")]),
    Setting::new("redis_password", "", Form::Secret, "for a redis store; never shown",
        own!(s, v => s.store.redis_password = v.text(), if s.store.redis_password.is_empty() { "" } else { "***" }))
        .vars(&[var("MC_REDIS_PASSWORD")]),
    Setting::new("redis_db", "", Form::Number(0, 255), "for a redis store: which database",
        own!(s, v => s.store.redis_db = v.to(), s.store.redis_db)).vars(&[var("MC_REDIS_DB_INDEX")]),
    Setting::new("etcd_user", "", Form::Secret, "for an etcd store: `name`, or `name:password`; never shown",
        own!(s, v => s.store.etcd_user = v.text(), if s.store.etcd_user.is_empty() { "" } else { "***" }))
        .vars(&[var("ETCDCTL_USER")]),
    Setting::new("etcd_password", "", Form::Secret, "for an etcd store, where the user has none; never shown",
        own!(s, v => s.store.etcd_password = v.text(), if s.store.etcd_password.is_empty() { "" } else { "***" }))
        .vars(&[var("ETCDCTL_PASSWORD")]),
    Setting::new("etcd_ca", "", TEXT, "for an etcd store with TLS: a PEM file with the authority's certificate",
        own!(s, v => s.store.ca = v.text(), s.store.ca)).vars(&[var("ETCDCTL_CACERT")]),
    Setting::new("etcd_cert", "", TEXT, "for an etcd store with TLS: a PEM file with our own certificate",
        own!(s, v => s.store.certificate = v.text(), s.store.certificate)).vars(&[var("ETCDCTL_CERT")]),
    Setting::new("etcd_key", "", TEXT, "for an etcd store with TLS: a PEM file with our own key",
        own!(s, v => s.store.key = v.text(), s.store.key)).vars(&[var("ETCDCTL_KEY")]),
    // ---- ports, names, the slow path
    Setting::new("port_low", "", Form::Number(0, 65_535), "first port of the range for the RPC port and the data port",
        own!(s, v => s.config.port_range.0 = v.to(), s.config.port_range.0))
        .vars(&[var("MC_MIN_RPC_PORT"), var("MC_MIN_PRC_PORT")]),
    Setting::new("port_high", "", Form::Number(0, 65_535),
        "last port of it; a range that is reversed, below 1024 or within 32768-60999 is not taken",
        own!(s, v => s.config.port_range.1 = v.to(), s.config.port_range.1))
        .vars(&[var("MC_MAX_RPC_PORT"), var("MC_MAX_PRC_PORT")]),
    Setting::new("handshake_port", "", PORT, "port of names that carry none",
        own!(s, v => s.handshake_port = v.to(), s.handshake_port)).vars(&[var("MC_HANDSHAKE_PORT")]),
    Setting::new("legacy_port", "", Form::Present, "bind the port of the local name",
        own!(s, v => s.legacy_port = v.on(), s.legacy_port)).vars(&[var("MC_LEGACY_RPC_PORT_BINDING")]),
    Setting::new("data_port", "", PORT, "the data port, instead of one in the range",
        own!(s, v => s.config.data_port = Some(v.to()), s.config.data_port)).vars(&[var("TENT_DATA_PORT")]),
    Setting::new("connect_timeout", SECONDS, Form::Number(1, 3599), "longest wait for a connection to an RPC port",
        own!(s, v => s.config.connect_timeout = v.secs(), s.config.connect_timeout.as_secs()))
        .vars(&[var("MC_HANDSHAKE_CONNECT_TIMEOUT")]),
    Setting::new("listen_backlog", "connections", Form::Clamped(1, 65_535, 1, i32::MAX as i64),
        "callers that may wait to be accepted",
        own!(s, v => s.config.listen_backlog = v.to(), s.config.listen_backlog))
        .vars(&[var("MC_HANDSHAKE_LISTEN_BACKLOG")]),
    Setting::new("max_rpc_len", BYTES, Form::Number(1, 128 << 20), "longest RPC frame taken",
        own!(s, v => s.config.max_rpc_len = v.to(), s.config.max_rpc_len)).vars(&[var("MC_HANDSHAKE_MAX_LENGTH")]),
    Setting::new("always_refresh", "", Form::Present, "ask a peer for its description before every request",
        own!(s, v => s.config.always_refresh = v.on(), s.config.always_refresh)).vars(&[var("MC_DISABLE_METACACHE")]),
    Setting::new("refresh_every", SECONDS, Form::Number(0, DAY), "ask open peers for their descriptions so often; 0 = never",
        own!(s, v => s.config.refresh_every = v.some_secs(), s.config.refresh_every.map_or(0, |d| d.as_secs())))
        .vars(&[var("MC_TE_METADATA_REFRESH_INTERVAL_SECONDS")]),
    // ---- which ways
    Setting::new("transports", "", Form::Free("of local,shm,cma,tcp"),
        "transports that may be used; `MC_FORCE_TCP`, whatever its value, allows tcp only",
        Hand::Own {
            take: |s, v| {
                let mask = match v {
                    Value::On(_) => Some(TransportMask::only(TransportKind::Tcp)),
                    v => parse::transports(&v.text()),
                };
                s.config.transports = mask.unwrap_or(s.config.transports);
                mask.is_some()
            },
            show: |s| json!(parse::transport_names(s.config.transports)),
        }).vars(&[other("MC_FORCE_TCP", Form::Present, 1), var("TENT_TRANSPORTS")]),
    Setting::new("tcp_enable", "", Form::Switch, "off takes tcp out of the transports",
        own!(s, v => s.tcp_enable = v.on(), s.tcp_enable)).json(&["transports/tcp/enable"]),
    Setting::new("shm_enable", "", Form::Switch, "off takes shm out of the transports",
        own!(s, v => s.shm_enable = v.on(), s.shm_enable)).json(&["transports/shm/enable"]),
    Setting::new("rail_addrs", "", ADDRESSES, "local addresses for rails, instead of every usable one",
        parsed!(s, v => addresses(&v.text()), s.config.rail_addrs,
            list(s.config.rail_addrs.iter()))).vars(&[var("TENT_RAIL_ADDRS"), var("MC_TCP_BIND_ADDRESS")]),
    Setting::new("data_host", "", ADDRESSES, "address that our description names for data, instead of the local name's",
        parsed!(s, v => addresses(&v.text()).map(|a| a.first().map(ToString::to_string)), s.config.data_host,
            s.config.data_host)).vars(&[var("MC_TCP_BIND_ADDRESS")]),
    Setting::new("interfaces", "", NAMES,
        "network interfaces for rails, by their names or their RDMA devices'; all if none of them is here",
        own!(s, v => s.config.interfaces = names(&v.text()), list(s.config.interfaces.iter())))
        .vars(&[var("MC_TE_FILTERS")]).json(&["topology/rdma_whitelist"]),
    Setting::new("not_interfaces", "", NAMES, "network interfaces that carry no rails",
        own!(s, v => s.config.not_interfaces = names(&v.text()), list(s.config.not_interfaces.iter())))
        .vars(&[var("MC_TE_FILTERS_EXCLUDE")]).json(&["topology/rdma_blacklist"]),
    Setting::new("topology_file", "", Form::Free("a file with a priority matrix"),
        "its devices are the interfaces for rails, where `interfaces` says nothing",
        Hand::Own {
            take: |s, v| {
                let path = v.text();
                let text = std::fs::read_to_string(&path).ok();
                let found = text.and_then(|text| parse::matrix_devices(&text));
                let ok = found.is_some();
                if let Some(found) = found {
                    s.topology_file = path;
                    if s.config.interfaces.is_empty() {
                        s.config.interfaces = found;
                    }
                }
                ok
            },
            show: |s| json!(s.topology_file),
        }).vars(&[var("MC_CUSTOM_TOPO_JSON")]).json(&["topology/custom_json_path"]),
    Setting::new("prefer_ipv6", "", Form::Switch, "prefer IPv6 where there are both",
        own!(s, v => s.config.prefer_ipv6 = v.on(), s.config.prefer_ipv6)).vars(&[var("MC_USE_IPV6")]),
    Setting::new("rail_via", "", Form::Free("RAIL=ADDRESS:PORT, comma separated"),
        "connect there instead of to a peer's rail of that address: relays, mapped addresses",
        parsed!(s, v => via(&v.text()), s.config.rail_via,
            list(s.config.rail_via.iter().map(|(rail, at)| format!("{rail}={at}"))))).vars(&[var("TENT_RAIL_VIA")]),
    Setting::new("upstream_v1", "", Form::Words(&["1", "2"]), "towards Mooncake nodes: `1` forces data protocol version 1",
        own!(s, v => s.config.upstream_v1 = v.text() == "1", s.config.upstream_v1)).vars(&[var("MC_TCP_PROTO")]),
    Setting::new("upstream_conns", "connections", Form::Number(1, 16), "connections to a Mooncake node",
        own!(s, v => s.config.upstream_conns = v.to(), s.config.upstream_conns))
        .vars(&[var("MC_TCP_LANES_PER_PEER"), var("MC_TCP_MAX_CONNECTIONS_PER_PEER")]),
    Setting::new("upstream_timeout", SECONDS, Form::Number(1, DAY),
        "how long a Mooncake node may take for an answer, and nothing of it may move; our peers are watched more closely",
        own!(s, v => s.config.upstream_timeout = v.secs(), s.config.upstream_timeout.as_secs()))
        .vars(&[var("MC_TCP_PROGRESS_TIMEOUT_SEC"), var("MC_TCP_STATUS_TIMEOUT_SEC")]),
    // ---- moving
    Setting::new("task_timeout", "ms", Form::Number(1, 86_400_000),
        "longest time of a task, besides 1 s per 10 MB; of `MC_TRANSFER_TIMEOUT` at least 5 s are taken",
        own!(s, v => s.config.task_timeout = v.millis(), whole(s.config.task_timeout.as_millis())))
        .vars(&[
            var("TENT_TASK_TIMEOUT_MS"),
            other("MC_TRANSFER_TIMEOUT", Form::Clamped(5, DAY, 1, DAY), 1000),
            other("MC_SLICE_TIMEOUT", Form::OrOff(1, 65_535), 1000),
        ]).live(),
    Setting::new("net_lanes", "threads", Form::Number(0, 64), "event loops for sockets; 0 = one per two cores, up to 8",
        own!(s, v => s.config.net_lanes = v.to(), s.config.net_lanes)).vars(&[var("TENT_NET_LANES")]),
    Setting::new("copy_lanes", "threads", Form::Number(0, 64), "threads that copy within the host; 0 = one per core, up to 8",
        own!(s, v => s.config.copy_lanes = v.to(), s.config.copy_lanes)).vars(&[var("TENT_COPY_LANES")]),
    Setting::new("tcp_window", BYTES, Form::Number(64 << 10, 1 << 30),
        "most bytes in flight per TCP rail and direction; the scheduler stays below",
        own!(s, v => s.config.tcp_window = v.to(), s.config.tcp_window)).vars(&[var("TENT_TCP_WINDOW")]).live(),
    Setting::new("tcp_piece", BYTES, Form::Number(4 << 10, 64 << 20), "longest piece on a TCP rail; never above 16 MiB",
        own!(s, v => s.config.tcp_piece = v.to(), s.config.tcp_piece))
        .vars(&[var("TENT_TCP_PIECE"), other("MC_TCP_SLICE_SIZE", Form::Clamped(4 << 10, 64 << 20, 1, i64::MAX), 1)]).live(),
    Setting::new("quantum", "us", Form::Number(10, 100_000), "longest time that a rail's window holds besides its round trip",
        own!(s, v => s.config.quantum = v.micros(), whole(s.config.quantum.as_micros())))
        .vars(&[var("TENT_QUANTUM_US")]).live(),
    Setting::new("spray", "", Form::Words(&["pull", "predict2", "predict3", "round_robin", "static"]),
        "how pieces are given to rails; all but `pull` are there to be compared",
        parsed!(s, v => parse::spray(&v.text()), s.config.spray, spray_name(s.config.spray))).vars(&[var("TENT_SPRAY")]),
    Setting::new("hedge", "", Form::Number(0, 1), "whether an overdue piece is sent over an idle rail too",
        own!(s, v => s.config.hedge = v.on(), u8::from(s.config.hedge))).vars(&[var("TENT_HEDGE")]).live(),
    Setting::new("spin", "us", Form::Number(0, 10_000), "how long a lane polls before it sleeps",
        own!(s, v => s.config.spin = v.micros(), whole(s.config.spin.as_micros())))
        .vars(&[var("TENT_SPIN_US")]).live(),
    Setting::new("piece_log", "", Form::Free("a file"), "gets a line for every piece that landed over TCP, for `tent sim --replay`",
        own!(s, v => s.config.piece_log = Some(v.text().into()), s.config.piece_log)).vars(&[var("TENT_PIECE_LOG")]),
    // ---- telling
    Setting::new("log_level", "", Form::Words(&["off", "error", "warn", "warning", "info", "debug", "trace", "none", "fatal"]),
        "what is logged; `info` where `metrics` is on",
        parsed!(s, v => parse_level(&v.text()).map(Some), s.wanted_level, level_name(s.log_level())))
        .vars(&[var("TENT_LOG"), var("MC_LOG_LEVEL")]).json(&["log_level"]).live(),
    Setting::new("log_dir", "", Form::Free("a directory"),
        "the log goes to the file `tent.PID.log` there; stderr gets errors only",
        own!(s, v => s.log_dir = v.text(), s.log_dir)).vars(&[var("MC_LOG_DIR")]),
    Setting::new("metrics", "", Form::Switch, "log the throughput periodically",
        own!(s, v => s.metrics = v.on(), s.metrics)).vars(&[var("MC_TE_METRIC")]).json(&["metrics/enabled"]).live(),
    Setting::new("metrics_interval", SECONDS, Form::Number(1, DAY), "how often",
        own!(s, v => s.metrics_interval = v.secs(), s.metrics_interval.as_secs()))
        .vars(&[var("MC_TE_METRIC_INTERVAL_SECONDS")]).json(&["metrics/report_interval_seconds"]).live(),
    Setting::new("compat_status", "", Form::Words(&["upstream", "native"]),
        "`native` shows TIMEOUT and CANCELED as such, not as FAILED",
        own!(s, v => s.native_status = v.text() == "native", if s.native_status { "native" } else { "upstream" }))
        .vars(&[var("TENT_COMPAT_STATUS")]),
];

/// Every setting.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    OWN.iter().chain(RDMA)
}

fn whole(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Value {
    fn secs(&self) -> Duration {
        Duration::from_secs(self.to())
    }

    /// None for 0.
    fn some_secs(&self) -> Option<Duration> {
        Some(self.secs()).filter(|d| !d.is_zero())
    }

    fn millis(&self) -> Duration {
        Duration::from_millis(self.to())
    }

    fn micros(&self) -> Duration {
        Duration::from_micros(self.to())
    }
}
