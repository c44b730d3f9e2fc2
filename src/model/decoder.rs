//! The decoder: LLaMA-family and Qwen2 networks.

use anyhow::{Context as _, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{
    Attention, FeedForward, ForwardHook, KvCache, Linear, ModelConfig, ParamMut, WeightSource, norm::RmsNorm,
    rope::Rope,
};

/// Positions that the rotation tables hold at first; longer contexts would only cost memory.
const MAX_ROPE_POSITIONS: usize = 8192;

/// Added to the score of a key that must not be seen. Finite, so that a row that sees nothing
/// (left padding) stays free of NaN.
const HIDDEN: f32 = -1.0e9;

/// Tokens for one forward pass, with their positions and what each may see.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch, seq]`.
    tokens: Tensor<2, Int>,
    /// `[batch, seq]`.
    positions: Tensor<2, Int>,
    /// Additive, broadcasts to `[batch, 1, seq, keys]`.
    mask: Tensor<4>,
}

impl TokenBatch {
    /// Rows padded on the right to the longest with `pad`. Causality alone hides the padding from
    /// every real token.
    pub fn right_padded(rows: &[&[i32]], pad: i32, device: &Device) -> Self {
        let (batch, seq) = (rows.len(), rows.iter().map(|row| row.len()).max().unwrap_or(0));
        let pad_row =
            |row: &&[i32]| row.iter().copied().chain(std::iter::repeat(pad)).take(seq).collect::<Vec<i32>>();
        let tokens: Vec<i32> = rows.iter().flat_map(pad_row).collect();
        let positions: Vec<i32> = (0..batch).flat_map(|_| 0..seq as i32).collect();
        let mask = (0..seq * seq).map(|i| if i % seq > i / seq { HIDDEN } else { 0.0 }).collect();
        Self {
            tokens: int_tensor(tokens, [batch, seq], device),
            positions: int_tensor(positions, [batch, seq], device),
            mask: Tensor::from_data(TensorData::new::<f32, _>(mask, [1, 1, seq, seq]), device),
        }
    }

    /// New tokens of left-padded sequences. `padding[row]` keys at the front of a row are padding;
    /// `seen` keys are already in the cache.
    pub fn left_padded(
        tokens: Vec<i32>,
        seq: usize,
        padding: &[usize],
        seen: usize,
        device: &Device,
    ) -> Self {
        let batch = padding.len();
        let keys = seen + seq;
        let place = |row: usize, t: usize| (seen + t).saturating_sub(padding[row]) as i32;
        let positions = (0..batch).flat_map(|row| (0..seq).map(move |t| place(row, t))).collect();
        let visible = |row: usize, t: usize, key: usize| key <= seen + t && key >= padding[row];
        let mut mask = Vec::with_capacity(batch * seq * keys);
        for row in 0..batch {
            for t in 0..seq {
                mask.extend((0..keys).map(|key| if visible(row, t, key) { 0.0 } else { HIDDEN }));
            }
        }
        Self {
            tokens: int_tensor(tokens, [batch, seq], device),
            positions: int_tensor(positions, [batch, seq], device),
            mask: Tensor::from_data(TensorData::new::<f32, _>(mask, [batch, 1, seq, keys]), device),
        }
    }

    /// `[batch, seq]`.
    pub fn dims(&self) -> [usize; 2] {
        self.tokens.dims()
    }
}

fn int_tensor(values: Vec<i32>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// One decoder layer.
#[derive(Debug, Clone)]
pub struct Layer {
    input_norm: RmsNorm,
    /// Attention branch.
    pub attention: Attention,
    ffn_norm: RmsNorm,
    /// Feed-forward branch.
    pub ffn: FeedForward,
}

impl Layer {
    /// Every linear layer that can carry an adapter, with its path inside the layer.
    pub fn linears(&mut self) -> impl Iterator<Item = (&'static str, &'static str, &mut Linear)> {
        let attention =
            self.attention.linears().into_iter().map(|(name, linear)| ("self_attn", name, linear));
        attention.chain(self.ffn.linears().into_iter().map(|(name, linear)| ("mlp", name, linear)))
    }
}

/// A causal language model.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Its shape.
    pub config: ModelConfig,
    embed_tokens: Tensor<2>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    norm: RmsNorm,
    /// Absent when tied to the embedding.
    lm_head: Option<Tensor<2>>,
    rope: Rope,
    device: Device,
}

