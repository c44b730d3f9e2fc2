//! The SwiGLU feed-forward branch, with the hook between its projections.

use burn::tensor::{Tensor, activation::silu};

use super::{ForwardHook, Linear, ParamMut, Site};

/// `down(hook(silu(gate(x)) * up(x)))`. Burn's fused SwiGLU cannot serve: Trans-PEFT masks the
/// product before the down projection.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// Gate branch.
    pub gate_proj: Linear,
    /// Up branch.
    pub up_proj: Linear,
    /// Down projection.
    pub down_proj: Linear,
    pub(super) layer: usize,
}

impl FeedForward {
    /// # Shapes
    /// `[tokens, hidden_size]` in and out.
    pub(super) fn forward(&self, input: Tensor<2>, hook: &dyn ForwardHook) -> Tensor<2> {
        let site = |module| Site { layer: self.layer, module };
        let gate = silu(self.gate_proj.forward(input.clone(), site("gate_proj"), hook));
        let product = gate * self.up_proj.forward(input, site("up_proj"), hook);
        self.down_proj.forward(hook.ffn_product(self.layer, product), site("down_proj"), hook)
    }

    pub(super) fn linears(&mut self) -> [(&'static str, &mut Linear); 3] {
        [
            ("gate_proj", &mut self.gate_proj),
            ("up_proj", &mut self.up_proj),
            ("down_proj", &mut self.down_proj),
        ]
    }

    pub(super) fn params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        for (name, linear) in self.linears() {
            linear.params(&format!("{prefix}.{name}"), out);
        }
    }
}
