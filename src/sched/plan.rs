//! Which transport carries a task, given where the peer is and what is allowed.

use crate::slice::{TransportKind, TransportMask};

/// What is known of the way to a peer's region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// The region belongs to an engine of this process.
    pub same_process: bool,
    /// The peer is attached on this host and the region is backed by a memfd.
    pub mappable: bool,
    /// The peer is attached on this host and the kernel lets us copy across.
    pub cross_memory: bool,
    /// The peer serves a data port.
    pub tcp: bool,
}

/// The best transport that reaches the region and is allowed.
pub fn choose(reach: Reach, allowed: TransportMask) -> Option<TransportKind> {
    let works = |kind| match kind {
        TransportKind::Local => reach.same_process,
        TransportKind::Shm => reach.mappable && !reach.same_process,
        TransportKind::Cma => reach.cross_memory && !reach.same_process,
        TransportKind::Tcp => reach.tcp,
    };
    TransportKind::ALL.into_iter().find(|kind| allowed.has(*kind) && works(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_allowed_way_wins() {
        let all = Reach { same_process: false, mappable: true, cross_memory: true, tcp: true };
        assert_eq!(choose(all, TransportMask::ALL), Some(TransportKind::Shm));
        let cma_tcp = TransportMask::only(TransportKind::Cma).with(TransportKind::Tcp);
        assert_eq!(choose(all, cma_tcp), Some(TransportKind::Cma));
        // D2: pinned to tcp means tcp, on one host and in one process too
        let tcp = TransportMask::only(TransportKind::Tcp);
        assert_eq!(choose(Reach { same_process: true, ..all }, tcp), Some(TransportKind::Tcp));
        assert_eq!(choose(Reach { tcp: true, ..Reach::default() }, TransportMask::ALL), {
            Some(TransportKind::Tcp)
        });
        assert_eq!(choose(Reach::default(), TransportMask::ALL), None);
        let shm = TransportMask::only(TransportKind::Shm);
        assert_eq!(choose(Reach { mappable: false, ..all }, shm), None);
    }
}
