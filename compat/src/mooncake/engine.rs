//! Engines, transports and segments.
#![allow(unsafe_code, reason = "the C side's pointers")]

use super::{
    EngineOrNull, TransportOrNull, matrix, segment_handle_t, segment_id_t, transfer_engine_t,
};
use crate::entry::entry;
use crate::env::store::StoreVars;
use crate::env::{self, Settings};
use crate::handle::Entry;
use crate::ret::{ErrCode, SegmentOrError};
use crate::text::{self, invalid};
use crate::{handle, shutdown};
use ::tent::control::P2pName;
use ::tent::control::store::StoreAddress;
use ::tent::topology::{self, machine::Matrix};
use ::tent::{Engine, Error, ErrorKind, Metadata, Result, SegmentId, TransportKind};
use std::ffi::{c_char, c_int, c_void};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Makes an engine and starts it. With a store the engine's segment has `local_server_name` as its name,
/// verbatim; under P2PHANDSHAKE its address. `ip_or_host_name` and `rpc_port` are accepted and ignored, as
/// upstream ignores them. With `auto_discover` the topology is filled in for reports; rails are found in any case.
///
/// # Safety
/// The first two strings are NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn createTransferEngine(
    metadata_conn_string: *const c_char,
    local_server_name: *const c_char,
    _ip_or_host_name: *const c_char,
    _rpc_port: u64,
    auto_discover: c_int,
) -> EngineOrNull {
    entry!(createTransferEngine, {
        // SAFETY: the caller's contract.
        let store = unsafe { text::utf8(metadata_conn_string, "metadata_conn_string") };
        // SAFETY: the caller's contract.
        let name = unsafe { text::utf8(local_server_name, "local_server_name") };
        create(store, name, auto_discover != 0, &[])
    })
}

/// Shuts an engine down and frees it. NULL, and an engine that is gone already, do nothing.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn destroyTransferEngine(engine: transfer_engine_t) {
    entry!(void destroyTransferEngine, { handle::destroy(engine) });
}

/// Looks at the machine and fills the topology: memory nodes and the interfaces next to them.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn discoverTopology(engine: transfer_engine_t) -> ErrCode {
    entry!(discoverTopology, { handle::with(engine, |e| discover(e, &[])) })
}

/// Writes `host:port` of the RPC listener, cut to `buf_len`. Under P2PHANDSHAKE it is the name that peers
/// open.
///
/// # Safety
/// `buf_out` is NULL or has room for `buf_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getLocalIpAndPort(
    engine: transfer_engine_t,
    buf_out: *mut c_char,
    buf_len: usize,
) -> ErrCode {
    entry!(getLocalIpAndPort, {
        let address = handle::with(engine, |e| Ok(address_text(e)))?;
        let buffer = text::out(buf_out, "buf_out")?;
        // SAFETY: the caller's contract.
        unsafe { text::write(buffer.as_ptr(), buf_len, &address) };
        Ok(())
    })
}

/// Asks for a transport by name. `tcp` is always there; it is a wish and no cage: between our own peers
/// the runtime chooses (D2).
///
/// # Safety
/// `proto` is NULL or terminated; `args` is NULL or points to at least one pointer, which is NULL or a
/// terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn installTransport(
    engine: transfer_engine_t,
    proto: *const c_char,
    args: *mut *mut c_void,
) -> TransportOrNull {
    entry!(installTransport, {
        // SAFETY: the caller's contract.
        let proto = unsafe { text::utf8(proto, "proto") }?;
        // SAFETY: the caller's contract.
        let matrix = unsafe { first_argument(args) }?;
        handle::with(engine, |e| {
            let (kind, matrix) = install(proto, matrix)?;
            if let Some(matrix) = matrix {
                e.matrix.store(Some(Arc::new(matrix)));
            }
            Ok(kind)
        })
        .and_then(|kind| handle::transport(engine, kind))
        .inspect_err(|e| log::warn!("cannot install transport: {e}"))
    })
}

/// Does nothing, as upstream does nothing.
///
/// # Safety
/// `proto` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uninstallTransport(
    engine: transfer_engine_t,
    proto: *const c_char,
) -> ErrCode {
    entry!(uninstallTransport, {
        // SAFETY: the caller's contract.
        unsafe { text::utf8(proto, "proto") }?;
        handle::with(engine, |_| Ok(()))
    })
}

/// Opens a peer's segment; the same name gives the same id, the own name gives 0.
///
/// # Safety
/// `segment_name` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openSegment(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> SegmentOrError {
    entry!(openSegment, {
        // SAFETY: the caller's contract.
        let name = unsafe { segment_name_of(segment_name) }?;
        handle::with(engine, |e| e.open_segment(name))
    })
}

