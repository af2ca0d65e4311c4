//! The parts of an engine put together: started in order, ended in order.

use crate::config::{Config, Metadata};
use crate::control::address::P2pName;
use crate::control::handshake::{Handler, Server, ServerLimits, bind_in_range};
use crate::control::store;
use crate::control::store::keys::Keys;
use crate::control::wire::Notify;
use crate::engine::batch::{Batches, OnEnd, TaskRef};
use crate::engine::chores::Chores;
use crate::engine::directory::{Directory, Finder, Own};
use crate::engine::driver::{Driver, RailMaker};
use crate::engine::errands::Errands;
use crate::engine::lane::Lane;
use crate::engine::lanes::{Family, Lanes};
use crate::engine::notify::Inbox;
use crate::engine::piece_log::PieceLog;
use crate::engine::progress::Stop;
use crate::engine::publish::Publisher;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;
use crate::memory::{Regions, link};
use crate::policy::Policies;
use crate::segment::HostIdentity;
use crate::sync::{lock, read, write};
use crate::sys::evloop::set_backlog;
use crate::sys::host;
use crate::time::Instant;
use crate::transport::Transport;
use crate::transport::cma::CmaTransport;
use crate::transport::local::LocalTransport;
use crate::transport::shm::ShmTransport;
use crate::transport::tcp::{TcpShared, TcpTransport};
use arc_swap::ArcSwapOption;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

/// Deadlines of all tasks: the control thread looks when the next one may have come.
#[derive(Debug)]
pub(super) struct Deadlines {
    batches: Arc<Batches>,
    lanes: Arc<Lanes>,
    directory: Arc<Directory>,
    next: AtomicU64,
    server: OnceLock<Arc<Server>>,
}

impl Deadlines {
    fn new(batches: &Arc<Batches>, lanes: &Arc<Lanes>, directory: &Arc<Directory>) -> Self {
        Self {
            batches: Arc::clone(batches),
            lanes: Arc::clone(lanes),
            directory: Arc::clone(directory),
            next: AtomicU64::new(u64::MAX),
            server: OnceLock::new(),
        }
    }

    /// A task has this deadline; wakes the control thread only if it would look later.
    pub(super) fn wants(&self, at: Instant) {
        if self.next.fetch_min(at.0, Ordering::AcqRel) > at.0
            && let Some(server) = self.server.get()
        {
            server.wake();
        }
    }

    /// Ends overdue tasks (I10); returns when to look again.
    fn look(&self, now: Instant) -> Option<Instant> {
        self.next.store(u64::MAX, Ordering::Release);
        let (overdue, next) = end_overdue(&self.batches, now);
        if !overdue.is_empty() {
            for peer in self.directory.all() {
                peer.work.purge();
            }
            self.lanes.overdue();
        }
        let next = self.next.fetch_min(next.0, Ordering::AcqRel).min(next.0);
        (next != u64::MAX).then_some(Instant(next))
    }
}

/// Stops the tasks whose deadline has come (I10). Returns those that have not ended yet, of which the
/// lanes must be told, and when to look again.
pub(super) fn end_overdue(batches: &Batches, now: Instant) -> (Vec<TaskRef>, Instant) {
    let mut next = u64::MAX;
    let mut overdue = Vec::new();
    batches.each(|batch| {
        let earliest = batch.deadline.load(Ordering::Acquire);
        if earliest > now.0 {
            next = next.min(earliest);
            return;
        }
        // taken out before the tasks are looked at, so that one that comes meanwhile is not lost
        batch.deadline.store(u64::MAX, Ordering::Release);
        let mut rest = u64::MAX;
        for index in 0..batch.count() {
            let Some(task) = batch.task(index).filter(|t| !t.progress.state().is_final()) else {
                continue;
            };
            if task.spec.deadline <= now {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                overdue.push(TaskRef { batch: Arc::clone(batch), index });
                // looked at again until it has ended
                rest = rest.min(now.after(AGAIN).0);
            } else {
                rest = rest.min(task.spec.deadline.0);
            }
        }
        next = next.min(batch.deadline.fetch_min(rest, Ordering::AcqRel).min(rest));
    });
    for task in &overdue {
        task.stop(Stop::TimeOut, || "the deadline came first".into());
    }
    (overdue, Instant(next))
}

