//! From requests to queued tasks: check everything, then append all or nothing; and the caller's share of
//! the work.

use crate::engine::batch::{Batch, Route, Spec, Task, TaskRef, TaskRefs};
use crate::engine::core::Core;
use crate::engine::lanes::{Family, Lanes};
use crate::engine::peer::{Link, Peer};
use crate::engine::progress::{LEN_MAX, Progress, Stop};
use crate::engine::report::Marks;
use crate::engine::{Extras, Request, RequestOptions, TaskStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Pin;
use crate::policy::{Choice, Facts, Policies};
use crate::sched::plan;
use crate::slice::{Class, Op, Priority, TransportKind, TransportMask};
use crate::sync::lock;
use crate::time::Instant;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Whether and how a task can travel, as far as is known.
#[derive(Debug)]
pub(super) enum Way {
    By(Route),
    /// The peer's description does not hold the range; it may be old.
    Unknown,
    /// No allowed transport reaches it.
    None,
}

/// What the policies have to say to a submit.
enum Rules {
    Free,
    Named(Choice),
    Match(Arc<Policies>),
}

/// Plans a task from what is known of its peer.
pub(super) fn route(spec: &Spec, now: Instant) -> Way {
    way(&spec.peer, (spec.remote, spec.len), (spec.allowed, spec.first), now)
}

/// The way to a range in the peer, for a task that may go by some transports and would like one of them.
fn way(
    peer: &Peer,
    range: (u64, u64),
    wish: (TransportMask, Option<TransportKind>),
    now: Instant,
) -> Way {
    let (allowed, first) = wish;
    let Some((access, reach)) = peer.reach(range.0, range.1) else { return Way::Unknown };
    let usable = peer.usable(allowed, now);
    // one that was lost just now is better than none
    let kind = first
        .and_then(|first| plan::choose(reach, usable.and(TransportMask::only(first))))
        .or_else(|| plan::choose(reach, usable))
        .or_else(|| plan::choose(reach, allowed));
    kind.map_or(Way::None, |kind| Way::By(Route::new(kind, access)))
}

/// Queues planned tasks and gets them going. Bounded work for the caller: at most one small piece's copy
/// or one turn of a lane (D6, I8).
pub(super) fn enqueue(lanes: &Lanes, tasks: &[TaskRef], now: Instant) {
    let mut at = 0;
    while at < tasks.len() {
        // runs of tasks to one peer by one transport, which is nearly always all of them
        let spec = &tasks[at].task().spec;
        let Some(route) = spec.route.get() else { return };
        let same = |t: &&TaskRef| {
            let s = &t.task().spec;
            Arc::ptr_eq(&s.peer, &spec.peer)
                && s.route.get().is_some_and(|r| r.kind() == route.kind())
        };
        let run = tasks[at..].iter().take_while(same).count();
        begin(lanes, &spec.peer, Family::of(route.kind()), &tasks[at..at + run], now);
        at += run;
    }
}

fn begin(lanes: &Lanes, peer: &Arc<Peer>, family: Family, tasks: &[TaskRef], now: Instant) {
    peer.work.push(tasks);
    for lane in lanes.of(family) {
        lane.tell(peer);
    }
    let bytes: u64 = tasks.iter().map(|t| t.task().spec.len).sum();
    let ended = || tasks.iter().all(|t| t.task().progress.state().is_final());
    match family {
        Family::Copy => {
            if bytes <= INLINE_BYTES {
                for _ in 0..tasks.len().min(MAX_INLINE) {
                    if lanes.help(family, now).is_none() || ended() {
                        break;
                    }
                }
                if ended() {
                    return;
                }
            }
            if let Err(e) = lanes.start_copies() {
                log::error!("{e}; copies go on only while callers poll");
            }
            lanes.wake_one(family, bytes > LARGE_BYTES);
        }
        Family::Net => {
            let reads = tasks.iter().all(|t| t.task().spec.op == Op::Read);
            // a turn may copy what it posts into the kernel: only a little on the caller's time
            let small = bytes <= INLINE_BYTES || (reads && tasks.len() <= MAX_INLINE);
            let turned = small && lanes.help(family, now).is_some();
            if !turned {
                lanes.of(family).iter().for_each(|lane| lane.wake());
            }
        }
    }
}

impl Core {
    pub(super) fn submit(
        &self,
        batch: &Arc<Batch>,
        requests: &[Request],
        extras: &Extras<'_>,
    ) -> Result<TaskRefs> {
        let rules = self.rules(extras)?;
        let _one = lock(&batch.submit);
        if requests.len() > batch.room() {
            let text = format!(
                "{} requests for a batch with room for {} more",
                requests.len(),
                batch.room()
            );
            return Err(Error::new(ErrorKind::TooManyRequests, text));
        }
        let now = Instant::now();
        let mut tasks = SmallVec::<[Task; 1]>::with_capacity(requests.len());
        let mut last: Option<(u32, Arc<Peer>)> = None;
        for request in requests {
            let peer = match &last {
                Some((id, peer)) if *id == request.segment.0 => Arc::clone(peer),
                _ => self.directory.peer(request.segment)?,
            };
            last = Some((request.segment.0, Arc::clone(&peer)));
            tasks.push(self.task(request, peer, &rules, extras, now)?);
        }
        if extras.report {
            batch.count_shares();
        }
        batch.rearm();
        Ok(batch.push(tasks))
    }

    /// Checks one request and makes it a task, planned if its way is known.
    fn task(
        &self,
        request: &Request,
        peer: Arc<Peer>,
        rules: &Rules,
        extras: &Extras<'_>,
        now: Instant,
    ) -> Result<Task> {
        let (len, local, remote) = (request.len, request.local, request.remote);
        let pin = (len > 0).then(|| self.own.regions.pin_local(local, len)).flatten();
        if len > 0 && pin.is_none() {
            let text = format!("{local:#x}+{len} is not inside one registered region");
            return Err(Error::new(ErrorKind::NotRegistered, text));
        }
        if len > LEN_MAX {
            let text = format!("{len} bytes in one request: at most {LEN_MAX}");
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let pinned = pin.as_ref().map_or("*", Pin::location);
        let (allowed, first) = self.choose(rules, request, &peer, pinned);
        let route = OnceLock::new();
        // without a route an errand asks the peer first
        if len > 0 && !peer.is_stale() && !self.config.always_refresh {
            match way(&peer, (remote, len), (allowed, first), now) {
                Way::By(way) => {
                    route.set(way).ok();
                }
                Way::Unknown => {}
                Way::None => {
                    let text = format!("no allowed transport reaches segment {}", peer.name);
                    return Err(Error::new(ErrorKind::NoTransport, text));
                }
            }
        }
        let RequestOptions { priority, urgent, timeout, intent, .. } = request.options;
        let small = len <= self.config.urgent_below && priority != Priority::Low;
        let rule = self.chores.task_timeout().saturating_mul(intent.patience());
        let due = now.after(timeout.unwrap_or(rule));
        let timeout = timeout.unwrap_or_else(|| {
            // large transfers get the time that a slow network needs
            rule.saturating_add(Duration::from_micros(len / BYTES_PER_US))
        });
        let spec = Spec {
            op: request.op,
            class: if urgent || small { Class::Urgent } else { Class::Bulk },
            priority,
            local,
            remote,
            len,
            peer,
            allowed,
            first,
            route,
            deadline: now.after(timeout),
            due,
            pin: Mutex::new(pin),
        };
        let marks = if extras.report { Marks::timed(now) } else { Marks::default() };
        Ok(Task { spec, progress: Progress::new(len), marks })
    }

    fn rules(&self, extras: &Extras<'_>) -> Result<Rules> {
        let rules = self.policies.load_full();
        let Some(name) = extras.policy else {
            return Ok(rules.map_or(Rules::Free, Rules::Match));
        };
        rules.unwrap_or_default().named(name).map(Rules::Named)
    }

    /// The transports that may carry a request, and the one to try first.
    fn choose(
        &self,
        rules: &Rules,
        request: &Request,
        peer: &Peer,
        local: &str,
    ) -> (TransportMask, Option<TransportKind>) {
        let options = &request.options;
        let allowed = options.transports.and(self.config.transports);
        let choice = match rules {
            Rules::Free => return (allowed, options.first),
            Rules::Named(choice) => *choice,
            Rules::Match(policies) => {
                let (same_machine, desc) = (self.is_near(peer), peer.desc());
                let buffer = desc.buffer_of(request.remote, request.len);
                // upstream writes something else in the place of the location
                let buffer = buffer.filter(|(_, b)| b.access.is_some());
                policies.choose(&Facts {
                    priority: options.priority,
                    intent: options.intent,
                    len: request.len,
                    same_machine,
                    local,
                    remote: buffer.map_or("*", |(_, b)| &b.location),
                })
            }
        };
        let mask = allowed.and(choice.transports);
        match options.first.filter(|first| allowed.has(*first)) {
            // what the request itself asks for goes before the rule
            Some(first) => (mask.with(first), Some(first)),
            None => (mask, choice.first),
        }
    }

    /// Whether the peer is on this host.
    fn is_near(&self, peer: &Peer) -> bool {
        match peer.link() {
            Link::Process(_) | Link::Host(_) => true,
            Link::Upstream(ip) => ip.is_loopback(),
            Link::Remote => {
                let desc = peer.desc();
                desc.tent.as_ref().is_some_and(|t| t.host.boot_id == self.own.identity.boot_id)
            }
        }
    }

    /// Gets freshly appended tasks going.
    pub(super) fn launch(&self, tasks: &[TaskRef]) {
        let now = Instant::now();
        let is_late = |t: &TaskRef| t.task().spec.deadline <= now && t.task().spec.len > 0;
        // I10: a deadline that has come is no race
        let late = tasks.iter().filter(|t| is_late(t));
        let late = late.map(|t| t.stop(Stop::TimeOut, || "the deadline came first".into())).count();
        if late == 0 && tasks.iter().all(|t| t.task().spec.route.get().is_some()) {
            enqueue(&self.lanes, tasks, now);
            return self.watch(tasks);
        }
        let mut ready = Vec::with_capacity(tasks.len());
        let mut unknown: Vec<(Arc<Peer>, Vec<TaskRef>)> = Vec::new();
        for task in tasks {
            let spec = &task.task().spec;
            if spec.len == 0 {
                task.piece_over(0, true); // nothing to land: it has completed
            } else if is_late(task) {
                // it has ended
            } else if spec.route.get().is_some() {
                ready.push(task.clone());
            } else {
                match unknown.iter_mut().find(|(peer, _)| Arc::ptr_eq(peer, &spec.peer)) {
                    Some((_, tasks)) => tasks.push(task.clone()),
                    None => unknown.push((Arc::clone(&spec.peer), vec![task.clone()])),
                }
            }
        }
        enqueue(&self.lanes, &ready, now);
        for (peer, tasks) in unknown {
            self.errands.look(peer, tasks);
        }
        self.watch(tasks);
    }

    /// Sees to the deadlines, and to callers who will not poll.
    fn watch(&self, tasks: &[TaskRef]) {
        let Some(first) = tasks.first() else { return };
        self.clock.wants(Instant(first.batch.deadline.load(Ordering::Acquire)));
        if first.batch.has_event() {
            self.lanes.hand_over(Family::Net);
            self.lanes.hand_over(Family::Copy);
        }
    }

    /// A poll of a task that is not over helps it along (D6).
    pub(super) fn poll(&self, batch: &Batch, index: usize) -> Result<TaskStatus> {
        let task = batch.task(index).ok_or_else(|| {
            let text = format!("batch {:x} has {} tasks, not {index}", batch.id.0, batch.count());
            Error::new(ErrorKind::InvalidArgument, text)
        })?;
        if !task.progress.state().is_final()
            && let Some(route) = task.spec.route.get()
            && self.lanes.help(Family::of(route.kind()), Instant::now()).is_none()
        {
            // others do the work: let them have the core
            std::thread::yield_now();
        }
        let state = task.progress.state();
        Ok(TaskStatus { state, bytes: task.progress.landed() })
    }

    /// Waits for the end of every task, helping while there is something to do.
    pub(super) fn wait(&self, batch: &Batch, timeout: Duration) -> Result<TaskStatus> {
        let begin = Instant::now();
        let mut idle_since = begin;
        let (mut net, mut copy) = (false, false);
        for task in (0..batch.count()).filter_map(|i| batch.task(i)) {
            match task.spec.route.get().map(|r| Family::of(r.kind())) {
                Some(Family::Net) => net = true,
                Some(Family::Copy) => copy = true,
                None => {}
            }
        }
        let mut families = [(net, Family::Net), (copy, Family::Copy)].into_iter().filter(|f| f.0);
        // a batch over both families has the threads drive it; helping is for the common case
        let family = families.next().filter(|_| !(net && copy)).map(|f| f.1);
        while !batch.ended() {
            let now = Instant::now();
            if now.since(begin) >= timeout {
                let text = format!("batch {:x} is not over after {timeout:?}", batch.id.0);
                return Err(Error::new(ErrorKind::TimedOut, text));
            }
            if family.is_some_and(|f| self.lanes.help(f, now).is_some_and(|moved| moved > 0)) {
                idle_since = now;
            } else if family.is_none() || now.since(idle_since) > HELP_IDLE {
                self.lanes.hand_over(Family::Net);
                self.lanes.hand_over(Family::Copy);
                batch.park(timeout.saturating_sub(now.since(begin)));
            }
        }
        Ok(batch.status())
    }
}

/// Bytes that a submit copies on its caller's time: about 10 us.
const INLINE_BYTES: u64 = 64 << 10;
/// From so many bytes on a second thread is worth its wake-up even while callers poll.
const LARGE_BYTES: u64 = 384 << 10;
/// Tasks that a submit helps along on its caller's time.
const MAX_INLINE: usize = 256;
/// One second more of deadline per 10 MB.
const BYTES_PER_US: u64 = 10;
/// A waiter without anything to do sleeps after so long; a wake-up costs half of it.
const HELP_IDLE: Duration = Duration::from_micros(50);
