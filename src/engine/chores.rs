//! What goes on by itself on the control thread: settings that change, the line about the throughput,
//! second looks at the descriptions of peers.

use crate::config::{Config, Source, Tuning};
use crate::engine::directory::Directory;
use crate::engine::errands::Errands;
use crate::engine::lanes::Lanes;
use crate::sync::lock;
use crate::time::Instant;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Chores {
    directory: Arc<Directory>,
    lanes: Arc<Lanes>,
    errands: Arc<Errands>,
    source: Option<Arc<dyn Source>>,
    refresh_every: Option<Duration>,
    /// Read by every submit.
    task_timeout_ns: AtomicU64,
    times: Mutex<Times>,
}

/// When things are due, and what is remembered from last time.
#[derive(Debug)]
struct Times {
    source: Instant,
    refresh: Instant,
    metrics: Instant,
    metrics_every: Option<Duration>,
    told: Instant,
    read: u64,
    written: u64,
}

impl Chores {
    pub(super) fn new(
        config: &Config,
        directory: Arc<Directory>,
        lanes: Arc<Lanes>,
        errands: Arc<Errands>,
        now: Instant,
    ) -> Self {
        let due = |every: Option<Duration>| every.map_or(Instant::NEVER, |every| now.after(every));
        let times = Times {
            source: due(config.source.as_ref().map(|_| SOURCE_EVERY)),
            refresh: due(config.refresh_every),
            metrics: due(config.metrics_every),
            metrics_every: config.metrics_every,
            told: now,
            read: 0,
            written: 0,
        };
        Self {
            directory,
            lanes,
            errands,
            source: config.source.clone(),
            refresh_every: config.refresh_every,
            task_timeout_ns: AtomicU64::new(nanos(config.task_timeout)),
            times: Mutex::new(times),
        }
    }

    /// As [`Tuning::task_timeout`] is now.
    pub(super) fn task_timeout(&self) -> Duration {
        Duration::from_nanos(self.task_timeout_ns.load(Ordering::Relaxed))
    }

    /// Does what is due; returns when to look again.
    pub(super) fn look(&self, now: Instant) -> Instant {
        let mut times = lock(&self.times);
        if let Some(source) = self.source.as_ref().filter(|_| times.source <= now) {
            if let Some(tuning) = source.changed() {
                self.tune(&tuning, &mut times, now);
            }
            times.source = now.after(SOURCE_EVERY);
        }
        if let Some(every) = self.refresh_every.filter(|_| times.refresh <= now) {
            self.errands.refresh(self.directory.all());
            times.refresh = now.after(every);
        }
        if let Some(every) = times.metrics_every.filter(|_| times.metrics <= now) {
            self.tell(&mut times, now);
            times.metrics = now.after(every);
        }
        times.source.min(times.refresh).min(times.metrics)
    }

    fn tune(&self, tuning: &Tuning, times: &mut Times, now: Instant) {
        self.task_timeout_ns.store(nanos(tuning.task_timeout), Ordering::Relaxed);
        self.lanes.tune(tuning);
        if times.metrics_every != tuning.metrics_every {
            times.metrics_every = tuning.metrics_every;
            times.metrics = tuning.metrics_every.map_or(Instant::NEVER, |every| now.after(every));
            // what has moved unobserved is not told as if it had moved at once
            (times.told, (times.read, times.written)) = (now, self.moved());
        }
    }

    /// One line of log, if anything has moved.
    fn tell(&self, times: &mut Times, now: Instant) {
        let (read, written) = self.moved();
        let seconds = now.since(times.told).as_secs_f64().max(1e-9);
        let (more_read, more_written) = (read - times.read, written - times.written);
        if more_read + more_written > 0 {
            log::info!(
                "{}: read {:.3} GB/s, written {:.3} GB/s over the last {seconds:.1} s",
                self.directory.own_name(),
                gigabytes(more_read) / seconds,
                gigabytes(more_written) / seconds,
            );
        }
        (times.told, times.read, times.written) = (now, read, written);
    }

    /// Bytes landed so far over all rails: for READs, for WRITEs.
    fn moved(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for peer in self.directory.all() {
            for rail in peer.figures().iter() {
                sum.0 += rail.read_bytes.load(Ordering::Relaxed);
                sum.1 += rail.write_bytes.load(Ordering::Relaxed);
            }
        }
        sum
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// How often the source of settings is asked.
const SOURCE_EVERY: Duration = Duration::from_secs(1);
