//! What `config.json` says about a model: sizes, biases, positions, special ids. Reads and writes
//! the Hugging Face form, and refuses what the decoder does not compute, rather than running
//! something slightly different. Knows nothing of files.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{
    RopeScaling,
    arch::{self, Architecture, Names},
    fields::Fields,
};
use crate::error::{excerpt, hinted};

/// The function between the FFN's projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    #[default]
    Silu,
    /// The tanh approximation of GELU, as in Gemma.
    GeluTanh,
}

/// Which two elements of a head one rotation turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopePairs {
    /// `(i, i + d/2)`: Hugging Face weights.
    #[default]
    Halves,
    /// `(2i, 2i + 1)`: llama2.c and GGUF `llama` weights.
    Interleaved,
}

/// Shape and constants of a LLaMA-family decoder; fields are named as in `config.json`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelConfig {
    /// One of [`arch::known_model_types`].
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the FFN between its projections.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
    /// How the rotation frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Base of the rotation frequencies of the sliding layers, where they have one of their own.
    pub rope_local_base_freq: Option<f64>,
    /// The FFN's activation.
    pub hidden_act: Activation,
    /// Keys that a sliding layer sees, its own position included.
    pub sliding_window: Option<usize>,
    /// Which layers slide; none when empty.
    pub sliding_layers: Vec<bool>,
    /// Scores are scaled by its inverse square root; the head width when absent.
    pub query_pre_attn_scalar: Option<f64>,
    /// Attention scores `s` become `cap * tanh(s / cap)`.
    pub attn_logit_softcapping: Option<f64>,
    /// The same for logits.
    pub final_logit_softcapping: Option<f64>,
    /// Norms multiply by one plus their weight.
    pub norm_plus_one: bool,
    /// The embedding is multiplied by the square root of `hidden_size`.
    pub scale_embedding: bool,
    /// Bias on the q, k and v projections.
    pub attention_bias: bool,
    /// Bias on the o projection.
    pub attention_output_bias: bool,
    /// Bias on the gate, up and down projections.
    pub mlp_bias: bool,
    /// The output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Element order of q and k heads. A Hugging Face folder always means halves.
    pub rope_pairs: RopePairs,
    /// Token put in front of a text, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

/// Largest accepted sizes, far above any published dense model. They keep products of two sizes
/// inside `u64` and stop a hostile file from asking for petabytes.
const MAX_VOCAB: usize = 1 << 24;
pub(super) const MAX_WIDTH: usize = 1 << 20;
pub(super) const MAX_LAYERS: usize = 1 << 12;
pub(super) const MAX_HEADS: usize = 1 << 14;
pub(super) const MAX_HEAD_DIM: usize = 1 << 13;
pub(super) const MAX_POSITIONS: usize = 1 << 30;

impl ModelConfig {
    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// When a field is missing, mistyped or absurd, or asks for something that is not computed.
    pub fn from_json(value: &Value) -> anyhow::Result<Self> {
        let fields = Fields(value.as_object().context("expected a JSON object in the model config")?);
        let model_type = fields.text("model_type")?.context("the model config has no `model_type`")?;
        let architecture = arch::find(model_type).ok_or_else(|| {
            hinted(
                format!("unknown `model_type` `{}` in the model config", excerpt(model_type)),
                format!("known ones: {}", arch::known_model_types().collect::<Vec<_>>().join(", ")),
            )
        })?;
        let hidden_size = fields.size("hidden_size", MAX_WIDTH)?;
        let num_attention_heads = fields.size("num_attention_heads", MAX_HEADS)?;
        let head_dim = match fields.optional_size("head_dim", MAX_HEAD_DIM)? {
            Some(width) => width,
            None => {
                ensure!(
                    hidden_size.is_multiple_of(num_attention_heads),
                    "`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` \
                     {num_attention_heads} in the model config"
                );
                hidden_size / num_attention_heads
            }
        };
        let (rope_theta, rope_scaling) = read_rope(&fields)?;
        let mut config = Self {
            model_type: model_type.to_owned(),
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", MAX_WIDTH)?,
            num_hidden_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
            num_attention_heads,
            num_key_value_heads: fields
                .optional_size("num_key_value_heads", MAX_HEADS)?
                .unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: fields
                .optional_size("max_position_embeddings", MAX_POSITIONS)?
                .unwrap_or(if model_type == "llama" { 2_048 } else { 32_768 }),
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
            initializer_range: fields.number("initializer_range")?.unwrap_or(0.02),
            ..Self::default()
        };
        (architecture.read)(&fields, &mut config)?;
        refuse_uncomputed(&fields, config.hidden_act)?;
        let by_kind = fields.get("rope_parameters").and_then(Value::as_object);
        let by_kind =
            by_kind.and_then(|table| LAYER_KINDS.into_iter().find(|kind| table.contains_key(*kind)));
        if let (Some(kind), None) = (by_kind, config.rope_local_base_freq) {
            bail!("`rope_parameters.{kind}` in the model config is not supported for `{model_type}`");
        }
        config.validate()?;
        Ok(config)
    }

