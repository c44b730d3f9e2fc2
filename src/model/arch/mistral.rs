//! Mistral: LLaMA whose layers may all look only a window back (7B v0.1), without biases.

use serde_json::json;

use super::{Architecture, Names, window_in_every_layer};

pub(super) const MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    read: window_in_every_layer,
    write: |config, out| {
        out.insert("sliding_window".to_owned(), json!(config.sliding_window));
    },
    names: &Names::LLAMA,
};
