//! Names that say no setting: known ones that have no effect here, those of other parts of Mooncake, and
//! those that nobody knows, which are probably meant to be another.

use super::conf::{self, Conf};
use super::{Env, Settings, table};
use crate::env::table::Hand;

/// Names of the table that begin neither with `MC_` nor with `TENT_`.
pub(super) const OTHERS: [&str; 7] = [
    "NCCL_IB_GID_INDEX",
    "WITH_NVIDIA_PEERMEM",
    "ETCDCTL_USER",
    "ETCDCTL_PASSWORD",
    "ETCDCTL_CACERT",
    "ETCDCTL_CERT",
    "ETCDCTL_KEY",
];

/// Variables that are known and have no effect, and why; a star stands for any ending.
pub(super) const IGNORED: &[(&str, &str)] = &[
    (
        "MC_TCP_ENABLE_CONNECTION_POOL",
        "connections are always kept: to open one per transfer only costs",
    ),
    (
        "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER",
        "no transfer is refused for being queued: the batches bound the queue",
    ),
    ("MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER", "no transfer waits for admission"),
    ("MC_TCP_ADMISSION_TIMEOUT_MS", "no transfer waits for admission"),
    ("MC_NUM_TCP_IO_THREADS", "TENT_NET_LANES says how many threads serve sockets"),
    ("MC_USE_TENT", "there is one engine, whichever is asked for"),
    ("MC_USE_TEV1", "there is one engine, whichever is asked for"),
    ("MC_TENT_RPC_THREADS", "one thread serves the RPC port without waiting for anybody"),
    ("TENT_METRICS_*", "there is no metrics server; MC_TE_METRIC logs the throughput"),
    ("MC_EFA_*", "there is no EFA transport"),
    ("MC_CXL_*", "there is no CXL transport"),
    ("MC_HIP_*", "there is no HIP transport"),
    ("MC_MACA_*", "there is no MACA transport"),
    ("MC_MUSA_*", "there is no MUSA transport"),
    ("MC_UBSHMEM_*", "there is no UBSHMEM transport"),
    ("MC_TANGRT_*", "there is no TangRT transport"),
    ("MC_USE_HIP_IPC", "there is no HIP transport"),
    ("MC_USE_UBSHMEM_IPC", "there is no UBSHMEM transport"),
    ("MC_USE_NVLINK_IPC", "there is no NVLink transport"),
    ("MC_ENABLE_MNNVL", "there is no NVLink transport"),
    ("MC_FORCE_MNNVL", "there is no NVLink transport"),
    ("MC_FORCE_MUSA", "there is no MUSA transport"),
    ("MC_INTRANODE_NVLINK", "there is no NVLink transport"),
    ("MC_DISABLE_HIP", "there is no HIP transport"),
    ("MC_DISABLE_MACA", "there is no MACA transport"),
    ("MC_DISABLE_MUSA", "there is no MUSA transport"),
    ("MC_MIN_REG_SIZE", "registration costs nothing that depends on the size"),
];

/// Variables of others: of the rest of Mooncake, of the command `tent`, of the scripts and tests of this
/// repository. Nothing is said of them.
pub(super) const FOREIGN: &[&str] = &[
    "MC_STORE_*",
    "MC_MS_*",
    "MC_RPC_PROTOCOL",
    "MC_*RPC_CLIENT_IO_THREADS",
    "MC_YLT_LOG_LEVEL",
    "TENT_LIB",
    "TENT_BLESS",
    "TENT_SEED",
    "TENT_SYNC",
    "TENT_SANITIZE",
    "TENT_STATIC",
    "TENT_CARGO_*",
];

/// Keys of TENT's configuration that are known and have no effect; a dot stands for the prefix before.
const IGNORED_KEYS: &[(&str, &str)] = &[
    (
        "",
        "rpc_server_threads merge_requests max_failover_attempts enable_auto_failover_on_poll \
          enable_progress_worker enable_runtime_queue use_legacy_transport_selection verbose policy qos",
    ),
    (
        "runtime_queue/",
        "max_outstanding_owners max_outstanding_bytes staging_owner_reserve \
          staging_byte_reserve deadline_aware mlu_local_threshold promotion_slack_ns max_dispatch_owners \
          max_dispatch_bytes progress_fallback_interval_us",
    ),
    ("topology/", "priority_matrix"),
    ("metrics/", "http_port http_host http_server_threads"),
    (
        "transports/rdma/",
        "enable num_lanes max_timeout_ns enable_smart_scheduling numa_penalties \
          bandwidth_learning_rate ewma_min_bandwidth_multiplier ewma_max_bandwidth_multiplier \
          score_jitter_range score_epsilon enable_priority_filtering local_rotation_interval_us \
          priority_promotion_timeout_us priority_promotion_per_entry deadline_bw_arbitration \
          slot_rotation_interval_ms default_bandwidth_gbps min_bandwidth_gbps max_bandwidth_gbps \
          shared_quota_shm_path rail_error_threshold rail_error_window_secs gdr_error_threshold \
          gdr_error_window_secs gdr_cooldown_secs",
    ),
    (
        "transports/rdma/endpoint/",
        "hop_limit flow_label src_path_bits static_rate rq_psn \
          max_dest_rd_atomic min_rnr_timer sq_psn send_timeout send_retry_count send_rnr_count \
          max_rd_atomic qp_pools",
    ),
    ("transports/rdma/workers/", "grace_period_ns rail_topo_path"),
    (
        "transports/tcp/",
        "max_retry_count retry_base_delay_ms retry_max_delay_ms max_concurrent_tasks",
    ),
    ("transports/shm/", "cxl_mount_path"),
    ("transports/io_uring/", "enable"),
    ("transports/gds/", "enable io_batch_depth"),
    ("transports/nvlink/", "enable async_memcpy_threshold host_register handle_type"),
    ("transports/mnnvl/", "enable"),
    ("transports/tpu/", "enable"),
    ("transports/mpcomm/", "enable disable_gpu_direct_rdma"),
    (
        "transports/ub/",
        "enable device_filter worker_count poller_count jfc_per_context jetty_per_endpoint \
          max_endpoints slice_size max_retries slice_timeout_ms endpoint_cooldown_ms \
          enable_bandwidth_estimation enable_notifications",
    ),
];

