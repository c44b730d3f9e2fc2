//! The decoder and the files it comes from: configuration, weights and tokenizer of LLaMA-family
//! and Qwen2 models. This module knows nothing of recipes, steps or caches.

mod config;
mod files;
pub mod gguf;
mod hf;
mod init;
mod llama2c;
mod mmap;
mod rope_order;
mod safetensors_reader;
mod safetensors_writer;
mod source;
mod tokenizer;
mod tokenizer_json;
mod tokenizer_training;
mod weights;

pub use config::{KNOWN_MODEL_TYPES, ModelConfig, RopePairs};
pub(crate) use files::{read_optional_json, write_json};
pub use hf::{BaseFolder, write_model};
pub use init::RandomWeights;
pub use llama2c::Llama2cWeights;
pub use rope_order::HalvesOrder;
pub use safetensors_reader::SafetensorsWeights;
pub use safetensors_writer::{WeightDtype, write_safetensors};
pub use source::{SourceFormat, SourceModel, TokenizerFiles};
pub use tokenizer::Tokenizer;
pub use weights::{WeightSource, check_weights, expected_tensors, parameter_count};
