//! The decoder and the files it comes from: configuration, weights and tokenizer of LLaMA-family
//! and Qwen2 models. This module knows nothing of recipes, steps or caches.

mod config;
mod weights;

pub use config::{KNOWN_MODEL_TYPES, ModelConfig, RopePairs};
pub use weights::{WeightSource, check_weights, expected_tensors, parameter_count};
