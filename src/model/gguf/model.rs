//! A GGUF file as a model: its metadata as a configuration, its tensors under Hugging Face names.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, bail, ensure};

use super::file::GgufFile;
use crate::{
    error::{excerpt, hinted},
    model::{
        RopeScaling,
        config::{MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, ModelConfig, RopePairs},
        weights::{WeightSource, expected_tensors, layer_of},
    },
};

/// The tensors of a GGUF file, in the file's own order of q and k rows.
#[derive(Debug)]
pub struct GgufWeights {
    file: GgufFile,
    /// Hugging Face name to the file's name.
    names: BTreeMap<String, String>,
}

impl GgufWeights {
    /// Reads configuration and tensor list. q and k of the `llama` architecture are interleaved in
    /// the file; [`crate::model::HalvesOrder`] turns them into a Hugging Face folder's.
    ///
    /// # Errors
    /// When the file is of another architecture or has tensors that the decoder would leave out.
    pub fn new(file: GgufFile) -> anyhow::Result<(ModelConfig, Self)> {
        let mut names = BTreeMap::new();
        for name in file.tensor_names() {
            if name == ROPE_FREQUENCIES {
                continue;
            }
            let hf_name = hf_name(name)
                .with_context(|| format!("tensor `{}` belongs to no LLaMA or Qwen2 model", excerpt(name)))?;
            names.insert(hf_name, name.to_owned());
        }
        let config = read_config(&file)?;
        let one_layer = ModelConfig { num_hidden_layers: 1, ..config.clone() };
        let known: HashSet<String> = expected_tensors(&one_layer).into_iter().map(|(name, _)| name).collect();
        let has_place = |name: &str| match layer_of(name) {
            Some((layer, rest)) => {
                layer < config.num_hidden_layers && known.contains(&format!("model.layers.0.{rest}"))
            }
            None => known.contains(name),
        };
        if let Some((_, extra)) = names.iter().find(|(hf_name, _)| !has_place(hf_name)) {
            bail!("tensor `{extra}` has no place in a model of {} layers", config.num_hidden_layers);
        }
        Ok((config, Self { file, names }))
    }

    /// The file they are read from.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }
}

impl WeightSource for GgufWeights {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.file.tensor_shape(self.names.get(name)?).map(<[usize]>::to_vec)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let inner =
            self.names.get(name).with_context(|| format!("the weights do not contain tensor `{name}`"))?;
        self.file.load_tensor(inner)
    }
}

const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// The tensor's name in a Hugging Face folder.
fn hf_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // Two spellings of a number must not stand for one layer.
    let layer: u32 = layer.parse().ok().filter(|number: &u32| number.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    let norm = module.ends_with("layernorm");
    (kind == "weight" || (kind == "bias" && !norm)).then(|| format!("model.layers.{layer}.{module}.{kind}"))
}

/// Llama 3.1 and later divide some rotation frequencies. The file holds the divisors but not the
/// rule behind them, which a `config.json` needs: the published rules are tried.
fn rope_scaling(file: &GgufFile, head_dim: usize, theta: f64) -> anyhow::Result<RopeScaling> {
    if file.tensor_shape(ROPE_FREQUENCIES).is_none() {
        return Ok(RopeScaling::None);
    }
    // The width of a head is only what the metadata says; the tensor is in the file.
    let length = file.tensor_shape(ROPE_FREQUENCIES).unwrap_or_default();
    ensure!(
        [head_dim / 2] == length,
        "tensor `{ROPE_FREQUENCIES}` has shape {length:?}, but heads are {head_dim} wide"
    );
    let found = file.load_tensor(ROPE_FREQUENCIES)?;
    let published = [8.0, 32.0].map(|factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    });
    let frequencies = |scaling: RopeScaling| scaling.frequencies(head_dim, theta, 0, 1);
    let plain = frequencies(RopeScaling::None);
    for scaling in [RopeScaling::None].into_iter().chain(published) {
        let divisors = plain.iter().zip(frequencies(scaling)).map(|(plain, scaled)| plain / scaled);
        if found.len() == plain.len()
            && divisors.zip(&found).all(|(ours, theirs)| (ours - theirs).abs() <= 1e-3 * ours)
        {
            return Ok(scaling);
        }
    }
    Err(hinted(
        format!("the file rescales rotary positions (`{ROPE_FREQUENCIES}`) by an unknown rule"),
        "Llama 3.1's and 3.2's rules are known; use the model's Hugging Face folder",
    ))
}

