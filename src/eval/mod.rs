//! Scoring: tasks, generation, log-likelihoods, answers and statistics. Knows models, not recipes or caches.

mod beams;
mod commonsense;
mod filter;
mod generate;
mod gsm8k;
mod log_likelihood;
mod math;
mod memory;
mod not_finite;
mod pass;
mod sampling;
mod score;
pub mod stats;
mod task;

pub use filter::Filter;
pub use generate::{GenerateOptions, generate, shared_prefix};
pub use log_likelihood::{Choices, Score, log_likelihoods};
pub use math::is_math_equal;
pub use memory::pass_bytes;
pub use not_finite::NotFinite;
pub use sampling::Sampling;
pub use score::{Chosen, ItemScore, Scorer};
pub use task::{Gold, Task, cut_at_stop_string};
