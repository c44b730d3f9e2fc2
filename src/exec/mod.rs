//! Runs a plan: keys, look-ups, a scheduler that owns all state, and worker processes that run one step
//! each.

mod explain;
mod keys;
mod leftover;
mod outputs;
mod past;
mod pins;
mod pool;
mod priority;
mod process;
mod protocol;
mod runner;
mod scheduler;
mod serve;
mod signal;
mod slots;
mod status;
mod summary;
mod tuning;

pub use explain::{Cause, Explanation, explain};
pub use keys::Keys;
pub use outputs::RunFolder;
pub use past::{PastResult, PastRun, PastStep, PastSummary, RunState};
pub use pins::pin;
pub use process::VERB;
pub use runner::MemoryEstimate;
pub use scheduler::{RunOptions, run};
pub use serve::serve;
pub use signal::watch_signals;
pub use slots::Capacity;
pub use status::{NodeStatus, State, status};
pub use summary::{RunSummary, StepSummary};

/// Where a step of a kind runs.
enum Place {
    /// In the runner: it computes next to nothing.
    Here,
    /// In the process that starts commands, which are processes themselves.
    Shared,
    /// In a process that it has to itself.
    Own,
}

fn place(kind: &str) -> Place {
    match kind {
        "report" => Place::Here,
        "command" => Place::Shared,
        _ => Place::Own,
    }
}
