//! Mistral: LLaMA whose layers may all look only a window back (7B v0.1), without biases.

use serde_json::json;

use super::{Architecture, Names};
use crate::model::config::MAX_POSITIONS;

pub(super) const MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    read: |fields, config| {
        config.sliding_window = fields.optional_size("sliding_window", MAX_POSITIONS)?;
        config.sliding_layers = vec![config.sliding_window.is_some(); config.num_hidden_layers];
        Ok(())
    },
    write: |config, out| {
        out.insert("sliding_window".to_owned(), json!(config.sliding_window));
    },
    names: &Names::LLAMA,
};
