//! Scoring: generation, answer extraction and statistics. Knows models, not recipes or caches.

mod beams;
mod commonsense;
mod generate;
mod gsm8k;
mod log_likelihood;
mod memory;
mod sampling;
pub mod stats;

pub use commonsense::LabelExtractor;
pub use generate::{GenerateOptions, generate};
pub use gsm8k::{Gsm8kFilter, STOP_STRINGS, cut_at_stop_string};
pub use log_likelihood::{Choices, Score, log_likelihoods};
pub use memory::pass_bytes;
pub use sampling::Sampling;
