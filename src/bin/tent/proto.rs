//! What the command says to the second process it starts, as JSON lines, and the values both share.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::capi::Op;
use super::os::Way;
use super::rails::relay::LinkSpec;
use super::rails::script::Fault;
use super::stats::Summary;

/// Bytes of a buffer, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Where the buffer's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Memory {
    /// Any memory of the process (anonymous mmap)
    Any,
    /// Memory the engine allocated (`tent_allocate_memory`), which peers on this host map: shm
    Engine,
}

/// How a caller learns that its batch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    /// Calls getTransferStatus in a loop, as existing programs do
    Poll,
    /// Sleeps in `tent_wait`
    Block,
}

/// What a load does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Load {
    Read,
    Write,
    /// Every second batch is a WRITE.
    Mix,
}

/// An engine with one registered buffer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeSpec {
    pub(crate) metadata: String,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) bytes: u64,
    pub(crate) memory: Memory,
}

/// How the peer finds that buffer, and what making it cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeInfo {
    pub(crate) segment: String,
    pub(crate) address: u64,
    pub(crate) len: u64,
    pub(crate) start_us: f64,
    pub(crate) register_us: f64,
}

/// One point of a measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    pub(crate) block: u64,
    pub(crate) batch: u64,
    pub(crate) threads: u64,
    /// At most so many different batches per thread are used in turn.
    pub(crate) cycle: u64,
    pub(crate) warmup_s: f64,
    pub(crate) run_s: f64,
    pub(crate) interval_us: u64,
    pub(crate) wait: Wait,
}

/// What a point showed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    pub(crate) ops: u64,
    pub(crate) gb_per_s: f64,
    /// Wall time per batch of one thread, waits between batches included.
    pub(crate) avg_lat_us: f64,
    /// From submit to the end of a batch.
    pub(crate) tx: Summary,
    /// The submit call alone.
    pub(crate) submit: Summary,
    /// CPU time of the processes the measuring side can see, from start to end of the point.
    pub(crate) cpu_s: f64,
    /// What was moved at least once, warm-up included.
    pub(crate) touched: Vec<Touched>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touched {
    pub(crate) op: Op,
    pub(crate) thread: u64,
    pub(crate) range: Range,
}

/// CPU and threads of a process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Vitals {
    pub(crate) cpu_s: f64,
    pub(crate) threads: u64,
}

/// One end of a plain stream; times on the clock all processes of the host share.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Streamed {
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
    pub(crate) bytes: u64,
}

/// Asked of a worker; each is answered by one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Command {
    /// Make an engine: `NodeInfo`
    Node {
        spec: NodeSpec,
    },
    /// Open the peer's segment; later loads go there
    Open {
        peer: NodeInfo,
    },
    /// Run a load against the opened segment: `Outcome`
    Run {
        plan: Plan,
    },
    Fill {
        seed: u64,
        ranges: Vec<Range>,
    },
    /// Count wrong bytes: u64
    Check {
        seed: u64,
        ranges: Vec<Range>,
    },
    /// `Vitals`
    Vitals,
    /// The engine's rails, or null
    Rails,
    /// Unregister and register again: microseconds of the second
    Reregister,
    /// Make raw memory (no engine), and a shared mapping when asked: its `NodeInfo`
    RawMemory {
        bytes: u64,
        shared: bool,
    },
    /// process_vm_readv/writev from or to another worker: `Outcome`
    RawCopy {
        way: Way,
        pid: i32,
        address: u64,
        plan: Plan,
    },
    /// memcpy into the shared mapping: `Outcome`
    RawMemcpy {
        plan: Plan,
    },
    /// Listen on loopback, with that congestion control or the system's: the port
    RawListen {
        congestion: Option<String>,
    },
    /// Connect to that port
    RawConnect {
        port: u16,
    },
    /// Accept that connection
    RawAccept,
    /// A blocking send or recv loop of so many blocks over one of the connections: `Streamed`
    RawStream {
        on: usize,
        way: Way,
        block: u64,
        count: u64,
        cycle: u64,
    },
    /// Spinning request and reply: `Outcome`; the other end runs `RawPong`
    RawPing {
        plan: Plan,
    },
    RawPong {
        block: u64,
        cycle: u64,
    },
    /// Make a relay for each link: their ports
    RelayStart {
        links: Vec<LinkSpec>,
    },
    /// Let something happen to a link: when it did, in microseconds of the host's clock
    RelayApply {
        rail: usize,
        fault: Fault,
    },
    /// A list of `Carried`
    RelayCarried,
}

/// The answer to a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer<T> {
    Ok(T),
    Error { cause: String, cure: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_answers_survive_the_line() {
        let command = Command::Check { seed: u64::MAX, ranges: vec![Range { offset: 1, len: 2 }] };
        let line = serde_json::to_string(&command).unwrap();
        assert!(!line.contains('\n') && line.starts_with('{'));
        assert!(matches!(serde_json::from_str(&line).unwrap(),
            Command::Check { seed: u64::MAX, ranges } if ranges[0].len == 2));
        let line = serde_json::to_string(&Answer::Ok(0x7fff_ffff_f000u64)).unwrap();
        assert!(matches!(serde_json::from_str(&line).unwrap(), Answer::Ok(0x7fff_ffff_f000u64)));
    }
}
