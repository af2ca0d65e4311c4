//! `tent metad`: the metadata store in one command. Speaks what upstream's HTTP metadata servers speak:
//! GET, PUT and DELETE of `/metadata?key=KEY`. An engine that crashed may take its name again, which
//! upstream's Python server refuses. Everything is in memory, within a bound; with a file it is there
//! again after a restart.

mod http;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use super::cli::MetadArgs;
use super::fail::{Fail, Result};
use http::{Fault, Request};

/// Serves until the process is ended.
pub(crate) fn run(args: &MetadArgs) -> Result<()> {
    let mut store = Store { limit: args.max_memory, ..Store::default() };
    if let Some(path) = &args.persist {
        store.restore(path).map_err(|e| {
            Fail::system(
                &format!("--persist {}", path.display()),
                &e,
                "name a file that can be written",
            )
        })?;
    }
    let at = (args.host.trim_matches(['[', ']']), args.port);
    let listener = TcpListener::bind(at).map_err(|e| {
        let what = format!("listening on {}:{}", args.host, args.port);
        Fail::system(&what, &e, "choose another --port or --host")
    })?;
    let at = listener.local_addr().map_err(|e| Fail::system("listening", &e, ""))?;
    println!("http://{at}/metadata  ({} entries)", store.entries.len());
    io::stdout().flush().ok();
    serve(&listener, &Arc::new(Mutex::new(store)));
    Ok(())
}

fn serve(listener: &TcpListener, store: &Arc<Mutex<Store>>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        // descriptors are short, or the client is gone already
        let Ok(mut stream) = stream else { continue };
        let limits = stream.set_read_timeout(Some(IDLE));
        let limits = limits.and_then(|()| stream.set_write_timeout(Some(IDLE)));
        if limits.and_then(|()| stream.set_nodelay(true)).is_err() {
            continue;
        }
        if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            http::answer(&mut stream, 503, b"too many connections", false).ok();
            continue;
        }
        let (store, count) = (Arc::clone(store), Arc::clone(&open));
        let work = move || {
            converse(&stream, &store);
            count.fetch_sub(1, Ordering::AcqRel);
        };
        let thread = Builder::new().name("metad".into()).stack_size(STACK).spawn(work);
        if let Err(e) = thread {
            open.fetch_sub(1, Ordering::AcqRel);
            eprintln!("tent metad: a connection was dropped, for there is no thread for it: {e}");
        }
    }
}

fn converse(stream: &TcpStream, store: &Mutex<Store>) {
    let (mut from, mut to) = (BufReader::new(stream), stream);
    loop {
        let (status, body, keep) = match http::read(&mut from, &mut to) {
            Ok(request) => {
                let keep = request.keep;
                let (status, body) =
                    store.lock().unwrap_or_else(PoisonError::into_inner).handle(request);
                (status, body, keep)
            }
            Err(Fault::Bad(status, why)) => (status, Arc::from(why.as_bytes()), false),
            Err(Fault::Gone) => return,
        };
        if http::answer(&mut to, status, &body, keep).is_err() || !keep {
            return;
        }
    }
}

#[derive(Debug, Default)]
struct Store {
    entries: HashMap<String, Arc<[u8]>>,
    /// Keys and values, in bytes, and how many there may be.
    bytes: u64,
    limit: u64,
    log: Option<Log>,
}

impl Store {
    /// Upstream's answers, to the letter (`http_metadata_server.py`).
    fn handle(&mut self, request: Request) -> (u16, Arc<[u8]>) {
        let say = |status, text: &str| (status, Arc::from(text.as_bytes()));
        if request.path != "/metadata" {
            return say(404, "not found; the path is /metadata");
        }
        if request.key.is_empty() {
            return say(400, "metadata key is required");
        }
        match &*request.method {
            "GET" => match self.entries.get(&request.key) {
                Some(value) => (200, Arc::clone(value)),
                None => say(404, "metadata not found"),
            },
            "PUT" => {
                let after = self.bytes + size(&request.key, &request.body);
                let old = self.entries.get(&request.key);
                if after - old.map_or(0, |v| size(&request.key, v)) > self.limit {
                    return say(507, "the store is full (--max-memory)");
                }
                self.change(request.key, Some(request.body));
                say(200, "metadata updated")
            }
            "DELETE" if self.entries.contains_key(&request.key) => {
                self.change(request.key, None);
                say(200, "metadata deleted")
            }
            "DELETE" => say(404, "metadata not found"),
            _ => say(405, "Method not allowed"),
        }
    }

    fn change(&mut self, key: String, value: Option<Vec<u8>>) {
        if let Some(log) = &mut self.log {
            log.add(&key, value.as_deref());
        }
        self.set(key, value);
        let outgrown = self.log.as_ref().is_some_and(|l| l.bytes > 4 * self.bytes + SMALL_LOG);
        if outgrown && let Some(log) = self.log.take() {
            self.log = Some(log.rewritten(&self.entries));
        }
    }

    fn set(&mut self, key: String, value: Option<Vec<u8>>) {
        let old = match value {
            Some(value) => {
                self.bytes += size(&key, &value);
                let count = key.len();
                self.entries.insert(key, value.into()).map(|old| (count, old))
            }
            None => {
                let count = key.len();
                self.entries.remove(&key).map(|old| (count, old))
            }
        };
        if let Some((key_len, old)) = old {
            self.bytes -= (key_len + old.len()) as u64;
        }
    }