/// What the RPC port asks of the engine.
struct Face {
    own: Arc<Own>,
    inbox: Arc<Inbox>,
    deadlines: Arc<Deadlines>,
    chores: Arc<Chores>,
}

impl Handler for Face {
    fn describe(&self, requester: &[u8]) -> Vec<u8> {
        // our own readers ask with a description that carries our key
        let ours = requester.windows(6).any(|w| w == b"\"tent\"");
        self.own.json(ours).to_vec()
    }

    fn notify(&self, message: Notify) -> bool {
        self.inbox.take_in(message)
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        let chore = self.chores.look(now);
        let next = self.deadlines.look(now).map_or(chore, |at| at.min(chore));
        (next != Instant::NEVER).then_some(next)
    }
}

/// See the module.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) own: Arc<Own>,
    pub(super) directory: Arc<Directory>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) batches: Arc<Batches>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) errands: Arc<Errands>,
    pub(super) clock: Arc<Deadlines>,
    pub(super) chores: Arc<Chores>,
    pub(super) on_end: Arc<dyn OnEnd>,
    /// None under P2PHANDSHAKE.
    publisher: Option<Arc<Publisher>>,
    /// Which transports a request may take; none says that any may.
    pub(super) policies: ArcSwapOption<Policies>,
    server: Arc<Server>,
    panicked: Arc<AtomicBool>,
    down: AtomicBool,
    /// Read by whoever submits, written once by the shutdown: a task is either seen by it or refused.
    submitting: RwLock<()>,
    ending: Mutex<bool>,
    born: u64,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("name", &self.own.name).finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(config: Config) -> Result<Arc<Self>> {
        let born = host::fork_generation();
        let no_chance = |e| Error::os(ErrorKind::Socket, "no random numbers", &e);
        let me = host::random_u128().map_err(no_chance)?;
        let (regions, identity) = (Regions::new(Incarnation(me)), identity());
        let (rpc, rpc_port) = listener(&config, config.rpc_port)?;
        let (data, data_port) = listener(&config, config.data_port)?;
        let finder = finder(&config)?;
        let name = segment_name(&config, rpc_port);
        let lanes = Arc::new(Lanes::new(&config, identity.net_ns, &identity.boot_id));
        let ports = (rpc_port, data_port);
        let own = Arc::new(Own::new(&config, name, ports, identity, Arc::clone(&regions)));
        let panicked = Arc::new(AtomicBool::new(false));
        lanes.set(make_lanes(&config, &lanes, &regions, data, &panicked)?);
        let directory =
            Directory::new(Arc::clone(&own), &config, lanes.net + lanes.copy, finder.clone());
        let directory = Arc::new(directory);
        let inbox = Arc::new(Inbox::default());
        let errands = Errands::new(
            Incarnation(me),
            Arc::clone(&directory),
            Arc::clone(&lanes),
            Arc::clone(&inbox),
        );
        let batches = Arc::new(Batches::new(next_tag()));
        let clock = Arc::new(Deadlines::new(&batches, &lanes, &directory));
        let chores = Arc::new(Chores::new(
            &config,
            Arc::clone(&directory),
            Arc::clone(&lanes),
            Arc::clone(&errands),
            Instant::now(),
        ));
        let face = Face {
            chores: Arc::clone(&chores),
            own: Arc::clone(&own),
            inbox: Arc::clone(&inbox),
            deadlines: Arc::clone(&clock),
        };
        let limits = ServerLimits { max_len: config.max_rpc_len, ..ServerLimits::default() };
        let server = Arc::new(Server::start(rpc, Arc::new(face), limits)?);
        clock.server.set(Arc::clone(&server)).ok();
        lanes.start_net()?;
        let publisher = publisher(finder, &own, &directory).inspect_err(|_| {
            lanes.stop();
            server.stop();
        })?;
        log::info!("engine {} ({}) serves data on port {data_port}", own.name, Incarnation(me));
        let on_end: Arc<dyn OnEnd> = Arc::clone(&errands) as Arc<dyn OnEnd>;
        Ok(Arc::new(Self {
            config,
            own,
            directory,
            lanes,
            batches,
            inbox,
            errands,
            clock,
            chores,
            on_end,
            publisher,
            policies: ArcSwapOption::empty(),
            server,
            panicked,
            down: AtomicBool::new(false),
            submitting: RwLock::new(()),
            ending: Mutex::new(false),
            born,
        }))
    }

    /// Whether calls are taken.
    pub(super) fn check(&self) -> Result<()> {
        let why = if self.is_foreign() {
            "the engine was made before a fork: this process has to make its own"
        } else if self.down.load(Ordering::Acquire) {
            "the engine is shut down"
        } else if self.panicked.load(Ordering::Acquire) {
            "a thread of the engine panicked (see the log): make a new one"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::EngineDown, why))
    }

    /// As [`Core::check`], and holds the shutdown off until the guard is dropped.
    pub(super) fn enter(&self) -> Result<RwLockReadGuard<'_, ()>> {
        self.check()?; // first, for after a fork the lock may be held by a thread that is not here
        let entered = read(&self.submitting);
        self.check()?;
        Ok(entered)
    }

    /// The registered memory has changed: the store is told, and told later if it is away.
    pub(super) fn publish(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.changed();
        }
    }

    /// Whether this is a child of the process that made the engine: its threads are not here.
    fn is_foreign(&self) -> bool {
        self.born != host::fork_generation()
    }

    pub(super) fn shutdown(&self) {
        if self.is_foreign() {
            return;
        }
        {
            let _nobody_submits = write(&self.submitting);
            self.down.store(true, Ordering::Release);
        }
        // a second caller returns when the first is through
        let mut ended = lock(&self.ending);
        if std::mem::replace(&mut *ended, true) {
            return;
        }
        if let Some(publisher) = &self.publisher {
            // first, so that nobody new finds an engine that is about to end
            publisher.stop();
        }
        self.errands.stop(self.config.quiet_timeout);
        let mut running = Vec::new();
        self.batches.each(|batch| {
            for index in 0..batch.count() {
                if batch.task(index).is_some_and(|t| !t.progress.state().is_final()) {
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    TaskRef { batch: Arc::clone(batch), index }
                        .stop(Stop::Cancel, || "the engine is shutting down".into());
                    running.push(Arc::clone(batch));
                }
            }
        });
        for peer in self.directory.all() {
            peer.work.purge();
        }
        self.lanes.hand_over(Family::Net);
        self.lanes.hand_over(Family::Copy);
        let begin = Instant::now();
        for batch in running {
            batch.park(self.config.quiet_timeout.saturating_sub(Instant::now().since(begin)));
        }
        self.lanes.stop();
        for peer in self.directory.all() {
            peer.work.purge();
        }
        self.server.stop();
        // peers on this host copy without asking: from here on they are refused (I11)
        if !self.own.regions.close(self.config.quiet_timeout) {
            log::warn!("a peer on this host was still copying when the engine ended");
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The way to the peers' descriptions, if it leads through a store.
fn finder(config: &Config) -> Result<Option<Arc<Finder>>> {
    let Metadata::Store(wanted) = &config.metadata else { return Ok(None) };
    if wanted.name.is_empty() || wanted.name.len() > MAX_NAME {
        let text = format!("with a store the engine needs a name of 1 to {MAX_NAME} bytes");
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let store = store::connect(wanted)?;
    Ok(Some(Arc::new(Finder::new(store, Keys::new(&wanted.cluster)))))
}

/// Under P2PHANDSHAKE the name is the address.
fn segment_name(config: &Config, port: u16) -> String {
    match &config.metadata {
        Metadata::Store(store) => store.name.clone(),
        Metadata::P2pHandshake => P2pName { host: config.host.clone(), port }.to_string(),
    }
}

/// Puts the engine into the store, if there is one; the last step, for from here on peers come.
fn publisher(
    finder: Option<Arc<Finder>>,
    own: &Arc<Own>,
    directory: &Arc<Directory>,
) -> Result<Option<Arc<Publisher>>> {
    let start = |f| Publisher::start(Arc::clone(own), f, Arc::clone(directory));
    finder.map(start).transpose()
}

/// Where this engine runs; without it the peers of this host are reached as if they were elsewhere.
fn identity() -> HostIdentity {
    link::this_host().unwrap_or_else(|e| {
        log::warn!("the kernel does not say which host this is: {e}; every peer is reached by tcp");
        HostIdentity::default()
    })
}

/// A listener on `port`, or on one of the range.
fn listener(config: &Config, port: Option<u16>) -> Result<(TcpListener, u16)> {
    let (listener, port) = bind_in_range(config.port_range, port, true)?;
    set_backlog(&listener, config.listen_backlog)
        .map_err(|e| Error::os(ErrorKind::Socket, "setting the backlog", &e))?;
    Ok((listener, port))
}

fn make_lanes(
    config: &Config,
    lanes: &Arc<Lanes>,
    regions: &Arc<Regions>,
    listener: TcpListener,
    panicked: &Arc<AtomicBool>,
) -> Result<Vec<Arc<Lane>>> {
    let failed = |e: std::io::Error| Error::os(ErrorKind::Socket, "making a lane", &e);
    let weak = Arc::downgrade(lanes);
    let maker = || weak.clone() as Weak<dyn RailMaker>;
    // polling needs a core that nobody else needs
    let spin = if host::cpu_count() > 1 { config.spin } else { Duration::ZERO };
    let shared = TcpShared::new(Arc::clone(regions), lanes.net, SEND_BUFFER).map_err(failed)?;
    let pieces = config.piece_log.as_deref().and_then(PieceLog::create).map(Arc::new);
    let mut listener = Some(listener);
    let mut all = Vec::new();
    for index in 0..lanes.net + lanes.copy {
        let (siblings, transports): (usize, Vec<Box<dyn Transport>>) = if index < lanes.net {
            let tcp = TcpTransport::new(Arc::clone(&shared), index, listener.take());
            (1, vec![Box::new(tcp.map_err(failed)?)])
        } else {
            let copies: Vec<Box<dyn Transport>> = vec![
                Box::new(LocalTransport::new()),
                Box::new(ShmTransport::new()),
                Box::new(CmaTransport::new()),
            ];
            (lanes.copy, copies)
        };
        let siblings = u32::try_from(siblings).unwrap_or(1);
        let mut driver = Driver::new(index, siblings, transports, maker(), config);
        if index < lanes.net {
            driver.record(pieces.clone());
        }
        // a copy is done by whoever asks for it; polling for the next would only take its core
        let spin = if index < lanes.net { spin } else { Duration::ZERO };
        all.push(Lane::new(index, driver, spin, Arc::clone(panicked)).map_err(failed)?);
    }
    Ok(all)
}

/// Engines of a process get different tags, so that their batch ids differ.
fn next_tag() -> u64 {
    static TAG: AtomicU64 = AtomicU64::new(0);
    TAG.fetch_add(1, Ordering::Relaxed)
}

/// Send buffer of a data connection: enough to keep the peer's reader busy while this side does
/// something else for half a millisecond, little enough that late binding is late (D3).
const SEND_BUFFER: usize = 1 << 20;
/// Longest name of a segment in a store, in bytes.
const MAX_NAME: usize = 4096;
/// An overdue task that has not ended yet is looked at again after so long.
const AGAIN: Duration = Duration::from_millis(20);
