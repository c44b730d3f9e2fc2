//! Runs a plan: keys, look-ups, a scheduler that owns all state, workers that run one step each.

mod keys;
mod outputs;
mod pins;
mod scheduler;
mod signal;
mod status;
mod worker;

pub use keys::Keys;
pub use outputs::RunFolder;
pub use pins::pin;
pub use scheduler::{RunOptions, RunSummary, run};
pub use signal::watch_signals;
pub use status::{NodeStatus, State, status};
