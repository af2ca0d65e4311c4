//! The exported functions called as C calls them, against engines on the loopback address.
#![allow(unsafe_code, reason = "calls the C API")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "every call passes valid or NULL pointers"
)]

use super::engine::{
    closeSegment, createTransferEngine, destroyTransferEngine, discoverTopology,
    enableGracefulShutdown, getLocalIpAndPort, installTransport, openSegment, openSegmentNoCache,
    removeLocalSegment, syncSegmentCache, uninstallTransport, warmupEfaSegment,
};
use super::memory::{
    registerLocalMemory, registerLocalMemoryBatch, unregisterLocalMemory,
    unregisterLocalMemoryBatch,
};
use super::notify::{freeNotifsMsgBuf, genNotifyInEngine, getNotifsFromEngine};
use super::report::{getNicLoadStats, showLinks};
use super::transfer::{
    allocateBatchID, freeBatchID, getTransferStatus, submitTransfer, submitTransferWithNotify,
};
use super::{
    buffer_entry_t, nic_load_stat_t, notify_msg_t, transfer_engine_t, transfer_request_t,
    transfer_status_t,
};
use crate::entry::last_error_text;
use crate::tent::engine::{tent_last_error, tent_version};
use crate::tent::memory::{tent_allocate_memory, tent_free_memory};
use crate::tent::report::tent_rails_json;
use crate::tent::segment::{tent_free_segment_info, tent_get_segment_info};
use crate::tent::transfer::{tent_batch_event_fd, tent_batch_status, tent_cancel_task, tent_wait};
use crate::tent::{tent_buffer_info_t, tent_segment_info_t, tent_status_t};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

/// An engine that is destroyed at the end of its test.
struct Node(transfer_engine_t);

impl Node {
    fn new() -> Self {
        let (store, host) = (c"P2PHANDSHAKE".as_ptr(), c"127.0.0.1".as_ptr());
        let engine = unsafe { createTransferEngine(store, host, null(), 0, 1) }.pointer();
        assert!(!engine.is_null(), "{}", last_error_text());
        Self(engine)
    }

    /// The bare handle; nobody destroys it any more.
    fn take(self) -> transfer_engine_t {
        std::mem::ManuallyDrop::new(self).0
    }

    fn name(&self) -> CString {
        let mut name: [c_char; 64] = [0; 64];
        let rc = unsafe { getLocalIpAndPort(self.0, name.as_mut_ptr(), name.len()) };
        assert_eq!(rc.number(), 0);
        unsafe { CStr::from_ptr(name.as_ptr()) }.to_owned()
    }

    fn register(&self, memory: &[u8]) -> c_int {
        let addr = memory.as_ptr().cast_mut().cast();
        unsafe { registerLocalMemory(self.0, addr, memory.len(), c"cpu:0".as_ptr(), 1) }.number()
    }

    fn batch(&self, size: usize) -> u64 {
        let batch = unsafe { allocateBatchID(self.0, size) }.number();
        assert!(batch != 0 && batch != u64::MAX, "{}", last_error_text());
        batch
    }

    fn submit(&self, batch: u64, requests: &[transfer_request_t]) -> c_int {
        let entries = requests.as_ptr().cast_mut();
        unsafe { submitTransfer(self.0, batch, entries, requests.len()) }.number()
    }

    fn status(&self, batch: u64, task: usize) -> (c_int, c_int, u64) {
        let mut status = transfer_status_t { status: 77, transferred_bytes: 77 };
        let rc = unsafe { getTransferStatus(self.0, batch, task, &raw mut status) }.number();
        (rc, status.status, status.transferred_bytes)
    }

    fn wait(&self, batch: u64) {
        let rc = unsafe { tent_wait(self.0, batch, 10_000) }.number();
        assert_eq!(rc, 0, "{}", last_error_text());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        unsafe { destroyTransferEngine(self.0) };
    }
}

fn request(opcode: c_int, source: &[u8], target_id: i32, target: &[u8]) -> transfer_request_t {
    transfer_request_t {
        opcode,
        source: source.as_ptr().cast_mut().cast(),
        target_id,
        target_offset: target.as_ptr().addr() as u64,
        length: source.len() as u64,
    }
}

fn message<'a>(name: &'a CStr, msg: &'a CStr) -> notify_msg_t {
    notify_msg_t { name: name.as_ptr().cast_mut(), msg: msg.as_ptr().cast_mut() }
}

