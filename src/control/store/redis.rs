//! Redis, by hand: GET, SET and DEL over a few kept connections, with AUTH and SELECT before them.
//! Entries have no lease here, as upstream's have none: one of a crashed engine stays until the next
//! engine of its name replaces it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use super::resp::{self, Reply};
use super::{Store, failed};
use crate::config::StoreConfig;
use crate::control::address::P2pName;
use crate::error::Result;
use crate::sync::lock;
use crate::time::Instant;

/// See the module.
pub(super) struct Redis {
    at: P2pName,
    user: String,
    password: String,
    db: u8,
    idle: Mutex<Vec<TcpStream>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.at).finish()
    }
}

/// Why there is no answer; the first kind may go away with a fresh connection.
enum Fault {
    Broken(io::Error),
    Said(String),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        Self::Broken(e)
    }
}

impl Redis {
    pub(super) fn new(at: P2pName, config: &StoreConfig) -> Self {
        let (user, password) = (config.user.clone(), config.password.clone());
        Self { at, user, password, db: config.db, idle: Mutex::default() }
    }

    fn ask(&self, what: &str, key: &str, words: &[&[u8]]) -> Result<Reply> {
        let until = Instant::now().after(TIMEOUT);
        let name = format_args!("redis://{}", self.at);
        let mut kept = lock(&self.idle).pop();
        loop {
            let fresh = kept.is_none();
            let stream = kept.take().map_or_else(|| self.open(until), Ok);
            let answer = stream.and_then(|mut s| Ok((exchange(&mut s, words, until)?, s)));
            match answer {
                Ok((Reply::Error(text), stream)) => {
                    self.keep(stream);
                    return Err(failed(&name, what, key, refusal(&text)));
                }
                Ok((reply, stream)) => {
                    self.keep(stream);
                    return Ok(reply);
                }
                // the server had closed the kept one; all three commands may be given twice
                Err(Fault::Broken(_)) if !fresh => lock(&self.idle).clear(),
                Err(Fault::Broken(e)) => {
                    let cure = "is the server up, and the port right? without one it is 12001";
                    return Err(failed(&name, what, key, format_args!("{e} ({cure})")));
                }
                Err(Fault::Said(text)) => return Err(failed(&name, what, key, text)),
            }
        }
    }

    fn open(&self, until: Instant) -> std::result::Result<TcpStream, Fault> {
        let addresses = self.at.resolve(false).map_err(|e| Fault::Said(e.to_string()))?;
        let mut stream = Err(io::Error::from(io::ErrorKind::NotFound));
        for address in addresses {
            stream = TcpStream::connect_timeout(&address, left(until)?.min(CONNECT_TIMEOUT));
            if stream.is_ok() {
                break;
            }
        }
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        let mut say = |words: &[&[u8]]| match exchange(&mut stream, words, until)? {
            Reply::Simple(_) => Ok(()),
            Reply::Error(text) => Err(Fault::Said(refusal(&text))),
            other => Err(Fault::Said(format!("an odd answer: {other:?}"))),
        };
        match (self.user.as_bytes(), self.password.as_bytes()) {
            (_, b"") => {}
            (b"", password) => say(&[b"AUTH", password])?,
            (user, password) => say(&[b"AUTH", user, password])?,
        }
        if self.db != 0 {
            say(&[b"SELECT", self.db.to_string().as_bytes()])?;
        }
        Ok(stream)
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE {
            idle.push(stream);
        }
    }

    fn odd(&self, what: &str, key: &str, reply: &Reply) -> crate::error::Error {
        failed(&format_args!("redis://{}", self.at), what, key, format_args!("answered {reply:?}"))
    }
}

impl Store for Redis {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.ask("reading", key, &[b"GET", key.as_bytes()])? {
            Reply::Bulk(value) => Ok(value),
            other => Err(self.odd("reading", key, &other)),
        }
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        match self.ask("writing", key, &[b"SET", key.as_bytes(), value])? {
            Reply::Simple(_) => Ok(()),
            other => Err(self.odd("writing", key, &other)),
        }
    }

    fn remove(&self, key: &str) -> Result<()> {
        match self.ask("removing", key, &[b"DEL", key.as_bytes()])? {
            Reply::Number(_) => Ok(()),
            other => Err(self.odd("removing", key, &other)),
        }
    }
}

fn exchange(
    stream: &mut TcpStream,
    words: &[&[u8]],
    until: Instant,
) -> std::result::Result<Reply, Fault> {
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&resp::encode(words))?;
    let (mut bytes, mut scratch) = (Vec::new(), vec![0; SCRATCH]);
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut scratch) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => bytes.extend_from_slice(&scratch[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(e) => return Err(e.into()),
        }
        match resp::decode(&bytes).map_err(|why| Fault::Said(format!("answered with {why}")))? {
            Some((reply, used)) if used == bytes.len() => return Ok(reply),
            Some(_) => return Err(Fault::Said("answered more than it was asked".into())),
            None => {}
        }
    }
}

fn left(until: Instant) -> std::result::Result<Duration, Fault> {
    let left = until.since(Instant::now());
    // zero would mean no limit at all to the socket
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> Fault {
    Fault::Said(format!("no answer within {} s", TIMEOUT.as_secs()))
}

fn refusal(text: &str) -> String {
    let auth = ["NOAUTH", "WRONGPASS", "NOPERM"].iter().any(|word| text.starts_with(word));
    let cure = if auth { " (cure: MC_REDIS_USERNAME, MC_REDIS_PASSWORD)" } else { "" };
    format!("refused: {text}{cure}")
}

/// For everything that one operation does.
const TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Connections that are kept for the next operation.
const MAX_IDLE: usize = 4;
const SCRATCH: usize = 64 << 10;
