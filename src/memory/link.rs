//! The attachment to a peer on this host: what it takes to copy to and from its memory.
//!
//! A peer is on this host when it says the same boot and pid name space as ours, and when what it says
//! proves true: the process is there, started when it says, and holds the guard table of the incarnation
//! that its descriptor speaks of. Nothing else that it says is trusted.

use super::guard::{self, Copier, CopyGuard, GuardView};
use crate::id::Incarnation;
use crate::segment::{HostIdentity, ShmBacking, TentFacts};
use crate::sync::{AtomicU64, Ordering, read, write};
use crate::sys::host;
use crate::sys::mem::{self, Mapping};
use crate::time::Instant;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Why a peer cannot be reached by copies within the host. None of these is an error of the caller's:
/// TCP is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Its boot id is not ours.
    #[error("the peer runs on another host")]
    OtherHost,
    /// Process ids mean something else there.
    #[error("the peer runs in another pid name space")]
    OtherPidNamespace,
    /// No such process, or another one under its pid.
    #[error("process {0} of the peer is gone")]
    Gone(i32),
    /// It publishes no guard table.
    #[error("the peer has no guard table")]
    NoGuard,
    /// The kernel lets us not look into it.
    #[error("access to process {pid} is refused: {hint}")]
    NotPermitted {
        /// The peer's process.
        pid: i32,
        /// What the ptrace policy says.
        hint: String,
    },
    /// The process holds no guard table of that incarnation.
    #[error("process {0} is not the peer that its descriptor speaks of")]
    WrongPeer(i32),
    /// Something else that the kernel refused.
    #[error("attaching to process {pid}: {cause}")]
    Os {
        /// The peer's process.
        pid: i32,
        /// The kernel's reason.
        cause: io::Error,
    },
}

/// An attachment to one life of one peer. Shared by all lanes.
#[derive(Debug)]
pub struct HostLink {
    pid: i32,
    start_ticks: u64,
    incarnation: Incarnation,
    /// `None` where the kernel has none to give.
    pidfd: Option<OwnedFd>,
    /// When the process was last seen to run.
    seen_alive: AtomicU64,
    view: Arc<GuardView>,
    cma: bool,
    /// Mappings of the peer's memory, by the key of the region.
    mappings: RwLock<BTreeMap<u64, Arc<PeerMapping>>>,
}

impl HostLink {
    /// Attaches to the peer that says this of itself.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn attach(facts: &TentFacts) -> Result<Self, AttachError> {
        let HostIdentity { pid, start_ticks, .. } = facts.host;
        let os = |cause| AttachError::Os { pid, cause };
        let here = this_host().map_err(os)?;
        if here.boot_id != facts.host.boot_id {
            return Err(AttachError::OtherHost);
        }
        if here.pid_ns != facts.host.pid_ns {
            return Err(AttachError::OtherPidNamespace);
        }
        // the pidfd first: if the start is right after it was opened, it is that process's
        let pidfd = host::open_pidfd(pid).ok();
        if pid <= 0 || !host::is_alive(pid, start_ticks) {
            return Err(AttachError::Gone(pid));
        }
        let table = facts.guard.ok_or(AttachError::NoGuard)?;
        let view =
            GuardView::open(pid, table.fd, facts.incarnation).map_err(|e| match e.kind() {
                io::ErrorKind::PermissionDenied => {
                    AttachError::NotPermitted { pid, hint: host::ptrace_scope() }
                }
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData => AttachError::WrongPeer(pid),
                _ => os(e),
            })?;
        let probe = usize::try_from(table.probe).unwrap_or(0);
        let word = mem::peek_process(pid, probe, size_of::<u64>());
        let cma = word.as_ref().is_ok_and(|word| *word == guard::low(facts.incarnation));
        if let Err(e) = word {
            log::warn!("no cross-memory copies with process {pid}: {e}; {}", host::ptrace_scope());
        }
        Ok(Self {
            pid,
            start_ticks,
            incarnation: facts.incarnation,
            pidfd,
            seen_alive: AtomicU64::new(0),
            view: Arc::new(view),
            cma,
            mappings: RwLock::default(),
        })
    }

    /// The peer's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Which life of the peer this is attached to.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether `process_vm_readv` reaches the peer.
    pub fn cma_ok(&self) -> bool {
        self.cma
    }

    /// Whether the peer's process still runs, to be asked before each copy: a mapping outlives the
    /// process, and its pid may come to name another. The kernel is asked again after [`ALIVE_FOR`] only;
    /// nobody can tell a peer that died just before a copy from one that died just after.
    pub fn is_alive(&self) -> bool {
        let now = Instant::now();
        let seen = Instant(self.seen_alive.load(Ordering::Relaxed));
        if now.since(seen) < ALIVE_FOR {
            return true;
        }
        let alive = match &self.pidfd {
            Some(pidfd) => !host::has_exited(pidfd),
            None => host::is_alive(self.pid, self.start_ticks),
        };
        if alive {
            self.seen_alive.store(now.0, Ordering::Relaxed);
        }
        alive
    }

    /// The right to copy, for one lane; `None` when a thousand others hold one.
    pub fn copier(&self) -> Option<Copier> {
        self.view.copier()
    }

    /// The mapping of the region that `held` keeps registered, which lies in the peer's memfd. Made at the
    /// first use, kept for later ones.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` when the peer's file is not sealed or too short.
    pub fn mapping(&self, shm: ShmBacking, held: &CopyGuard<'_>) -> io::Result<Arc<PeerMapping>> {
        let (slot, key) = held.name();
        if let Some(mapping) = read(&self.mappings).get(&key) {
            return Ok(Arc::clone(mapping));
        }
        // while the region is held its descriptor number means what the key says
        let file = mem::open_peer_memfd(self.pid, shm.fd, held.is_writable())?;
        let page = mem::page_len() as u64;
        let skew = shm.offset % page;
        let len = held.region_len().checked_add(skew).and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or(io::ErrorKind::InvalidData)?;
        let memory = Mapping::of_sealed(&file, shm.offset - skew, len, held.is_writable())?;
        let first = memory.addr() + usize::try_from(skew).unwrap_or(0);
        let mapping = Arc::new(PeerMapping { memory, first, base: held.base(), slot });
        let mut mappings = write(&self.mappings);
        mappings.retain(|key, mapping| self.view.is_open(mapping.slot, *key));
        if mappings.len() >= MAPPINGS_MAX {
            mappings.pop_first(); // keys are random, so any will do; it is mapped again when needed
        }
        mappings.insert(key, Arc::clone(&mapping));
        Ok(mapping)
    }
}