/// As `openSegment`, and asks the peer for its description again. A peer that does not answer keeps its
/// old id.
///
/// # Safety
/// `segment_name` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openSegmentNoCache(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> SegmentOrError {
    entry!(openSegmentNoCache, {
        // SAFETY: the caller's contract.
        let name = unsafe { segment_name_of(segment_name) }?;
        handle::with(engine, |e| open_afresh(e, name))
    })
}

/// Does nothing: an id stays valid for the engine's life, as upstream's does.
///
/// # Safety
/// None: the handle is checked, the id is not used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn closeSegment(
    engine: transfer_engine_t,
    _segment_id: segment_handle_t,
) -> ErrCode {
    entry!(closeSegment, { handle::with(engine, |_| Ok(())) })
}

/// Nothing to warm up without EFA.
///
/// # Safety
/// `segment_name` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmupEfaSegment(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> ErrCode {
    entry!(warmupEfaSegment, {
        // SAFETY: the caller's contract.
        unsafe { text::utf8(segment_name, "segment_name") }?;
        handle::with(engine, |_| Ok(()))
    })
}

/// Forgets a name: the next open asks the peer and gives a new id.
///
/// # Safety
/// `segment_name` is NULL or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn removeLocalSegment(
    engine: transfer_engine_t,
    segment_name: *const c_char,
) -> ErrCode {
    entry!(removeLocalSegment, {
        // SAFETY: the caller's contract.
        let name = unsafe { segment_name_of(segment_name) }?;
        handle::with(engine, |e| {
            e.forget_segment(name);
            Ok(())
        })
    })
}

/// Asks every open peer for its description again; failures are logged.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syncSegmentCache(engine: transfer_engine_t) -> ErrCode {
    entry!(syncSegmentCache, {
        handle::with(engine, |e| {
            e.refresh_all();
            Ok(())
        })
    })
}

/// Has SIGTERM and SIGINT shut this engine down before the process exits.
///
/// # Safety
/// None: the handle is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn enableGracefulShutdown(engine: transfer_engine_t) {
    entry!(void enableGracefulShutdown, {
        if handle::is_unborn(engine) { shutdown::arm() } else { handle::with(engine, shutdown::enable) }
    });
}

/// `devices` names the interfaces to use; empty, or none of them here: all.
pub(crate) fn create(
    store: Result<&str>,
    name: Result<&str>,
    auto_discover: bool,
    devices: &[String],
) -> Result<transfer_engine_t> {
    let mut settings = env::from_process();
    crate::log::install(settings.log_level(), &settings.log_dir);
    settings.warn_once();
    if settings.config.rail_addrs.is_empty() {
        settings.config.rail_addrs = addresses_of(devices)?;
        // what has no addresses may be an RDMA device, which stands for the interface beside it
        settings.config.interfaces.extend_from_slice(devices);
    }
    let engine = start(store, name, settings)
        .inspect_err(|e| log::error!("cannot create an engine: {e}"))?;
    if auto_discover && let Err(cause) = handle::with(engine, |e| discover(e, devices)) {
        log::warn!("the topology stays empty: {cause}");
    }
    Ok(engine)
}

/// The addresses of these interfaces, loopback ones too.
fn addresses_of(devices: &[String]) -> Result<Vec<IpAddr>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let all = topology::interfaces(Path::new(topology::SYSFS_NET))?;
    let chosen = all.iter().filter(|i| i.up && devices.contains(&i.name)).map(|i| i.addr);
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    Ok(chosen.filter(|ip| !link_local(ip)).collect())
}

/// Fills the topology from this machine.
pub(crate) fn discover(engine: &Entry, devices: &[String]) -> Result<()> {
    let machine = matrix::here(&engine.config().rail_addrs)?;
    engine.matrix.store(Some(Arc::new(machine.matrix(devices))));
    Ok(())
}

fn start(store: Result<&str>, name: Result<&str>, s: Settings) -> Result<transfer_engine_t> {
    let (store, name) = (store?, name?);
    let address = StoreAddress::parse(store)?;
    let mut config = s.config;
    let parsed = P2pName::parse(name, s.handshake_port);
    // the port of the name: otherwise the engine takes a free one, whatever the name says
    let port = if parsed.port == 0 { s.handshake_port } else { parsed.port };
    config.rpc_port = s.legacy_port.then_some(port);
    if address == StoreAddress::P2pHandshake || s.legacy_port {
        if parsed.host.is_empty() {
            log::warn!("local_server_name has no host; peers are told {}", config.host);
        } else {
            config.host = parsed.host;
        }
    } else {
        // the name is only a name there (transfer_engine_impl.cpp, "new RPC mapping")
        let first = || first_address(config.prefer_ipv6).map(|ip| ip.to_string());
        match config.data_host.clone().or_else(first) {
            Some(host) => config.host = host,
            None => log::warn!("no interface is up; peers are told {}", config.host),
        }
    }
    config.metadata = metadata_of(store, name, &s.store)?;
    handle::watch_forks();
    raise_descriptor_limit();
    handle::insert(Engine::new(config)?, s.native_status)
}

