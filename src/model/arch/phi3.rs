//! Phi-3 (the short-context models): LLaMA with one matrix for queries, keys and values and one for
//! gate and up, and a window in every layer.

use serde_json::json;

use super::{Architecture, GateUp, Names, Qkv, window_in_every_layer};

pub(super) const PHI3: Architecture = Architecture {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    read: window_in_every_layer,
    write: |config, out| {
        out.insert("sliding_window".to_owned(), json!(config.sliding_window));
        // transformers' default lies outside a small vocabulary.
        out.insert("pad_token_id".to_owned(), json!(config.eos_token_ids.first()));
    },
    names: &Names {
        qkv: Qkv::Stacked("self_attn.qkv_proj"),
        gate_up: GateUp::Stacked("mlp.gate_up_proj"),
        ..Names::LLAMA
    },
};