    fn architecture(&self) -> &'static Architecture {
        arch::find(&self.model_type).expect("only known model types are made")
    }

    /// What the architecture calls its weights.
    pub fn names(&self) -> &'static Names {
        self.architecture().names
    }

    /// Names of the linear layers inside a decoder layer, e.g. `self_attn.q_proj`.
    pub fn linear_names(&self) -> Vec<&'static str> {
        super::weights::linear_shapes(self).into_iter().map(|linear| linear.name).collect()
    }

    /// The keys that a layer sees, its own position included; `None` for all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.sliding_layers.get(layer).copied().unwrap_or(false))
    }

    /// Longest sequence that the model takes.
    pub fn max_positions(&self) -> usize {
        match self.rope_scaling {
            RopeScaling::Dynamic { factor } => (self.max_position_embeddings as f64 * factor) as usize,
            _ => self.max_position_embeddings,
        }
    }

    /// Checks what no single field can tell; also for configurations that come from other formats.
    ///
    /// # Errors
    /// When a number is out of range or two of them contradict each other.
    pub fn validate(&self) -> anyhow::Result<()> {
        for (name, value, max) in [
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_key_value_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ] {
            ensure!(
                (1..=max).contains(&value),
                "`{name}` must lie between 1 and {max} in the model config, found `{value}`"
            );
        }
        ensure!(
            self.num_attention_heads.is_multiple_of(self.num_key_value_heads),
            "`num_attention_heads` {} is not a multiple of `num_key_value_heads` {} in the model config",
            self.num_attention_heads,
            self.num_key_value_heads
        );
        ensure!(
            self.head_dim.is_multiple_of(2),
            "`head_dim` must be even for rotary positions, found `{}`",
            self.head_dim
        );
        ensure!(
            self.num_attention_heads * self.head_dim <= MAX_WIDTH,
            "`num_attention_heads` times `head_dim` is {}, above the limit of {MAX_WIDTH}",
            self.num_attention_heads * self.head_dim
        );
        ensure!(
            self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0,
            "`rms_norm_eps` must lie between 0 and 1 in the model config, found `{}`",
            self.rms_norm_eps
        );
        ensure!(
            self.rope_theta.is_finite() && self.rope_theta >= 1.0,
            "`rope_theta` must be at least 1 in the model config, found `{}`",
            self.rope_theta
        );
        for (name, value) in [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
            ("rope_local_base_freq", self.rope_local_base_freq),
        ] {
            ensure!(
                value.is_none_or(|value| value.is_finite() && value > 0.0),
                "`{name}` must be a number above 0 in the model config"
            );
        }
        ensure!(
            !matches!(self.rope_scaling, RopeScaling::Dynamic { .. }) || self.head_dim > 2,
            "dynamic rotary scaling needs a `head_dim` above 2"
        );
        ensure!(
            (0.0..=100.0).contains(&self.initializer_range),
            "`initializer_range` must lie between 0 and 100 in the model config, found `{}`",
            self.initializer_range
        );
        let bos = self.bos_token_id.iter().map(|id| ("bos_token_id", id));
        for (name, id) in bos.chain(self.eos_token_ids.iter().map(|id| ("eos_token_id", id))) {
            ensure!(
                (*id as usize) < self.vocab_size,
                "`{name}` {id} lies outside the vocabulary of {} in the model config",
                self.vocab_size
            );
        }
        Ok(())
    }

    /// The content of a `config.json` that transformers 4 and 5 load.
    ///
    /// It cannot say [`RopePairs::Interleaved`]: whoever writes a folder permutes q and k first.
    pub fn to_json(&self) -> Value {
        let architecture = self.architecture();
        let mut rope = self.rope_scaling.to_json();
        let scaling = (self.rope_scaling != RopeScaling::None).then(|| Value::Object(rope.clone()));
        rope.insert("rope_theta".to_owned(), json!(self.rope_theta));
        let mut value = json!({
            "architectures": [architecture.class],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": match self.hidden_act {
                Activation::Silu => "silu",
                Activation::GeluTanh => "gelu_pytorch_tanh",
            },
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            // transformers 4 reads the first two, transformers 5 the third.
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": token_ids_to_json(&self.eos_token_ids),
            "attention_dropout": 0.0,
            "initializer_range": self.initializer_range,
            "use_cache": true,
        });
        let fields = value.as_object_mut().expect("just built as an object");
        (architecture.write)(self, fields);
        value
    }

    /// Whether an adapter of one model fits the other: every matrix has the same shape.
    ///
    /// Constants that a continued pre-training may change (`rope_theta`,
    /// `max_position_embeddings`, norms' epsilon, special ids) are not compared.
    ///
    /// # Errors
    /// Names every field that differs.
    pub fn check_same_shape(&self, other: &Self) -> anyhow::Result<()> {
        let mut differences = Vec::new();
        let mut compare = |name: &str, ours: String, theirs: String| {
            if ours != theirs {
                differences.push(format!("`{name}` is {ours} and {theirs}"));
            }
        };
        compare("model_type", self.model_type.clone(), other.model_type.clone());
        for (name, ours, theirs) in [
            ("vocab_size", self.vocab_size, other.vocab_size),
            ("hidden_size", self.hidden_size, other.hidden_size),
            ("intermediate_size", self.intermediate_size, other.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers, other.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads, other.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads, other.num_key_value_heads),
            ("head_dim", self.head_dim, other.head_dim),
        ] {
            compare(name, ours.to_string(), theirs.to_string());
        }
        for (name, ours, theirs) in [
            ("attention_bias", self.attention_bias, other.attention_bias),
            ("attention_output_bias", self.attention_output_bias, other.attention_output_bias),
            ("mlp_bias", self.mlp_bias, other.mlp_bias),
            ("tie_word_embeddings", self.tie_word_embeddings, other.tie_word_embeddings),
        ] {
            compare(name, ours.to_string(), theirs.to_string());
        }
        if differences.is_empty() {
            return Ok(());
        }
        bail!("the two models have different shapes: {}", differences.join(", "))
    }
}

