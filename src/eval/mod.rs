//! Scoring: generation, answer extraction and statistics. Knows models, not recipes or caches.

mod commonsense;
mod generate;
mod gsm8k;
mod math;
mod memory;
pub mod stats;

pub use commonsense::LabelExtractor;
pub use generate::{GenerateOptions, generate};
pub use gsm8k::{Gsm8kFilter, STOP_STRINGS, cut_at_stop_string};
pub use math::{MathMode, paper_answer};
pub use memory::pass_bytes;
