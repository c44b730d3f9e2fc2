//! GGUF files (versions 2 and 3) of LLaMA and Qwen2 models: tensors dequantised to f32 under
//! Hugging Face names, the configuration and the tokenizer from the metadata.

mod blocks;
mod cursor;
mod file;
mod metadata;
mod model;
mod tensor_type;
mod tokenizer;

pub use file::GgufFile;
pub use model::GgufWeights;
pub(crate) use tokenizer::tokenizer_files;
