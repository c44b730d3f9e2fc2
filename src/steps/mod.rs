//! The step kinds: each turns its inputs' folders into one new folder of standard files.

mod context;

pub use context::{Cancel, Cancelled, Input, StepContext};
