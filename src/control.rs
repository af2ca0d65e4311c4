//! The slow path: how engines find and describe each other. Text formats ([`wire`]), addresses
//! ([`address`]), the RPC port ([`handshake`]), on a thread of its own, and the stores ([`store`]) that
//! hold descriptions where there are any. Nothing here moves a slice, and nothing here knows what the
//! answers mean to an engine.

pub mod address;
pub mod handshake;
pub mod store;
pub mod wire;

pub use address::{P2pName, resolve};
pub use handshake::{CallLimits, Handler, Server, ServerLimits, bind_in_range, call};
pub use wire::{FrameKind, Notify, NotifyOrigin, decode_desc, encode_desc};