    /// Reads the file, as far as it is whole, and goes on with a fresh one of what is alive.
    fn restore(&mut self, path: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let mut rest = &*bytes;
        while let Some((key, value, tail)) = record(rest) {
            self.set(key, value);
            rest = tail;
        }
        if !rest.is_empty() {
            eprintln!("tent metad: {} B at the end of {} are no entry", rest.len(), path.display());
        }
        self.log = Some(Log::create(path, &self.entries)?);
        Ok(())
    }
}

fn size(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// The file of `--persist`: one record per change, the length of the key, that of the value (or `NONE`
/// for a removed key), key, value.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// A fresh file in place of the old one, which stays whole until then.
    fn create(path: &Path, entries: &HashMap<String, Arc<[u8]>>) -> io::Result<Self> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&fresh)?;
        let mut log = Self { path: path.to_owned(), file, bytes: 0 };
        for (key, value) in entries {
            log.write(key, Some(value))?;
        }
        log.file.sync_all()?;
        fs::rename(&fresh, path)?;
        Ok(log)
    }

    fn rewritten(self, entries: &HashMap<String, Arc<[u8]>>) -> Self {
        Self::create(&self.path, entries).unwrap_or_else(|e| {
            eprintln!("tent metad: {} goes on growing: {e}", self.path.display());
            self
        })
    }

    fn add(&mut self, key: &str, value: Option<&[u8]>) {
        if let Err(e) = self.write(key, value) {
            eprintln!("tent metad: {key} is not in {}: {e}", self.path.display());
        }
    }

    fn write(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        let len = |n: usize| u32::try_from(n).unwrap_or(NONE).to_le_bytes();
        let value_len = value.map_or(NONE.to_le_bytes(), |v| len(v.len()));
        let value = value.unwrap_or_default();
        let bytes = [&len(key.len())[..], &value_len, key.as_bytes(), value].concat();
        self.file.write_all(&bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Key, value if there is one, and the bytes that follow.
type Record<'a> = (String, Option<Vec<u8>>, &'a [u8]);

/// The record at the start of `bytes`, and what follows it; `None` if no whole one is there.
fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let (key_len, rest) = bytes.split_first_chunk::<4>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (key_len, value_len) = (u32::from_le_bytes(*key_len), u32::from_le_bytes(*value_len));
    let (key, rest) = rest.split_at_checked(key_len as usize)?;
    let key = String::from_utf8(key.to_vec()).ok()?;
    if value_len == NONE {
        return Some((key, None, rest));
    }
    let (value, rest) = rest.split_at_checked(value_len as usize)?;
    Some((key, Some(value.to_vec()), rest))
}

/// Stands for the length of no value; a value is at most [`http::MAX_BODY`] long.
const NONE: u32 = u32::MAX;
/// Connections served at once, each by a thread with this much stack.
const MAX_CONNECTIONS: usize = 4096;
const STACK: usize = 128 << 10;
/// A connection that says nothing for so long is closed; clients connect again.
const IDLE: Duration = Duration::from_secs(60);
/// A file of this size is not worth writing again.
const SMALL_LOG: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(store: &mut Store, method: &str, key: &str, body: &[u8]) -> (u16, String) {
        let request = Request {
            method: method.into(),
            path: "/metadata".into(),
            key: key.into(),
            body: body.to_vec(),
            keep: true,
        };
        let (status, body) = store.handle(request);
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn answers_are_upstreams_and_an_address_may_be_replaced() {
        let mut s = Store { limit: 100, ..Store::default() };
        let text = |status, text: &str| (status, text.to_owned());
        assert_eq!(ask(&mut s, "GET", "", b""), text(400, "metadata key is required"));
        assert_eq!(ask(&mut s, "GET", "k", b""), text(404, "metadata not found"));
        assert_eq!(ask(&mut s, "DELETE", "k", b""), text(404, "metadata not found"));
        assert_eq!(ask(&mut s, "POST", "k", b""), text(405, "Method not allowed"));
        for value in ["{}", "{\"a\":1}"] {
            let put = ask(&mut s, "PUT", "a/rpc_meta/n", value.as_bytes());
            assert_eq!(put, text(200, "metadata updated"));
            assert_eq!(ask(&mut s, "GET", "a/rpc_meta/n", b""), text(200, value));
        }
        assert_eq!(ask(&mut s, "PUT", "big", &[0; 99]).0, 507);
        assert_eq!(ask(&mut s, "DELETE", "a/rpc_meta/n", b""), text(200, "metadata deleted"));
        assert_eq!(s.bytes, 0);
    }

    #[test]
    fn a_file_brings_everything_back_but_its_torn_end() {
        let path = std::env::temp_dir().join(format!("tent-metad-{}", std::process::id()));
        let open = || {
            let mut store = Store { limit: 1 << 30, ..Store::default() };
            store.restore(&path).unwrap();
            store
        };
        let mut store = open();
        ask(&mut store, "PUT", "a", b"1");
        ask(&mut store, "PUT", "b", b"2");
        ask(&mut store, "PUT", "a", b"3");
        ask(&mut store, "DELETE", "b", b"");
        drop(store);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[1, 0, 0, 0, 9]).unwrap();
        let mut store = open();
        assert_eq!(ask(&mut store, "GET", "a", b""), (200, "3".into()));
        assert_eq!((store.entries.len(), store.bytes), (1, 2));
        // written over and over, the file does not grow without end
        let value = vec![b'x'; 100_000];
        for _ in 0..60 {
            ask(&mut store, "PUT", "a", &value);
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * SMALL_LOG);
        fs::remove_file(&path).unwrap();
    }

    proptest! {
        #[test]
        fn any_file_is_read_as_far_as_it_goes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut rest = &*bytes;
            while let Some((_, _, tail)) = record(rest) {
                prop_assert!(tail.len() < rest.len());
                rest = tail;
            }
        }
    }
}
