//! Gemma 2: norms before and after both branches, a scaled embedding, capped scores and logits, and
//! a window in every second layer.

use serde_json::{Map, Value, json};

use super::{Architecture, Names, layer_types, sliding_layers};
use crate::model::{
    Activation, ModelConfig,
    config::{MAX_HEAD_DIM, MAX_POSITIONS},
    fields::Fields,
};

/// Norms around both branches.
pub(super) const GEMMA_NAMES: Names = Names {
    attention_out_norm: Some("post_attention_layernorm"),
    ffn_norm: "pre_feedforward_layernorm",
    ffn_out_norm: Some("post_feedforward_layernorm"),
    ..Names::LLAMA
};

pub(super) const GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    read: |fields, config| {
        read_gemma(fields, config)?;
        let cap = |name: &str, default: f64| match fields.0.get(name) {
            None => Ok(Some(default)),
            Some(_) => fields.number(name),
        };
        config.attn_logit_softcapping = cap("attn_logit_softcapping", 50.0)?;
        config.final_logit_softcapping = cap("final_logit_softcapping", 30.0)?;
        let layers = config.num_hidden_layers;
        config.sliding_layers = sliding_layers(fields, layers, |layer| layer % 2 == 0)?;
        Ok(())
    },
    write: |config, out| {
        write_gemma(config, out);
        out.insert("attn_logit_softcapping".to_owned(), json!(config.attn_logit_softcapping));
        out.insert("final_logit_softcapping".to_owned(), json!(config.final_logit_softcapping));
    },
    names: &GEMMA_NAMES,
};

/// What Gemma 2 and 3 share.
pub(super) fn read_gemma(fields: &Fields, config: &mut ModelConfig) -> anyhow::Result<()> {
    config.hidden_act = Activation::GeluTanh;
    config.norm_plus_one = true;
    config.scale_embedding = true;
    config.attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    config.tie_word_embeddings = fields.flag("tie_word_embeddings")?.unwrap_or(true);
    config.head_dim = fields.optional_size("head_dim", MAX_HEAD_DIM)?.unwrap_or(256);
    config.query_pre_attn_scalar = Some(fields.number("query_pre_attn_scalar")?.unwrap_or(256.0));
    config.sliding_window = Some(fields.optional_size("sliding_window", MAX_POSITIONS)?.unwrap_or(4096));
    Ok(())
}

pub(super) fn write_gemma(config: &ModelConfig, out: &mut Map<String, Value>) {
    out.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
    out.insert("attention_bias".to_owned(), json!(config.attention_bias));
    out.insert("query_pre_attn_scalar".to_owned(), json!(config.query_pre_attn_scalar));
    out.insert("sliding_window".to_owned(), json!(config.sliding_window));
    out.insert("layer_types".to_owned(), layer_types(config));
}
