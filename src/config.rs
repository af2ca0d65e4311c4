//! Every knob of an engine, typed, with its default, unit and reason. Environment variables and
//! upstream's keys are translated in `compat`, nowhere else.

use crate::slice::TransportMask;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How peers find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Metadata {
    /// No server: a segment's name is the address of its engine.
    P2pHandshake,
    /// A store that every engine can reach holds the descriptions, by name.
    Store(StoreConfig),
}

/// Which store, and under which name this engine stands there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct StoreConfig {
    /// `etcd://host:port[,host:port…]`, `host:port` (etcd too), `redis://host[:port]`, `http://…` or
    /// `https://…`.
    pub url: String,
    /// The segment's name. Only the newest of several engines of one name is found.
    pub name: String,
    /// Part of every key, so that several clusters share a store; empty = none.
    pub cluster: String,
    /// Who we are to the store; empty = nobody in particular.
    pub user: String,
    /// Its password; empty = none.
    pub password: String,
    /// The database to use, redis only.
    pub db: u8,
    /// Certificate of the authority that signed the store's, as a PEM file. Default: the public ones.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, as PEM files; etcd only.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Configurations are logged and printed; a password is neither.
impl Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("url", &self.url)
            .field("name", &self.name)
            .field("cluster", &self.cluster)
            .field("user", &self.user)
            .field("db", &self.db)
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// How pieces are given to rails. All but the first exist to be measured against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spray {
    /// Rails claim when they have room (D3).
    #[default]
    Pull,
    /// By predicted time, with the formulas of the C++ TENT's second generation.
    Predict2,
    /// By predicted time, with those of its third.
    Predict3,
    /// 64 KiB to each rail in turn.
    RoundRobin,
    /// An equal share to each rail.
    Static,
}

/// How an engine is built.
#[derive(Debug, Clone)]
pub struct Config {
    /// How peers find each other. Default: P2PHANDSHAKE.
    pub metadata: Metadata,
    /// Host that peers use to reach this engine: name or address, no port. Default `127.0.0.1`.
    pub host: String,
    /// Transports that may be used at all. Default: all.
    pub transports: TransportMask,
    /// Inclusive range of the RPC and data ports. Default 15000–17000, upstream's.
    pub port_range: (u16, u16),
    /// The RPC port to bind, instead of a random one in the range.
    pub rpc_port: Option<u16>,
    /// Longest wait for a connection on the slow path. Default 5 s, upstream's.
    pub connect_timeout: Duration,
    /// Longest wait for an answer on the slow path. Default 10 s.
    pub rpc_timeout: Duration,
    /// Largest RPC frame taken, in bytes. Default 16 MiB; upstream's 1 MiB ends at 10,000 buffers.
    pub max_rpc_len: usize,
    /// How long a task may take, besides one second per 10 MB: it ends by then, whatever happens
    /// (I10). Default 60 s.
    pub task_timeout: Duration,
    /// How long `unregister` and `shutdown` wait for quiet (I6). Default 2 s, upstream's.
    pub quiet_timeout: Duration,
    /// Event loops for sockets; 0 = one per two cores. Default 0.
    pub net_lanes: usize,
    /// Threads that copy within the host; 0 = one per core up to 8. Default 0.
    pub copy_lanes: usize,
    /// Most bytes in flight per TCP rail and direction; the scheduler keeps it below (I5). Default 16 MiB.
    pub tcp_window: u64,
    /// Longest time that a rail's window holds besides its round trip (D3). Default 3 ms, for a busy machine
    /// lets a lane wait for some of it; fast rails take less.
    pub quantum: Duration,
    /// How pieces are given to rails.
    pub spray: Spray,
    /// A file that gets a line for every piece that landed over a net rail, for `tent sim --replay`.
    /// Default none.
    pub piece_log: Option<PathBuf>,
    /// Whether an overdue piece is sent over an idle rail too. Default yes.
    pub hedge: bool,
    /// Longest piece on a TCP rail, in bytes. Default 1 MiB.
    pub tcp_piece: u64,
    /// Longest piece of a copy within the host, in bytes; it is copied in steps of 512 KiB. Default 4 MiB:
    /// two lanes that copy side by side within one huge page fight for its reference count.
    pub copy_piece: u64,
    /// Tasks of at most so many bytes take the urgent lane. Default 64 KiB.
    pub urgent_below: u64,
    /// How long a lane that was just active polls before it sleeps. Default 50 µs; never with one core.
    pub spin: Duration,
    /// Force upstream's data protocol version 1 towards upstream peers.
    pub upstream_v1: bool,
    /// Connections to an upstream peer. Default 4, upstream's.
    pub upstream_conns: usize,
    /// The data port to bind, instead of a free one in the range.
    pub data_port: Option<u16>,
    /// Where to connect instead of a peer's rail address and its data port: a relay, a mapped address.
    pub rail_via: Vec<(std::net::IpAddr, std::net::SocketAddr)>,
    /// Local addresses to use for rails; empty = every usable one.
    pub rail_addrs: Vec<std::net::IpAddr>,
    /// Prefer IPv6 where a pair of interfaces has both.
    pub prefer_ipv6: bool,
    /// Network interfaces to use for rails, by their names or those of their RDMA devices; empty = all.
    /// Where none of them is on this host, all are used, and a warning says so.
    pub interfaces: Vec<String>,
    /// Network interfaces that carry no rails, named as above.
    pub not_interfaces: Vec<String>,
    /// The address that the description names for data; none = [`Config::host`].
    pub data_host: Option<String>,
    /// Callers that may wait to be accepted at the RPC port and at the data port. Default 128, upstream's.
    pub listen_backlog: u16,
    /// Ask a peer for its description anew for every request. Default no: it costs a round trip.
    pub always_refresh: bool,
    /// Ask every open peer for its description anew so often. Default never.
    pub refresh_every: Option<Duration>,
    /// How long an upstream node may take for an answer, and how long nothing of it may move. Default 30 s,
    /// upstream's; our own peers are watched far more closely.
    pub upstream_timeout: Duration,
    /// Log the throughput so often. Default never.
    pub metrics_every: Option<Duration>,
    /// What was said for RDMA rails, checked, by the names of the keys. No transport of today reads it.
    pub rdma: BTreeMap<&'static str, String>,
    /// Who says that the [`Tuning`] has changed. Default nobody.
    pub source: Option<Arc<dyn Source>>,
}

