//! How much memory training takes, from shapes alone: what the operations of `model::kernels` keep
//! for their backward passes. `tests/it/memory.rs` holds it to real runs.

use std::num::Saturating;

use crate::model::ModelConfig;

/// Trained values, their gradients, two moments, and the sum of a step before it takes their place.
pub fn state_bytes(trained: u64) -> u64 {
    trained.saturating_mul(5 * 4)
}

/// What one forward and backward pass keeps, in f32: for each layer and token the inputs of norms and
/// of linear layers, queries, keys, values and their context, gate, up and their product; what
/// dropout makes of the adapter's inputs where it is kept (`dropped`, numbers a token, over all
/// layers); the gradients of the layer in work; and the logits of one chunk of the loss, three times.
/// With gradient checkpointing, one layer of that and the input of each.
pub fn pass_bytes(
    model: &ModelConfig,
    rows: usize,
    length: usize,
    dropped: u64,
    gradient_checkpointing: bool,
) -> u64 {
    let n = |n: usize| Saturating(n as u64);
    let (hidden, inner) = (n(model.hidden_size), n(model.intermediate_size));
    let (heads, kv_heads) = (n(model.num_attention_heads), n(model.num_key_value_heads));
    let tokens = n(rows) * n(length);
    let kept = n(4) * hidden + n(2) * (heads + kv_heads) * n(model.head_dim) + n(3) * inner;
    let logits = n(3) * tokens.min(n(super::loss::CHUNK)) * n(model.vocab_size);
    let layers = n(model.num_hidden_layers);
    let all = layers * kept + Saturating(dropped);
    let one = all / layers.max(n(1));
    let kept = match gradient_checkpointing {
        true => layers * hidden + one,
        false => all,
    };
    (n(4) * (tokens * (kept + one) + logits)).0
}