/// `eos_token_id` as transformers writes it: nothing, one id, or a list.
pub(crate) fn token_ids_to_json(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    }
}

/// One token id, a list of them, or nothing. A negative id is how some old files say nothing.
pub(crate) fn token_ids_from_json(name: &str, value: Option<&Value>) -> anyhow::Result<Vec<u32>> {
    let ids = match value {
        None | Some(Value::Null) => &[],
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
    };
    ids.iter()
        .filter(|id| id.as_i64().is_none_or(|id| id >= 0))
        .map(|id| {
            id.as_u64().and_then(|id| u32::try_from(id).ok()).with_context(|| {
                format!("`{name}` must be a token id or a list of them, found `{}`", excerpt(id))
            })
        })
        .collect()
}

/// Keys of `rope_parameters` with a table for one kind of layer.
const LAYER_KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The rotation base and its scaling: on top (transformers 4) or in `rope_parameters`
/// (transformers 5).
fn read_rope(fields: &Fields) -> anyhow::Result<(f64, RopeScaling)> {
    let top = fields.number("rope_theta")?;
    for name in ["rope_parameters", "rope_scaling"] {
        let Some(value) = fields.get(name) else { continue };
        let table = value.as_object().with_context(|| {
            format!("`{name}` must be an object in the model config, found `{}`", excerpt(value))
        })?;
        // One table for each kind of layer is the architecture's to read.
        if LAYER_KINDS.iter().any(|kind| table.contains_key(*kind)) {
            continue;
        }
        let (theta, scaling) = RopeScaling::read(name, &Fields(table))?;
        return Ok((theta.or(top).unwrap_or(10_000.0), scaling));
    }
    Ok((top.unwrap_or(10_000.0), RopeScaling::None))
}