/// The settings that may change while an engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// As [`Config::task_timeout`]; for tasks that are submitted from then on.
    pub task_timeout: Duration,
    /// As [`Config::tcp_window`].
    pub tcp_window: u64,
    /// As [`Config::tcp_piece`].
    pub tcp_piece: u64,
    /// As [`Config::quantum`].
    pub quantum: Duration,
    /// As [`Config::hedge`].
    pub hedge: bool,
    /// As [`Config::spin`].
    pub spin: Duration,
    /// As [`Config::metrics_every`].
    pub metrics_every: Option<Duration>,
}

impl Tuning {
    /// What `config` says of them.
    pub fn of(config: &Config) -> Self {
        Self {
            task_timeout: config.task_timeout,
            tcp_window: config.tcp_window,
            tcp_piece: config.tcp_piece,
            quantum: config.quantum,
            hedge: config.hedge,
            spin: config.spin,
            metrics_every: config.metrics_every,
        }
    }
}

/// Where settings come from that change while an engine runs: a file that somebody edits.
pub trait Source: Debug + Send + Sync {
    /// The settings, if they are others than at the last call (at the first: than the engine was made
    /// with). Called about once a second on the engine's control thread, which serves nobody meanwhile.
    fn changed(&self) -> Option<Tuning>;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metadata: Metadata::P2pHandshake,
            host: "127.0.0.1".into(),
            transports: TransportMask::ALL,
            port_range: (15_000, 17_000),
            rpc_port: None,
            connect_timeout: Duration::from_secs(5),
            rpc_timeout: Duration::from_secs(10),
            max_rpc_len: 16 << 20,
            task_timeout: Duration::from_secs(60),
            quiet_timeout: Duration::from_secs(2),
            net_lanes: 0,
            copy_lanes: 0,
            tcp_window: 16 << 20,
            quantum: Duration::from_millis(3),
            spray: Spray::Pull,
            piece_log: None,
            hedge: true,
            tcp_piece: 1 << 20,
            copy_piece: 4 << 20,
            urgent_below: 64 << 10,
            spin: Duration::from_micros(50),
            upstream_v1: false,
            upstream_conns: 4,
            data_port: None,
            rail_via: Vec::new(),
            rail_addrs: Vec::new(),
            prefer_ipv6: false,
            interfaces: Vec::new(),
            not_interfaces: Vec::new(),
            data_host: None,
            listen_backlog: 128,
            always_refresh: false,
            refresh_every: None,
            upstream_timeout: Duration::from_secs(30),
            metrics_every: None,
            rdma: BTreeMap::new(),
            source: None,
        }
    }
}
