//! The decoder and the files it comes from: configuration, weights and tokenizer of LLaMA-family
//! and Qwen2 models. This module knows nothing of recipes, steps or caches.

mod attention;
mod config;
mod decoder;
pub mod device;
mod ffn;
mod hook;
mod kv_cache;
mod linear;
mod norm;
mod param;
mod rope;
mod weights;

pub use attention::Attention;
pub use config::{KNOWN_MODEL_TYPES, ModelConfig, RopePairs};
pub use decoder::{Decoder, Layer, TokenBatch};
pub use ffn::FeedForward;
pub use hook::{ForwardHook, Site, Untouched};
pub use kv_cache::KvCache;
pub use linear::{Linear, LowRank};
pub use param::ParamMut;
pub use weights::{WeightSource, check_weights, expected_tensors, parameter_count};
