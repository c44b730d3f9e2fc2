//! Scoring: generation, answer extraction and statistics. Knows models, not recipes or caches.

mod generate;

pub use generate::{GenerateOptions, generate};
