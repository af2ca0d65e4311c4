//! Decisions, pure: no IO, no clock, no threads, no locks. Told figures, they answer with figures.

pub mod health;
pub mod meter;
pub mod piece;
pub mod plan;
pub mod predict;
#[cfg(any(test, feature = "cli"))]
pub mod replay;
pub mod spray;
pub mod spread;
