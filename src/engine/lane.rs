//! A lane: one driver behind a lock that whoever moves bytes only ever tries, a thread that guarantees progress, and the
//! rules by which callers and that thread share the work (D6).

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use crate::config::Tuning;
use crate::engine::driver::Driver;
use crate::engine::peer::Peer;
use crate::sync::{lock, spawn, try_lock};
use crate::sys::evloop::{Epoll, Event, EventFd, Interest, TimerFd};
use crate::sys::host;
use crate::sys::netlink::{LinkEvent, LinkWatch};
use crate::time::Instant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// What submitters leave for a lane.
#[derive(Debug, Default)]
pub(super) struct LaneShared {
    peers: Mutex<Vec<Arc<Peer>>>,
    news: AtomicBool,
    overdue: AtomicBool,
}

impl LaneShared {
    /// Moves the peers that have work into `into`, which is empty.
    pub(super) fn take_peers(&self, into: &mut Vec<Arc<Peer>>) {
        if self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::AcqRel) {
            std::mem::swap(&mut *lock(&self.peers), into);
        }
    }

    /// Says to lane `index`, whose this is, that work waits for `peer`.
    pub(super) fn tell(&self, index: usize, peer: &Arc<Peer>) {
        if !peer.active[index].swap(true, Ordering::SeqCst) {
            lock(&self.peers).push(Arc::clone(peer));
            self.news.store(true, Ordering::Release);
        }
    }

    /// Says that timed-out tasks still have something under way.
    pub(super) fn overdue(&self) {
        self.overdue.store(true, Ordering::Release);
    }

    pub(super) fn take_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed) && self.overdue.swap(false, Ordering::AcqRel)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    index: usize,
    shared: LaneShared,
    driver: Mutex<Driver>,
    epoll: Epoll,
    wake: EventFd,
    /// Wakes the thread for what callers have left to be looked after: a silence, a rail to ask again.
    alarm: TimerFd,
    /// When it will, in clock nanoseconds; `u64::MAX` if it is not set.
    alarm_at: AtomicU64,
    /// News of the links that the rails leave by; a lane of copies has none.
    links: Option<Mutex<LinkWatch>>,
    /// There is some.
    link_news: AtomicBool,
    /// The thread sleeps in epoll and must be woken for news.
    asleep: AtomicBool,
    /// Turns that callers took.
    caller_turns: AtomicU64,
    /// When the last of them began, in clock nanoseconds.
    caller_at: AtomicU64,
    /// Callers that found the lane taken and would rather drive it themselves.
    wanted: AtomicU32,
    stop: AtomicBool,
    /// The lanes of the same family, this one too: they pull from the same tasks.
    siblings: OnceLock<Vec<Weak<Self>>>,
    standby: Mutex<bool>,
    take_over: Condvar,
    /// In nanoseconds.
    spin: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    on_panic: Arc<AtomicBool>,
}

impl Lane {
    /// A lane without its thread ([`Lane::start`]). `spin`: how long its thread polls after activity.
    ///
    /// # Errors
    /// When the kernel gives no descriptors.
    pub(super) fn new(
        index: usize,
        driver: Driver,
        spin: Duration,
        on_panic: Arc<AtomicBool>,
    ) -> std::io::Result<Arc<Self>> {
        let (epoll, wake, alarm) = (Epoll::new()?, EventFd::new()?, TimerFd::new()?);
        epoll.add(wake.fd(), WAKE, Interest::READ, false)?;
        epoll.add(alarm.fd(), ALARM, Interest::READ, false)?;
        for fd in driver.wait_fds() {
            epoll.add(fd, TRANSPORT, Interest::READ, false)?;
        }
        // without it a lost link is noticed as a silence
        let links = driver.uses_links().then(|| LinkWatch::new().ok()).flatten();
        if let Some(links) = &links {
            epoll.add(links.fd(), LINKS, Interest::READ, false)?;
        }
        Ok(Arc::new(Self {
            index,
            shared: LaneShared::default(),
            driver: Mutex::new(driver),
            epoll,
            wake,
            alarm,
            alarm_at: AtomicU64::new(u64::MAX),
            links: links.map(Mutex::new),
            link_news: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            caller_turns: AtomicU64::new(0),
            caller_at: AtomicU64::new(0),
            wanted: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            siblings: OnceLock::new(),
            standby: Mutex::new(false),
            take_over: Condvar::new(),
            spin: AtomicU64::new(nanos(spin)),
            thread: Mutex::new(None),
            on_panic,
        }))
    }

    /// Makes the lanes of a family known to each other.
    pub(super) fn introduce(family: &[Arc<Self>]) {
        for lane in family {
            lane.siblings.set(family.iter().map(Arc::downgrade).collect()).ok();
        }
    }

