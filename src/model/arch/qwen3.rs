//! Qwen3: Qwen2 with a norm on every query and key head, and no biases unless the config says so.

use serde_json::json;

use super::{Architecture, Names, qwen2};

pub(super) const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    read: |fields, config| {
        config.attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
        config.attention_output_bias = config.attention_bias;
        config.head_dim =
            fields.optional_size("head_dim", crate::model::config::MAX_HEAD_DIM)?.unwrap_or(128);
        qwen2::read_window(fields, config)
    },
    write: |config, out| {
        out.insert("attention_bias".to_owned(), json!(config.attention_bias));
        qwen2::write_window(config, out);
    },
    names: &Names { query_key_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..Names::LLAMA },
};
