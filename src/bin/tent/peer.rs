//! The second process: this same program started as a worker, spoken to in JSON lines over its standard
//! input and output. It is ended and waited for by its own pid, whatever happens here.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::clock;
use super::fail::{Fail, Result};
use super::os;
use super::proto::{Answer, Command, NodeInfo, NodeSpec, Vitals};

/// A running worker.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// `transports` goes to the worker's engine; None leaves the environment as it is.
    pub(crate) fn spawn(lib: Option<&Path>, transports: Option<&str>) -> Result<Self> {
        let transports = transports.map(|list| (os::TRANSPORTS, list.to_string()));
        Self::spawn_with(lib, transports.as_slice())
    }

    /// `variables` are set in the worker's environment, beside what it inherits.
    pub(crate) fn spawn_with(lib: Option<&Path>, variables: &[(&str, String)]) -> Result<Self> {
        let fail = |e: std::io::Error| Fail::system("cannot start a second process", &e, "");
        let exe = std::env::current_exe().map_err(fail)?;
        let mut command = std::process::Command::new(exe);
        command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(lib) = lib {
            command.arg("--lib").arg(lib);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().map_err(fail)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let Some(output) = output else {
            // Cannot be: both ends were asked for above. Never leave the child behind, though.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Fail::setup("the second process has no output", ""));
        };
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ask<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T> {
        self.send(command)?;
        self.answer()
    }

    pub(crate) fn start_node(&mut self, spec: &NodeSpec) -> Result<NodeInfo> {
        self.ask(&Command::Node { spec: spec.clone() })
    }

    pub(crate) fn vitals(&mut self) -> Result<Vitals> {
        self.ask(&Command::Vitals)
    }

    /// Sends only; `answer` must follow before the next command.
    pub(crate) fn send(&mut self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_string(command)
            .map_err(|e| Fail::setup(format!("cannot write a command: {e}"), "report it"))?;
        line.push('\n');
        let sent = match &mut self.input {
            Some(input) => input.write_all(line.as_bytes()),
            None => Ok(()),
        };
        sent.map_err(|e| Fail::system("the second process does not listen", &e, DIED))
    }

    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let lost = |e: std::io::Error| Fail::system("the second process is silent", &e, DIED);
        loop {
            if !os::readable(self.output.get_ref(), ANSWER_WITHIN).map_err(lost)? {
                return Err(Fail::setup("the second process does not answer", DIED));
            }
            let mut line = String::new();
            if self.output.read_line(&mut line).map_err(lost)? == 0 {
                return Err(Fail::setup(self.how_it_ended(), DIED));
            }
            // A library may print to standard output; our answers are JSON objects.
            if !line.starts_with('{') {
                continue;
            }
            return match serde_json::from_str(&line) {
                Ok(Answer::Ok(value)) => Ok(value),
                Ok(Answer::Error { cause, cure }) => Err(Fail::setup(cause, cure)),
                Err(e) => Err(Fail::setup(format!("unreadable answer: {e}"), "report it")),
            };
        }
    }

    fn how_it_ended(&mut self) -> String {
        match self.wait_a_moment() {
            Some(status) => format!("the second process ended ({status})"),
            None => "the second process closed its output".into(),
        }
    }

    fn wait_a_moment(&mut self) -> Option<std::process::ExitStatus> {
        let begin = clock::now();
        while clock::now().duration_since(begin) < GRACE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            clock::pause(Duration::from_millis(1));
        }
        None
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input asks it to leave; one that hangs is killed, by its own pid only.
        self.input = None;
        if self.wait_a_moment().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

const DIED: &str = "see what it wrote above; is the machine out of memory?";
/// Longer than any command may take: a run has its own, shorter limits.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(3);
