//! Segments by name: what this engine says of itself, and the peers it has opened.

use crate::config::Config;
use crate::control::address::{P2pName, resolve};
use crate::control::handshake::{CallLimits, call};
use crate::control::store::Store;
use crate::control::store::keys::{Keys, decode_rpc_meta};
use crate::control::wire::{self, FrameKind};
use crate::engine::lanes::own_rails;
use crate::engine::peer::{Link, Peer};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SegmentId;
use crate::memory::Regions;
use crate::memory::link::HostLink;
use crate::segment::{HostIdentity, RailAddr, SegmentDesc, TentFacts};
use crate::slice::TransportKind;
use crate::sync::{lock, read, write};
use crate::time;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, RwLock};

/// A description as text, and what it was made from: version of the regions, whether for our own readers,
/// the addresses.
#[derive(Debug)]
struct Rendered {
    from: (u64, bool, Vec<RailAddr>),
    json: Arc<Vec<u8>>,
}

/// What this engine says of itself.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) rpc_port: u16,
    pub(super) data_port: u16,
    pub(super) identity: HostIdentity,
    /// Says on which addresses to serve.
    config: Config,
    pub(super) regions: Arc<Regions>,
    cache: Mutex<Option<Rendered>>,
}

impl Own {
    pub(super) fn new(
        config: &Config,
        name: String,
        ports: (u16, u16),
        identity: HostIdentity,
        regions: Arc<Regions>,
    ) -> Self {
        let (rpc_port, data_port) = ports;
        let (host, config) = (config.host.clone(), config.clone());
        Self { name, host, rpc_port, data_port, identity, config, regions, cache: Mutex::new(None) }
    }

    /// The description without its buffers.
    fn head(&self) -> SegmentDesc {
        SegmentDesc {
            name: self.name.clone(),
            protocol: "tcp".into(),
            tcp_data_host: self.config.data_host.as_ref().unwrap_or(&self.host).clone(),
            tcp_data_port: self.data_port,
            tcp_proto_version: 2,
            buffers: Vec::new(),
            tent: Some(TentFacts {
                incarnation: self.regions.incarnation(),
                host: self.identity.clone(),
                // asked anew each time: interfaces come and go
                rails: own_rails(&self.config),
                guard: self.regions.guard_ref(),
            }),
        }
    }

    /// The description as JSON; `ours` adds what only our own peers read.
    pub(super) fn json(&self, ours: bool) -> Arc<Vec<u8>> {
        let mut desc = self.head();
        let rails = desc.tent.as_ref().map_or_else(Vec::new, |t| t.rails.clone());
        let from = (self.regions.version(), ours, rails);
        let mut cache = lock(&self.cache);
        if let Some(rendered) = cache.as_ref().filter(|r| r.from == from) {
            return Arc::clone(&rendered.json);
        }
        desc.buffers = self.regions.describe();
        if !ours {
            // an upstream reader takes 1 MiB and has no use for our facts
            desc.tent = None;
        }
        let json = Arc::new(wire::encode_desc(&desc, &time::timestamp()));
        *cache = Some(Rendered { from, json: Arc::clone(&json) });
        json
    }
}

#[derive(Debug, Default)]
struct Table {
    peers: Vec<Arc<Peer>>,
    names: HashMap<String, u32>,
}

/// The store that an engine asks for its peers, and where they said that they answer.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    addresses: Mutex<HashMap<String, P2pName>>,
}

impl Finder {
    pub(super) fn new(store: Arc<dyn Store>, keys: Keys) -> Self {
        Self { store, keys, addresses: Mutex::default() }
    }

    /// Where the engine of that name answers, as the store says now.
    pub(super) fn look_up(&self, name: &str) -> Result<P2pName> {
        let key = self.keys.rpc_meta(name);
        let Some(json) = self.store.get(&key)? else {
            let text = format!("segment {name} is not in the store: there is no key {key:?}");
            return Err(Error::new(ErrorKind::Metadata, text));
        };
        let at = decode_rpc_meta(&json).map_err(|e| in_store(&key, &e))?;
        lock(&self.addresses).insert(name.to_owned(), at.clone());
        Ok(at)
    }

    fn known(&self, name: &str) -> Option<P2pName> {
        lock(&self.addresses).get(name).cloned()
    }

    fn describe(&self, name: &str) -> Result<SegmentDesc> {
        let key = self.keys.segment(name);
        let Some(json) = self.store.get(&key)? else {
            let text = format!(
                "segment {name} is not in the store: there is no key {key:?}; is its engine up, and \
                 of the same cluster (MC_METADATA_CLUSTER_ID)?"
            );
            return Err(Error::new(ErrorKind::Metadata, text));
        };
        let mut desc = wire::decode_desc(&json).map_err(|e| in_store(&key, &e))?;
        match self.look_up(name) {
            // older upstreams do not say where their data port is
            Ok(at) if desc.tcp_data_host.is_empty() => desc.tcp_data_host = at.host,
            Err(e) if desc.tcp_data_host.is_empty() => return Err(e),
            Err(e) => log::debug!("segment {name}: {e}"),
            Ok(_) => {}
        }
        Ok(desc)
    }
}

