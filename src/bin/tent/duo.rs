//! The contestants of `tent limits`: the engine in two processes, and the plain bound in two others.

use std::path::Path;

use super::fail::{Fail, Result};
use super::host;
use super::memory::SEED_UNTOUCHED;
use super::node::P2P;
use super::os::Way;
use super::peer::Peer;
use super::proto::{
    Command, Load, Memory, NodeInfo, NodeSpec, Outcome, Plan, Range, Streamed, Vitals,
};
use super::rails::rail::Rail;
use super::units;

/// The engine in two processes.
#[derive(Debug)]
pub(crate) struct Duo {
    initiator: Peer,
    target: Peer,
    bytes: u64,
}

impl Duo {
    /// `memory` is the target's; the initiator's is always ordinary memory, as the source of the plain
    /// copies is.
    pub(crate) fn start(
        lib: Option<&Path>,
        transports: Option<&str>,
        bytes: u64,
        memory: Memory,
    ) -> Result<Self> {
        let mut target = Peer::spawn(lib, transports)?;
        let mut initiator = Peer::spawn(lib, transports)?;
        target.send(&Command::Node { spec: spec(bytes, memory) })?;
        initiator.send(&Command::Node { spec: spec(bytes, Memory::Any) })?;
        let theirs: NodeInfo = target.answer()?;
        initiator.answer::<NodeInfo>()?;
        initiator.ask::<()>(&Command::Open { peer: theirs })?;
        Ok(Self { initiator, target, bytes })
    }

    pub(crate) fn run(&mut self, plan: &Plan) -> Result<Outcome> {
        self.initiator.ask(&Command::Run { plan: plan.clone() })
    }

    /// The outcome, and the CPU seconds of both processes per GB.
    pub(crate) fn run_with_cpu(&mut self, plan: &Plan) -> Result<(Outcome, f64)> {
        // All CPU that is counted must have moved counted bytes, so there is no warm-up.
        let plan = Plan { warmup_s: 0.0, ..plan.clone() };
        let before = self.vitals()?;
        let outcome = self.run(&plan)?;
        let cpu = per_gb(before, self.vitals()?, outcome.bytes);
        Ok((outcome, cpu))
    }

    pub(crate) fn vitals(&mut self) -> Result<[Vitals; 2]> {
        Ok([self.initiator.vitals()?, self.target.vitals()?])
    }

    /// A fast figure with wrong bytes is worth nothing, so they are looked at before anything is timed.
    pub(crate) fn check(&mut self, plan: &Plan) -> Result<()> {
        let plan = Plan { warmup_s: 0.0, run_s: CHECK_S, ..plan.clone() };
        let whole = vec![Range { offset: 0, len: self.bytes }];
        let (here, there) = match plan.load {
            Load::Read => (SEED_UNTOUCHED, SEED),
            Load::Write | Load::Mix => (SEED, SEED_UNTOUCHED),
        };
        self.initiator.ask::<()>(&Command::Fill { seed: here, ranges: whole.clone() })?;
        self.target.ask::<()>(&Command::Fill { seed: there, ranges: whole })?;
        let ranges = self.run(&plan)?.touched.into_iter().map(|t| t.range).collect();
        let to = if plan.load == Load::Read { &mut self.initiator } else { &mut self.target };
        match to.ask(&Command::Check { seed: SEED, ranges })? {
            0u64 => Ok(()),
            n => Err(Fail::transfer(format!("{n} bytes arrived wrong"), "")),
        }
    }

    /// Which rails carried the bytes; loud when it is not the transport that was to be measured.
    pub(crate) fn note(&mut self, wanted: &str) -> Result<String> {
        let rails: Option<Vec<Rail>> = self.initiator.ask(&Command::Rails)?;
        Ok(rails.map_or_else(String::new, |rails| describe(&rails, wanted)))
    }
}

/// Two processes without an engine.
#[derive(Debug)]
pub(crate) struct Plain {
    a: Peer,
    b: Peer,
    b_address: u64,
}

/// What a plain stream reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) rate: f64,
    pub(crate) cpu_s_per_gb: f64,
}

impl Plain {
    pub(crate) fn start(bytes: u64, shared: bool) -> Result<Self> {
        let (mut a, mut b) = (Peer::spawn(None, None)?, Peer::spawn(None, None)?);
        a.send(&Command::RawMemory { bytes, shared })?;
        b.send(&Command::RawMemory { bytes, shared: false })?;
        a.answer::<NodeInfo>()?;
        let b_address = b.answer::<NodeInfo>()?.address;
        Ok(Self { a, b, b_address })
    }

