//! Keeps this engine's entries in the store: its address and its description. Written at the start and
//! whenever the registered memory changes, looked after now and then, removed at the end. One thread does
//! all of it but the first, so that the entries change in the order of the registrations.
//!
//! A store that is away is tried again until it is back; meanwhile nobody waits for it.

use crate::control::address::P2pName;
use crate::control::store::keys::{decode_rpc_meta, encode_rpc_meta};
use crate::control::wire;
use crate::engine::directory::{Directory, Finder, Own};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{lock, spawn};
use crate::sys::host;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    /// Changes so far, and how many of them the last attempt covered and the store has.
    wanted: u64,
    tried: u64,
    stored: u64,
    /// Attempts that failed in a row.
    failures: u32,
    /// Another engine has taken our name.
    taken: bool,
    stop: bool,
    thread: Option<JoinHandle<()>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Publisher {
    own: Arc<Own>,
    finder: Arc<Finder>,
    directory: Arc<Directory>,
    me: P2pName,
    state: Mutex<State>,
    /// The description that the store has.
    last: Mutex<Option<Arc<Vec<u8>>>>,
    more: Condvar,
    tried: Condvar,
}

impl Publisher {
    /// Publishes for the first time and starts the thread.
    ///
    /// # Errors
    /// What the store did; `Socket`: no thread.
    pub(super) fn start(
        own: Arc<Own>,
        finder: Arc<Finder>,
        directory: Arc<Directory>,
    ) -> Result<Arc<Self>> {
        let me = P2pName { host: own.host.clone(), port: own.rpc_port };
        let publisher = Arc::new(Self {
            own,
            finder,
            directory,
            me,
            state: Mutex::default(),
            last: Mutex::default(),
            more: Condvar::new(),
            tried: Condvar::new(),
        });
        if let Some(other) = publisher.holder()? {
            log::warn!(
                "the name {} stood for the engine at {other}, which is alive; from now on it stands \
                 for this one",
                publisher.own.name
            );
        }
        publisher.put_address()?;
        publisher.put_description()?;
        let this = Arc::clone(&publisher);
        let thread = spawn("tent-publish", move || this.run())
            .map_err(|e| Error::os(ErrorKind::Socket, "no thread for the store", &e))?;
        lock(&publisher.state).thread = Some(thread);
        Ok(publisher)
    }

