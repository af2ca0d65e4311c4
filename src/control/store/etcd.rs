//! etcd, through `etcd-client`. One thread drives all its futures; callers wait for theirs with a bound.
//! Endpoints are used one at a time, the next one when one fails. Entries of this process hang on a lease
//! that is kept alive as long as the process lives.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error as EtcdError, Identity, PutOptions, TlsOptions,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex, oneshot};

use super::{LEASE_S, Store, failed};
use crate::config::StoreConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::spawn;
use crate::sys::host;

/// See the module.
pub(super) struct Etcd {
    shared: Arc<Shared>,
    handle: Handle,
    /// Ends the thread when it is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    born: u64,
}

struct Shared {
    name: String,
    endpoints: Vec<String>,
    options: ConnectOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    /// Which endpoint the client speaks to, counted on for ever.
    turn: usize,
    lease: Option<i64>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.shared.name).finish()
    }
}

type Done<T> = std::result::Result<T, EtcdError>;

impl Etcd {
    pub(super) fn start(endpoints: &[String], config: &StoreConfig) -> Result<Self> {
        let born = host::fork_generation();
        let (options, secure) = options(config)?;
        let full = |end: &String| match end.split_once("://") {
            Some(_) => end.clone(),
            None if secure => format!("https://{end}"),
            None => format!("http://{end}"),
        };
        let shared = Arc::new(Shared {
            name: format!("etcd://{}", endpoints.join(",")),
            endpoints: endpoints.iter().map(full).collect(),
            options,
            state: Mutex::default(),
        });
        let failed = |e: std::io::Error| Error::os(ErrorKind::Socket, "starting etcd's thread", &e);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let drive = move || {
            host::block_signals();
            runtime.block_on(stopped).ok();
            // what still runs belongs to callers who have stopped waiting
            runtime.shutdown_background();
        };
        let thread = spawn("tent-etcd", drive).map_err(failed)?;
        Ok(Self { shared, handle, stop: Some(stop), thread: Some(thread), born })
    }

    /// Runs a future on the thread and waits for it.
    fn wait<T: Send + 'static>(
        &self,
        what: &str,
        key: &str,
        work: impl Future<Output = Done<T>> + Send + 'static,
    ) -> Result<T> {
        if self.born != host::fork_generation() {
            let why = "the process was forked after its engine was made: make a new one";
            return Err(failed(&self.shared.name, what, key, why));
        }
        let (tell, told) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let outcome = tokio::time::timeout(TIMEOUT, work).await;
            tell.send(outcome).ok();
        });
        // the thread may be gone, or busy beyond reason
        let outcome = told.recv_timeout(TIMEOUT + Duration::from_millis(250));
        let why = match outcome {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(e))) => reason(&e),
            Ok(Err(_)) | Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        Err(failed(&self.shared.name, what, key, why))
    }
}

