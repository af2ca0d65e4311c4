//! Metadata stores: where engines leave their descriptions and find those of others. Three operations
//! on keys, and a maker by connection string. What is written where, and when, the engine decides.

mod address;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "http")]
mod http;
pub mod keys;
mod redis;
mod resp;

use std::fmt;
use std::sync::Arc;

use crate::config::StoreConfig;
use crate::error::{Error, ErrorKind, Result};

pub use address::{StoreAddress, percent_encode};

/// A store of values by key. Every call waits for the network, within the store's time: 5 s for etcd,
/// 3 s for the others. May be called by several threads at once.
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of `key`; `None` if there is none.
    ///
    /// # Errors
    /// `Metadata`: what the store or the network did; it names store and key.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Sets an entry of this process, whatever was there. Where the store has leases (etcd) it goes
    /// [`LEASE_S`] seconds after the process has.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn put(&self, key: &str, value: &[u8]) -> Result<()>;

    /// Removes an entry; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn remove(&self, key: &str) -> Result<()>;
}

/// The store that `config` names. Nothing is sent yet, but that etcd's thread starts.
///
/// # Errors
/// `InvalidArgument`: no store has such an address, or a certificate cannot be read. `NotSupported`:
/// this build has no client for it.
pub fn connect(config: &StoreConfig) -> Result<Arc<dyn Store>> {
    match StoreAddress::parse(&config.url)? {
        StoreAddress::P2pHandshake => {
            let text = "P2PHANDSHAKE is no store: choose Metadata::P2pHandshake";
            Err(Error::new(ErrorKind::InvalidArgument, text))
        }
        StoreAddress::Redis(at) => Ok(Arc::new(redis::Redis::new(at, config))),
        #[cfg(feature = "etcd")]
        StoreAddress::Etcd(endpoints) => Ok(Arc::new(etcd::Etcd::start(&endpoints, config)?)),
        #[cfg(not(feature = "etcd"))]
        StoreAddress::Etcd(_) => Err(not_built("etcd")),
        #[cfg(feature = "http")]
        StoreAddress::Http(url) => Ok(Arc::new(http::Http::new(url, config)?)),
        #[cfg(not(feature = "http"))]
        StoreAddress::Http(_) => Err(not_built("http")),
    }
}

#[cfg(not(all(feature = "etcd", feature = "http")))]
fn not_built(kind: &str) -> Error {
    let text = format!("this build has no client for {kind}: build with the feature `{kind}`");
    Error::new(ErrorKind::NotSupported, text)
}

/// What went wrong with which key of which store.
fn failed(store: &dyn fmt::Display, what: &str, key: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Metadata, format!("{what} {key:?} in the store {store}: {why}"))
}

/// How long an entry outlives its process where the store has leases, in seconds.
pub const LEASE_S: i64 = 10;
/// The longest value taken, in bytes; a description of half a million buffers.
pub const MAX_VALUE: usize = 64 << 20;