/// Takes messages until one comes.
fn receive(node: &Node) -> Vec<(CString, CString)> {
    for _ in 0..1000 {
        let mut size = 77;
        let array = unsafe { getNotifsFromEngine(node.0, &raw mut size) }.pointer();
        assert_eq!(array.is_null(), size == 0);
        if size > 0 {
            let list = unsafe { std::slice::from_raw_parts(array, size.cast_unsigned() as usize) };
            let own = |text: *mut c_char| unsafe { CStr::from_ptr(text) }.to_owned();
            let taken = list.iter().map(|m| (own(m.name), own(m.msg))).collect();
            assert_eq!(unsafe { freeNotifsMsgBuf(array, size) }.number(), 0);
            return taken;
        }
        unsafe { libc::usleep(5000) };
    }
    panic!("no message within five seconds");
}

#[test]
fn no_engine_is_an_error_everywhere() {
    let gone = Node::new();
    unsafe { destroyTransferEngine(gone.0) };
    let real = 5_u64;
    let invented = (&raw const real).cast_mut().cast::<c_void>();
    for engine in [null_mut(), gone.0, invented, std::ptr::without_provenance_mut(usize::MAX)] {
        for rc in every_call(engine) {
            assert_eq!(rc, "error", "{engine:p}");
        }
        unsafe { destroyTransferEngine(engine) };
        unsafe { enableGracefulShutdown(engine) };
        assert!(!last_error_text().is_empty());
    }
}

/// Calls every function that has a result with good arguments besides the engine.
fn every_call(engine: transfer_engine_t) -> Vec<&'static str> {
    let (x, mut buffer, mut size, mut count) = (c"x".as_ptr(), [0; 8], 0, 1_usize);
    let (memory, mut addr) = ([0_u8; 8], null_mut());
    let mut status = transfer_status_t { status: 4, transferred_bytes: 8 };
    let mut overall = tent_status_t { status: 4, transferred_bytes: 8 };
    let mut entry = request(1, &memory, 0, &memory);
    let mut range = buffer_entry_t { addr: entry.source, length: 8 };
    let mut load: nic_load_stat_t = unsafe { std::mem::zeroed() };
    let mut info = tent_segment_info_t { r#type: 0, num_buffers: 0, buffers: null_mut() };
    let (e, text) = (engine, message(c"a", c"b"));
    let failed = unsafe {
        [
            discoverTopology(e).number() < 0,
            getLocalIpAndPort(e, buffer.as_mut_ptr(), 8).number() < 0,
            installTransport(e, c"tcp".as_ptr(), null_mut()).pointer().is_null(),
            uninstallTransport(e, x).number() < 0,
            openSegment(e, x).number() == -1,
            openSegmentNoCache(e, x).number() == -1,
            closeSegment(e, 0).number() < 0,
            warmupEfaSegment(e, x).number() < 0,
            removeLocalSegment(e, x).number() < 0,
            syncSegmentCache(e).number() < 0,
            registerLocalMemory(e, entry.source, 8, x, 1).number() < 0,
            unregisterLocalMemory(e, entry.source).number() < 0,
            registerLocalMemoryBatch(e, &raw mut range, 1, x).number() < 0,
            unregisterLocalMemoryBatch(e, &raw mut range.addr, 1).number() < 0,
            allocateBatchID(e, 1).number() == u64::MAX,
            submitTransfer(e, 1, &raw mut entry, 1).number() > 0,
            submitTransferWithNotify(e, 1, &raw mut entry, 1, text).number() > 0,
            getNotifsFromEngine(e, &raw mut size).pointer().is_null(),
            genNotifyInEngine(e, 0, text).number() < 0,
            getTransferStatus(e, 1, 0, &raw mut status).number() > 0,
            freeBatchID(e, 1).number() > 0,
            getNicLoadStats(e, &raw mut load, &raw mut count).number() != 0,
            showLinks(e, buffer.as_mut_ptr(), 8, 0).number() == -1,
            tent_allocate_memory(e, &raw mut addr, 8, null()).number() == -1,
            tent_free_memory(e, entry.source).number() == -1,
            tent_get_segment_info(e, 0, &raw mut info).number() == -1,
            tent_cancel_task(e, 1, 0).number() == -1,
            tent_wait(e, 1, 0).number() == -1,
            tent_batch_event_fd(e, 1).number() == -1,
            tent_batch_status(e, 1, &raw mut overall).number() == -1,
            tent_rails_json(e, buffer.as_mut_ptr(), 8).number() == -1,
        ]
    };
    assert_eq!((status.status, status.transferred_bytes), (6, 0));
    assert_eq!((overall.status, overall.transferred_bytes), (6, 0));
    failed.map(|f| if f { "error" } else { "success" }).to_vec()
}