    /// One more connection, with the system's congestion control or another; they are numbered from 0.
    pub(crate) fn connect(&mut self, congestion: Option<&str>) -> Result<()> {
        let congestion = congestion.map(str::to_string);
        let port = self.a.ask(&Command::RawListen { congestion })?;
        self.b.ask::<()>(&Command::RawConnect { port })?;
        self.a.ask::<()>(&Command::RawAccept)
    }

    /// process_vm_readv or writev.
    pub(crate) fn copy(&mut self, way: Way, plan: &Plan) -> Result<Outcome> {
        let pid = i32::try_from(self.b.pid()).unwrap_or(0);
        let (address, plan) = (self.b_address, plan.clone());
        self.a.ask(&Command::RawCopy { way, pid, address, plan })
    }

    pub(crate) fn memcpy(&mut self, plan: &Plan) -> Result<Outcome> {
        self.a.ask(&Command::RawMemcpy { plan: plan.clone() })
    }

    /// `count` blocks through a connection, one end in `send`, the other in `recv`.
    pub(crate) fn stream(&mut self, on: usize, block: u64, count: u64) -> Result<Stream> {
        let order = |way| Command::RawStream { on, way, block, count, cycle: CYCLE };
        let before = self.vitals()?;
        self.b.send(&order(Way::In))?;
        let out: Streamed = self.a.ask(&order(Way::Out))?;
        let come: Streamed = self.b.answer()?;
        let cpu_s_per_gb = per_gb(before, self.vitals()?, come.bytes);
        // The receiver's clock starts before anything was sent; the sender's stops before it arrived.
        let rate = units::gb_per_s(come.bytes, come.end_s - out.start_s);
        Ok(Stream { rate, cpu_s_per_gb })
    }

    pub(crate) fn ping(&mut self, plan: &Plan) -> Result<Outcome> {
        self.b.send(&Command::RawPong { block: plan.block, cycle: plan.cycle })?;
        let out = self.a.ask(&Command::RawPing { plan: plan.clone() });
        self.b.answer::<u64>()?;
        out
    }

    fn vitals(&mut self) -> Result<[Vitals; 2]> {
        Ok([self.a.vitals()?, self.b.vitals()?])
    }
}

/// An engine on this host, by address.
pub(crate) fn spec(bytes: u64, memory: Memory) -> NodeSpec {
    NodeSpec { metadata: P2P.into(), name: host::LOOPBACK.into(), port: 0, bytes, memory }
}

fn per_gb(before: [Vitals; 2], after: [Vitals; 2], bytes: u64) -> f64 {
    let cpu_s: f64 = before.iter().zip(&after).map(|(b, a)| a.cpu_s - b.cpu_s).sum();
    cpu_s / (units::as_f64(bytes.max(1)) / 1e9)
}

fn describe(rails: &[Rail], wanted: &str) -> String {
    let used: Vec<_> = rails.iter().filter(|r| r.bytes() > 0).collect();
    let others: Vec<_> =
        used.iter().map(|r| r.transport.as_str()).filter(|t| *t != wanted).collect();
    let retries: u64 = used.iter().map(|r| r.retried_slices).sum();
    let mut text = match used.len() {
        1 => "1 rail".to_string(),
        n => format!("{n} rails"),
    };
    if retries > 0 {
        text += &format!(", {retries} retries");
    }
    if !others.is_empty() {
        text += &format!(", NOT ONLY {wanted}: {}", others.join(","));
    }
    text
}

/// Batches used in turn, as in the peers' tables.
pub(crate) const CYCLE: u64 = 64;
const SEED: u64 = 0x11;
const CHECK_S: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_transport_is_called_out() {
        let rail = |transport: &str, bytes| Rail {
            transport: transport.into(),
            read_bytes: bytes,
            ..Rail::default()
        };
        assert_eq!(describe(&[rail("cma", 5), rail("tcp", 0)], "cma"), "1 rail");
        assert!(describe(&[rail("cma", 5), rail("tcp", 1)], "cma").contains("NOT ONLY cma: tcp"));
    }

    #[test]
    fn cpu_is_of_both_ends() {
        let v = |cpu_s| Vitals { cpu_s, threads: 1 };
        let cost = per_gb([v(1.0), v(2.0)], [v(1.5), v(2.25)], 1_500_000_000);
        assert!((cost - 0.5).abs() < 1e-9);
    }
}
