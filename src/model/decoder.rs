//! The decoder: one forward pass for every architecture, out of the parts that its configuration
//! asks for.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use burn::tensor::{DType, Device, Tensor};

use super::{
    Attention, Bottleneck, FeedForward, ForwardHook, KvCache, Linear, ModelConfig, ParamMut, Products,
    RopeScaling, TokenBatch, WeightSource,
    arch::{GateUp, Names, Qkv},
    attention::QkvProjections,
    cast::{tensor_dtype, to_dtype, to_f32},
    ffn::GateUpProjections,
    kernels,
    norm::RmsNorm,
    rope::{Rope, Rotation},
    weights::linear_shapes,
};
use crate::{device, params::Dtype};

/// One decoder layer.
#[derive(Debug, Clone)]
pub struct Layer {
    attention_norm: RmsNorm,
    /// Attention branch.
    pub attention: Attention,
    attention_out_norm: Option<RmsNorm>,
    ffn_norm: RmsNorm,
    /// Feed-forward branch.
    pub ffn: FeedForward,
    ffn_out_norm: Option<RmsNorm>,
    /// On the output of attention.
    pub attention_adapter: Option<Bottleneck>,
    /// On the FFN.
    pub ffn_adapter: Option<Bottleneck>,
}

impl Layer {
    /// Every linear layer that can carry an adapter, in the order of the forward pass.
    pub fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.attention.linears().into_iter().chain(self.ffn.linears())
    }

    fn params<'a>(&'a mut self, prefix: &str, names: &Names, out: &mut Vec<ParamMut<'a>>) {
        out.push(self.attention_norm.param(prefix, names.attention_norm));
        self.attention.params(prefix, names, out);
        if let (Some(norm), Some(name)) = (&mut self.attention_out_norm, names.attention_out_norm) {
            out.push(norm.param(prefix, name));
        }
        out.push(self.ffn_norm.param(prefix, names.ffn_norm));
        for linear in self.ffn.linears() {
            linear.params(prefix, out);
        }
        if let (Some(norm), Some(name)) = (&mut self.ffn_out_norm, names.ffn_out_norm) {
            out.push(norm.param(prefix, name));
        }
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
    /// Of the sliding layers, where they have a base of their own.
    sliding_rope: Option<Rope>,
    device: Device,
    dtype: Dtype,
    /// The number format of what flows between the layers.
    flow: DType,
}

/// What turns queries and keys of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Rotations {
    full: Rotation,
    /// Of the sliding layers, where they have a base of their own.
    sliding: Option<Rotation>,
}