fn read_config(file: &GgufFile) -> anyhow::Result<ModelConfig> {
    let metadata = &file.metadata;
    let architecture =
        metadata.text("general.architecture")?.context("the file has no metadata `general.architecture`")?;
    if !matches!(architecture, "llama" | "qwen2") {
        return Err(hinted(
            format!("`general.architecture` `{}` is not supported", excerpt(architecture)),
            "known ones: llama, qwen2",
        ));
    }
    let key = |name: &str| format!("{architecture}.{name}");
    let whole = |name: &str, max: usize| -> anyhow::Result<Option<usize>> {
        let Some(value) = metadata.whole(&key(name))? else { return Ok(None) };
        let size = usize::try_from(value).ok().filter(|size| (1..=max).contains(size));
        size.map(Some).with_context(|| {
            format!("metadata `{}` must lie between 1 and {max}, found `{value}`", key(name))
        })
    };
    let required = |name: &str, max: usize| -> anyhow::Result<usize> {
        whole(name, max)?.with_context(|| format!("the file has no metadata `{}`", key(name)))
    };

    if metadata.whole(&key("expert_count"))?.unwrap_or(0) > 0 {
        bail!("mixtures of experts (`{}`) are not supported", key("expert_count"));
    }
    if let Some(kind) = metadata.text(&key("rope.scaling.type"))?
        && kind != "none"
    {
        bail!(
            "`{}` `{}` is not supported; only the default rotary positions are computed",
            key("rope.scaling.type"),
            excerpt(kind)
        );
    }

    let hidden_size = required("embedding_length", MAX_WIDTH)?;
    let num_attention_heads = required("attention.head_count", MAX_HEADS)?;
    let head_dim = match whole("attention.key_length", MAX_HEAD_DIM)? {
        Some(width) => width,
        None => {
            ensure!(
                hidden_size.is_multiple_of(num_attention_heads),
                "`{}` {hidden_size} is not a multiple of `{}` {num_attention_heads}",
                key("embedding_length"),
                key("attention.head_count")
            );
            hidden_size / num_attention_heads
        }
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = whole(name, MAX_HEAD_DIM)?
            && width != head_dim
        {
            bail!("metadata `{}` is {width}, but heads are {head_dim} wide", key(name));
        }
    }

    let vocab_size = file.tensor_shape("token_embd.weight").and_then(|shape| shape.first()).copied();
    let has = |name: &str| file.tensor_shape(name).is_some();
    let attention_bias = has("blk.0.attn_q.bias");
    let attention_output_bias = has("blk.0.attn_output.bias");
    let expected_output_bias = architecture == "llama" && attention_bias;
    ensure!(
        attention_output_bias == expected_output_bias && (attention_bias || architecture == "llama"),
        "its attention biases are not those of a `{architecture}` model"
    );
    let mlp_bias = has("blk.0.ffn_down.bias");
    ensure!(!mlp_bias || architecture == "llama", "a `{architecture}` model has no FFN biases");

    let token = |name: &str| -> anyhow::Result<Option<u32>> {
        let id = metadata.whole(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab_size.unwrap_or(0)))
    };
    let mut eos_token_ids = Vec::new();
    for name in ["eos", "eot"] {
        eos_token_ids.extend(token(name)?.filter(|id| !eos_token_ids.contains(id)));
    }
    let rope_theta = metadata.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let config = ModelConfig {
        model_type: architecture.to_owned(),
        vocab_size: vocab_size.context("the file has no tensor `token_embd.weight`")?,
        hidden_size,
        intermediate_size: required("feed_forward_length", MAX_WIDTH)?,
        num_hidden_layers: required("block_count", MAX_LAYERS)?,
        num_attention_heads,
        num_key_value_heads: whole("attention.head_count_kv", MAX_HEADS)?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: required("context_length", MAX_POSITIONS)?,
        rms_norm_eps: metadata.number(&key("attention.layer_norm_rms_epsilon"))?.with_context(|| {
            format!("the file has no metadata `{}`", key("attention.layer_norm_rms_epsilon"))
        })?,
        rope_theta,
        rope_scaling: rope_scaling(file, head_dim, rope_theta)?,
        attention_bias,
        attention_output_bias,
        mlp_bias,
        tie_word_embeddings: !has("output.weight"),
        rope_pairs: if architecture == "llama" { RopePairs::Interleaved } else { RopePairs::Halves },
        bos_token_id: token("bos")?,
        eos_token_ids,
        initializer_range: 0.02,
        ..ModelConfig::default()
    };
    config.validate()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_of_a_hugging_face_folder() {
        for (gguf, hf) in [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.attn_q.weight", Some("model.layers.12.self_attn.q_proj.weight")),
            ("blk.0.attn_k.bias", Some("model.layers.0.self_attn.k_proj.bias")),
            ("blk.3.ffn_norm.weight", Some("model.layers.3.post_attention_layernorm.weight")),
            ("blk.3.ffn_norm.bias", None),
            ("blk.3.ffn_gate_inp.weight", None),
            ("blk.x.attn_q.weight", None),
            ("blk.01.attn_q.weight", None),
            ("blk.+1.attn_q.weight", None),
            ("blk.0.attn_q.scale", None),
            ("position_embd.weight", None),
        ] {
            assert_eq!(hf_name(gguf).as_deref(), hf, "{gguf}");
        }
    }
}
