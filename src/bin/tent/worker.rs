//! The worker's side of the conversation: reads a command, does it, answers with one line. It serves as
//! target, as initiator with other settings, as the raw bound and as the relays; it ends with its input.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::capi::Library;
use super::fail::{Fail, Result};
use super::memory::Buffer;
use super::node::{Node, Remote};
use super::os;
use super::proto::{Answer, Command, NodeSpec, Vitals};
use super::rails::relay::Relays;
use super::raw::Raw;

/// Serves standard input until its end.
pub(crate) fn serve(lib: Option<PathBuf>) -> Result<()> {
    os::die_with_parent();
    os::allow_copies();
    let mut worker = Worker { lib, node: None, remote: None, raw: Raw::default(), relays: None };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = match worker.handle(&line) {
            Ok(value) => Answer::Ok(value),
            Err(fail) => Answer::Error { cause: fail.cause, cure: fail.cure },
        };
        let text = serde_json::to_string(&answer).unwrap_or_default();
        let mut out = std::io::stdout().lock();
        // Nobody reads any more: the command is gone, and so is the reason to run.
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(())
}

/// CPU time and threads of this process.
pub(crate) fn vitals() -> Vitals {
    let tasks = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    Vitals { cpu_s: os::cpu_s(), threads: tasks as u64 }
}

struct Worker {
    lib: Option<PathBuf>,
    node: Option<Node>,
    remote: Option<Remote>,
    raw: Raw,
    relays: Option<Relays>,
}

impl Worker {
    fn handle(&mut self, line: &str) -> Result<Value> {
        let command = serde_json::from_str(line)
            .map_err(|e| Fail::usage(format!("unreadable command: {e}"), "workers are internal"))?;
        match command {
            Command::Node { spec } => self.start(&spec),
            Command::Open { peer } => {
                let known = Some((peer.address, peer.len));
                self.remote = Some(self.node()?.open(&peer.segment, known)?);
                Ok(Value::Null)
            }
            Command::Run { plan } => {
                let remotes: Vec<_> = self.remote.into_iter().collect();
                let mut cpu = || Ok(os::cpu_s());
                value(self.node()?.run(&remotes, &plan, &mut cpu)?)
            }
            Command::Fill { seed, ranges } => {
                self.buffer()?.fill(seed, &ranges)?;
                Ok(Value::Null)
            }
            Command::Check { seed, ranges } => value(self.buffer()?.wrong(seed, &ranges)?),
            Command::Vitals => value(vitals()),
            Command::Rails => value(self.node()?.engine().rails()),
            Command::Reregister => value(self.node()?.reregister_us()?),
            Command::RelayStart { links } => {
                let relays = Relays::start(&links)?;
                let ports = relays.ports().to_vec();
                self.relays = Some(relays);
                value(ports)
            }
            Command::RelayApply { rail, fault } => value(self.relays()?.apply(rail, fault)?),
            Command::RelayCarried => value(self.relays()?.carried()?),
            raw => self.raw.handle(raw),
        }
    }

    fn start(&mut self, spec: &NodeSpec) -> Result<Value> {
        let lib = Library::load(self.lib.as_deref())?;
        let node = Node::start(lib, spec)?;
        let info = node.info.clone();
        self.node = Some(node);
        value(info)
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().ok_or_else(|| Fail::usage("no engine was made", "workers are internal"))
    }

    fn relays(&self) -> Result<&Relays> {
        self.relays
            .as_ref()
            .ok_or_else(|| Fail::usage("there are no relays", "workers are internal"))
    }

    fn buffer(&self) -> Result<&Buffer> {
        self.node().map(Node::buffer)
    }
}

fn value(of: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(json!(of))
        .map_err(|e| Fail::setup(format!("cannot write an answer: {e}"), "report it"))
}