    /// Starts the lane's thread unless it runs.
    pub(super) fn start(self: &Arc<Self>, name: &str) -> std::io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() && !self.stop.load(Ordering::Acquire) {
            let lane = Arc::clone(self);
            *thread = Some(spawn(name, move || {
                if catch_unwind(AssertUnwindSafe(|| lane.run())).is_err() {
                    lane.on_panic.store(true, Ordering::Release);
                    log::error!("lane {} panicked: the engine is down", lane.index);
                }
            })?);
        }
        Ok(())
    }

    /// Says that work waits for `peer`. Wakes nobody; [`Lane::wake`] does.
    pub(super) fn tell(&self, peer: &Arc<Peer>) {
        self.shared.tell(self.index, peer);
    }

    /// Wakes the thread if it sleeps.
    pub(super) fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.wake.signal();
        }
    }

    /// Asks the thread to drive now: a caller stops helping.
    pub(super) fn hand_over(&self) {
        {
            let mut standby = lock(&self.standby);
            *standby = false;
        }
        self.take_over.notify_one();
        self.wake();
    }

    /// Tells the lane to give up what its timed-out tasks still have under way.
    pub(super) fn overdue(&self) {
        self.shared.overdue();
        self.hand_over();
    }

    /// A caller's turn: `None` when somebody else has the lane.
    pub(super) fn caller_turn(&self, now: Instant) -> Option<usize> {
        let mut driver = try_lock(&self.driver)?;
        self.caller_turns.fetch_add(1, Ordering::Relaxed);
        self.caller_at.store(now.0, Ordering::Relaxed);
        let moved = driver.turn(&self.shared, now);
        let (amid, watch_at) = (driver.is_amid_a_piece(), driver.watch_at());
        drop(driver);
        self.arm(watch_at, now);
        if amid {
            // should this caller not come back, the thread has to go on: it stands by from now on
            self.wake();
        }
        Some(moved)
    }

    /// Sees to it that the thread looks by then, should the caller not come back.
    fn arm(&self, at: Instant, now: Instant) {
        if at != Instant::NEVER && self.alarm_at.load(Ordering::Relaxed) > at.0 {
            self.alarm_at.store(at.0, Ordering::Relaxed);
            self.alarm.set(at.since(now));
        }
    }

    /// A caller found every lane taken: the thread of this one lets it through.
    pub(super) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Stops the thread and gives up every rail. After that nothing here touches user memory.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.asleep.store(false, Ordering::SeqCst);
        self.wake.signal();
        self.hand_over();
        if let Some(thread) = lock(&self.thread).take() {
            thread.join().ok();
        }
        let mut driver = lock(&self.driver);
        for _ in 0..MAX_ABORTS {
            driver.abort_all(Instant::now());
            if driver.is_quiet() {
                break;
            }
        }
        driver.close();
    }

    fn run(&self) {
        host::block_signals();
        let mut seen = self.caller_turns.load(Ordering::Relaxed);
        let mut active = Instant::now();
        let mut spins = Spins::default();
        let mut helpers = 0;
        let mut bulk = false;
        while !self.stop.load(Ordering::Acquire) {
            let turns = self.caller_turns.load(Ordering::Relaxed);
            let callers_drive = turns.wrapping_sub(seen) >= MANY_TURNS;
            seen = turns;
            if callers_drive || self.wanted.swap(0, Ordering::Relaxed) > 0 {
                self.stand_by();
                active = Instant::now();
                continue;
            }
            let now = Instant::now();
            let Some(mut driver) = try_lock(&self.driver) else {
                self.stand_by();
                continue;
            };
            if self.leaves_it_to_callers(&mut driver, now) {
                drop(driver);
                self.stand_by();
                continue;
            }
            self.hear_links(&mut driver, now);
            let moved = driver.turn(&self.shared, now);
            if moved > 0 {
                // a stream of large pieces is worth a wake-up; polling for it would cost more
                bulk = moved >= BULK;
                let more = driver.has_work();
                drop(driver);
                if more {
                    helpers = self.call_sibling(helpers);
                }
                spins.ended(true);
                active = now;
                continue;
            }
            if !bulk
                && nanos(now.since(active)) < self.spin.load(Ordering::Relaxed)
                && spins.worth_it()
            {
                drop(driver);
                std::hint::spin_loop();
                continue;
            }
            spins.ended(false);
            let until = driver.next_wake();
            // from here on a submitter signals; what it left before is seen below
            self.asleep.store(true, Ordering::SeqCst);
            let told = self.shared.news.load(Ordering::SeqCst) || driver.has_work();
            drop(driver);
            if told || self.shared.overdue.load(Ordering::SeqCst) {
                self.asleep.store(false, Ordering::SeqCst);
                continue;
            }
            self.sleep(until, now);
            active = Instant::now();
            // turns taken while this thread slept say nothing about now
            seen = self.caller_turns.load(Ordering::Relaxed);
        }
    }

    /// Tells the driver what has become of links.
    fn hear_links(&self, driver: &mut Driver, now: Instant) {
        if !self.link_news.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut news = Vec::new();
        if let Some(links) = &self.links {
            lock(links).read(&mut news);
        }
        let mut more = false;
        for event in news {
            match event {
                LinkEvent::Link { name, running, .. } => {
                    driver.on_link(&name, running, now);
                    more |= running;
                }
                LinkEvent::Address { gone, .. } => more |= !gone,
                LinkEvent::Lost => more = true,
            }
        }
        if more {
            driver.on_ways();
        }
    }

    fn siblings(&self) -> impl Iterator<Item = Arc<Self>> {
        self.siblings.get().map_or(&[][..], Vec::as_slice).iter().filter_map(Weak::upgrade)
    }

    /// Whether a caller took a turn on a lane of the family just now.
    fn callers_near(&self, now: Instant) -> bool {
        self.siblings()
            .any(|l| now.since(Instant(l.caller_at.load(Ordering::Relaxed))) < CALLER_GONE)
    }

    /// Whether callers are at it on a lane beside and soon done. What was left for this lane counts too,
    /// or it would stand by while work for two waits (I9).
    fn leaves_it_to_callers(&self, driver: &mut Driver, now: Instant) -> bool {
        driver.take_news(&self.shared, now);
        self.callers_near(now) && driver.backlog() < WORTH_A_THREAD && !driver.is_amid_a_piece()
    }

    /// Turns that callers took on any lane of the family.
    fn family_turns(&self) -> u64 {
        self.siblings().map(|l| l.caller_turns.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    /// There is more work than this lane does in a turn: unless callers lend a hand, one more thread gets
    /// up. So a submit wakes one thread, and as many follow as the work needs. `seen` is what the last
    /// call returned.
    fn call_sibling(&self, seen: u64) -> u64 {
        let turns = self.family_turns();
        if turns == seen
            && let Some(lane) = self.siblings().find(|l| l.asleep.load(Ordering::Relaxed))
        {
            lane.wake();
        }
        turns
    }

    /// Goes on with these settings.
    pub(super) fn tune(&self, tuning: &Tuning) {
        let mut driver = lock(&self.driver);
        driver.tune(tuning);
        // copies do not spin, nor does anything with one core
        if driver.uses_links() && host::cpu_count() > 1 {
            self.spin.store(nanos(tuning.spin), Ordering::Relaxed);
        }
    }

    fn sleep(&self, until: Instant, now: Instant) {
        let timeout = (until != Instant::NEVER).then(|| until.since(now));
        let mut events = [Event::EMPTY; 4];
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        self.asleep.store(false, Ordering::SeqCst);
        for event in &events[..count] {
            match event.token() {
                WAKE => {
                    self.wake.drain();
                }
                ALARM => {
                    self.alarm_at.store(u64::MAX, Ordering::Relaxed);
                    self.alarm.drain();
                }
                LINKS => self.link_news.store(true, Ordering::Relaxed),
                _ => {}
            }
        }
    }

    /// Callers drive the lane: look again soon, or at once when one of them stops.
    fn stand_by(&self) {
        let mut standby = lock(&self.standby);
        *standby = true;
        let wait = self.take_over.wait_timeout_while(standby, STAND_BY, |s| *s);
        drop(wait);
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether polling after activity has paid off lately.
#[derive(Debug, Default)]
struct Spins {
    score: i32,
    skipped: u32,
    spinning: bool,
}

impl Spins {
    /// The polling, if there was any, ended with or without something to do.
    fn ended(&mut self, well: bool) {
        if std::mem::take(&mut self.spinning) {
            self.score = (self.score + if well { 2 } else { -1 }).clamp(-8, 8);
        }
    }

    fn worth_it(&mut self) -> bool {
        if !self.spinning && self.score <= -4 {
            // now and then see whether times have changed
            self.skipped += 1;
            if !self.skipped.is_multiple_of(16) {
                return false;
            }
        }
        self.spinning = true;
        true
    }
}

const WAKE: u64 = 0;
const TRANSPORT: u64 = 1;
const ALARM: u64 = 2;
const LINKS: u64 = 3;
/// A turn that moved so many bytes belongs to a large transfer.
const BULK: usize = 256 << 10;
/// Work of fewer bytes is done before another thread has woken up for it.
const WORTH_A_THREAD: u64 = 384 << 10;
/// A caller whose last turn began longer ago does not poll in a loop.
const CALLER_GONE: Duration = Duration::from_micros(200);
/// So many caller turns between two looks mean that a caller polls in a loop.
const MANY_TURNS: u64 = 4;
/// How long the thread leaves the lane to polling callers before it looks again.
const STAND_BY: Duration = Duration::from_millis(1);
/// Rounds of aborting at the end; a second one is needed only for rails that were being fenced.
const MAX_ABORTS: usize = 4;