/// How peers are found by upstream's connection string, for an engine of that name.
pub(crate) fn metadata_of(store: &str, name: &str, vars: &StoreVars) -> Result<Metadata> {
    Ok(match StoreAddress::parse(store)? {
        StoreAddress::P2pHandshake => Metadata::P2pHandshake,
        address if !name.is_empty() => Metadata::Store(vars.config(&address, store, name)),
        _ => {
            return Err(invalid("with a store the engine needs a name: it is all that peers know"));
        }
    })
}

/// The address of the first interface that leads out of this host.
fn first_address(prefer_ipv6: bool) -> Option<IpAddr> {
    let all = topology::interfaces(Path::new(topology::SYSFS_NET)).ok()?;
    let usable = topology::rail_addrs(&all, &[]);
    let wanted = usable.iter().find(|a| a.ip.is_ipv6() == prefer_ipv6);
    wanted.or_else(|| usable.first()).map(|a| a.ip)
}

/// Upstream does this to its host as well: with the usual 1024 a few hundred peers would be the end.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct of ours.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if known && limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads one struct of ours. A refusal leaves the limit as it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// With brackets around an IPv6 address; upstream leaves them out, and its peers cannot read the result.
fn address_text(engine: &Engine) -> String {
    let (host, port) = engine.rpc_address();
    P2pName { host, port }.to_string()
}

/// Upstream's argument list: `args[0]` is the priority matrix, if it is there.
///
/// # Safety
/// `args` is NULL or points to at least one pointer, which is NULL or a terminated string.
unsafe fn first_argument<'a>(args: *mut *mut c_void) -> Result<Option<&'a str>> {
    if args.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so one pointer is there (this function's contract).
    let first = unsafe { args.read() };
    if first.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so a terminated string (this function's contract).
    unsafe { text::utf8(first.cast(), "args[0]") }.map(Some)
}

fn install(proto: &str, matrix: Option<&str>) -> Result<(TransportKind, Option<Matrix>)> {
    let matrix = matrix.map(matrix::parse).transpose()?;
    if proto == "tcp" {
        return Ok((TransportKind::Tcp, matrix));
    }
    if UPSTREAM_TRANSPORTS.split(' ').any(|name| name == proto) {
        let message = format!("transport {proto:?} is not available here; tcp is");
        return Err(Error::new(ErrorKind::NotSupported, message));
    }
    Err(invalid(format!("there is no transport {proto:?}; tcp is available")))
}

/// The name without leading slashes, which upstream strips (`transfer_engine_impl.cpp`).
///
/// # Safety
/// `name` is NULL or terminated.
unsafe fn segment_name_of<'a>(name: *const c_char) -> Result<&'a str> {
    // SAFETY: this function's contract.
    let name = unsafe { text::utf8(name, "segment_name") }?.trim_start_matches('/');
    if name.is_empty() { Err(invalid("segment_name is empty")) } else { Ok(name) }
}

fn open_afresh(engine: &Engine, name: &str) -> Result<SegmentId> {
    let id = engine.open_segment(name)?;
    if id != SegmentId::LOCAL
        && let Err(cause) = engine.refresh_segment(id)
    {
        log::warn!("segment {name} keeps its old description: {cause}");
    }
    Ok(id)
}

/// Names that upstream's builds may know (`multi_transport.cpp`).
const UPSTREAM_TRANSPORTS: &str = "rdma nvmeof nvlink nvlink_intra hip musa maca cxl efa cxi ub \
                                   barex ascend nccl ubshmem sunrise_link";

/// Upstream's id as ours; a negative one belongs to nobody.
pub(super) fn segment_of(id: segment_id_t) -> Result<SegmentId> {
    u32::try_from(id).map(SegmentId).map_err(|_| invalid(format!("target_id {id} is no segment")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_known_by_name() {
        assert_eq!(install("tcp", None).unwrap(), (TransportKind::Tcp, None));
        assert!(install("tcp", Some(r#"{"cpu:0":[["mlx5_0"],[]]}"#)).is_ok());
        assert!(install("tcp", Some("{")).is_err());
        assert!(install("tcp", Some("7")).is_err());
        assert_eq!(install("rdma", None).unwrap_err().kind(), ErrorKind::NotSupported);
        assert_eq!(install("pigeon", None).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