fn in_store(key: &str, e: &Error) -> Error {
    Error::new(e.kind(), format!("the value of {key:?} in the store: {e}"))
}

/// The peers of an engine; number 0 is the engine itself.
#[derive(Debug)]
pub(super) struct Directory {
    own: Arc<Own>,
    config: Config,
    lanes: usize,
    table: RwLock<Table>,
    /// None under P2PHANDSHAKE, where a name is an address.
    finder: Option<Arc<Finder>>,
}

impl Directory {
    pub(super) fn new(
        own: Arc<Own>,
        config: &Config,
        lanes: usize,
        finder: Option<Arc<Finder>>,
    ) -> Self {
        let link = Link::Process(Arc::clone(&own.regions));
        let own_peer = Arc::new(Peer::new(0, &own.name, own.head(), link, lanes));
        let names = HashMap::from([(own.name.clone(), 0)]);
        let table = RwLock::new(Table { peers: vec![own_peer], names });
        Self { own, config: config.clone(), lanes, table, finder }
    }

    pub(super) fn peer(&self, id: SegmentId) -> Result<Arc<Peer>> {
        read(&self.table).peers.get(id.0 as usize).cloned().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, format!("no segment {} is open", id.0))
        })
    }

    pub(super) fn own_name(&self) -> &str {
        &self.own.name
    }

    pub(super) fn all(&self) -> Vec<Arc<Peer>> {
        read(&self.table).peers.clone()
    }

    pub(super) fn open(&self, name: &str) -> Result<SegmentId> {
        if let Some(id) = read(&self.table).names.get(name) {
            return Ok(SegmentId(*id));
        }
        check_name(name)?;
        self.add(name, self.fetch(name)?)
    }

    /// Opens a segment whose description came by another way.
    pub(super) fn import(&self, desc: SegmentDesc) -> Result<SegmentId> {
        let name = desc.name.clone();
        let known = read(&self.table).names.get(&name).copied();
        if let Some(id) = known {
            let peer = self.peer(SegmentId(id))?;
            let life = |d: &SegmentDesc| d.tent.as_ref().map(|t| t.incarnation);
            if id != 0 && life(&peer.desc()) != life(&desc) {
                // which of the two is older cannot be seen: the next submit asks
                peer.mark_stale();
            }
            return Ok(SegmentId(id));
        }
        check_name(&name)?;
        self.add(&name, desc)
    }

    fn add(&self, name: &str, desc: SegmentDesc) -> Result<SegmentId> {
        let link = self.link(name, &desc);
        let mut table = write(&self.table);
        if let Some(id) = table.names.get(name) {
            // somebody else opened it meanwhile
            return Ok(SegmentId(*id));
        }
        let id = u32::try_from(table.peers.len()).ok().filter(|id| *id < MAX_SEGMENTS);
        let Some(id) = id else {
            let text = format!("{MAX_SEGMENTS} segments are open");
            return Err(Error::new(ErrorKind::Memory, text));
        };
        table.peers.push(Arc::new(Peer::new(id, name, desc, link, self.lanes)));
        table.names.insert(name.to_owned(), id);
        Ok(SegmentId(id))
    }

    pub(super) fn refresh(&self, peer: &Peer) -> Result<()> {
        if peer.id == 0 {
            return Ok(());
        }
        let desc = match self.fetch(&peer.name) {
            // the store is away, or was emptied; one of ours speaks for itself
            Err(e) if self.finder.is_some() && peer.desc().tent.is_some() => {
                let own = self.describe_itself(&peer.name);
                own.inspect_err(|why| log::debug!("segment {}: {why}", peer.name)).map_err(|_| e)?
            }
            other => other?,
        };
        peer.update(desc, |desc| self.link(&peer.name, desc));
        Ok(())
    }

    pub(super) fn forget(&self, name: &str) {
        if name != self.own.name {
            write(&self.table).names.remove(name);
        }
    }

    /// One question to a peer's RPC port.
    pub(super) fn ask(&self, name: &str, kind: FrameKind, body: &[u8]) -> Result<Vec<u8>> {
        let Some(finder) = &self.finder else {
            let parsed = P2pName::parse(name, crate::control::address::DEFAULT_RPC_PORT);
            return self.ask_at(&parsed, kind, body);
        };
        let Some(known) = finder.known(name) else {
            return self.ask_at(&finder.look_up(name)?, kind, body);
        };
        self.ask_at(&known, kind, body).or_else(|e| match finder.look_up(name) {
            // nothing of the question has arrived where nobody listens
            Ok(now) if now != known && e.kind() == ErrorKind::Socket => {
                self.ask_at(&now, kind, body)
            }
            _ => Err(e),
        })
    }

    fn ask_at(&self, at: &P2pName, kind: FrameKind, body: &[u8]) -> Result<Vec<u8>> {
        let limits = CallLimits {
            connect_timeout: self.config.connect_timeout,
            rpc_timeout: self.config.rpc_timeout,
            max_len: self.config.max_rpc_len.max(MIN_ANSWER),
        };
        call(&at.resolve(self.config.prefer_ipv6)?, kind, body, &limits)
    }

    /// Whether an engine of that name answers there.
    pub(super) fn lives_at(&self, at: &P2pName, name: &str) -> bool {
        let limits = CallLimits { connect_timeout: PROBE, rpc_timeout: PROBE, max_len: MIN_ANSWER };
        let Ok(addresses) = at.resolve(self.config.prefer_ipv6) else { return false };
        let ask = |kind, body: &[u8]| call(&addresses, kind, body, &limits);
        // one that accepts a connection and does not know the question is alive too
        let answer = ask(FrameKind::Probe, wire::PROBE_REQUEST);
        if answer.is_err_and(|e| e.kind() != ErrorKind::Malformed) {
            return false;
        }
        // the port may be another's by now; who does not tell its name may have that one
        let mut me = self.own.head();
        me.buffers.clear();
        let told = ask(FrameKind::Metadata, &wire::encode_desc(&me, &time::timestamp()));
        told.and_then(|json| wire::decode_desc(&json)).map_or(true, |desc| desc.name == name)
    }

    fn fetch(&self, name: &str) -> Result<SegmentDesc> {
        match &self.finder {
            Some(finder) => finder.describe(name),
            None => self.describe_itself(name),
        }
    }

    /// Asks the peer for its own description.
    fn describe_itself(&self, name: &str) -> Result<SegmentDesc> {
        // what a reader of ours asks with: by it the peer knows us
        let mut me = self.own.head();
        me.buffers.clear();
        let request = wire::encode_desc(&me, &time::timestamp());
        let answer = self.ask(name, FrameKind::Metadata, &request)?;
        wire::decode_desc(&answer)
            .map_err(|e| Error::new(e.kind(), format!("description of segment {name}: {e}")))
    }

    /// How near the peer is.
    fn link(&self, name: &str, desc: &SegmentDesc) -> Link {
        let Some(facts) = &desc.tent else {
            let said = &desc.tcp_data_host;
            let host = if said.is_empty() { P2pName::parse(name, 1).host } else { said.clone() };
            return match resolve(&host, 1, self.config.prefer_ipv6) {
                Ok(addrs) => addrs.first().map_or(Link::Remote, |a| Link::Upstream(a.ip())),
                Err(e) => {
                    log::warn!("segment {name}: its data host {host}: {e}");
                    Link::Remote
                }
            };
        };
        if let Some(regions) = Regions::of_this_process(facts.incarnation) {
            return Link::Process(regions);
        }
        let allowed = self.config.transports;
        let near = facts.host.boot_id == self.own.identity.boot_id;
        if !near || !(allowed.has(TransportKind::Cma) || allowed.has(TransportKind::Shm)) {
            return Link::Remote;
        }
        match HostLink::attach(facts) {
            Ok(link) => {
                if !link.cma_ok() {
                    let scope = crate::sys::host::ptrace_scope();
                    warn_refused(name, &format!("the kernel refuses to copy across ({scope})"));
                }
                Link::Host(Arc::new(link))
            }
            Err(e) => {
                warn_refused(name, &e.to_string());
                Link::Remote
            }
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    let text = format!("a segment name has 1 to {MAX_NAME} bytes");
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

/// One loud line per process: a peer on this host is reached over TCP, many times slower.
fn warn_refused(name: &str, why: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::warn!(
            "segment {name} is on this host, but {why}: falling back to tcp, which is several \
             times slower; run both processes as one user in one pid name space, or allow \
             CAP_SYS_PTRACE"
        );
    });
}

/// How long an engine may take to answer whether it is there.
const PROBE: std::time::Duration = std::time::Duration::from_secs(1);
/// Longest segment name, in bytes.
const MAX_NAME: usize = 4096;
/// Most segments that an engine opens in its life; ids are never used again.
const MAX_SEGMENTS: u32 = 1 << 24;
/// Answers of this size are taken whatever the configured limit for requests is.
const MIN_ANSWER: usize = 64 << 20;
