//! Runs with weather: links of loopback with rates of their own, faults by a script, and what they came to.

pub(crate) mod script;
mod shape;
