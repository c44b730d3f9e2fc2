//! How much memory generation takes, from shapes alone.

use crate::{model::ModelConfig, params::Dtype};

/// Taken for the longest prompt, which only the rows would tell.
const PROMPT: usize = 512;

/// The cache of keys and values, the widest layer of the pass over the prompts, and the logits.
pub fn pass_bytes(model: &ModelConfig, rows: usize, new_tokens: usize, dtype: Dtype) -> u64 {
    let prompt = PROMPT.min(model.max_positions());
    let capacity = (prompt + new_tokens).min(model.max_positions());
    let cached = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * capacity;
    let layer = prompt * (6 * model.hidden_size + 3 * model.intermediate_size)
        + 3 * model.num_attention_heads * prompt * prompt;
    rows as u64 * (cached as u64 * dtype.bytes() as u64 + 4 * (layer + 3 * model.vocab_size) as u64)
}
