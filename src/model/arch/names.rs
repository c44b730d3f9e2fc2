//! What an architecture calls its weights.

/// Names of weights, as in a checkpoint of the architecture. Those of a layer are relative to
/// `model.layers.<n>.`.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// Token embedding.
    pub embedding: &'static str,
    /// Last norm.
    pub norm: &'static str,
    /// Output matrix.
    pub head: &'static str,
    /// Norm before attention.
    pub attention_norm: &'static str,
    /// Norm after attention, before its residual add (Gemma).
    pub attention_out_norm: Option<&'static str>,
    /// Norm before the FFN.
    pub ffn_norm: &'static str,
    /// Norm after the FFN, before its residual add (Gemma).
    pub ffn_out_norm: Option<&'static str>,
    /// Norms of every query and key head (Qwen3, Gemma 3).
    pub query_key_norms: Option<[&'static str; 2]>,
    /// Projections into attention.
    pub qkv: Qkv,
    /// Projection out of attention.
    pub output: &'static str,
    /// Projections into the FFN.
    pub gate_up: GateUp,
    /// Projection out of the FFN.
    pub down: &'static str,
}

/// Projections into attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qkv {
    /// One matrix each for queries, keys and values.
    Split([&'static str; 3]),
    /// One matrix: all queries, then all keys, then all values (Phi-3).
    Stacked(&'static str),
    /// One matrix: for each key head its query heads, the key, the value (InternLM2).
    Grouped(&'static str),
}

/// Projections into the FFN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUp {
    /// One matrix each.
    Split([&'static str; 2]),
    /// One matrix: the gate, then up (Phi-3).
    Stacked(&'static str),
}

impl Names {
    /// LLaMA's names, which most architectures share.
    pub(super) const LLAMA: Self = Self {
        embedding: "model.embed_tokens.weight",
        norm: "model.norm.weight",
        head: "lm_head.weight",
        attention_norm: "input_layernorm",
        attention_out_norm: None,
        ffn_norm: "post_attention_layernorm",
        ffn_out_norm: None,
        query_key_norms: None,
        qkv: Qkv::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        output: "self_attn.o_proj",
        gate_up: GateUp::Split(["mlp.gate_proj", "mlp.up_proj"]),
        down: "mlp.down_proj",
    };
}
