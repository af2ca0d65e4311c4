//! The simulator (D13): the engine's own driver, work, tasks and deadlines, over links and peers that are
//! simulated, under a clock that is moved and never waited for. A seed says everything; the same seed is
//! the same run. Bytes really move, between memories of the simulation, and every one is looked at.

mod check;
mod crowd;
mod link;
mod memory;
mod plan;
mod rng;
mod run;
mod scenario;
mod stage;
#[cfg(test)]
mod tests;
mod transport;
mod wire;
mod world;

pub use plan::Mode;
pub use run::Outcome;
pub use scenario::{SCENARIOS, scenario};
pub use world::Sabotage;

/// Runs a seed; with `trace`, what happened is kept line by line.
pub fn run(seed: u64, mode: Mode, trace: bool) -> Outcome {
    run::run(&plan::Plan::of(seed, mode), trace)
}

/// As [`run`], in a world that breaks its contract: the checks should find it.
pub fn run_broken(seed: u64, mode: Mode, how: Sabotage, trace: bool) -> Outcome {
    let mut plan = plan::Plan::of(seed, mode);
    plan.nature.sabotage = Some(how);
    plan.nature.ghosts = 1;
    run::run(&plan, trace)
}

/// The command line that repeats a run.
pub fn replay(seed: u64, mode: Mode) -> String {
    let mode = match mode {
        Mode::Safety => "safety",
        Mode::Liveness => "liveness",
    };
    format!("tent sim --seed {seed} --mode {mode} --trace")
}
