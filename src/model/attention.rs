//! Grouped-query causal self-attention.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{
    ForwardHook, KvCache, Linear, Names, ParamMut, TokenBatch,
    cast::{to_dtype, to_f32},
    kernels::{self, CachedRows, Segments},
    norm::RmsNorm,
    rope::Rotation,
};

/// The attention branch of a decoder layer. Trans-PEFT leaves it alone.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Into the branch.
    pub qkv: QkvProjections,
    /// Output.
    pub o_proj: Linear,
    /// Norms of query and key heads.
    pub(super) norms: Option<[RmsNorm; 2]>,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Factor of the scores.
    pub(super) scale: f64,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub(super) softcap: Option<f64>,
    pub(super) layer: usize,
}

/// The projections into the branch.
#[derive(Debug, Clone)]
pub enum QkvProjections {
    /// Queries, keys and values.
    Split(Box<[Linear; 3]>),
    /// One matrix: all queries, then all keys, then all values.
    Stacked(Box<Linear>),
    /// One matrix: for each key head its query heads, the key, the value.
    Grouped(Box<Linear>),
}

impl Attention {
    /// # Shapes
    /// `[tokens, hidden_size]` in and out.
    pub(super) fn forward(
        &self,
        input: Tensor<2>,
        batch: &TokenBatch,
        rotation: &Rotation,
        window: Option<usize>,
        cache: Option<&mut KvCache>,
        hook: &dyn ForwardHook,
    ) -> Tensor<2> {
        let [queries, keys, values] = self.project(input, hook);
        let (queries, keys) = match &self.norms {
            Some([query_norm, key_norm]) => {
                (self.each_head(query_norm, queries), self.each_head(key_norm, keys))
            }
            None => (queries, keys),
        };
        let (queries, keys) = (rotation.apply(queries), rotation.apply(keys));
        let shape = Segments {
            lengths: batch.rows.clone(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale as f32,
            softcap: self.softcap.map(|cap| cap as f32),
            window,
        };
        let context = match (cache, &batch.places) {
            (Some(cache), Some(places)) => {
                let dtype = queries.dtype();
                let rows = CachedRows { shape, places: Arc::clone(places) };
                let (keys, values) = cache.extend(self.layer, to_f32(keys), to_f32(values), &rows);
                to_dtype(kernels::cached_attention(to_f32(queries), keys, values, rows), dtype)
            }
            _ => kernels::attention(queries, keys, values, shape),
        };
        self.o_proj.forward(context, self.layer, hook)
    }

    /// A norm over each head of its own.
    fn each_head(&self, norm: &RmsNorm, heads: Tensor<2>) -> Tensor<2> {
        let [tokens, width] = heads.dims();
        norm.forward(heads.reshape([tokens, width / self.head_dim, self.head_dim])).reshape([tokens, width])
    }

    /// Queries, keys and values.
    ///
    /// # Shapes
    /// `[tokens, heads * head_dim]` and twice `[tokens, kv_heads * head_dim]`.
    fn project(&self, input: Tensor<2>, hook: &dyn ForwardHook) -> [Tensor<2>; 3] {
        let (kv_heads, head_dim) = (self.kv_heads, self.head_dim);
        match &self.qkv {
            QkvProjections::Split(three) => {
                three.each_ref().map(|linear| linear.forward(input.clone(), self.layer, hook))
            }
            QkvProjections::Stacked(one) => {
                let all = one.forward(input, self.layer, hook);
                let (queries, keys) = (self.heads * head_dim, kv_heads * head_dim);
                [(0, queries), (queries, keys), (queries + keys, keys)]
                    .map(|(start, width)| all.clone().narrow(1, start, width))
            }
            QkvProjections::Grouped(one) => {
                let group = self.heads / kv_heads;
                let all = one.forward(input, self.layer, hook);
                let [tokens, _] = all.dims();
                let all: Tensor<4> = all.reshape([tokens, kv_heads, group + 2, head_dim]);
                [(0, group), (group, 1), (group + 1, 1)].map(|(start, count)| {
                    all.clone().narrow(2, start, count).reshape([tokens, kv_heads * count * head_dim])
                })
            }
        }
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut linears = self.qkv.linears();
        linears.push(&mut self.o_proj);
        linears
    }

    pub(super) fn params<'a>(&'a mut self, prefix: &str, names: &Names, out: &mut Vec<ParamMut<'a>>) {
        if let (Some(called), Some(norms)) = (names.query_key_norms, &mut self.norms) {
            for (name, norm) in called.into_iter().zip(norms) {
                out.push(norm.param(prefix, name));
            }
        }
        for linear in self.qkv.linears().into_iter().chain([&mut self.o_proj]) {
            linear.params(prefix, out);
        }
    }
}

impl QkvProjections {
    fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Split(three) => three.iter_mut().collect(),
            Self::Stacked(one) | Self::Grouped(one) => vec![one],
        }
    }
}
