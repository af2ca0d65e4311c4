//! `tent`: moves bytes between processes and measures how well, through the C API of whatever engine
//! library it is given. It links none: see `capi`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

mod bench;
mod capi;
mod cli;
mod clock;
mod config;
mod demo;
mod drive;
mod duo;
mod fail;
mod host;
mod limits;
mod memory;
mod metad;
mod node;
mod os;
mod pattern;
mod peer;
mod proto;
mod rails;
mod raw;
mod sim;
mod stats;
mod target;
mod units;
mod verdict;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, TransportArgs};

fn main() -> ExitCode {
    let args = std::env::args_os().map(|arg| match arg.into_string() {
        Ok(text) => cli::normalise(&text).into(),
        Err(raw) => raw,
    });
    match run(Cli::parse_from(args).command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            eprintln!("tent: {fail}");
            fail.exit_code()
        }
    }
}

fn run(command: Command) -> fail::Result<()> {
    match command {
        Command::Demo(args) if args.rails.rails.is_some() => rails::demo(&args),
        Command::Demo(args) => {
            choose(&args.transport);
            demo::run(&args)
        }
        Command::Target(args) => {
            choose(&args.end.transport);
            target::run(&args)
        }
        Command::Bench(args) if args.rails.rails.is_some() => rails::bench(&args),
        Command::Bench(args) if args.against.is_some() => limits::run(&limits::Wish::from(&*args)),
        Command::Bench(args) => {
            choose(&args.end.transport);
            bench::run(&args)
        }
        Command::Limits(args) => limits::run(&limits::Wish::from(&args)),
        Command::Sim(args) => sim::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Metad(args) => metad::run(&args),
        Command::Worker(args) => worker::serve(args.lib),
    }
}

/// Before any thread: the engine reads its transports from the environment, and children inherit it.
fn choose(args: &TransportArgs) {
    if let Some(transports) = args.transports() {
        os::set_variable(os::TRANSPORTS, transports);
    }
}
