//! Where the library's log lines go: standard error or a file of `MC_LOG_DIR`, one `write` per line, so that
//! no lock is held that a `fork` could leave locked in the child. A line that repeats is counted and told
//! again at 10, 100 …
#![allow(unsafe_code, reason = "one write to standard error")]

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, Once, OnceLock, PoisonError, TryLockError};

/// Installs the log with its level, and routes panics of our own threads into it; the first call counts.
/// With a directory the lines go to a file there, and errors to standard error too, as glog does it.
///
/// Both the logger and the panic hook are this library's own: the host's Rust, if it has one, is another
/// copy of std.
pub(crate) fn install(level: LevelFilter, dir: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if ::log::set_logger(&STDERR).is_ok() {
            ::log::set_max_level(level);
        }
        std::panic::set_hook(Box::new(|info| ::log::error!("{info}")));
        if !dir.is_empty() {
            match open(Path::new(dir)) {
                Ok(file) => drop(FILE.set(file)),
                Err(e) => ::log::warn!("no log file in {dir}: {e}; the log goes to stderr"),
            }
        }
    });
}

/// Changes the level from now on.
pub(crate) fn set_level(level: LevelFilter) {
    ::log::set_max_level(level);
}

/// One file per process; a forked child goes on in its parent's.
fn open(dir: &Path) -> std::io::Result<File> {
    let name = format!("tent.{}.log", std::process::id());
    OpenOptions::new().create(true).append(true).open(dir.join(name))
}

/// The level of that name; upstream's names and the usual ones.
pub(crate) fn parse_level(name: &str) -> Option<LevelFilter> {
    match name.to_ascii_uppercase().as_str() {
        "OFF" | "NONE" => Some(LevelFilter::Off),
        "ERROR" | "FATAL" => Some(LevelFilter::Error),
        "WARN" | "WARNING" => Some(LevelFilter::Warn),
        "INFO" => Some(LevelFilter::Info),
        "DEBUG" => Some(LevelFilter::Debug),
        "TRACE" => Some(LevelFilter::Trace),
        _ => None,
    }
}

#[derive(Debug)]
struct Stderr {
    repeated: Mutex<Repeats>,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let body = format!("tent {}: {}", level_name(record.level()), record.args());
        let repeats = match self.repeated.try_lock() {
            Ok(mut seen) => seen.count(&body),
            Err(TryLockError::Poisoned(seen)) => PoisonError::into_inner(seen).count(&body),
            // busy in another thread, or locked for ever by a fork: better a line too many
            Err(TryLockError::WouldBlock) => 1,
        };
        let stamp = ::tent::time::timestamp();
        let line = match repeats {
            1 => format!("{stamp} {body}\n"),
            n if is_power_of_ten(n) => format!("{stamp} {body} ({n} times by now)\n"),
            _ => return,
        };
        let file = FILE.get();
        if let Some(file) = file {
            write_line(file.as_raw_fd(), &line);
        }
        if file.is_none() || record.level() == Level::Error {
            write_line(libc::STDERR_FILENO, &line);
        }
    }

    fn flush(&self) {}
}

/// The line seen last and how often in a row.
#[derive(Debug)]
struct Repeats {
    line: String,
    times: u64,
}

impl Repeats {
    fn count(&mut self, line: &str) -> u64 {
        if self.line == line {
            self.times += 1;
        } else {
            line.clone_into(&mut self.line);
            self.times = 1;
        }
        self.times
    }
}

fn is_power_of_ten(n: u64) -> bool {
    n > 0 && 10_u64.pow(n.ilog10()) == n
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn write_line(to: RawFd, line: &str) {
    // SAFETY: the pointer and the length are those of a live string. A full or closed file loses the
    // line; there is nowhere to tell it.
    unsafe { libc::write(to, line.as_ptr().cast(), line.len()) };
}

/// The file of the log, for the life of the process.
static FILE: OnceLock<File> = OnceLock::new();
static STDERR: Stderr = Stderr { repeated: Mutex::new(Repeats { line: String::new(), times: 0 }) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_level_names_are_known() {
        for (name, level) in [
            ("TRACE", LevelFilter::Trace),
            ("info", LevelFilter::Info),
            ("WARNING", LevelFilter::Warn),
            ("ERROR", LevelFilter::Error),
        ] {
            assert_eq!(parse_level(name), Some(level));
        }
        assert_eq!(parse_level("loud"), None);
    }

    #[test]
    fn repeated_lines_are_told_at_powers_of_ten() {
        let mut seen = Repeats { line: String::new(), times: 0 };
        let told = (0..1000).filter(|_| is_power_of_ten(seen.count("x"))).count();
        assert_eq!(told, 4);
        assert_eq!((seen.count("y"), seen.count("x")), (1, 1));
    }
}
