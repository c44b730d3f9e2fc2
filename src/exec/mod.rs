//! Runs a plan: keys, look-ups, a scheduler that owns all state, workers that run one step each.

mod explain;
mod keys;
mod outputs;
mod past;
mod pins;
mod scheduler;
mod signal;
mod status;
mod worker;

pub use explain::{Cause, Explanation, explain};
pub use keys::Keys;
pub use outputs::RunFolder;
pub use past::{PastResult, PastRun, PastStep, PastSummary, RunState};
pub use pins::pin;
pub use scheduler::{RunOptions, RunSummary, run};
pub use signal::watch_signals;
pub use status::{NodeStatus, State, status};
