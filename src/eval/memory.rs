//! How much memory generation takes, from shapes alone.

use std::num::Saturating;

use crate::{model::ModelConfig, params::Dtype};

/// Taken for the longest prompt, which only the rows would tell.
const PROMPT: usize = 512;

/// The cache of keys and values, the widest layer of the pass over the prompts, and the logits.
pub fn pass_bytes(model: &ModelConfig, rows: usize, new_tokens: usize, dtype: Dtype) -> u64 {
    let n = |n: usize| Saturating(n as u64);
    let context = model.max_positions();
    let (prompt, new_tokens) = (n(PROMPT.min(context)), n(new_tokens));
    let capacity = (prompt + new_tokens).min(n(context));
    let cached =
        n(2) * n(model.num_hidden_layers) * n(model.num_key_value_heads) * n(model.head_dim) * capacity;
    let layer = prompt * (n(6) * n(model.hidden_size) + n(3) * n(model.intermediate_size))
        + n(3) * n(model.num_attention_heads) * prompt * prompt;
    (n(rows) * (cached * n(dtype.bytes()) + n(4) * (layer + n(3) * n(model.vocab_size)))).0
}