    /// The registered memory has changed. Returns when the store has been told; does not wait for one
    /// that is away.
    pub(super) fn changed(&self) {
        let mut state = lock(&self.state);
        state.wanted += 1;
        let mine = state.wanted;
        self.more.notify_one();
        let waits = |s: &mut State| s.tried < mine && s.failures == 0 && !s.taken && !s.stop;
        let waited = self.tried.wait_timeout_while(state, LONGEST_WAIT, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends the thread and removes what is ours from the store.
    pub(super) fn stop(&self) {
        let thread = {
            let mut state = lock(&self.state);
            state.stop = true;
            state.thread.take()
        };
        self.more.notify_all();
        self.tried.notify_all();
        if let Some(thread) = thread {
            thread.join().ok();
        }
        // asked when the thread's last word is known: the store may have come back just now
        let reachable = {
            let state = lock(&self.state);
            state.failures == 0 && !state.taken
        };
        if reachable && let Err(e) = self.remove() {
            log::warn!("the entries of {} stay in the store: {e}", self.own.name);
        }
    }

    fn run(&self) {
        host::block_signals();
        while let Some((change, is_new)) = self.next() {
            let outcome = self.turn(is_new);
            let mut state = lock(&self.state);
            state.tried = change;
            match outcome {
                Ok(taken) => {
                    if state.failures > 0 {
                        log::warn!("the store is back; {} is published again", self.own.name);
                    }
                    state.failures = 0;
                    state.taken = taken;
                    if !taken {
                        state.stored = change;
                    }
                }
                Err(e) => {
                    if state.failures == 0 {
                        log::warn!(
                            "{} cannot be published now, and will be when the store is back; what is \
                             open goes on: {e}",
                            self.own.name
                        );
                    }
                    state.failures = state.failures.saturating_add(1);
                }
            }
            drop(state);
            self.tried.notify_all();
        }
    }

    /// Waits for the next thing to do: the change to cover, and whether the store lacks it. `None` at the
    /// end.
    fn next(&self) -> Option<(u64, bool)> {
        let state = lock(&self.state);
        let pause = match state.failures {
            0 => CHECK,
            n => (FIRST_RETRY * 2_u32.saturating_pow(n - 1)).min(LAST_RETRY),
        };
        // what failed waits for its time, whatever comes meanwhile
        let idle = |s: &mut State| !s.stop && (s.failures > 0 || s.taken || s.wanted == s.stored);
        let waited = self.more.wait_timeout_while(state, pause, idle);
        let (state, _): (MutexGuard<'_, State>, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!state.stop).then_some((state.wanted, state.wanted != state.stored))
    }

    /// Looks whether the entries are there and ours, and writes what is missing or out of date. `true`:
    /// they belong to another engine.
    fn turn(&self, is_new: bool) -> Result<bool> {
        // asked even for a mere change: another engine of our name must not get our description
        let key = self.finder.keys.rpc_meta(&self.own.name);
        let there = self.finder.store.get(&key)?;
        let is_ours = there.as_deref().is_some_and(|json| self.is_me(json));
        if is_ours {
            // interfaces come and go without a registration
            let now = self.own.json(true);
            if is_new || !lock(&self.last).as_ref().is_some_and(|last| Arc::ptr_eq(last, &now)) {
                self.put_description()?;
            }
            return Ok(false);
        }
        if let Some(other) = self.holder()? {
            if !std::mem::replace(&mut lock(&self.state).taken, true) {
                log::warn!(
                    "another engine, at {other}, has taken the name {}: new peers find that one. Give \
                     every engine its own name",
                    self.own.name
                );
            }
            return Ok(true);
        }
        log::info!("the store lost the entries of {}: writing them again", self.own.name);
        self.put_address()?;
        self.put_description()?;
        Ok(false)
    }

    fn is_me(&self, json: &[u8]) -> bool {
        decode_rpc_meta(json).is_ok_and(|at| at == self.me)
    }

    /// Another engine that has our name in the store and is alive.
    fn holder(&self) -> Result<Option<P2pName>> {
        let key = self.finder.keys.rpc_meta(&self.own.name);
        let there = self.finder.store.get(&key)?;
        let other = there.and_then(|json| decode_rpc_meta(&json).ok()).filter(|at| *at != self.me);
        let is_alive = |at: &P2pName| self.directory.lives_at(at, &self.own.name);
        Ok(other.filter(is_alive))
    }

    fn put_address(&self) -> Result<()> {
        let key = self.finder.keys.rpc_meta(&self.own.name);
        self.finder.store.put(&key, &encode_rpc_meta(&self.me))
    }

    /// Made of what is registered now and nothing else: a description of a former life, which upstream's
    /// engines inherit, would offer memory that is gone.
    fn put_description(&self) -> Result<()> {
        let key = self.finder.keys.segment(&self.own.name);
        let json = self.own.json(true);
        self.finder.store.put(&key, &json)?;
        *lock(&self.last) = Some(json);
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        let (store, name) = (&self.finder.store, &self.own.name);
        let address = self.finder.keys.rpc_meta(name);
        if store.get(&address)?.is_some_and(|json| self.is_me(&json)) {
            store.remove(&address)?;
        }
        let segment = self.finder.keys.segment(name);
        let ours = |json: Vec<u8>| {
            let facts = wire::decode_desc(&json).ok().and_then(|desc| desc.tent);
            facts.is_some_and(|t| t.incarnation == self.own.regions.incarnation())
        };
        if store.get(&segment)?.is_some_and(ours) {
            store.remove(&segment)?;
        }
        Ok(())
    }
}

/// The entries are looked at so often.
const CHECK: Duration = Duration::from_secs(5);
/// Pauses between attempts while the store is away: the first, doubled up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// A registration waits for the store no longer: its own bound comes first, but for a queue of many.
const LONGEST_WAIT: Duration = Duration::from_secs(6);

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::control::store::Store;
    use crate::control::store::keys::Keys;
    use crate::id::Incarnation;
    use crate::memory::{NewRegion, Regions};
    use crate::segment::{HostIdentity, Permission};
    use crate::time::Instant;
    use std::collections::HashMap;

    /// A store that can be away, and tells when it was written to.
    #[derive(Debug, Default)]
    struct Shelf {
        /// Whether it is away, what it holds, and how often a description was written.
        inner: Mutex<(bool, HashMap<String, Vec<u8>>, u32)>,
        written: Condvar,
    }

    impl Shelf {
        fn with<T>(&self, f: impl FnOnce(&mut HashMap<String, Vec<u8>>) -> T) -> Result<T> {
            let mut inner = lock(&self.inner);
            if inner.0 {
                return Err(Error::new(ErrorKind::Metadata, "away"));
            }
            Ok(f(&mut inner.1))
        }

        fn go_away(&self, away: bool) {
            lock(&self.inner).0 = away;
        }

        fn buffers(&self) -> usize {
            let json = self.get("mooncake/ram/n").unwrap().unwrap();
            wire::decode_desc(&json).unwrap().buffers.len()
        }

        /// Waits until descriptions were written `count` times.
        fn wait(&self, count: u32) {
            let fewer = |inner: &mut (bool, HashMap<String, Vec<u8>>, u32)| inner.2 < count;
            let bound = Duration::from_secs(30);
            let waited = self.written.wait_timeout_while(lock(&self.inner), bound, fewer);
            assert!(!waited.unwrap().1.timed_out(), "never written {count} times");
        }
    }

    impl Store for Shelf {
        fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
            self.with(|map| map.get(key).cloned())
        }
        fn put(&self, key: &str, value: &[u8]) -> Result<()> {
            self.with(|map| map.insert(key.to_owned(), value.to_vec()))?;
            lock(&self.inner).2 += u32::from(key.contains("/ram/"));
            self.written.notify_all();
            Ok(())
        }
        fn remove(&self, key: &str) -> Result<()> {
            self.with(|map| drop(map.remove(key)))
        }
    }

    fn engine(shelf: &Arc<Shelf>, port: u16) -> (Arc<Own>, Result<Arc<Publisher>>) {
        let config = Config::default();
        let regions = Regions::new(Incarnation(u128::from(port)));
        let host = HostIdentity::default();
        let own = Arc::new(Own::new(&config, "n".into(), (port, 9), host, regions));
        let store: Arc<dyn Store> = Arc::clone(shelf) as Arc<dyn Store>;
        let finder = Arc::new(Finder::new(store, Keys::new("")));
        let directory = Directory::new(Arc::clone(&own), &config, 1, Some(Arc::clone(&finder)));
        let publisher = Publisher::start(Arc::clone(&own), finder, Arc::new(directory));
        (own, publisher)
    }

    fn register(own: &Own, memory: &[u8]) {
        let (addr, len) = (memory.as_ptr().expose_provenance(), memory.len());
        let permission = Permission::ReadWrite;
        let region = NewRegion { addr, len, location: "*", permission, shm: None };
        own.regions.register_batch(&[region]).unwrap();
    }

    #[test]
    fn a_registration_is_published_once_and_later_if_the_store_is_away() {
        let shelf = Arc::new(Shelf::default());
        let (own, publisher) = engine(&shelf, 1);
        let publisher = publisher.unwrap();
        assert_eq!(lock(&shelf.inner).2, 1);
        let memory = [0_u8; 64];
        register(&own, &memory[..16]);
        publisher.changed();
        assert_eq!((shelf.buffers(), lock(&shelf.inner).2), (1, 2));
        shelf.go_away(true);
        let begin = Instant::now();
        for from in [16, 32, 48] {
            register(&own, &memory[from..from + 16]);
            publisher.changed();
        }
        // a store that refuses at once holds nobody up
        assert!(Instant::now().since(begin) < LONGEST_WAIT);
        shelf.go_away(false);
        shelf.wait(3);
        // a retry that began between two registrations may be what came first
        while shelf.buffers() < 4 {
            let puts = lock(&shelf.inner).2;
            shelf.wait(puts + 1);
        }
        publisher.stop();
        assert_eq!(shelf.with(|map| map.len()).unwrap(), 0);
    }

    #[test]
    fn what_the_store_lost_is_written_again() {
        let shelf = Arc::new(Shelf::default());
        let (_, publisher) = engine(&shelf, 1);
        let publisher = publisher.unwrap();
        shelf.with(HashMap::clear).unwrap();
        publisher.changed();
        shelf.wait(2);
        assert_eq!(shelf.with(|map| map.len()).unwrap(), 2);
        publisher.stop();
    }

    #[test]
    fn what_belongs_to_another_stays() {
        let shelf = Arc::new(Shelf::default());
        let (_, older) = engine(&shelf, 1);
        let (_, newer) = engine(&shelf, 2);
        older.unwrap().stop();
        assert_eq!(shelf.with(|map| map.len()).unwrap(), 2);
        newer.unwrap().stop();
        assert_eq!(shelf.with(|map| map.len()).unwrap(), 0);
    }

    #[test]
    fn no_store_at_the_start_is_an_error() {
        let shelf = Arc::new(Shelf::default());
        shelf.go_away(true);
        assert_eq!(engine(&shelf, 1).1.unwrap_err().kind(), ErrorKind::Metadata);
    }
}
