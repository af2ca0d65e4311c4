//! A record of every piece that landed over a net rail, as CSV: what `tent sim --replay` judges the models
//! by, and what somebody who wants to see each piece can plot.

use crate::slice::Op;
use crate::sync::lock;
use crate::time::Instant;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;

/// See the module. Shared by the lanes of an engine.
#[derive(Debug)]
pub(super) struct PieceLog(Mutex<BufWriter<File>>);

/// The first line.
pub const HEADER: &str = "rail,op,bytes,ahead,posted_ns,done_ns";

/// What is recorded of a piece; times are on `CLOCK_MONOTONIC`.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) peer: &'a str,
    pub(super) rail: &'a str,
    pub(super) op: Op,
    pub(super) len: u64,
    pub(super) ahead: u64,
    pub(super) posted: Instant,
    pub(super) done: Instant,
}

impl PieceLog {
    /// Begins a file; without it the engine goes on as if none had been asked for.
    pub(super) fn create(path: &Path) -> Option<Self> {
        let begin = || {
            let mut file = BufWriter::new(File::create(path)?);
            writeln!(file, "{HEADER}")?;
            Ok(file)
        };
        let warn = |e: std::io::Error| log::warn!("no record of pieces in {}: {e}", path.display());
        begin().map_err(warn).ok().map(|file| Self(Mutex::new(file)))
    }

    /// Adds a line. A full disk loses lines and nothing else.
    pub(super) fn add(&self, entry: &Entry<'_>) {
        let Entry { peer, rail, op, len, ahead, posted, done } = entry;
        let op = if *op == Op::Read { "read" } else { "write" };
        let mut file = lock(&self.0);
        writeln!(file, "{peer} {rail},{op},{len},{ahead},{},{}", posted.0, done.0).ok();
    }
}
