//! `tent` moves bytes between the processes of an AI cluster. The application says *what*; the runtime
//! decides *how*: which transports and rails, in which pieces.
//!
//! The map, top down (arrows between modules point down only; `tidy` checks it):
//! - [`engine`]: the safe API; batches; lanes that make progress.
//! - [`sched`]: pure decisions · [`control`]: the slow path · [`transport`]: moves slices.
//! - [`policy`]: what the application wants of transports · [`slice`], [`segment`], [`topology`]: plain data · [`memory`]: registered regions.
//! - [`error`], [`id`], [`time`], `sync`, [`config`]: the ground · [`sys`]: the operating system.

pub mod config;
pub mod control;
pub mod engine;
pub mod error;
pub mod event;
pub mod id;
pub mod memory;
pub mod policy;
pub mod sched;
pub mod segment;
#[cfg(any(test, feature = "cli"))]
#[cfg(not(loom))]
pub mod sim;
pub mod slice;
pub(crate) mod sync;
pub mod sys;
#[cfg(test)]
mod tidy;
pub mod time;
pub mod topology;
pub mod transport;

pub use config::{Config, Metadata, Source, Spray, StoreConfig, Tuning};
pub use engine::{
    BatchReport, Buffer, Engine, Extras, Notification, RailShare, RailStat, RegionSpec, Request,
    RequestOptions, TaskReport, TaskState, TaskStatus,
};
pub use error::{Error, ErrorKind, Result};
pub use id::{BatchId, Incarnation, SegmentId};
pub use segment::Permission;
pub use slice::{Op, Priority, TransportKind, TransportMask};
