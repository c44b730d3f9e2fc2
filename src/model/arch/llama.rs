//! LLaMA 1, 2, 3, 3.1 and 3.2, and what is built like it: SmolLM2, TinyLlama, Yi, DeepSeek-LLM.

use serde_json::json;

use super::{Architecture, Names};

pub(super) const LLAMA: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    read: |fields, config| {
        config.attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
        config.attention_output_bias = config.attention_bias;
        config.mlp_bias = fields.flag("mlp_bias")?.unwrap_or(false);
        Ok(())
    },
    write: |config, out| {
        out.insert("attention_bias".to_owned(), json!(config.attention_bias));
        out.insert("mlp_bias".to_owned(), json!(config.mlp_bias));
    },
    names: &Names::LLAMA,
};
