//! Memory for Rust callers that needs no care: it cannot be dropped under a transfer, and nobody can hold
//! a reference into what peers write to.

use crate::engine::Engine;
use crate::error::Result;

/// Registered memory that the engine allocated; peers may read and write it, those on this host by
/// mapping it. Its bytes are copied in and out, never borrowed, for a peer may write at any time.
#[derive(Debug)]
pub struct Buffer {
    engine: Engine,
    addr: usize,
    len: usize,
}

impl Buffer {
    /// `len` bytes, rounded up to whole pages, all zero.
    ///
    /// # Errors
    /// As [`Engine::allocate`].
    pub fn new(engine: &Engine, len: usize) -> Result<Self> {
        let addr = engine.allocate(len, "*")?;
        Ok(Self { engine: engine.clone(), addr, len })
    }

    /// Address of the first byte, for requests and for peers.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Bytes that were asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// `NotRegistered` when it does not fit.
    pub fn put(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.engine.core.own.regions.put(self.addr.saturating_add(offset), bytes)
    }

    /// Copies what is at `offset` to `into`.
    ///
    /// # Errors
    /// `NotRegistered` when the buffer ends before.
    pub fn take(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        self.engine.core.own.regions.take(self.addr.saturating_add(offset), into)
    }
}

impl Drop for Buffer {
    /// Waits for transfers that use it, up to the configured time; memory that is still in use then is
    /// leaked, for something may yet land in it (I3, I6).
    fn drop(&mut self) {
        if let Err(e) = self.engine.free(self.addr) {
            log::warn!("a buffer of {} bytes is leaked: {e}", self.len);
        }
    }
}