impl Store for Etcd {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let (shared, name) = (Arc::clone(&self.shared), key.to_owned());
        self.wait("reading", key, async move {
            let get = |mut c: Client| {
                let name = name.clone();
                async move { c.get(name, None).await }
            };
            let answer = shared.ask(get).await?;
            Ok(answer.kvs().first().map(|kv| kv.value().to_vec()))
        })
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let (shared, name, value) = (Arc::clone(&self.shared), key.to_owned(), value.to_vec());
        self.wait("writing", key, async move { put(&shared, &name, &value).await })
    }

    fn remove(&self, key: &str) -> Result<()> {
        let (shared, name) = (Arc::clone(&self.shared), key.to_owned());
        self.wait("removing", key, async move {
            let delete = |mut c: Client| {
                let name = name.clone();
                async move { c.delete(name, None).await }
            };
            shared.ask(delete).await.map(drop)
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if self.born != host::fork_generation() {
            // the thread is not here, and what would wake it is shared with the parent
            std::mem::forget((self.stop.take(), self.thread.take()));
            return;
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    /// Asks one endpoint after the other, each once, and the first a second time.
    async fn ask<T, F: Future<Output = Done<T>>>(&self, op: impl Fn(Client) -> F) -> Done<T> {
        let mut last = EtcdError::Internal("no endpoint".into());
        // a lone endpoint has all the time there is
        let share = (TIMEOUT / u32::try_from(self.endpoints.len()).unwrap_or(1)).max(MIN_SHARE);
        for _ in 0..=self.endpoints.len() {
            let (client, turn) = match self.client().await {
                Ok(both) => both,
                // a password that one endpoint refuses all refuse
                Err((e, _)) if !is_transient(&e) => return Err(e),
                Err((e, turn)) => {
                    last = e;
                    self.give_up(turn).await;
                    continue;
                }
            };
            last = match tokio::time::timeout(share, op(client)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(e)) if !is_transient(&e) => return Err(e),
                Ok(Err(e)) => e,
                Err(_) => EtcdError::Internal(format!("no answer within {} ms", share.as_millis())),
            };
            self.give_up(turn).await;
        }
        Err(last)
    }

    async fn client(&self) -> std::result::Result<(Client, usize), (EtcdError, usize)> {
        let mut state = self.state.lock().await;
        let turn = state.turn;
        if let Some(client) = &state.client {
            return Ok((client.clone(), turn));
        }
        let endpoint = &self.endpoints[turn % self.endpoints.len()];
        let connected = Client::connect([endpoint], Some(self.options.clone()));
        let connected = tokio::time::timeout(CONNECT_TIMEOUT * 2, connected).await;
        let late = || EtcdError::Internal(format!("{endpoint} does not answer"));
        let client = connected.unwrap_or_else(|_| Err(late())).map_err(|e| (e, turn))?;
        state.client = Some(client.clone());
        Ok((client, turn))
    }

    /// The endpoint of that turn failed: the next one, unless somebody was quicker.
    async fn give_up(&self, turn: usize) {
        let mut state = self.state.lock().await;
        if state.turn == turn {
            state.turn += 1;
            state.client = None;
        }
    }

    /// The lease of this process, a new one if there is none.
    async fn lease(self: &Arc<Self>) -> Done<i64> {
        if let Some(id) = self.state.lock().await.lease {
            return Ok(id);
        }
        let grant = |mut c: Client| async move { c.lease_grant(LEASE_S, None).await };
        let id = self.ask(grant).await?.id();
        let mut state = self.state.lock().await;
        if let Some(other) = state.lease {
            // two writers came at once; the second lease runs out unused
            return Ok(other);
        }
        state.lease = Some(id);
        drop(state);
        tokio::spawn(keep_alive(Arc::clone(self), id));
        Ok(id)
    }

    async fn forget_lease(&self, id: i64) {
        let mut state = self.state.lock().await;
        if state.lease == Some(id) {
            state.lease = None;
        }
    }
}

async fn put(shared: &Arc<Shared>, key: &str, value: &[u8]) -> Done<()> {
    for last in [false, true] {
        let lease = shared.lease().await?;
        let put = |mut c: Client| async move {
            c.put(key, value, Some(PutOptions::new().with_lease(lease))).await
        };
        match shared.ask(put).await {
            Ok(_) => return Ok(()),
            // it ran out while the store or the network was down, or the store lost all it had
            Err(e) if !last && is_lease_gone(&e) => shared.forget_lease(lease).await,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Keeps a lease alive until it is lost. The entries that hung on it are missed by whoever wrote them.
async fn keep_alive(shared: Arc<Shared>, id: i64) {
    loop {
        tokio::time::sleep(KEEP_ALIVE).await;
        let again = |mut c: Client| async move {
            let (_keeper, mut answers) = c.lease_keep_alive(id).await?;
            Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
        };
        match shared.ask(again).await {
            Ok(ttl) if ttl > 0 => {}
            Ok(_) => break,
            Err(e) if is_lease_gone(&e) => break,
            Err(e) => log::debug!("lease {id:x} of {}: {}", shared.name, reason(&e)),
        }
    }
    shared.forget_lease(id).await;
}

/// The options, and whether endpoints without a scheme are spoken to over TLS.
fn options(config: &StoreConfig) -> Result<(ConnectOptions, bool)> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_tcp_keepalive(Duration::from_secs(30))
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5));
    if !config.user.is_empty() {
        options = options.with_user(&config.user, &config.password);
    }
    let secure = config.ca.is_some() || config.identity.is_some();
    if secure {
        let read = |path: &std::path::Path| {
            let what = || format!("reading {}, a certificate or key for etcd", path.display());
            std::fs::read(path).map_err(|e| Error::os(ErrorKind::InvalidArgument, what(), &e))
        };
        let mut tls = TlsOptions::new();
        if let Some(ca) = &config.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &config.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        options = options.with_tls(tls);
    }
    Ok((options, secure))
}

/// Whether another endpoint, or the same one over a new connection, may do better.
fn is_transient(e: &EtcdError) -> bool {
    match e {
        EtcdError::GRpcStatus(status) => matches!(
            status.code() as i32,
            // cancelled, unknown, deadline, aborted, internal, unavailable, unauthenticated
            1 | 2 | 4 | 10 | 13 | 14 | 16
        ),
        EtcdError::TransportError(_) | EtcdError::IoError(_) | EtcdError::Internal(_) => true,
        _ => false,
    }
}

fn is_lease_gone(e: &EtcdError) -> bool {
    matches!(e, EtcdError::GRpcStatus(status) if status.code() as i32 == NOT_FOUND)
}

/// The cause in one line, for the client's own text names neither the system's error nor the cure.
fn reason(e: &EtcdError) -> String {
    let mut text = match e {
        EtcdError::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut cause = match e {
        EtcdError::GRpcStatus(status) => std::error::Error::source(status),
        other => std::error::Error::source(other),
    };
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let cure = if text.contains("authentication") || text.contains("user name is empty") {
        " (cure: ETCDCTL_USER=name:password)"
    } else if text.contains("connect") {
        " (is etcd up, and the address right?)"
    } else if text.contains("too large") {
        " (cure: register fewer, larger ranges, or raise --max-request-bytes of etcd)"
    } else {
        ""
    };
    text.replace('\n', " ") + cure
}

/// For everything that one operation does; upstream's.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The least time that an endpoint is given.
const MIN_SHARE: Duration = Duration::from_millis(1500);
/// Three chances before the lease runs out.
const KEEP_ALIVE: Duration = Duration::from_millis(2500);
/// gRPC's number.
const NOT_FOUND: i32 = 5;