impl Decoder {
    /// Reads every weight onto `device`, one tensor at a time. On the CPU, weights that the source
    /// has mapped in this number format stay where they are.
    ///
    /// Products are made in `dtype` where the device has units for it, as in transformers and PEFT,
    /// else in f32 (a weight is then widened for each of its products). Norms, softmax, adapters and
    /// the loss are in f32.
    ///
    /// # Errors
    /// When a weight is missing, unreadable or of another shape than the config says.
    pub fn load(
        config: &ModelConfig,
        source: &dyn WeightSource,
        device: &Device,
        dtype: Dtype,
    ) -> anyhow::Result<Self> {
        let loader = Loader { source, device, config, dtype };
        let names = config.names();
        let layers =
            (0..config.num_hidden_layers).map(|layer| loader.layer(layer)).collect::<anyhow::Result<_>>()?;
        let head_shape = [config.vocab_size, config.hidden_size];
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.tensor(names.head, head_shape)?),
        };
        let sliding = config.rope_local_base_freq;
        Ok(Self {
            config: config.clone(),
            embed_tokens: loader.tensor(names.embedding, head_shape)?,
            layers,
            norm: loader.norm(names.norm, config.hidden_size)?,
            lm_head,
            rope: Rope::new(config, config.rope_theta, config.rope_scaling),
            sliding_rope: sliding.map(|theta| Rope::new(config, theta, RopeScaling::None)),
            device: device.clone(),
            dtype,
            flow: if device::multiplies(device, dtype) { tensor_dtype(dtype) } else { DType::F32 },
        })
    }

    /// The same weights where no operation is recorded.
    pub(crate) fn without_tape(&self) -> Self {
        let mut plain = self.clone();
        plain.device = self.device.clone().inner();
        for mut param in plain.params() {
            let value = param.value();
            param.set(value);
        }
        for mut param in plain.adapter_params() {
            let value = param.value();
            param.set(value);
        }
        plain
    }

    /// Where the weights lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number format of its weights.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Longest sequence that the model takes.
    pub fn max_positions(&self) -> usize {
        self.config.max_positions()
    }

    /// Whether a token's keys and values depend on those before it alone, so that sequences can share
    /// them. Not with dynamic rotary scaling, which turns by the whole sequence's length.
    pub fn shares_prefixes(&self) -> bool {
        !matches!(self.config.rope_scaling, RopeScaling::Dynamic { .. })
    }

    /// The network up to and including the last norm.
    ///
    /// # Shapes
    /// `[tokens, hidden_size]`.
    pub fn hidden(
        &self,
        batch: &TokenBatch,
        mut cache: Option<&mut KvCache>,
        hook: &dyn ForwardHook,
    ) -> Tensor<2> {
        let rotations = self.rotations(batch);
        let mut x = self.embed(batch);
        for index in 0..self.layers.len() {
            x = self.layer(index, x, batch, &rotations, cache.as_deref_mut(), hook);
        }
        if let (Some(cache), Some(places)) = (cache, &batch.places) {
            for (place, new) in places.iter().zip(&batch.rows) {
                cache.advance(place.slot, *new);
            }
        }
        self.finish(x)
    }

    /// What turns queries and keys of a batch, for every layer.
    pub(crate) fn rotations(&self, batch: &TokenBatch) -> Rotations {
        let rotate = |rope: &Rope| rope.at(&batch.positions, &batch.lengths, &self.device);
        Rotations { full: rotate(&self.rope), sliding: self.sliding_rope.as_ref().map(rotate) }
    }

    /// The first layer's input.
    ///
    /// # Shapes
    /// `[tokens, hidden_size]`.
    pub(crate) fn embed(&self, batch: &TokenBatch) -> Tensor<2> {
        let x = to_dtype(self.embed_tokens.clone().select(0, batch.tokens(&self.device)), self.flow);
        match self.config.scale_embedding {
            true => x.mul_scalar((self.config.hidden_size as f64).sqrt()),
            false => x,
        }
    }

    /// One decoder layer.
    ///
    /// # Shapes
    /// `[tokens, hidden_size]` in and out.
    pub(crate) fn layer(
        &self,
        index: usize,
        x: Tensor<2>,
        batch: &TokenBatch,
        rotations: &Rotations,
        cache: Option<&mut KvCache>,
        hook: &dyn ForwardHook,
    ) -> Tensor<2> {
        let layer = &self.layers[index];
        let window = self.config.window(index);
        let rotation = rotations.sliding.as_ref().filter(|_| window.is_some()).unwrap_or(&rotations.full);
        let normed = layer.attention_norm.forward(x.clone());
        let branch = layer.attention.forward(normed, batch, rotation, window, cache, hook);
        let branch = adapted(layer.attention_adapter.as_ref(), None, branch, index, hook);
        let x = x + after(layer.attention_out_norm.as_ref(), branch);
        // A dropped branch takes its adapters along: they get no update from this pass.
        if hook.drops_ffn(index) {
            return x;
        }
        let normed = layer.ffn_norm.forward(x.clone());
        let branch = layer.ffn.forward(normed.clone(), hook);
        let branch = adapted(layer.ffn_adapter.as_ref(), Some(normed), branch, index, hook);
        x + after(layer.ffn_out_norm.as_ref(), branch)
    }

    /// The last norm.
    pub(crate) fn finish(&self, x: Tensor<2>) -> Tensor<2> {
        self.norm.forward(x)
    }

    /// The output matrix: `[vocab_size, hidden_size]`.
    pub fn head(&self) -> &Tensor<2> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Name of the parameter that [`Self::head`] is.
    pub fn head_name(&self) -> &'static str {
        let names = self.config.names();
        if self.lm_head.is_some() { names.head } else { names.embedding }
    }

    /// # Shapes
    /// `[tokens, hidden_size]` to `[tokens, vocab_size]`, in f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = to_f32(kernels::linear(hidden, self.head().clone(), Products::Alone));
        match self.config.final_logit_softcapping {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// Every weight of the base, under its name in a checkpoint.
    pub fn params(&mut self) -> Vec<ParamMut<'_>> {
        let names = self.config.names();
        let mut out = vec![ParamMut::matrix(names.embedding.into(), &mut self.embed_tokens)];
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let prefix = format!("model.layers.{index}.");
            layer.params(&prefix, names, &mut out);
        }
        out.push(ParamMut::vector(names.norm.into(), &mut self.norm.weight));
        if let Some(head) = &mut self.lm_head {
            out.push(ParamMut::matrix(names.head.into(), head));
        }
        out
    }

    /// Every weight of the attached adapter, under its PEFT name.
    pub fn adapter_params(&mut self) -> Vec<ParamMut<'_>> {
        let mut out = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let prefix = format!("base_model.model.model.layers.{index}.");
            for linear in layer.attention.linears().into_iter().chain(layer.ffn.linears()) {
                linear.adapter_params(&prefix, &mut out);
            }
            for adapter in [&mut layer.attention_adapter, &mut layer.ffn_adapter].into_iter().flatten() {
                adapter.params(&prefix, &mut out);
            }
        }
        out
    }
}

