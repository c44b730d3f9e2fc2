//! How much memory generation takes, from shapes alone.

use std::num::Saturating;

use super::generate::PROMPT_TOKENS;
use crate::model::ModelConfig;

/// Taken for the longest prompt, which only the rows would tell.
const PROMPT: usize = 512;

/// The cache of keys and values, the widest layer of a pass over new prompts beside growing
/// sequences, and the logits; all in f32.
pub fn pass_bytes(model: &ModelConfig, rows: usize, new_tokens: usize) -> u64 {
    let n = |n: usize| Saturating(n as u64);
    let context = model.max_positions();
    let capacity = (n(PROMPT.min(context)) + n(new_tokens)).min(n(context));
    let cached =
        n(2) * n(model.num_hidden_layers) * n(model.num_key_value_heads) * n(model.head_dim) * capacity;
    let layer = n(6) * n(model.hidden_size) + n(3) * n(model.intermediate_size);
    (n(4) * (n(rows) * (cached + layer + n(3) * n(model.vocab_size)) + n(PROMPT_TOKENS) * layer)).0
}
