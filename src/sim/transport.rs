//! The transport of a simulated lane: what the contract of `transport.rs` asks, over a [`World`] instead of
//! sockets. It also watches how the engine uses it.

use super::world::World;
use crate::slice::{Capabilities, DownCause, SliceOp, TransportEvent, TransportKind};
use crate::sync::lock;
use crate::transport::{RailTarget, Transport};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, Default)]
struct SimRail {
    conn: Option<u32>,
    /// The engine has been told that it is up, and not been told or told us otherwise since.
    open: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SimTransport {
    lane: usize,
    world: Arc<Mutex<World>>,
    rails: Vec<SimRail>,
}

impl SimTransport {
    pub(super) fn new(lane: usize, world: Arc<Mutex<World>>) -> Self {
        Self { lane, world, rails: Vec::new() }
    }

    fn rail(&mut self, rail: u32) -> &mut SimRail {
        let at = rail as usize;
        if self.rails.len() <= at {
            self.rails.resize(at + 1, SimRail::default());
        }
        &mut self.rails[at]
    }
}

impl Transport for SimTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { max_slice: MAX_SLICE, synchronous: false }
    }

    fn connect(&mut self, rail: u32, to: &RailTarget) {
        let world = Arc::clone(&self.world);
        let mut world = lock(&world);
        let lane = self.lane;
        let entry = self.rail(rail);
        if entry.conn.is_some() {
            world.breach(format!("lane {lane} connects rail {rail}, which is not down"));
            return;
        }
        match *to {
            RailTarget::Sim { path, life } => {
                entry.conn = Some(world.connect(lane, rail, path, life));
            }
            _ => {
                let cause = DownCause::Unreachable;
                world.inboxes[lane].push((TransportEvent::RailDown { rail, cause }, 0));
            }
        }
    }

    fn post(&mut self, rail: u32, ops: &[SliceOp]) -> usize {
        let world = Arc::clone(&self.world);
        let mut world = lock(&world);
        let lane = self.lane;
        let entry = *self.rail(rail);
        if !entry.open {
            world.breach(format!("I4: lane {lane} posts to rail {rail}, which is not up"));
        }
        let Some(conn) = entry.conn else { return 0 };
        for op in ops {
            if op.len == 0 || op.len > MAX_SLICE {
                world.breach(format!("lane {lane} posts a slice of {} bytes", op.len));
            }
        }
        ops.iter().take_while(|op| world.post(conn, op)).count()
    }

    fn poll(&mut self, events: &mut Vec<TransportEvent>) -> usize {
        let world = Arc::clone(&self.world);
        let mut world = lock(&world);
        let news = std::mem::take(&mut world.inboxes[self.lane]);
        let mut moved = 0;
        for (event, bytes) in news {
            match event {
                TransportEvent::RailUp { rail } => self.rail(rail).open = true,
                TransportEvent::RailBroken { rail, .. } => self.rail(rail).open = false,
                TransportEvent::RailDown { rail, .. } => *self.rail(rail) = SimRail::default(),
                TransportEvent::Done { .. } => {}
            }
            moved += usize::try_from(bytes).unwrap_or(0).max(1);
            events.push(event);
        }
        moved
    }

    fn abort(&mut self, rail: u32) {
        let world = Arc::clone(&self.world);
        let entry = self.rail(rail);
        entry.open = false;
        if let Some(conn) = entry.conn {
            lock(&world).abort(conn);
        }
    }

    fn forsake(&mut self, rail: u32) {
        let world = Arc::clone(&self.world);
        let entry = self.rail(rail);
        entry.open = false;
        if let Some(conn) = entry.conn {
            lock(&world).forsake(conn);
        }
    }

    fn cancel(&mut self, rail: u32, token: u64) {
        let world = Arc::clone(&self.world);
        if let Some(conn) = self.rail(rail).conn {
            lock(&world).cancel(conn, token);
        }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }
}

/// As over TCP.
const MAX_SLICE: u64 = 16 << 20;
