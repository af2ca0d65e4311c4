//! Environment → configuration: upstream's variables (`MC_*`, `mooncake-transfer-engine/src/config.cpp`
//! and `environ.cpp`) and ours (`TENT_*`). Nowhere else is the environment read.
//!
//! As upstream does it, a value that makes no sense costs one warning and the default is used.

pub(crate) mod store;

use self::store::StoreVars;
use crate::log::parse_level;
use ::log::LevelFilter;
use ::tent::{Config, Spray, TransportKind, TransportMask};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the environment says.
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
    /// What concerns metadata stores.
    pub(crate) store: StoreVars,
    /// How much is logged.
    pub(crate) log_level: LevelFilter,
    /// One line per value that was not taken.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Logs the warnings, once in the life of the process.
    pub(crate) fn warn_once(&self) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            self.warnings.iter().for_each(|line| ::log::warn!("{line}"));
        }
    }
}

/// The settings of this process.
pub(crate) fn from_process() -> Settings {
    settings(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
}

/// The settings that `lookup` describes.
pub(crate) fn settings(lookup: impl Fn(&str) -> Option<String>) -> Settings {
    let mut env = Reader { lookup: &lookup, warnings: Vec::new() };
    let mut config = Config::default();
    slow_path(&mut env, &mut config);
    data_path(&mut env, &mut config);
    let log_level = env.parsed("TENT_LOG", parse_level);
    let log_level = log_level.or_else(|| env.parsed("MC_LOG_LEVEL", parse_level));
    let native = env.parsed("TENT_COMPAT_STATUS", |text| match text {
        "native" => Some(true),
        "upstream" => Some(false),
        _ => None,
    });
    let store = store::read(&mut env);
    Settings {
        config,
        store,
        legacy_port: env.is_set("MC_LEGACY_RPC_PORT_BINDING"),
        handshake_port: env.number("MC_HANDSHAKE_PORT", 1..=65_535).unwrap_or(DEFAULT_PORT),
        native_status: native.unwrap_or(false),
        log_level: log_level.unwrap_or(LevelFilter::Warn),
        warnings: env.warnings,
    }
}

fn slow_path(env: &mut Reader<'_>, config: &mut Config) {
    if let Some(range) = port_range(env, config.port_range) {
        config.port_range = range;
    }
    if let Some(seconds) = env.number("MC_HANDSHAKE_CONNECT_TIMEOUT", 1..=3599) {
        config.connect_timeout = Duration::from_secs(seconds);
    }
    if let Some(bytes) = env.number("MC_HANDSHAKE_MAX_LENGTH", 1..=128 << 20) {
        config.max_rpc_len = bytes;
    }
    // upstream's variable bounds its synchronous Python calls; here every task has a bound
    if let Some(seconds) = env.number("MC_TRANSFER_TIMEOUT", 1..=86_400) {
        config.task_timeout = Duration::from_secs(u64::max(seconds, MIN_TRANSFER_TIMEOUT_S));
    }
    if let Some(ms) = env.number("TENT_TASK_TIMEOUT_MS", 1..=86_400_000) {
        config.task_timeout = Duration::from_millis(ms);
    }
}

fn data_path(env: &mut Reader<'_>, config: &mut Config) {
    if let Some(mask) = env.parsed("TENT_TRANSPORTS", parse_transports) {
        config.transports = mask;
    }
    if env.is_set("MC_FORCE_TCP") {
        config.transports = TransportMask::only(TransportKind::Tcp);
    }
    config.upstream_v1 = env.text("MC_TCP_PROTO").is_some_and(|v| v == "1");
    let lanes = env.number("MC_TCP_LANES_PER_PEER", 1..=16);
    let lanes = lanes.or_else(|| env.number("MC_TCP_MAX_CONNECTIONS_PER_PEER", 1..=16));
    config.upstream_conns = lanes.unwrap_or(config.upstream_conns);
    config.prefer_ipv6 = env.is_on("MC_USE_IPV6");
    let rails = env.parsed("TENT_RAIL_ADDRS", parse_addresses);
    let rails = rails.or_else(|| env.parsed("MC_TCP_BIND_ADDRESS", parse_addresses));
    config.rail_addrs = rails.unwrap_or_default();
    let number = env.number("TENT_NET_LANES", 0..=MAX_LANES);
    config.net_lanes = number.unwrap_or(config.net_lanes);
    let number = env.number("TENT_COPY_LANES", 0..=MAX_LANES);
    config.copy_lanes = number.unwrap_or(config.copy_lanes);
    let bytes = env.number("TENT_TCP_WINDOW", 64 << 10..=1 << 30);
    config.tcp_window = bytes.unwrap_or(config.tcp_window);
    let bytes = env.number("TENT_TCP_PIECE", 4 << 10..=64 << 20);
    config.tcp_piece = bytes.unwrap_or(config.tcp_piece);
    if let Some(spray) = env.parsed("TENT_SPRAY", parse_spray) {
        config.spray = spray;
    }
    if let Some(hedge) = env.number::<u8>("TENT_HEDGE", 0..=1) {
        config.hedge = hedge == 1;
    }
    if let Some(us) = env.number("TENT_QUANTUM_US", 10..=100_000) {
        config.quantum = Duration::from_micros(us);
    }
    config.piece_log = env.text("TENT_PIECE_LOG").map(Into::into);
    config.data_port = env.number("TENT_DATA_PORT", 1..=65_535);
    config.rail_via = env.parsed("TENT_RAIL_VIA", parse_via).unwrap_or_default();
    if let Some(us) = env.number("TENT_SPIN_US", 0..=10_000) {
        config.spin = Duration::from_micros(us);
    }
}

/// Upstream refuses a range that is reversed, privileged or shared with the kernel's ephemeral ports, and
/// reads the misspelt names only where the right ones are not set.
fn port_range(env: &mut Reader<'_>, default: (u16, u16)) -> Option<(u16, u16)> {
    let mut one = |name, misspelt| {
        let name = if env.is_set(name) { name } else { misspelt };
        env.number(name, 0..=65_535)
    };
    let low: Option<u16> = one("MC_MIN_RPC_PORT", "MC_MIN_PRC_PORT");
    let high = one("MC_MAX_RPC_PORT", "MC_MAX_PRC_PORT");
    let (low, high) = (low.unwrap_or(default.0), high.unwrap_or(default.1));
    let ephemeral = low <= *EPHEMERAL.end() && high >= *EPHEMERAL.start();
    if low > high || low < FIRST_UNPRIVILEGED || ephemeral {
        let why = "reversed, below 1024 or within 32768-60999";
        env.warnings.push(format!(
            "ignoring the RPC port range {low}-{high} ({why}); using {}-{}",
            default.0, default.1
        ));
        return None;
    }
    Some((low, high))
}

fn parse_transports(text: &str) -> Option<TransportMask> {
    let mut mask = TransportMask::NONE;
    for name in text.split(',') {
        mask = mask.with(TransportKind::parse(name.trim())?);
    }
    Some(mask)
}

fn parse_spray(text: &str) -> Option<Spray> {
    Some(match text {
        "pull" => Spray::Pull,
        "predict2" => Spray::Predict2,
        "predict3" => Spray::Predict3,
        "round_robin" => Spray::RoundRobin,
        "static" => Spray::Static,
        _ => return None,
    })
}

/// `rail=address:port,...`: connect there instead.
fn parse_via(text: &str) -> Option<Vec<(IpAddr, SocketAddr)>> {
    let one = |pair: &str| {
        let (rail, at) = pair.split_once('=')?;
        Some((rail.trim().parse().ok()?, at.trim().parse().ok()?))
    };
    text.split(',').map(one).collect()
}

fn parse_addresses(text: &str) -> Option<Vec<IpAddr>> {
    let bare = |address: &str| address.trim().trim_matches(['[', ']']).parse().ok();
    text.split(',').map(bare).collect()
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    /// Whether the variable is there, whatever its value (upstream's switches).
    fn is_set(&self, name: &str) -> bool {
        (self.lookup)(name).is_some()
    }

    /// Whether the variable is there and does not say no. Older upstreams look whether it is there, newer
    /// ones at its value; this agrees with both on what people write.
    fn is_on(&self, name: &str) -> bool {
        let no =
            |text: &str| ["0", "false", "no", "off"].iter().any(|n| text.eq_ignore_ascii_case(n));
        self.text(name).is_some_and(|text| !no(text.trim()))
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(text.trim());
        if value.is_none() {
            self.warnings.push(format!("ignoring {name}={text:?}; using the default"));
        }
        value
    }

    fn number<T: TryFrom<u64>>(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<T> {
        let (low, high) = (*range.start(), *range.end());
        let text = self.text(name)?;
        let number = text.trim().parse::<u64>().ok().filter(|n| range.contains(n));
        let value = number.and_then(|n| T::try_from(n).ok());
        if value.is_none() {
            self.warnings.push(format!(
                "ignoring {name}={text:?}, not a number in {low}-{high}; using the default"
            ));
        }
        value
    }
}

/// Upstream's default port of names without one.
const DEFAULT_PORT: u16 = 12_001;
const MIN_TRANSFER_TIMEOUT_S: u64 = 5;
const MAX_LANES: u64 = 64;
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Linux's default range of ephemeral ports.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> Settings {
        settings(|name| vars.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    #[test]
    fn an_empty_environment_gives_the_defaults() {
        let s = of(&[]);
        let d = Config::default();
        assert_eq!(format!("{:?}", s.config), format!("{d:?}"));
        assert_eq!((s.handshake_port, s.legacy_port, s.native_status), (12_001, false, false));
        assert_eq!(s.log_level, LevelFilter::Warn);
        assert!(s.warnings.is_empty());
    }

    #[test]
    fn port_ranges_follow_upstream() {
        let range = |low, high| {
            let s = of(&[("MC_MIN_RPC_PORT", low), ("MC_MAX_RPC_PORT", high)]);
            (s.config.port_range, s.warnings.len())
        };
        assert_eq!(range("20000", "20100"), ((20_000, 20_100), 0));
        assert_eq!(range("61000", "65535"), ((61_000, 65_535), 0));
        for (low, high) in [("20100", "20000"), ("80", "2000"), ("40000", "41000")] {
            assert_eq!(range(low, high), ((15_000, 17_000), 1), "{low}-{high}");
        }
        assert_eq!(range("30000", "40000"), ((15_000, 17_000), 1));
        assert_eq!(range("x", "16000"), ((15_000, 16_000), 1));
        assert_eq!(range("16000", "70000"), ((16_000, 17_000), 1));
        let s = of(&[("MC_MIN_PRC_PORT", "21000"), ("MC_MAX_PRC_PORT", "21999")]);
        assert_eq!(s.config.port_range, (21_000, 21_999));
        let s = of(&[("MC_MIN_PRC_PORT", "9"), ("MC_MIN_RPC_PORT", "16500")]);
        assert_eq!((s.config.port_range, s.warnings.len()), ((16_500, 17_000), 0));
    }

    #[test]
    fn upstream_variables_are_taken() {
        let s = of(&[
            ("MC_FORCE_TCP", ""),
            ("MC_HANDSHAKE_CONNECT_TIMEOUT", "2"),
            ("MC_HANDSHAKE_MAX_LENGTH", "1048576"),
            ("MC_TCP_PROTO", "1"),
            ("MC_TCP_MAX_CONNECTIONS_PER_PEER", "7"),
            ("MC_USE_IPV6", "1"),
            ("MC_TCP_BIND_ADDRESS", "10.0.0.7"),
            ("MC_LEGACY_RPC_PORT_BINDING", "1"),
            ("MC_HANDSHAKE_PORT", "13000"),
            ("MC_TRANSFER_TIMEOUT", "3"),
            ("MC_LOG_LEVEL", "INFO"),
            ("TENT_TRANSPORTS", "shm"),
        ]);
        let c = &s.config;
        assert_eq!(c.transports, TransportMask::only(TransportKind::Tcp));
        assert_eq!(c.connect_timeout, Duration::from_secs(2));
        assert_eq!((c.max_rpc_len, c.upstream_v1, c.upstream_conns), (1 << 20, true, 7));
        assert_eq!((c.prefer_ipv6, c.rail_addrs.len()), (true, 1));
        assert_eq!(c.task_timeout, Duration::from_secs(5));
        assert_eq!((s.legacy_port, s.handshake_port), (true, 13_000));
        assert_eq!(s.log_level, LevelFilter::Info);
        assert!(s.warnings.is_empty(), "{:?}", s.warnings);
    }

    #[test]
    fn a_switch_may_say_no() {
        for (value, on) in [("1", true), ("true", true), ("", true), ("0", false), ("Off", false)] {
            assert_eq!(of(&[("MC_USE_IPV6", value)]).config.prefer_ipv6, on, "{value:?}");
        }
    }

    #[test]
    fn our_variables_are_taken_and_win() {
        let s = of(&[
            ("TENT_TRANSPORTS", "tcp, CMA"),
            ("TENT_NET_LANES", "3"),
            ("TENT_COPY_LANES", "2"),
            ("TENT_TCP_WINDOW", "131072"),
            ("TENT_TCP_PIECE", "65536"),
            ("TENT_TASK_TIMEOUT_MS", "250"),
            ("MC_TRANSFER_TIMEOUT", "60"),
            ("TENT_SPIN_US", "0"),
            ("TENT_RAIL_ADDRS", "10.1.0.1,[fd00::1]"),
            ("MC_TCP_BIND_ADDRESS", "10.0.0.7"),
            ("TENT_LOG", "trace"),
            ("MC_LOG_LEVEL", "ERROR"),
            ("TENT_COMPAT_STATUS", "native"),
        ]);
        let c = &s.config;
        let mask = TransportMask::only(TransportKind::Tcp).with(TransportKind::Cma);
        assert_eq!((c.transports, c.net_lanes, c.copy_lanes), (mask, 3, 2));
        assert_eq!((c.tcp_window, c.tcp_piece), (131_072, 65_536));
        assert_eq!((c.task_timeout, c.spin), (Duration::from_millis(250), Duration::ZERO));
        assert_eq!(c.rail_addrs.len(), 2);
        assert_eq!((s.log_level, s.native_status), (LevelFilter::Trace, true));
        assert!(s.warnings.is_empty(), "{:?}", s.warnings);
    }

    #[test]
    fn what_makes_no_sense_costs_one_warning_each() {
        let bad = [
            ("MC_HANDSHAKE_CONNECT_TIMEOUT", "3600"),
            ("MC_HANDSHAKE_MAX_LENGTH", "0"),
            ("MC_TCP_LANES_PER_PEER", "-1"),
            ("MC_TCP_BIND_ADDRESS", "eth0"),
            ("MC_HANDSHAKE_PORT", "70000"),
            ("MC_TRANSFER_TIMEOUT", "soon"),
            ("MC_LOG_LEVEL", "loud"),
            ("TENT_TRANSPORTS", "tcp,pigeon"),
            ("TENT_NET_LANES", "65"),
            ("TENT_TCP_WINDOW", "1"),
            ("TENT_TCP_PIECE", "1e6"),
            ("TENT_TASK_TIMEOUT_MS", "0"),
            ("TENT_SPIN_US", ""),
            ("TENT_RAIL_ADDRS", "10.0.0.1,,"),
            ("TENT_COMPAT_STATUS", "maybe"),
        ];
        let s = of(&bad);
        assert_eq!(s.warnings.len(), bad.len(), "{:#?}", s.warnings);
        assert_eq!(format!("{:?}", s.config), format!("{:?}", Config::default()));
    }
}