#[test]
fn bad_arguments_are_errors() {
    let node = Node::new();
    let e = node.0;
    let p2p = c"P2PHANDSHAKE".as_ptr();
    for (store, name) in [(null(), c"h".as_ptr()), (p2p, null()), (c"a://b".as_ptr(), p2p)] {
        assert!(unsafe { createTransferEngine(store, name, null(), 0, 0) }.pointer().is_null());
        assert!(last_error_text().starts_with("createTransferEngine: "));
    }
    unsafe {
        assert_eq!(getLocalIpAndPort(e, null_mut(), 9).number(), -1);
        assert!(installTransport(e, null(), null_mut()).pointer().is_null());
        assert!(installTransport(e, c"rdma".as_ptr(), null_mut()).pointer().is_null());
        assert_eq!(openSegment(e, null()).number(), -1);
        assert_eq!(openSegment(e, c"//".as_ptr()).number(), -1);
        assert_eq!(removeLocalSegment(e, c"".as_ptr()).number(), -1);
        assert_eq!(registerLocalMemory(e, null_mut(), 8, p2p, 1).number(), -1);
        let some = std::ptr::without_provenance_mut(4096);
        assert_eq!(registerLocalMemory(e, some, 0, p2p, 1).number(), -1);
        assert_eq!(registerLocalMemory(e, some, 8, null(), 1).number(), -1);
        assert_eq!(unregisterLocalMemory(e, some).number(), -3);
        assert_eq!(registerLocalMemoryBatch(e, null_mut(), 1, p2p).number(), -1);
        assert_eq!(unregisterLocalMemoryBatch(e, null_mut(), 1).number(), -1);
        assert!(getNotifsFromEngine(e, null_mut()).pointer().is_null());
        assert_eq!(freeNotifsMsgBuf(null_mut(), 0).number(), 0);
        let nameless = notify_msg_t { name: null_mut(), ..message(c"", c"b") };
        assert_eq!(genNotifyInEngine(e, 0, nameless).number(), -1);
        for unknown in [99, u64::MAX] {
            assert_eq!(genNotifyInEngine(e, unknown, message(c"a", c"b")).number(), -200);
        }
        assert_eq!(getNicLoadStats(e, null_mut(), &raw mut *Box::new(1)).number(), -1);
        assert_eq!(showLinks(e, null_mut(), 8, 0).number(), -1);
        assert_eq!(showLinks(e, &raw mut *Box::new(0), 0, 0).number(), -1);
        assert_eq!(tent_allocate_memory(e, null_mut(), 8, null()).number(), -1);
        assert_eq!(tent_get_segment_info(e, u64::MAX, &raw mut *Box::new(INFO)).number(), -1);
        tent_free_segment_info(null_mut());
    }
}

