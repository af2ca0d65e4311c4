//! Runs with weather: links of loopback with rates of their own, faults by a script, and what they came to.

mod net;
pub(crate) mod rail;
pub(crate) mod relay;
pub(crate) mod script;
mod shape;
