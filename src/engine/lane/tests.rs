use super::*;
use crate::config::Config;
use crate::engine::batch::{Batch, Batches, Follow, OnEnd, Route, Spec, Task, TaskRefs};
use crate::engine::driver::{RailMaker, RailSpec};
use crate::engine::peer::Link;
use crate::engine::progress::Progress;
use crate::engine::report::Marks;
use crate::segment::SegmentDesc;
use crate::slice::{Class, Op, Priority, TransportKind, TransportMask};
use crate::transport::cma::CmaTransport;

#[derive(Debug)]
struct Nobody;

impl OnEnd for Nobody {
    fn send(&self, _: Follow) {}
}

impl RailMaker for Nobody {
    fn rails(&self, _: usize, _: &Peer, _: &Link) -> Vec<RailSpec> {
        Vec::new()
    }

    fn tell(&self, _: &Arc<Peer>, _: TransportKind) {}
}

/// Two copy lanes without threads, and a peer for which `bytes` wait.
fn lanes_with_work(bytes: u64) -> (Vec<Arc<Lane>>, Arc<Peer>, Arc<Batch>) {
    let maker: Weak<dyn RailMaker> = Weak::<Nobody>::new();
    let lane = |index| {
        let transports: Vec<Box<dyn crate::transport::Transport>> =
            vec![Box::new(CmaTransport::new())];
        let driver = Driver::new(index, 2, transports, maker.clone(), &Config::default());
        Lane::new(index, driver, Duration::ZERO, Arc::default()).unwrap()
    };
    let lanes = vec![lane(0), lane(1)];
    Lane::introduce(&lanes);
    let peer = Arc::new(Peer::new(1, "peer", SegmentDesc::default(), Link::Remote, 2));
    let on_end: Arc<dyn OnEnd> = Arc::new(Nobody);
    let batch = Batches::new(1).allocate(1, &on_end).unwrap();
    let spec = Spec {
        op: Op::Write,
        class: Class::Bulk,
        priority: Priority::Medium,
        local: 4096,
        remote: 4096,
        len: bytes,
        peer: Arc::clone(&peer),
        allowed: TransportMask::ALL,
        first: None,
        route: Route::new(TransportKind::Cma, None).into(),
        deadline: Instant::NEVER,
        due: Instant::NEVER,
        pin: Mutex::new(None),
    };
    let tasks: TaskRefs =
        batch.push([Task { spec, progress: Progress::new(bytes), marks: Marks::default() }]);
    peer.work.push(&tasks);
    (lanes, peer, batch)
}

/// I9: a caller drives the lane beside, and this one has only just been told of the work.
#[test]
fn a_lane_stands_by_for_callers_only_when_they_are_soon_done() {
    for (bytes, leaves) in [(1 << 30, false), (WORTH_A_THREAD, false), (WORTH_A_THREAD - 1, true)] {
        let (lanes, peer, _batch) = lanes_with_work(bytes);
        let now = Instant::now();
        lanes[0].caller_turn(now).unwrap();
        lanes[1].tell(&peer);
        let mut driver = lock(&lanes[1].driver);
        assert_eq!(lanes[1].leaves_it_to_callers(&mut driver, now), leaves, "{bytes}");
        let gone = now.after(CALLER_GONE);
        assert!(!lanes[1].leaves_it_to_callers(&mut driver, gone), "nobody else is at it");
    }
}
