//! Grouped-query causal self-attention.

use burn::tensor::{Tensor, activation::softmax};

use super::{
    ForwardHook, KvCache, Linear, Names, ParamMut,
    cast::{to_dtype, to_f32},
    kernels::{self, Segments},
    norm::RmsNorm,
    rope::Rotation,
    token_batch::Sight,
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
    /// `[batch * seq, hidden_size]` in and out.
    pub(super) fn forward(
        &self,
        input: Tensor<2>,
        [batch, seq]: [usize; 2],
        rotation: &Rotation,
        sight: Sight<'_>,
        cache: Option<&mut KvCache>,
        hook: &dyn ForwardHook,
    ) -> Tensor<2> {
        let [queries, keys, values] = self.project(input, [batch, seq], hook);
        let (queries, keys) = match &self.norms {
            Some([query_norm, key_norm]) => (query_norm.forward(queries), key_norm.forward(keys)),
            None => (queries, keys),
        };
        let width = self.heads * self.head_dim;
        let context = match sight {
            Sight::Mask(mask) => {
                let (queries, keys) = (rotation.apply(queries), rotation.apply(keys));
                let (keys, values) = match cache {
                    Some(cache) => cache.extend(self.layer, keys, values),
                    None => (keys, values),
                };
                let context = self.attend(queries, keys, values, mask);
                context.swap_dims(1, 2).reshape([batch * seq, width])
            }
            Sight::Rows { lengths, window } => {
                let flat = |heads: Tensor<4>| heads.reshape([batch as i32, -1]);
                let rows = Segments {
                    lengths: lengths.to_vec(),
                    heads: self.heads,
                    kv_heads: self.kv_heads,
                    head_dim: self.head_dim,
                    scale: self.scale as f32,
                    softcap: self.softcap.map(|cap| cap as f32),
                    window,
                };
                let (queries, keys) = (rotation.apply_rows(flat(queries)), rotation.apply_rows(flat(keys)));
                kernels::attention(queries, keys, flat(values), rows)
            }
        };
        self.o_proj.forward(context, self.layer, hook)
    }

    /// Queries, keys and values.
    ///
    /// # Shapes
    /// `[batch, heads, seq, head_dim]` each.
    fn project(&self, input: Tensor<2>, [batch, seq]: [usize; 2], hook: &dyn ForwardHook) -> [Tensor<4>; 3] {
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        let split = |x: Tensor<2>, heads| x.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2);
        match &self.qkv {
            QkvProjections::Split(three) => {
                let [q, k, v] = &**three;
                let project =
                    |linear: &Linear, heads| split(linear.forward(input.clone(), self.layer, hook), heads);
                [project(q, heads), project(k, kv_heads), project(v, kv_heads)]
            }
            QkvProjections::Stacked(one) => {
                let all = one.forward(input, self.layer, hook);
                let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
                let part = |start, length, heads| split(all.clone().narrow(1, start, length), heads);
                [part(0, queries, heads), part(queries, keys, kv_heads), part(queries + keys, keys, kv_heads)]
            }
            QkvProjections::Grouped(one) => {
                let group = heads / kv_heads;
                let all: Tensor<5> =
                    one.forward(input, self.layer, hook).reshape([batch, seq, kv_heads, group + 2, head_dim]);
                let part = |start, count| {
                    let part = all.clone().narrow(3, start, count);
                    part.reshape([batch, seq, kv_heads * count, head_dim]).swap_dims(1, 2)
                };
                [part(0, group), part(group, 1), part(group + 1, 1)]
            }
        }
    }

    /// Scaled dot-product attention. The query heads that share a key head are stacked along the
    /// sequence, so that one matrix product serves the group and keys are never repeated.
    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, mask: &Tensor<4>) -> Tensor<4> {
        let [batch, _, seq, _] = queries.dims();
        let key_count = keys.dims()[2];
        let group = self.heads / self.kv_heads;
        let stacked = queries.reshape([batch, self.kv_heads, group * seq, self.head_dim]);
        let scores = to_f32(stacked.matmul(keys.swap_dims(2, 3))).mul_scalar(self.scale);
        let scores = match self.softcap {
            Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
            None => scores,
        };
        let scores: Tensor<5> = scores.reshape([batch, self.kv_heads, group, seq, key_count]);
        let scores = scores + mask.clone().unsqueeze_dim::<5>(1);
        let weights = softmax(scores, 4).reshape([batch, self.kv_heads, group * seq, key_count]);
        to_dtype(weights, values.dtype()).matmul(values).reshape([batch, self.heads, seq, self.head_dim])
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
