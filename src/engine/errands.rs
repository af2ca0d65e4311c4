//! Errands that wait for the network so that no caller and no lane does: notifications, and second looks
//! at a peer's description. One thread, started when there is something to do.

use crate::control::wire::{self, FrameKind, Notify, NotifyOrigin};
use crate::engine::batch::{Follow, OnEnd, TaskRef};
use crate::engine::directory::Directory;
use crate::engine::lanes::Lanes;
use crate::engine::notify::Inbox;
use crate::engine::peer::Peer;
use crate::engine::progress::Stop;
use crate::engine::{Notification, submit};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Incarnation, SegmentId};
use crate::sync::{lock, spawn};
use crate::sys::host;
use crate::time::Instant;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Debug)]
enum Errand {
    Send(Follow),
    /// Since when it waits, whom to ask, what to plan then.
    Look(Instant, Arc<Peer>, Vec<TaskRef>),
    /// Its description may have changed.
    Refresh(Arc<Peer>),
}

#[derive(Debug, Default)]
struct Queue {
    errands: VecDeque<Errand>,
    running: bool,
    /// The engine ends: messages that wait are sent until then, nothing else.
    stop: Option<Instant>,
    thread: Option<JoinHandle<()>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Errands {
    me: Incarnation,
    directory: Arc<Directory>,
    lanes: Arc<Lanes>,
    inbox: Arc<Inbox>,
    queue: Mutex<Queue>,
    more: Condvar,
    /// Number of the last message to each peer; a peer's is locked while one is sent to it, so that they
    /// stay in order and a dead peer holds up nobody else.
    sent: Mutex<HashMap<u32, Arc<Mutex<u64>>>>,
    this: OnceLock<Weak<Self>>,
}

impl Errands {
    pub(super) fn new(
        me: Incarnation,
        directory: Arc<Directory>,
        lanes: Arc<Lanes>,
        inbox: Arc<Inbox>,
    ) -> Arc<Self> {
        let errands = Arc::new(Self {
            me,
            directory,
            lanes,
            inbox,
            queue: Mutex::new(Queue::default()),
            more: Condvar::new(),
            sent: Mutex::new(HashMap::new()),
            this: OnceLock::new(),
        });
        errands.this.set(Arc::downgrade(&errands)).ok();
        errands
    }

    /// The peer's description seems out of date: look again, then plan these tasks anew.
    pub(super) fn look(&self, peer: Arc<Peer>, tasks: Vec<TaskRef>) {
        let now = Instant::now();
        if let Some(Errand::Look(_, _, tasks)) = self.add(Errand::Look(now, peer, tasks)) {
            for task in tasks {
                task.stop(Stop::Fail, || "the engine is shutting down or overloaded".into());
            }
        }
    }

    /// Asks these peers for their descriptions anew. If others wait for something it is left out: it comes
    /// round again.
    pub(super) fn refresh(&self, peers: Vec<Arc<Peer>>) {
        if lock(&self.queue).errands.is_empty() {
            for peer in peers.into_iter().filter(|peer| peer.id != 0) {
                self.add(Errand::Refresh(peer));
            }
        }
    }