impl Decoder {
    /// Reads every weight onto `device`.
    ///
    /// # Errors
    /// When a weight is missing, unreadable or of another shape than the config says.
    pub fn load(config: &ModelConfig, source: &dyn WeightSource, device: &Device) -> anyhow::Result<Self> {
        let loader = Loader { source, device };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let q_out = config.num_attention_heads * config.head_dim;
        let kv_out = config.num_key_value_heads * config.head_dim;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let name = |part: &str| format!("model.layers.{layer}.{part}");
                let norm = |part: &str| -> anyhow::Result<RmsNorm> {
                    let weight = loader.vector(&name(&format!("{part}.weight")), hidden)?;
                    Ok(RmsNorm { weight, eps: config.rms_norm_eps })
                };
                let linear = |part: &str, d_in, d_out, bias| loader.linear(&name(part), d_in, d_out, bias);
                let attention = Attention {
                    q_proj: linear("self_attn.q_proj", hidden, q_out, config.attention_bias)?,
                    k_proj: linear("self_attn.k_proj", hidden, kv_out, config.attention_bias)?,
                    v_proj: linear("self_attn.v_proj", hidden, kv_out, config.attention_bias)?,
                    o_proj: linear("self_attn.o_proj", q_out, hidden, config.attention_output_bias)?,
                    heads: config.num_attention_heads,
                    kv_heads: config.num_key_value_heads,
                    head_dim: config.head_dim,
                    layer,
                };
                let ffn = FeedForward {
                    gate_proj: linear("mlp.gate_proj", hidden, inner, config.mlp_bias)?,
                    up_proj: linear("mlp.up_proj", hidden, inner, config.mlp_bias)?,
                    down_proj: linear("mlp.down_proj", inner, hidden, config.mlp_bias)?,
                    layer,
                };
                Ok(Layer {
                    input_norm: norm("input_layernorm")?,
                    attention,
                    ffn_norm: norm("post_attention_layernorm")?,
                    ffn,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let head_shape = [config.vocab_size, hidden];
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.matrix("lm_head.weight", head_shape)?),
        };
        let positions = config.max_position_embeddings.min(MAX_ROPE_POSITIONS);
        Ok(Self {
            config: config.clone(),
            embed_tokens: loader.matrix("model.embed_tokens.weight", head_shape)?,
            layers,
            norm: RmsNorm { weight: loader.vector("model.norm.weight", hidden)?, eps: config.rms_norm_eps },
            lm_head,
            rope: Rope::new(config.head_dim, config.rope_theta, positions, config.rope_pairs, device),
            device: device.clone(),
        })
    }

    /// Where the weights lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Longest sequence that the model takes.
    pub fn max_positions(&self) -> usize {
        self.rope.positions()
    }

    /// The network up to and including the last norm.
    ///
    /// # Shapes
    /// `[batch * seq, hidden_size]`.
    pub fn hidden(
        &self,
        batch: &TokenBatch,
        mut cache: Option<&mut KvCache>,
        hook: &dyn ForwardHook,
    ) -> Tensor<2> {
        let [rows, seq] = batch.dims();
        let rotation = self.rope.at(batch.positions.clone());
        let mut x = self.embed_tokens.clone().select(0, batch.tokens.clone().reshape([rows * seq]));
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = layer.input_norm.forward(x.clone());
            let cache = cache.as_deref_mut();
            x = x + layer.attention.forward(normed, [rows, seq], &rotation, &batch.mask, cache, hook);
            if !hook.drops_ffn(index) {
                let normed = layer.ffn_norm.forward(x.clone());
                x = x + layer.ffn.forward(normed, hook);
            }
        }
        if let Some(cache) = cache {
            cache.advance(seq);
        }
        self.norm.forward(x)
    }

    /// The output matrix: `[vocab_size, hidden_size]`.
    pub fn head(&self) -> &Tensor<2> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Name of the parameter that [`Self::head`] is.
    pub fn head_name(&self) -> &'static str {
        if self.lm_head.is_some() { "lm_head.weight" } else { "model.embed_tokens.weight" }
    }

    /// # Shapes
    /// `[tokens, hidden_size]` to `[tokens, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden.matmul(self.head().clone().transpose())
    }

    /// Every weight of the base, under its Hugging Face name.
    pub fn params(&mut self) -> Vec<ParamMut<'_>> {
        let mut out = vec![ParamMut::matrix("model.embed_tokens.weight".into(), &mut self.embed_tokens)];
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            out.push(ParamMut::vector(name("input_layernorm.weight"), &mut layer.input_norm.weight));
            layer.attention.params(&name("self_attn"), &mut out);
            out.push(ParamMut::vector(name("post_attention_layernorm.weight"), &mut layer.ffn_norm.weight));
            layer.ffn.params(&name("mlp"), &mut out);
        }
        out.push(ParamMut::vector("model.norm.weight".into(), &mut self.norm.weight));
        if let Some(head) = &mut self.lm_head {
            out.push(ParamMut::matrix("lm_head.weight".into(), head));
        }
        out
    }

    /// Every weight of the attached adapter, under its PEFT name.
    pub fn adapter_params(&mut self) -> Vec<ParamMut<'_>> {
        let mut out = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (block, name, linear) in layer.linears() {
                let prefix = format!("base_model.model.model.layers.{index}.{block}.{name}");
                linear.adapter_params(&prefix, &mut out);
            }
        }
        out
    }
}

struct Loader<'a> {
    source: &'a dyn WeightSource,
    device: &'a Device,
}

impl Loader<'_> {
    fn values(&self, name: &str, shape: &[usize]) -> anyhow::Result<Vec<f32>> {
        let found = self.source.shape(name).with_context(|| format!("the model has no weight `{name}`"))?;
        ensure!(found == shape, "weight `{name}` has shape {found:?}, but the config says {shape:?}");
        self.source.load(name)
    }

    fn vector(&self, name: &str, length: usize) -> anyhow::Result<Tensor<1>> {
        Ok(Tensor::from_data(TensorData::new(self.values(name, &[length])?, [length]), self.device))
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> anyhow::Result<Tensor<2>> {
        Ok(Tensor::from_data(TensorData::new(self.values(name, &shape)?, shape), self.device))
    }

    fn linear(&self, name: &str, d_in: usize, d_out: usize, bias: bool) -> anyhow::Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), [d_out, d_in])?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), d_out)).transpose()?;
        Ok(Linear { weight, bias, lora: None })
    }
}
