//! Grouped-query causal self-attention.

use burn::tensor::{Tensor, activation::softmax};

use super::{ForwardHook, KvCache, Linear, ParamMut, Site, rope::Rotation};

/// The attention branch of a decoder layer. Trans-PEFT leaves it alone.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Output.
    pub o_proj: Linear,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) layer: usize,
}

impl Attention {
    /// # Shapes
    /// `input` is `[batch * seq, hidden_size]`, `mask` is additive and broadcasts to
    /// `[batch, 1, seq, keys]`; the result has the input's shape.
    pub(super) fn forward(
        &self,
        input: Tensor<2>,
        [batch, seq]: [usize; 2],
        rotation: &Rotation,
        mask: &Tensor<4>,
        cache: Option<&mut KvCache>,
        hook: &dyn ForwardHook,
    ) -> Tensor<2> {
        let project = |linear: &Linear, module, heads: usize, x: Tensor<2>| {
            let y = linear.forward(x, Site { layer: self.layer, module }, hook);
            y.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2)
        };
        let queries = rotation.apply(project(&self.q_proj, "q_proj", self.heads, input.clone()));
        let keys = rotation.apply(project(&self.k_proj, "k_proj", self.kv_heads, input.clone()));
        let values = project(&self.v_proj, "v_proj", self.kv_heads, input);
        let (keys, values) = match cache {
            Some(cache) => cache.extend(self.layer, keys, values),
            None => (keys, values),
        };
        let context = self.attend(queries, keys, values, mask);
        let context = context.swap_dims(1, 2).reshape([batch * seq, self.heads * self.head_dim]);
        self.o_proj.forward(context, Site { layer: self.layer, module: "o_proj" }, hook)
    }

    /// Scaled dot-product attention. The query heads that share a key head are stacked along the
    /// sequence, so that one matrix product serves the group and keys are never repeated.
    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, mask: &Tensor<4>) -> Tensor<4> {
        let [batch, _, seq, _] = queries.dims();
        let key_count = keys.dims()[2];
        let group = self.heads / self.kv_heads;
        let stacked = queries.reshape([batch, self.kv_heads, group * seq, self.head_dim]);
        let scores = stacked.matmul(keys.swap_dims(2, 3)).mul_scalar((self.head_dim as f64).powf(-0.5));
        let scores: Tensor<5> = scores.reshape([batch, self.kv_heads, group, seq, key_count]);
        let scores = scores + mask.clone().unsqueeze_dim::<5>(1);
        let weights = softmax(scores, 4).reshape([batch, self.kv_heads, group * seq, key_count]);
        weights.matmul(values).reshape([batch, self.heads, seq, self.head_dim])
    }

    pub(super) fn linears(&mut self) -> [(&'static str, &mut Linear); 4] {
        [
            ("q_proj", &mut self.q_proj),
            ("k_proj", &mut self.k_proj),
            ("v_proj", &mut self.v_proj),
            ("o_proj", &mut self.o_proj),
        ]
    }

    pub(super) fn params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        for (name, linear) in self.linears() {
            linear.params(&format!("{prefix}.{name}"), out);
        }
    }
}
