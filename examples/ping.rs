//! Two processes say hello through each other's memory, by the safe Rust API.
//!
//! `cargo run --example ping` starts both; `ping server` prints its name and waits for one client;
//! `ping client NAME` reads the server's greeting and writes an answer.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tent::{
    Config, Engine, Notification, Op, Permission, RegionSpec, Request, RequestOptions, SegmentId,
    TaskState,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => both(),
        ["server"] => server(),
        ["client", name] => client(name),
        _ => Err("usage: ping | ping server | ping client NAME".into()),
    }
}

/// Memory that a peer may write to while we look: atomics, because a plain `Vec<u8>` would promise the
/// compiler that nobody does.
struct Memory(Vec<AtomicU8>);

impl Memory {
    fn new() -> Self {
        Self((0..2 * LINE).map(|_| AtomicU8::new(0)).collect())
    }

    fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    fn put(&self, line: usize, text: &str) {
        for (cell, byte) in self.0[line * LINE..].iter().zip(text.bytes().chain([0])) {
            cell.store(byte, Ordering::Relaxed);
        }
    }

    fn text(&self, line: usize) -> String {
        let cells = self.0[line * LINE..(line + 1) * LINE].iter();
        let bytes = cells.map(|cell| cell.load(Ordering::Relaxed)).take_while(|byte| *byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }
}

/// An engine with its memory registered for peers to read and write.
fn start() -> Outcome<(Engine, Memory)> {
    let memory = Memory::new();
    let engine = Engine::new(Config::default())?;
    engine.register(&RegionSpec {
        addr: memory.address(),
        len: 2 * LINE,
        location: "*".into(),
        permission: Permission::ReadWrite,
    })?;
    Ok((engine, memory))
}

fn server() -> Outcome<()> {
    let (engine, memory) = start()?;
    memory.put(0, &format!("hello, this is process {}", std::process::id()));
    println!("{}", engine.name());
    let message = wait_for_message(&engine).ok_or("nobody came")?;
    println!(
        "server: {:?} says {:?}; my memory now holds {:?}",
        String::from_utf8_lossy(&message.name),
        String::from_utf8_lossy(&message.message),
        memory.text(1)
    );
    engine.unregister(memory.address())?;
    engine.shutdown();
    Ok(())
}

fn wait_for_message(engine: &Engine) -> Option<Notification> {
    for _ in 0..WAIT.as_millis() {
        if let Some(message) = engine.take_notifications().pop() {
            return Some(message);
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    None
}

fn client(server: &str) -> Outcome<()> {
    let (engine, memory) = start()?;
    let peer = engine.open_segment(server)?;
    let there = engine.segment(peer)?.buffers.first().ok_or("the server has no memory")?.addr;
    let request = |op, line: usize| Request {
        op,
        local: memory.address() + line * LINE,
        segment: peer,
        remote: there + (line * LINE) as u64,
        len: LINE as u64,
        options: RequestOptions::default(),
    };
    run(&engine, request(Op::Read, 0), None)?;
    println!("client: read {:?}", memory.text(0));
    memory.put(1, &format!("hello back from process {}", std::process::id()));
    let message = Notification { name: b"client".into(), message: b"the answer is written".into() };
    run(&engine, request(Op::Write, 1), Some((peer, message)))?;
    for rail in engine.rails() {
        let bytes = rail.read_bytes + rail.write_bytes;
        println!("client: moved {bytes} bytes over {} ({})", rail.rail, rail.transport);
    }
    engine.unregister(memory.address())?;
    engine.shutdown();
    Ok(())
}

/// Moves one range and waits for it; the message, if any, follows the bytes.
fn run(engine: &Engine, request: Request, tell: Option<(SegmentId, Notification)>) -> Outcome<()> {
    let batch = engine.allocate_batch(1)?;
    match tell {
        Some((peer, message)) => engine.submit_notify(batch, &[request], peer, message)?,
        None => engine.submit(batch, &[request])?,
    }
    let status = engine.wait(batch, WAIT)?;
    let why = engine.failure_text(batch);
    engine.free_batch(batch)?;
    if status.state == TaskState::Completed { Ok(()) } else { Err(why.into()) }
}

/// Starts a server as another process, and is its client.
fn both() -> Outcome<()> {
    let mut child =
        Command::new(std::env::current_exe()?).arg("server").stdout(Stdio::piped()).spawn()?;
    let mut from = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut name = String::new();
    from.read_line(&mut name)?;
    println!("the server is {}, process {}", name.trim(), child.id());
    let outcome = client(name.trim());
    let mut rest = String::new();
    from.read_to_string(&mut rest)?;
    print!("{rest}");
    if !child.wait()?.success() {
        return Err("the server failed".into());
    }
    outcome
}

/// Bytes of the greeting, and of the answer behind it.
const LINE: usize = 4096;

/// How long anything here may take.
const WAIT: Duration = Duration::from_secs(30);
