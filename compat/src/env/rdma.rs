//! What was said for rails over RDMA: checked and kept, and used by nobody yet.

use super::parse::Form;
use super::table::{Hand, Setting, Var};

const fn rdma(
    key: &'static str,
    unit: &'static str,
    vars: &'static [Var],
    json: &'static [&'static str],
    form: Form,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { key, unit, form, vars, json, live: false, doc, hand: Hand::Rdma(default) }
}

const fn var(name: &'static str) -> Var {
    Var { name, form: None, per: 1 }
}

/// See [`Hand::Rdma`].
pub(crate) static RDMA: &[Setting] = &[
    rdma("rdma_force", "", &[var("MC_FORCE_HCA")], &[], Form::Present, "off", "use RDMA even where no device is found"),
    rdma("rdma_bind_address", "", &[var("MC_RDMA_BIND_ADDRESS")], &["transports/rdma/bind_address"], Form::Address, "", "address in the names of its rails"),
    rdma("rdma_gid_index", "", &[var("MC_GID_INDEX"), var("NCCL_IB_GID_INDEX")], &["transports/rdma/device/gid_index"], Form::Number(-1, 255), "-1", "entry of the table of GIDs; -1 finds one"),
    rdma("rdma_port", "", &[var("MC_IB_PORT")], &["transports/rdma/device/port"], Form::Number(1, 255), "1", "port of the device"),
    rdma("rdma_traffic_class", "", &[var("MC_IB_TC")], &["transports/rdma/endpoint/traffic_class"], Form::Number(-1, 255), "-1", "traffic class; -1 leaves it"),
    rdma("rdma_service_level", "", &[var("MC_IB_SL")], &["transports/rdma/endpoint/service_level"], Form::Number(-1, 15), "-1", "service level; -1 leaves it"),
    rdma("rdma_pkey_index", "", &[var("MC_PKEY_INDEX")], &["transports/rdma/endpoint/pkey_index"], Form::Number(0, 65_535), "0", "entry of the table of partition keys"),
    rdma("rdma_mtu", "bytes", &[var("MC_MTU")], &["transports/rdma/endpoint/path_mtu"], Form::Words(&["512", "1024", "2048", "4096"]), "4096", "path MTU"),
    rdma("rdma_qps", "queue pairs", &[var("MC_NUM_QP_PER_EP")], &["transports/rdma/endpoint/qp_mul_factor"], Form::Number(1, 255), "2", "per endpoint; both ends must say the same"),
    rdma("rdma_slice", "bytes", &[var("MC_SLICE_SIZE")], &["transports/rdma/workers/block_size"], Form::Number(1, 1 << 40), "65536", "length of a slice"),
    rdma("rdma_fragment_ratio", "", &[var("MC_FRAGMENT_RATIO")], &[], Form::Number(1, 1 << 31), "4", "a last piece below slice / ratio is merged"),
    rdma("rdma_retries", "", &[var("MC_RETRY_CNT")], &["transports/rdma/workers/max_retry_count"], Form::Number(1, 127), "9", "of a slice"),
    rdma("rdma_workers", "threads", &[var("MC_WORKERS_PER_CTX")], &["transports/rdma/workers/num_workers"], Form::Number(1, 8), "2", "per device"),
    rdma("rdma_peermem", "", &[var("WITH_NVIDIA_PEERMEM")], &[], Form::Switch, "on", "off: GPU memory through dma-buf"),
    rdma("rdma_cqs", "queues", &[var("MC_NUM_CQ_PER_CTX")], &["transports/rdma/device/num_cq_list"], Form::Number(1, 256), "1", "completion queues per device"),
    rdma("rdma_channels", "", &[var("MC_NUM_COMP_CHANNELS_PER_CTX")], &["transports/rdma/device/num_comp_channels"], Form::Number(1, 256), "1", "completion channels per device"),
    rdma("rdma_cqe", "entries", &[var("MC_MAX_CQE_PER_CTX")], &["transports/rdma/device/max_cqe"], Form::Number(1, 65_535), "4096", "of a completion queue"),
    rdma("rdma_endpoints", "", &[var("MC_MAX_EP_PER_CTX")], &["transports/rdma/endpoint/endpoint_store_cap"], Form::Number(1, 65_536), "65536", "per device"),
    rdma("rdma_sge", "", &[var("MC_MAX_SGE")], &["transports/rdma/endpoint/max_sge"], Form::Number(1, 65_535), "4", "ranges per request"),
    rdma("rdma_wr", "requests", &[var("MC_MAX_WR")], &["transports/rdma/endpoint/max_qp_wr"], Form::Number(1, 65_535), "256", "in flight per queue pair"),
    rdma("rdma_inline", "bytes", &[var("MC_MAX_INLINE")], &["transports/rdma/endpoint/max_inline_bytes"], Form::Number(0, 65_535), "64", "sent within the request"),
    rdma("rdma_max_mr", "bytes", &[var("MC_MAX_MR_SIZE")], &[], Form::Number(1, 1 << 62), "1099511627776", "longest memory region"),
    rdma("rdma_parallel_reg", "", &[var("MC_ENABLE_PARALLEL_REG_MR")], &[], Form::Number(-1, 1), "-1", "register on all devices at once; -1 decides by size"),
    rdma("rdma_concurrent_reg", "", &[var("MC_MAX_CONCURRENT_REG_MR")], &[], Form::Number(0, 65_535), "0", "registrations at once; 0 = no bound"),
    rdma("rdma_relaxed_ordering", "", &[var("MC_IB_PCI_RELAXED_ORDERING")], &["transports/rdma/pci_relaxed_ordering"], Form::Number(0, 2), "1", "0 off, 1 where it is supported, 2 always"),
    rdma("rdma_gid_retries", "", &[var("MC_AUTO_GID_MAX_RETRIES")], &[], Form::Number(0, 16), "2", "of finding a GID"),
    rdma("rdma_rail_pause", "s", &[var("MC_RDMA_RAIL_PAUSE_SECONDS")], &["transports/rdma/rail_cooldown_secs"], Form::Number(1, 3599), "30", "rest of a rail that failed"),
    rdma("rdma_conn_pause", "ms", &[var("MC_CONN_PAUSE_TTL_MS")], &[], Form::Number(0, 600_000), "0", "rest of a connection that failed"),
    rdma("rdma_dest_affinity", "", &[var("MC_ENABLE_DEST_DEVICE_AFFINITY")], &[], Form::Switch, "off", "prefer the peer's device of the same name"),
    rdma("rdma_hca_affinity", "", &[var("MC_ENABLE_HCA_PEER_AFFINITY")], &[], Form::Switch, "off", "pair devices by their places"),
    rdma("rdma_nic_affinity", "", &[var("MC_NIC_PEER_AFFINITY")], &[], Form::Free("LOCAL=PEER, semicolon separated"), "", "which devices are paired"),
    rdma("rdma_round_robin", "", &[var("MC_PATH_ROUNDROBIN")], &[], Form::Switch, "off", "paths in turn"),
    rdma("rdma_endpoint_store", "", &[var("MC_ENDPOINT_STORE_TYPE")], &[], Form::Words(&["sieve", "fifo"]), "sieve", "which endpoint is dropped first"),
    rdma("rdma_udp_sports", "", &[var("MC_MLX5_QP_UDP_SPORTS")], &[], Form::Free("ports, comma separated"), "", "UDP source ports of queue pairs"),
    rdma("rdma_lag_balance", "", &[var("MC_MLX5_QP_LAG_PORT_BALANCE")], &[], Form::Switch, "off", "spread queue pairs over the ports of a bond"),
    rdma("rdma_log_affinity", "", &[var("MC_LOG_RDMA_SLICE_AFFINITY")], &["transports/rdma/log_slice_affinity"], Form::Switch, "off", "log which slice took which device"),
    rdma("rdma_track_posted", "", &[var("MC_TRACK_RDMA_POSTED_SLICES")], &[], Form::Switch, "off", "keep posted slices for reports"),
    rdma("rdma_twosided", "", &[var("MC_USE_RDMA_TWOSIDED")], &[], Form::Switch, "off", "SEND and RECV instead of one-sided"),
    rdma("rdma_notify", "", &[var("MC_RDMA_NOTIFY_ENABLED")], &[], Form::Switch, "off", "messages over RDMA"),
    rdma("rdma_notify_recvs", "", &[var("MC_RDMA_NOTIFY_RECV_COUNT")], &[], Form::Number(1, 65_535), "", "receives posted for messages"),
    rdma("rdma_notify_buffer", "bytes", &[var("MC_RDMA_NOTIFY_BUFFER_SIZE")], &[], Form::Number(1, 1 << 30), "", "of a message"),
    rdma("rdma_notify_timeout", "ms", &[var("MC_RDMA_NOTIFY_CONNECT_TIMEOUT_MS")], &[], Form::Number(1, 600_000), "", "of the connection for messages"),
    rdma("rdma_notify_sends", "", &[var("MC_RDMA_NOTIFY_MAX_PENDING_SENDS")], &[], Form::Number(1, 65_535), "", "messages in flight"),
    rdma("rdma_notify_oob", "", &[var("MC_RDMA_NOTIFY_OOB_FALLBACK")], &[], Form::Switch, "on", "messages over the RPC port where RDMA fails"),
    rdma("rdma_no_gpu_direct", "", &[var("MC_DISABLE_GPU_DIRECT_RDMA")], &["transports/rdma/disable_gpu_direct_rdma"], Form::Switch, "off", "GPU memory goes through host memory"),
];
