//! The decoder and the files it comes from: configuration, weights and tokenizer of LLaMA-family
//! and Qwen2 models. This module knows nothing of recipes, steps or caches.

mod config;
mod files;
mod hf;
mod mmap;
mod rope_order;
mod safetensors_reader;
mod safetensors_writer;
mod tokenizer;
mod weights;

pub use config::{KNOWN_MODEL_TYPES, ModelConfig, RopePairs};
pub use hf::{BaseFolder, write_model};
pub use rope_order::HalvesOrder;
pub use safetensors_reader::SafetensorsWeights;
pub use safetensors_writer::{WeightDtype, write_safetensors};
pub use tokenizer::Tokenizer;
pub use weights::{WeightSource, check_weights, expected_tensors, parameter_count};
