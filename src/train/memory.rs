//! How much memory training takes, from shapes alone. The factors were fitted to measured peaks of
//! SmolLM2-135M at 128 to 512 tokens a row; `tests/it/memory.rs` holds them to a real run.

use crate::model::ModelConfig;

/// Trained values, their gradients, two moments, and the sum of a step before it takes their place.
pub fn state_bytes(trained: u64) -> u64 {
    5 * 4 * trained
}

/// What one forward and backward pass keeps, in f32: for each layer and token about twelve vectors
/// of the hidden size, five of the FFN's, and three rows of attention scores; and the logits of one
/// chunk of the loss, three times.
pub fn pass_bytes(model: &ModelConfig, rows: usize, length: usize) -> u64 {
    let tokens = rows as u64 * length as u64;
    let kept = 12 * model.hidden_size + 5 * model.intermediate_size + 3 * model.num_attention_heads * length;
    let logits = 3 * tokens.min(super::loss::CHUNK as u64) * model.vocab_size as u64;
    4 * (tokens * model.num_hidden_layers as u64 * kept as u64 + logits)
}
