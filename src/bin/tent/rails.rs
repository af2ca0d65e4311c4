//! Runs with weather: links of loopback with rates of their own, faults by a script, and what they came to.

mod aftermath;
mod keeper;
mod net;
pub(crate) mod rail;
mod record;
pub(crate) mod relay;
mod report;
mod run;
pub(crate) mod script;
mod series;
mod shape;
mod stage;
mod svg;
mod table;
mod weather;
