//! How much memory training takes, from shapes alone. The factors were fitted to measured peaks of
//! SmolLM2-135M at 128 to 512 tokens a row; `tests/it/memory.rs` holds them to a real run.

use std::num::Saturating;

use crate::model::ModelConfig;

/// Trained values, their gradients, two moments, and the sum of a step before it takes their place.
pub fn state_bytes(trained: u64) -> u64 {
    trained.saturating_mul(5 * 4)
}

/// What one forward and backward pass keeps, in f32: for each layer and token about twelve vectors
/// of the hidden size, five of the FFN's, and three rows of attention scores; and the logits of one
/// chunk of the loss, three times.
pub fn pass_bytes(model: &ModelConfig, rows: usize, length: usize) -> u64 {
    let n = |n: usize| Saturating(n as u64);
    let (hidden, inner) = (n(model.hidden_size), n(model.intermediate_size));
    let tokens = n(rows) * n(length);
    let kept = n(12) * hidden + n(5) * inner + n(3) * n(model.num_attention_heads) * n(length);
    let logits = n(3) * tokens.min(n(super::loss::CHUNK)) * n(model.vocab_size);
    (n(4) * (tokens * n(model.num_hidden_layers) * kept + logits)).0
}