    /// Sends a message and waits for the answer.
    pub(super) fn send_now(&self, to: SegmentId, message: &Notification) -> Result<()> {
        let peer = self.directory.peer(to)?;
        let line = Arc::clone(lock(&self.sent).entry(peer.id).or_default());
        let mut seq = lock(&line);
        *seq += 1;
        let origin = Some(NotifyOrigin { from: self.me, seq: *seq });
        let note = Notify { name: message.name.clone(), message: message.message.clone(), origin };
        if peer.id == 0 {
            return if self.inbox.take_in(note) {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Rejected, "the own inbox is full"))
            };
        }
        let answer = self.directory.ask(&peer.name, FrameKind::Notify, &note.encode())?;
        wire::check_notify_reply(&answer)
    }

    /// Queues an errand; it comes back when it cannot be taken.
    fn add(&self, errand: Errand) -> Option<Errand> {
        let mut queue = lock(&self.queue);
        if queue.stop.is_some() || queue.errands.len() >= MAX_ERRANDS {
            log::warn!("errand dropped: the engine is shutting down or {MAX_ERRANDS} wait");
            return Some(errand);
        }
        queue.errands.push_back(errand);
        if queue.running {
            self.more.notify_one();
            return None;
        }
        if let Some(old) = queue.thread.take() {
            // it has left its loop and touches nothing any more
            old.join().ok();
        }
        let this = self.this.get().and_then(Weak::upgrade)?;
        match spawn("tent-errands", move || this.run()) {
            Ok(thread) => {
                queue.running = true;
                queue.thread = Some(thread);
                None
            }
            Err(e) => {
                log::error!("no thread for errands: {e}");
                queue.errands.pop_back()
            }
        }
    }

    fn run(&self) {
        host::block_signals();
        while let Some(errand) = self.next() {
            match errand {
                Errand::Send(follow) => {
                    if let Err(e) = self.send_now(follow.to, &follow.message) {
                        log::warn!("notification to segment {} is lost: {e}", follow.to.0);
                    }
                }
                Errand::Look(since, peer, tasks) => self.look_again(since, &peer, tasks),
                Errand::Refresh(peer) => {
                    if let Err(e) = self.directory.refresh(&peer) {
                        log::warn!("segment {} keeps its old description: {e}", peer.name);
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Errand> {
        let queue = lock(&self.queue);
        let idle = |q: &mut Queue| q.errands.is_empty() && q.stop.is_none();
        let waited = self.more.wait_timeout_while(queue, IDLE, idle);
        let (mut queue, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if queue.stop.is_some_and(|until| Instant::now() >= until) && !queue.errands.is_empty() {
            log::warn!("{} notifications are lost: the engine ends", queue.errands.len());
            queue.errands.clear();
        }
        let next = queue.errands.pop_front();
        // from here on a newcomer starts a new thread
        queue.running = next.is_some();
        next
    }

    fn look_again(&self, since: Instant, peer: &Arc<Peer>, tasks: Vec<TaskRef>) {
        let mut why = String::new();
        // one answer serves all who waited for it
        if peer.refreshed() < since
            && let Err(e) = self.directory.refresh(peer)
        {
            why = format!("; asking the peer again: {e}");
            log::warn!("segment {}: {e}", peer.name);
        }
        let mut ready = Vec::new();
        for task in tasks {
            match submit::route(&task.task().spec, Instant::now()) {
                submit::Way::By(route) => {
                    task.task().spec.route.set(route).ok();
                    ready.push(task);
                }
                submit::Way::Unknown | submit::Way::None => task.stop(Stop::Fail, || {
                    let spec = &task.task().spec;
                    format!(
                        "{:#x}+{} is not inside one buffer of segment {} that an allowed transport \
                         reaches{why}",
                        spec.remote, spec.len, peer.name
                    )
                }),
            }
        }
        submit::enqueue(&self.lanes, &ready, Instant::now());
    }

    /// Ends the thread. Messages that wait are sent first, for up to `timeout`; tasks that wait for a
    /// second look are canceled.
    pub(super) fn stop(&self, timeout: Duration) {
        let thread = {
            let mut queue = lock(&self.queue);
            queue.stop = Some(Instant::now().after(timeout));
            for errand in std::mem::take(&mut queue.errands) {
                match errand {
                    Errand::Send(_) => queue.errands.push_back(errand),
                    Errand::Refresh(_) => {}
                    Errand::Look(_, _, tasks) => {
                        for task in tasks {
                            task.stop(Stop::Cancel, || "the engine is shutting down".into());
                        }
                    }
                }
            }
            queue.thread.take()
        };
        self.more.notify_all();
        if let Some(thread) = thread {
            thread.join().ok();
        }
    }
}

impl OnEnd for Errands {
    fn send(&self, follow: Follow) {
        self.add(Errand::Send(follow));
    }
}

/// Errands that may wait.
const MAX_ERRANDS: usize = 65_536;
/// The thread ends after so long without an errand.
const IDLE: Duration = Duration::from_secs(1);
