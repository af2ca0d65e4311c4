//! The operating system and C libraries, and nothing else: each function is one system call or a small
//! group of them, with errors as `io::Error`. Imports nothing of ours.
#![allow(unsafe_code, reason = "system calls; every block says why it is sound")]

pub mod evloop;
pub mod host;
pub mod ifaddr;
pub mod mem;
pub mod net;
pub mod netlink;