/// A region of the peer, mapped here.
#[derive(Debug)]
pub struct PeerMapping {
    memory: Mapping,
    /// Where the region begins in this process, and in the peer.
    first: usize,
    base: u64,
    slot: u32,
}

impl PeerMapping {
    /// Where the peer's range is in this process, if it lies in the mapping.
    pub fn local_addr(&self, remote: u64, len: u64) -> Option<usize> {
        let offset = usize::try_from(remote.checked_sub(self.base)?).ok()?;
        let addr = self.first.checked_add(offset)?;
        let end = addr.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.memory.addr() + self.memory.len()).then_some(addr)
    }
}

/// What this process says of its host to peers. Asked afresh, for a fork changes it.
///
/// # Errors
/// When `/proc` cannot be read: then there are no copies within the host.
pub fn this_host() -> io::Result<HostIdentity> {
    let pid = host::pid();
    Ok(HostIdentity {
        boot_id: host::boot_id()?,
        pid_ns: host::pid_namespace()?,
        net_ns: host::net_namespace()?,
        pid,
        start_ticks: host::start_ticks(pid)?,
    })
}

/// How long a process that was seen to run is taken to run: no pid comes round within that, and asking
/// costs 0.3 µs, as much as copying 8 KiB.
const ALIVE_FOR: Duration = Duration::from_micros(100);
/// Regions of one peer that are mapped at once.
const MAPPINGS_MAX: usize = 1024;

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests {
    use super::*;
    use crate::memory::Regions;
    use crate::segment::Access;
    use crate::slice::Op;

    /// What an engine of this process would publish.
    pub(crate) fn facts_of(regions: &Regions) -> TentFacts {
        TentFacts {
            incarnation: regions.incarnation(),
            host: this_host().unwrap(),
            rails: Vec::new(),
            guard: regions.guard_ref(),
        }
    }

    fn engine() -> (Arc<Regions>, TentFacts) {
        let regions = Regions::new(Incarnation(host::random_u128().unwrap()));
        let facts = facts_of(&regions);
        (regions, facts)
    }

    #[test]
    fn a_peer_that_is_what_it_says_is_attached() {
        let (_regions, facts) = engine();
        let link = HostLink::attach(&facts).unwrap();
        assert!(link.is_alive() && link.cma_ok());
        assert_eq!((link.pid(), link.incarnation()), (host::pid(), facts.incarnation));
    }

    #[test]
    fn a_peer_that_is_not_what_it_says_is_not_attached() {
        let (_regions, facts) = engine();
        let (_other, other) = engine();
        let attach = |change: &dyn Fn(&mut TentFacts)| {
            let mut facts = facts.clone();
            change(&mut facts);
            HostLink::attach(&facts).unwrap_err()
        };
        let wrong = attach(&|facts| facts.host.boot_id.push('0'));
        assert!(matches!(wrong, AttachError::OtherHost));
        let wrong = attach(&|facts| facts.host.pid_ns += 1);
        assert!(matches!(wrong, AttachError::OtherPidNamespace));
        let wrong = attach(&|facts| facts.host.start_ticks += 1);
        assert!(matches!(wrong, AttachError::Gone(_)));
        for pid in [0, -1, i32::MIN, i32::MAX] {
            let wrong = attach(&|facts| facts.host.pid = pid);
            assert!(matches!(wrong, AttachError::Gone(_)), "{pid}");
        }
        let wrong = attach(&|facts| facts.guard = None);
        assert!(matches!(wrong, AttachError::NoGuard));
        let wrong = attach(&|facts| facts.guard = other.guard);
        assert!(matches!(wrong, AttachError::WrongPeer(_)));
        for fd in [-1, 0, 1 << 20, i32::MAX] {
            let wrong = attach(&|facts| facts.guard.as_mut().unwrap().fd = fd);
            assert!(matches!(wrong, AttachError::WrongPeer(_)), "{fd} {wrong}");
        }
    }

    #[test]
    fn a_probe_that_fails_leaves_the_mappings() {
        let (_regions, mut facts) = engine();
        for probe in [0, 8, u64::MAX] {
            facts.guard.as_mut().unwrap().probe = probe;
            assert!(!HostLink::attach(&facts).unwrap().cma_ok());
        }
    }

    #[test]
    fn a_peer_that_ended_is_noticed() {
        let (_regions, facts) = engine();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut link = HostLink::attach(&facts).unwrap();
        // as if the link had been made to that process
        link.pidfd = host::open_pidfd(i32::try_from(child.id()).unwrap()).ok();
        child.wait().unwrap();
        assert!(!link.is_alive());
        link.pidfd = None;
        assert!(link.is_alive(), "where the kernel has no pidfd, the start time speaks");
        link.seen_alive = AtomicU64::new(0);
        link.start_ticks += 1;
        assert!(!link.is_alive());
    }

    #[test]
    fn a_mapping_is_kept_while_its_region_is_and_no_longer() {
        let (regions, facts) = engine();
        let link = HostLink::attach(&facts).unwrap();
        let mut copier = link.copier().unwrap();
        let mut map = |addr: usize| {
            let described = regions.describe();
            let buffer = described.iter().find(|b| b.addr == addr as u64).unwrap();
            let Access { key, slot, shm, .. } = buffer.access.unwrap();
            let held = copier.enter(slot, key, addr as u64, 1, Op::Read).unwrap();
            link.mapping(shm.unwrap(), &held).unwrap()
        };
        let first = regions.allocate(8192, "*").unwrap();
        let mapping = map(first);
        assert!(Arc::ptr_eq(&mapping, &map(first)));
        let at = first as u64;
        assert!(mapping.local_addr(at + 8191, 1).is_some());
        for (addr, len) in [(at - 1, 1), (at + 8191, 2), (at, u64::MAX), (u64::MAX, 1)] {
            assert_eq!(mapping.local_addr(addr, len), None);
        }
        // the descriptor's number is soon another file's: the key tells them apart
        regions.free(first, Duration::ZERO).unwrap();
        let second = regions.allocate(8192, "*").unwrap();
        assert!(!Arc::ptr_eq(&mapping, &map(second)));
        assert_eq!(read(&link.mappings).len(), 1, "the stale one is gone");

        // a region that begins inside a page
        regions.unregister(second, Duration::ZERO).unwrap();
        let shm = None;
        let read_only = crate::segment::Permission::Read;
        regions.register(second + 100, 5000, "*", read_only, shm).unwrap();
        let inner = map(second + 100);
        let base = mem::peek_process(host::pid(), second + 100, 8).unwrap();
        let seen = inner.local_addr(second as u64 + 100, 5000).unwrap();
        assert_eq!(mem::peek_process(host::pid(), seen, 8).unwrap(), base);
        assert_eq!(seen % mem::page_len(), 100);
    }
}
