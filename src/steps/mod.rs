//! The step kinds: each turns its inputs' folders into one new folder of standard files.

mod context;
mod metrics;
mod model_input;
mod pretrain;
mod swap;
mod train;

pub use context::{Cancel, Cancelled, Input, StepContext};
pub use model_input::{LoadedModel, load_for_eval};
