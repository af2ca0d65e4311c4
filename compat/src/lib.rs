//! The C face of `tent`: the Mooncake Transfer Engine C API and tent's own, as one shared library that
//! existing programs use by relinking or by `LD_PRELOAD`.
//!
//! The map:
//! - [`mooncake`]: upstream's 27 functions (`transfer_engine_c.h`), their quirks and nothing else.
//! - [`tent`]: what upstream lacks (`tent.h`): error text, waiting, allocation, rail statistics.
//! - [`extra`]: what the C++ class over both needs besides (`tent_cxx.h`).
//! - [`ret`]: one type per return convention; the numbers of both of upstream's error spaces.
//! - `entry`: the body of every exported function: guard against panics, last error, conversion.
//! - `handle`: engine handles, which are checked numbers and never addresses (I7).
//! - `text`: strings and arrays across the edge · `env`: environment and configuration → settings ·
//!   [`config`]: what they are, for reports · `log`: stderr or a file · `shutdown`: the signal handlers that `enableGracefulShutdown` asks for.
//!
//! An exported function turns pointers into values, calls one safe function and lets `entry!` convert the
//! result. Nothing here runs at load time: no constructors, no threads, no signal handlers (D10).

pub mod config;
mod entry;
mod env;
pub mod extra;
mod handle;
mod log;
pub mod mooncake;
pub mod ret;
mod shutdown;
pub mod tent;
mod text;