const INFO: tent_segment_info_t =
    tent_segment_info_t { r#type: 9, num_buffers: 9, buffers: null_mut() };

#[test]
fn an_engine_lives_and_dies_once() {
    let node = Node::new();
    let other = Node::new();
    assert_ne!(node.0, other.0);
    let tcp = |args| unsafe { installTransport(node.0, c"tcp".as_ptr(), args) }.pointer();
    let handle = tcp(null_mut());
    assert!(!handle.is_null());
    let matrix = c"{\"cpu:0\":[[\"mlx5_0\"],[]]}".as_ptr().cast_mut().cast::<c_void>();
    assert_eq!(tcp([matrix, null_mut()].as_mut_ptr()), handle);
    assert_eq!(tcp([null_mut::<c_void>()].as_mut_ptr()), handle);
    assert!(tcp([c"{".as_ptr().cast_mut().cast::<c_void>()].as_mut_ptr()).is_null());
    unsafe {
        assert_eq!(uninstallTransport(node.0, c"tcp".as_ptr()).number(), 0);
        assert_eq!(discoverTopology(node.0).number(), 0);
        assert_eq!(warmupEfaSegment(node.0, c"x".as_ptr()).number(), 0);
        assert_eq!(syncSegmentCache(node.0).number(), 0);
        assert_eq!(closeSegment(node.0, 12_345).number(), 0);
        destroyTransferEngine(node.0);
        destroyTransferEngine(node.0);
    }
    assert!(last_error_text().contains("destroyed"));
    let name = other.name();
    assert!(name.to_str().unwrap().starts_with("127.0.0.1:"));
    let mut cut: [c_char; 5] = [9; 5];
    assert_eq!(unsafe { getLocalIpAndPort(other.0, cut.as_mut_ptr(), 4) }.number(), 0);
    assert_eq!(unsafe { CStr::from_ptr(cut.as_ptr()) }, c"127");
}

/// I7: of many that destroy an engine while others use it one does it, and nobody is hurt.
#[test]
fn an_engine_is_destroyed_once_under_use() {
    for _ in 0..20 {
        let engine = Node::new().take();
        let handle = engine.addr();
        let destroyed = std::thread::scope(|scope| {
            let user = || {
                let engine = std::ptr::without_provenance_mut(handle);
                while unsafe { discoverTopology(engine) }.number() == 0 {}
                usize::from(unsafe { allocateBatchID(engine, 1) }.number() != u64::MAX)
            };
            let destroyer = || {
                let engine = std::ptr::without_provenance_mut(handle);
                unsafe { destroyTransferEngine(engine) };
                usize::from(last_error_text().is_empty())
            };
            let users = [scope.spawn(user), scope.spawn(user)];
            let destroyers =
                [scope.spawn(destroyer), scope.spawn(destroyer), scope.spawn(destroyer)];
            let count = |t: std::thread::ScopedJoinHandle<'_, usize>| t.join().unwrap();
            assert_eq!(users.map(count).iter().sum::<usize>(), 0);
            destroyers.map(count).iter().sum::<usize>()
        });
        assert_eq!(destroyed, 1);
    }
}

#[test]
fn segments_are_numbered_once() {
    let (node, peer) = (Node::new(), Node::new());
    let name = peer.name();
    let slashed = CString::new([b"//", name.as_bytes()].concat()).unwrap();
    let open = |name: &CStr| unsafe { openSegment(node.0, name.as_ptr()) }.number();
    assert_eq!(open(&node.name()), 0);
    let id = open(&name);
    assert!(id > 0, "{}", last_error_text());
    assert_eq!(open(&slashed), id);
    assert_eq!(unsafe { openSegmentNoCache(node.0, name.as_ptr()) }.number(), id);
    assert_eq!(unsafe { closeSegment(node.0, id) }.number(), 0);
    assert_eq!(open(&name), id);
    assert_eq!(unsafe { removeLocalSegment(node.0, name.as_ptr()) }.number(), 0);
    assert_eq!(open(&name), id + 1);
    assert_eq!(open(c"127.0.0.1:1"), -1);
    assert!(!last_error_text().is_empty());
}

#[test]
fn memory_is_registered_once() {
    let node = Node::new();
    let (a, b) = (vec![0_u8; 4096], vec![0_u8; 4096]);
    let p = |v: &[u8]| v.as_ptr().cast_mut().cast::<c_void>();
    assert_eq!(node.register(&a), 0);
    assert_eq!(node.register(&a), -7);
    assert_eq!(node.register(&a[100..200]), -7);
    let star = c"*".as_ptr();
    let mut list = [&b[..2048], &b[2048..]].map(|r| buffer_entry_t { addr: p(r), length: r.len() });
    let batch = |l: &mut [buffer_entry_t]| {
        unsafe { registerLocalMemoryBatch(node.0, l.as_mut_ptr(), l.len(), star) }.number()
    };
    let mut empty = [list[0], buffer_entry_t { length: 0, ..list[1] }];
    assert_eq!(batch(&mut empty), -1);
    let mut twice = [list[0], list[0]];
    assert_eq!(batch(&mut twice), -7);
    assert_eq!(batch(&mut list), 0, "adjacent is fine");
    assert_eq!(batch(&mut []), 0);
    // goes on after the unknown one
    let mut addresses = [p(&b), p(&b[1..]), p(&b[2048..])];
    let rc = unsafe { unregisterLocalMemoryBatch(node.0, addresses.as_mut_ptr(), 3) }.number();
    assert_eq!(rc, -3);
    assert_eq!(node.register(&b), 0, "all three were tried");
    for (v, rc) in [(&a, 0), (&a, -3), (&b, 0)] {
        assert_eq!(unsafe { unregisterLocalMemory(node.0, p(v)) }.number(), rc);
    }
}

#[test]
fn bytes_travel_both_ways() {
    let (node, peer) = (Node::new(), Node::new());
    let (here, there) = (vec![7_u8; 1 << 20], vec![0_u8; 1 << 20]);
    assert_eq!((node.register(&here), peer.register(&there)), (0, 0));
    let id = unsafe { openSegment(node.0, peer.name().as_ptr()) }.number();
    let batch = node.batch(3);
    assert_eq!(node.submit(batch, &[request(1, &here, id, &there)]), 0);
    assert_eq!(unsafe { tent_wait(node.0, batch, u64::MAX) }.number(), 0, "for ever is fine");
    assert_eq!(node.status(batch, 0), (0, 4, 1 << 20));
    assert!(there == here, "WRITE brought every byte");
    let half = &here[..1 << 19];
    let empty = transfer_request_t { length: 0, ..request(0, half, id, &there) };
    assert_eq!(node.submit(batch, &[request(0, half, id, &there), empty]), 0);
    node.wait(batch);
    assert_eq!(node.status(batch, 1), (0, 4, 1 << 19));
    assert_eq!(node.status(batch, 2), (0, 4, 0));
    let mut overall = tent_status_t { status: 0, transferred_bytes: 0 };
    assert_eq!(unsafe { tent_batch_status(node.0, batch, &raw mut overall) }.number(), 0);
    assert_eq!(overall, tent_status_t { status: 4, transferred_bytes: 3 << 19 });
    assert!(unsafe { tent_batch_event_fd(node.0, batch) }.number() >= 0);
    assert_eq!(node.status(batch, 3), (1, 6, 0));
    assert_eq!(unsafe { freeBatchID(node.0, batch) }.number(), 0);
    assert_eq!(unsafe { freeBatchID(node.0, batch) }.number(), 1);
    assert_eq!(node.status(batch, 0), (1, 6, 0));
}

#[test]
fn wrong_submits_append_nothing() {
    let node = Node::new();
    let (here, strange) = (vec![7_u8; 64], vec![0_u8; 64]);
    assert_eq!(node.register(&here), 0);
    let good = request(1, &here[..32], 0, &here[32..]);
    let batch = node.batch(2);
    for (rc, requests) in [
        (1, vec![good, transfer_request_t { opcode: 2, ..good }]),
        (1, vec![transfer_request_t { opcode: -1, ..good }]),
        (1, vec![good, transfer_request_t { target_id: 1234, ..good }]),
        (1, vec![transfer_request_t { target_id: -1, ..good }]),
        (2, vec![good; 3]),
        (3, vec![good, request(1, &strange, 0, &here)]),
    ] {
        assert_eq!(node.submit(batch, &requests), rc, "{}", last_error_text());
        assert_eq!(node.status(batch, 0).0, 1, "nothing was appended");
    }
    assert_eq!(node.submit(batch, &[]), 0);
    assert_eq!(unsafe { submitTransfer(node.0, batch, null_mut(), 1) }.number(), 1);
    let notify = |count| {
        let mut entry = good;
        let text = message(c"a", c"b");
        unsafe { submitTransferWithNotify(node.0, batch, &raw mut entry, count, text) }.number()
    };
    assert_eq!(notify(0), 1);
    for stale in [0, 1, u64::MAX, batch ^ 1 << 33] {
        assert_eq!(node.submit(stale, &[good]), 1);
        assert_eq!(node.submit(stale, &[]), 1);
        assert_eq!(unsafe { freeBatchID(node.0, stale) }.number(), 1);
    }
    assert_eq!(node.submit(batch, &[good, good]), 0, "the batch is as new");
    node.wait(batch);
    assert_eq!(unsafe { freeBatchID(node.0, batch) }.number(), 0, "without polling each task");
    let useless = node.batch(0);
    assert_eq!(node.submit(useless, &[good]), 2);
    assert_eq!(unsafe { freeBatchID(node.0, useless) }.number(), 0);
}

#[test]
fn a_failed_task_is_failed_and_says_why() {
    let node = Node::new();
    let here = vec![7_u8; 64];
    assert_eq!(node.register(&here), 0);
    let batch = node.batch(1);
    let nowhere = transfer_request_t { target_offset: 8, ..request(1, &here, 0, &here) };
    assert_eq!(node.submit(batch, &[nowhere]), 0, "{}", last_error_text());
    node.wait(batch);
    assert!(!last_error_text().is_empty());
    assert_eq!(node.status(batch, 0), (0, 6, 0));
    assert!(last_error_text().starts_with("task 0 failed: "), "{}", last_error_text());
    assert_eq!(unsafe { freeBatchID(node.0, batch) }.number(), 0);
}

#[test]
fn messages_arrive_cut_at_their_first_nul() {
    let (node, peer) = (Node::new(), Node::new());
    let (here, there) = (vec![7_u8; 64], vec![0_u8; 64]);
    assert_eq!((node.register(&here), peer.register(&there)), (0, 0));
    let id = unsafe { openSegment(node.0, peer.name().as_ptr()) }.number();
    let target = u64::try_from(id).unwrap();
    let rc = unsafe { genNotifyInEngine(node.0, target, message(c"me", c"hello")) }.number();
    assert_eq!(rc, 0, "{}", last_error_text());
    assert_eq!(receive(&peer), [(c"me".into(), c"hello".into())]);
    let batch = node.batch(1);
    let mut entry = request(1, &here, id, &there);
    let text = message(c"me", c"landed");
    let rc = unsafe { submitTransferWithNotify(node.0, batch, &raw mut entry, 1, text) };
    assert_eq!(rc.number(), 0, "{}", last_error_text());
    assert_eq!(receive(&peer), [(c"me".into(), c"landed".into())]);
    assert!(here == there, "the message comes after the data");
    node.wait(batch);
    assert_eq!(unsafe { freeBatchID(node.0, batch) }.number(), 0);
}

#[test]
fn our_own_functions_work_on_the_same_engine() {
    let node = Node::new();
    let mut memory = null_mut();
    let rc = unsafe { tent_allocate_memory(node.0, &raw mut memory, 8192, c"cpu:0".as_ptr()) };
    assert_eq!((rc.number(), memory.is_null()), (0, false), "{}", last_error_text());
    let mut info = INFO;
    assert_eq!(unsafe { tent_get_segment_info(node.0, 0, &raw mut info) }.number(), 0);
    assert_eq!((info.r#type, info.num_buffers), (0, 1));
    let buffer: tent_buffer_info_t = unsafe { info.buffers.read() };
    assert_eq!((buffer.base, buffer.length), (memory.addr() as u64, 8192));
    unsafe { tent_free_segment_info(&raw mut info) };
    unsafe { tent_free_segment_info(&raw mut info) };
    assert!(info.buffers.is_null() && info.num_buffers == 0);
    assert_eq!(unsafe { tent_free_memory(node.0, memory) }.number(), 0);
    assert_eq!(unsafe { tent_free_memory(node.0, memory) }.number(), -1);
    let failure = unsafe { CStr::from_ptr(tent_last_error().pointer()) };
    assert!(failure.to_str().unwrap().starts_with("tent_free_memory: "));
    let version = unsafe { CStr::from_ptr(tent_version().pointer()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn reports_are_cut_to_the_buffer() {
    let node = Node::new();
    let mut buffer: [c_char; 4096] = [0; 4096];
    let needed = unsafe { tent_rails_json(node.0, null_mut(), 0) }.number();
    assert_eq!(unsafe { tent_rails_json(node.0, buffer.as_mut_ptr(), 4096) }.number(), needed);
    let read = |b: &[c_char]| unsafe { CStr::from_ptr(b.as_ptr()) }.to_str().unwrap().to_owned();
    let parsed = |b: &[c_char]| serde_json::from_str::<serde_json::Value>(&read(b)).unwrap();
    assert!(parsed(&buffer).is_array());
    assert_eq!(unsafe { showLinks(node.0, buffer.as_mut_ptr(), 4096, 1) }.number(), 0);
    assert!(parsed(&buffer)["local_nics"].is_array());
    assert_eq!(unsafe { showLinks(node.0, buffer.as_mut_ptr(), 7, 0) }.number(), 0);
    assert_eq!(read(&buffer), "=== Lo");
    let mut stats: [nic_load_stat_t; 1] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    let rc = unsafe { getNicLoadStats(node.0, stats.as_mut_ptr(), &raw mut count) }.number();
    assert_eq!((rc, stats[0].inflight_bytes), (0, 0), "no room: nothing written");
}

/// I12: a child of `fork` gets errors at once and may destroy what it inherited.
#[test]
fn a_forked_child_gets_errors_and_never_hangs() {
    let node = Node::new();
    let child = unsafe { libc::fork() };
    if child == 0 {
        // no assert here: a panic would unwind into a copy of the test runner
        unsafe { libc::alarm(20) };
        let ok = every_call(node.0).iter().all(|rc| *rc == "error");
        unsafe { destroyTransferEngine(node.0) };
        unsafe { libc::_exit(if ok { 42 } else { 1 }) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "status {status:#x}");
    assert_eq!(unsafe { discoverTopology(node.0) }.number(), 0, "the parent's engine lives on");
}
