//! Lets the script come true: at each time, the fault is given to the relays or to the engine, and when it
//! took effect is written down.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::record::Applied;
use super::script::{Entry, Fault};
use crate::capi::Engine;
use crate::fail::Result;
use crate::os;
use crate::peer::Peer;
use crate::proto::Command;

/// Follows the script until its end, or until `stop` is dropped. `name` tells what the engine calls a rail.
pub(crate) fn follow(
    script: &[Entry],
    start_us: u64,
    relays: &mut Peer,
    engine: &Engine,
    name: impl Fn(usize) -> String,
    stop: &Receiver<()>,
    applied: &Mutex<Vec<Applied>>,
) -> Result<()> {
    for entry in script {
        let wait_us = (start_us + entry.at_us).saturating_sub(os::host_us());
        match stop.recv_timeout(Duration::from_micros(wait_us)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        let at_us = match entry.fault {
            Fault::Drain | Fault::Undrain => {
                let now_us = os::host_us();
                engine.drain(&name(entry.rail), entry.fault == Fault::Drain)?;
                now_us
            }
            fault => relays.ask(&Command::RelayApply { rail: entry.rail, fault })?,
        };
        let us = at_us.saturating_sub(start_us);
        if let Ok(mut applied) = applied.lock() {
            applied.push(Applied { entry: *entry, us });
        }
    }
    Ok(())
}
