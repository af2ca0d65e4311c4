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

    fn bytes_through(&mut self, rail: u32) -> Option<u64> {
        let world = Arc::clone(&self.world);
        let conn = self.rail(rail).conn?;
        Some(lock(&world).bytes_through(conn))
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

#[cfg(test)]
mod tests {
    use super::super::link::Link;
    use super::super::world::{Nature, World, host_base, host_key};
    use super::*;
    use crate::slice::{Class, Op};
    use crate::time::Instant;

    fn slice(remote: u64, key: u64) -> SliceOp {
        let (token, op, class) = (7, Op::Write, Class::Bulk);
        let local = usize::try_from(super::super::world::HOME).unwrap();
        SliceOp { token, op, class, local, remote, len: 10, key, slot: 0, shm: None }
    }

    fn world() -> (Arc<Mutex<World>>, SimTransport) {
        let nature = Nature { head: 32, queue: u64::MAX, ghosts: 0, bytes: true, sabotage: None };
        let mut world = World::new(0, 1, 100, nature, false);
        let links = [0, 1].map(|_| world.add_link(Link::new(1e9, 1000, 0)));
        let host = world.add_host(100);
        world.add_path(host, vec![links[0]], vec![links[1]]);
        let world = Arc::new(Mutex::new(world));
        (Arc::clone(&world), SimTransport::new(0, world))
    }

    fn pass(world: &Arc<Mutex<World>>, transport: &mut SimTransport) -> Vec<TransportEvent> {
        let mut events = Vec::new();
        let mut world_now = lock(world);
        let to = Instant(world_now.now.0 + 1_000_000);
        world_now.advance(to);
        drop(world_now);
        transport.poll(&mut events);
        events
    }

    #[test]
    fn a_rail_comes_up_carries_and_is_watched() {
        let (world, mut sim) = world();
        assert_eq!(sim.post(0, &[slice(host_base(0), host_key(0, 0))]), 0);
        assert_eq!(lock(&world).breaches.len(), 1, "I4: it is not up");
        sim.connect(0, &RailTarget::Sim { path: 0, life: 0 });
        assert_eq!(pass(&world, &mut sim), [TransportEvent::RailUp { rail: 0 }]);
        assert_eq!(sim.post(0, &[slice(host_base(0), host_key(0, 0))]), 1);
        assert_eq!(pass(&world, &mut sim), [TransportEvent::Done { token: 7, fault: None }]);
        assert_eq!(lock(&world).breaches.len(), 1);
        sim.abort(0);
        assert_eq!(sim.post(0, &[slice(host_base(0), host_key(0, 0))]), 0);
        assert_eq!(lock(&world).breaches.len(), 2, "I4: it was given up");
    }

    /// I11
    #[test]
    fn what_is_not_permitted_is_refused_and_changes_nothing() {
        let (world, mut sim) = world();
        sim.connect(0, &RailTarget::Sim { path: 0, life: 0 });
        pass(&world, &mut sim);
        let ops = [slice(host_base(0), 1), slice(host_base(0) + 95, host_key(0, 0))];
        assert_eq!(sim.post(0, &ops), 2);
        let refused = Some(crate::slice::SliceFault::Refused);
        let done = TransportEvent::Done { token: 7, fault: refused };
        assert_eq!(pass(&world, &mut sim), [done, done]);
        let key = host_key(0, 0);
        assert_eq!(lock(&world).hosts[0].memory.differs(host_base(0), 100, key, 0), None);
    }
}
