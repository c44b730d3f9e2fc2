//! The decoder and the files it comes from: configuration, weights and tokenizer of LLaMA-family
//! and Qwen2 models. This module knows nothing of recipes, steps or caches.

mod attention;
mod config;
mod decoder;
pub mod device;
mod ffn;
mod files;
pub mod gguf;
mod hf;
mod hook;
mod init;
mod kv_cache;
mod linear;
mod llama2c;
mod mmap;
mod norm;
mod param;
mod rope;
mod rope_order;
mod safetensors_reader;
mod safetensors_writer;
mod source;
mod tokenizer;
mod tokenizer_json;
mod tokenizer_training;
mod weights;

pub use attention::Attention;
pub use config::{KNOWN_MODEL_TYPES, ModelConfig, RopePairs};
pub use decoder::{Decoder, Layer, TokenBatch};
pub use ffn::FeedForward;
pub(crate) use files::read_json;
pub use hf::{BaseFolder, write_model};
pub use hook::{ForwardHook, Site, Untouched};
pub use init::RandomWeights;
pub use kv_cache::KvCache;
pub use linear::{Linear, LowRank};
pub use llama2c::Llama2cWeights;
pub use param::{ParamMut, TensorWeights};
pub use rope_order::HalvesOrder;
pub use safetensors_reader::SafetensorsWeights;
pub use safetensors_writer::{WeightDtype, write_safetensors};
pub use source::{SourceFormat, SourceModel, TokenizerFiles};
pub use tokenizer::Tokenizer;
pub use weights::{WeightSource, check_weights, expected_tensors, parameter_count};