/// A branch's output with its bottleneck adapter, if it has one. `input` is what a parallel one takes.
fn adapted(
    adapter: Option<&Bottleneck>,
    input: Option<Tensor<2>>,
    branch: Tensor<2>,
    layer: usize,
    hook: &dyn ForwardHook,
) -> Tensor<2> {
    let Some(adapter) = adapter else { return branch };
    let into = input.filter(|_| adapter.parallel).unwrap_or_else(|| branch.clone());
    branch + adapter.forward(into, layer, hook)
}

/// A branch's output through its norm, if it has one.
fn after(norm: Option<&RmsNorm>, branch: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(branch),
        None => branch,
    }
}

struct Loader<'a> {
    source: &'a dyn WeightSource,
    device: &'a Device,
    config: &'a ModelConfig,
    dtype: Dtype,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> anyhow::Result<Layer> {
        let (config, names) = (self.config, self.config.names());
        let hidden = config.hidden_size;
        let prefix = format!("model.layers.{index}.");
        let norm = |name: &str| self.norm(&format!("{prefix}{name}.weight"), hidden);
        let mut linears = BTreeMap::new();
        for linear in linear_shapes(config) {
            linears.insert(linear.name, self.linear(&prefix, linear.name, linear.shape, linear.bias)?);
        }
        let mut take = |name| linears.remove(name).expect("every name of the architecture was loaded");
        let qkv = match names.qkv {
            Qkv::Split(three) => QkvProjections::Split(Box::new(three.map(&mut take))),
            Qkv::Stacked(one) => QkvProjections::Stacked(Box::new(take(one))),
            Qkv::Grouped(one) => QkvProjections::Grouped(Box::new(take(one))),
        };
        let gate_up = match names.gate_up {
            GateUp::Split(both) => GateUpProjections::Split(Box::new(both.map(&mut take))),
            GateUp::Stacked(one) => GateUpProjections::Stacked(Box::new(take(one))),
        };
        let norms = match names.query_key_norms {
            Some([query, key]) => Some([
                self.norm(&format!("{prefix}{query}.weight"), config.head_dim)?,
                self.norm(&format!("{prefix}{key}.weight"), config.head_dim)?,
            ]),
            None => None,
        };
        let width = config.query_pre_attn_scalar.unwrap_or(config.head_dim as f64);
        Ok(Layer {
            attention_norm: norm(names.attention_norm)?,
            attention: Attention {
                qkv,
                o_proj: take(names.output),
                norms,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                scale: width.powf(-0.5),
                softcap: config.attn_logit_softcapping,
                layer: index,
            },
            attention_out_norm: names.attention_out_norm.map(norm).transpose()?,
            ffn_norm: norm(names.ffn_norm)?,
            ffn: FeedForward {
                gate_up,
                down_proj: take(names.down),
                activation: config.hidden_act,
                layer: index,
            },
            ffn_out_norm: names.ffn_out_norm.map(norm).transpose()?,
            attention_adapter: None,
            ffn_adapter: None,
        })
    }

    fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> anyhow::Result<Tensor<D>> {
        let found = self.source.shape(name).with_context(|| format!("the model has no weight `{name}`"))?;
        ensure!(found == shape, "weight `{name}` has shape {found:?}, but the config says {shape:?}");
        let data = self.source.load_as(name, self.dtype)?;
        Ok(Tensor::from_data(data, (self.device, tensor_dtype(self.dtype))))
    }

    fn norm(&self, name: &str, length: usize) -> anyhow::Result<RmsNorm> {
        let weight = self.tensor(name, [length])?;
        Ok(RmsNorm { weight, eps: self.config.rms_norm_eps, plus_one: self.config.norm_plus_one })
    }

    fn linear(
        &self,
        prefix: &str,
        name: &'static str,
        shape: [usize; 2],
        bias: bool,
    ) -> anyhow::Result<Linear> {
        let weight = self.tensor(&format!("{prefix}{name}.weight"), shape)?;
        let bias = bias.then(|| self.tensor(&format!("{prefix}{name}.bias"), [shape[0]])).transpose()?;
        Ok(Linear { name, weight, bias, lora: None, trains_bias: false })
    }
}
