//! InternLM2 and InternLM2.5: LLaMA with other names, and queries, keys and values in one matrix.
//! transformers has no class of its own for it; the published `modeling_internlm2.py` does.

use serde_json::json;

use super::{Architecture, GateUp, Names, Qkv};

pub(super) const INTERNLM2: Architecture = Architecture {
    model_type: "internlm2",
    class: "InternLM2ForCausalLM",
    read: |fields, config| {
        config.attention_bias = fields.flag("bias")?.unwrap_or(false);
        config.attention_output_bias = config.attention_bias;
        Ok(())
    },
    write: |config, out| {
        out.insert("bias".to_owned(), json!(config.attention_bias));
    },
    names: &Names {
        embedding: "model.tok_embeddings.weight",
        head: "output.weight",
        attention_norm: "attention_norm",
        ffn_norm: "ffn_norm",
        qkv: Qkv::Grouped("attention.wqkv"),
        output: "attention.wo",
        gate_up: GateUp::Split(["feed_forward.w1", "feed_forward.w3"]),
        down: "feed_forward.w2",
        ..Names::LLAMA
    },
};