/// Prefixes under which TENT's keys are many and none concerns us.
const IGNORED_PREFIXES: [&str; 4] =
    ["qos/", "transports/ascend_direct/", "transports/sunrise_link/", "topology/priority_matrix/"];

/// Looks at the names in the environment that say no setting, or none that is used.
pub(super) fn check(env: &Env, settings: &mut Settings) {
    for name in env.keys() {
        if let Some(setting) = table::all().find(|s| s.vars.iter().any(|v| v.name == name)) {
            if matches!(setting.hand, Hand::Rdma(_)) {
                settings
                    .notes
                    .push(format!("{name} is kept for rails over RDMA, of which there are none"));
            }
        } else if let Some((_, why)) = IGNORED.iter().find(|(pattern, _)| matches(pattern, name)) {
            settings.ignored.push(format!("{name} has no effect: {why}"));
        } else if name != conf::VARIABLE && !FOREIGN.iter().any(|pattern| matches(pattern, name)) {
            let known = variables().filter(|known| !known.contains('*'));
            settings
                .warnings
                .push(format!("nobody knows the variable {name}{}", meant(name, known)));
        }
    }
}

/// As [`check`], for the keys of a configuration.
pub(super) fn check_keys(conf: &Conf, settings: &mut Settings) {
    for key in conf.values.keys() {
        let own = key.strip_prefix("tent/");
        let is_setting = |s: &table::Setting| own == Some(s.key) || s.json.contains(&key.as_str());
        if let Some(setting) = table::all().find(|s| is_setting(s)) {
            if matches!(setting.hand, Hand::Rdma(_)) {
                let line = format!(
                    "{}: {key} is kept for rails over RDMA, of which there are none",
                    conf.name
                );
                settings.notes.push(line);
            }
        } else if IGNORED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
            || ignored_keys().any(|known| known == *key)
        {
            settings.notes.push(format!("{}: {key} has no effect", conf.name));
        } else {
            let own = table::all().map(|s| format!("tent/{}", s.key));
            let known = table::all().flat_map(|s| s.json.iter().map(|key| (*key).to_owned()));
            let known: Vec<_> = known.chain(own).chain(ignored_keys()).collect();
            let meant = meant(key, known.iter().map(String::as_str));
            settings.warnings.push(format!("{}: nobody knows the key {key}{meant}", conf.name));
        }
    }
}

/// Every name of a variable that is known.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    let settings = table::all().flat_map(|s| s.vars.iter().map(|v| v.name));
    let ignored = IGNORED.iter().map(|(name, _)| *name);
    settings.chain(ignored).chain(FOREIGN.iter().copied()).chain([conf::VARIABLE])
}

/// Keys of TENT's that have no effect.
pub(super) fn ignored_keys() -> impl Iterator<Item = String> {
    IGNORED_KEYS
        .iter()
        .flat_map(|(prefix, keys)| keys.split_whitespace().map(move |key| format!("{prefix}{key}")))
}

/// Whether a pattern with at most one star is `name`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

/// `; is NAME meant?`, if one is near enough.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    // an absurdly long name is not compared: the time grows with its length
    let near = if name.len() > MAX_COMPARED { None } else { nearest(name, known) };
    near.map_or_else(String::new, |near| format!("; is {near} meant?"))
}

/// The name with the fewest edits, if those are few for its length.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.map(|known| (distance(name, known), known)).min_by_key(|(edits, _)| *edits)?;
    let allowed = (name.len() / 4).clamp(2, 6);
    (best.0 <= allowed).then_some(best.1)
}

/// Characters to insert, delete or replace to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

const MAX_COMPARED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let near = |name| nearest(name, variables().filter(|n| !n.contains('*')));
        assert_eq!(near("MC_TCP_PROT"), Some("MC_TCP_PROTO"));
        assert_eq!(near("TENT_TRANSPORT"), Some("TENT_TRANSPORTS"));
        assert_eq!(near("MC_SLICE_TIMOUT"), Some("MC_SLICE_TIMEOUT"));
        assert_eq!(near("MC_SOMETHING_ELSE_ALTOGETHER"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn distances_are_those_of_the_book() {
        for (a, b, edits) in [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn a_star_stands_for_any_ending_or_middle() {
        assert!(matches("MC_EFA_*", "MC_EFA_X") && matches("MC_EFA_*", "MC_EFA_"));
        assert!(matches("MC_*RPC_CLIENT_IO_THREADS", "MC_STORE_RPC_CLIENT_IO_THREADS"));
        assert!(!matches("MC_EFA_*", "MC_EFA") && !matches("MC_USE_TENT", "MC_USE_TENT2"));
    }
}