/// Fields that would change what the model computes in ways the decoder does not.
fn refuse_uncomputed(fields: &Fields, activation: Activation) -> anyhow::Result<()> {
    let names = match activation {
        Activation::Silu => &["silu", "swish"][..],
        Activation::GeluTanh => &["gelu_pytorch_tanh"],
    };
    for name in ["hidden_act", "hidden_activation"] {
        // Gemma's first configs say `hidden_act: gelu` beside the activation that counts.
        let overruled = name == "hidden_act" && activation == Activation::GeluTanh;
        if let Some(act) = fields.text(name)?
            && !names.contains(&act)
            && !overruled
        {
            bail!(
                "`{name}` `{}` in the model config is not supported; `{}` is computed",
                excerpt(act),
                names[0]
            );
        }
    }
    if fields.get("quantization_config").is_some() {
        return Err(hinted(
            "the model config has a `quantization_config`, and quantised safetensors are not supported",
            "use the unquantised model, or a GGUF file",
        ));
    }
    let nested = fields.get("rope_parameters").and_then(Value::as_object).map(Fields);
    for fields in nested.iter().chain([fields]) {
        if let Some(factor) = fields.number("partial_rotary_factor")?
            && factor != 1.0
        {
            bail!("`partial_rotary_factor` {factor} in the model config is not supported");
        }
    }
    if fields.flag("use_bidirectional_attention")?.unwrap_or(false) {
        bail!("`use_bidirectional_attention` in the model config is not supported");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": [2, 3], "bos_token_id": 1
        })
    }

    fn with(changes: Value) -> Value {
        let mut value = llama();
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        value
    }

    fn error_of(value: Value) -> String {
        format!("{:#}", ModelConfig::from_json(&value).unwrap_err())
    }

    #[test]
    fn reads_llama_and_qwen2() {
        let config = ModelConfig::from_json(&llama()).unwrap();
        assert_eq!((config.head_dim, config.rope_theta), (8, 10_000.0));
        assert_eq!((config.bos_token_id, config.eos_token_ids.clone()), (Some(1), vec![2, 3]));
        assert!(!config.attention_bias && !config.tie_word_embeddings);

        let config =
            ModelConfig::from_json(&with(json!({"model_type": "qwen2", "attention_bias": false}))).unwrap();
        assert!(config.attention_bias && !config.attention_output_bias && !config.mlp_bias);
    }

    #[test]
    fn finds_the_rotation_base_in_both_places() {
        let config = ModelConfig::from_json(&with(json!({"rope_theta": 5e5}))).unwrap();
        assert_eq!(config.rope_theta, 5e5);
        let nested = json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}});
        assert_eq!(ModelConfig::from_json(&with(nested)).unwrap().rope_theta, 1e6);
    }

    #[test]
    fn what_it_writes_reads_back_equal() {
        for changes in [
            json!({}),
            json!({"model_type": "qwen2", "tie_word_embeddings": true, "eos_token_id": 7, "bos_token_id": -1}),
            json!({"attention_bias": true, "mlp_bias": true, "head_dim": 10, "eos_token_id": null}),
            json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "rope_theta": 5e5}),
            json!({"model_type": "mistral", "sliding_window": 4096}),
            json!({"model_type": "mistral", "sliding_window": null}),
            json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}),
            json!({"model_type": "qwen3", "head_dim": 16}),
            json!({"model_type": "internlm2", "bias": true}),
            json!({"model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh"}),
            json!({"model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
            json!({"model_type": "phi3", "sliding_window": 2047}),
        ] {
            let config = ModelConfig::from_json(&with(changes)).unwrap();
            assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config);
        }
    }

    #[test]
    fn refuses_what_it_does_not_compute() {
        for (changes, word) in [
            (json!({"model_type": "gemma"}), "gemma"),
            (json!({"model_type": "gemma2", "hidden_activation": "relu"}), "relu"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}), "longrope"),
            (json!({"rope_scaling": {"type": "linear"}}), "factor"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 0.5}}), "factor"),
            (json!({"rope_parameters": {"rope_type": "yarn"}}), "yarn"),
            (
                json!({"model_type": "gemma2", "layer_types": ["full_attention", "chunked_attention"]}),
                "layer_types",
            ),
            (json!({"model_type": "gemma2", "layer_types": ["full_attention"]}), "names 1 layers"),
            (json!({"quantization_config": {}}), "quantization_config"),
        ] {
            assert!(error_of(with(changes)).contains(word));
        }
    }

    #[test]
    fn refuses_absurd_numbers() {
        for (changes, word) in [
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"num_attention_heads": 5}), "hidden_size"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"hidden_size": 1_u64 << 60}), "hidden_size"),
            (json!({"vocab_size": -1}), "vocab_size"),
            (json!({"vocab_size": 1.5}), "vocab_size"),
            (json!({"num_hidden_layers": "2"}), "num_hidden_layers"),
            (json!({"head_dim": 7}), "head_dim"),
            (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
            (json!({"rope_theta": -1.0}), "rope_theta"),
            (json!({"eos_token_id": 100}), "100"),
            (json!({"eos_token_id": [1, "x"]}), "eos_token_id"),
            (json!({"hidden_size": null}), "hidden_size"),
        ] {
            let message = error_of(with(changes.clone()));
            assert!(message.contains(word), "{changes}: {message}");
        }
        assert!(error_of(json!([1])).contains("object"));
    }

    #[test]
    fn same_shape_names_every_difference() {
        let one = ModelConfig::from_json(&llama()).unwrap();
        let theta = ModelConfig::from_json(&with(json!({"rope_theta": 5e5}))).unwrap();
        one.check_same_shape(&theta).unwrap();
        let two = ModelConfig::from_json(&with(json!({"vocab_size": 101, "num_hidden_layers": 3}))).unwrap();
        let message = one.check_same_shape(&two).unwrap_err().to_string();
        assert!(message.contains("`vocab_size` is 100 and 101"), "{message}");
        assert!(message.contains("num_hidden_layers"), "{message}");
    }
}
