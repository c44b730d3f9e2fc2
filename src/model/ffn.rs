//! The gated feed-forward branch, with the hook between its projections.

use burn::tensor::{Tensor, activation::gelu_approximate};

use super::{Activation, ForwardHook, Linear, kernels};

/// `down(hook(act(gate(x)) * up(x)))`. Burn's fused SwiGLU cannot serve: Trans-PEFT masks the
/// product before the down projection.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// Into the branch.
    pub gate_up: GateUpProjections,
    /// Down projection.
    pub down_proj: Linear,
    pub(super) activation: Activation,
    pub(super) layer: usize,
}

/// The projections into the branch.
#[derive(Debug, Clone)]
pub enum GateUpProjections {
    /// Gate and up.
    Split(Box<[Linear; 2]>),
    /// One matrix: the gate's rows, then up's.
    Stacked(Box<Linear>),
}

impl FeedForward {
    /// # Shapes
    /// `[tokens, hidden_size]` in and out.
    pub(super) fn forward(&self, input: Tensor<2>, hook: &dyn ForwardHook) -> Tensor<2> {
        let (gate, up) = match &self.gate_up {
            GateUpProjections::Split(both) => {
                let [gate, up] = &**both;
                (gate.forward(input.clone(), self.layer, hook), up.forward(input, self.layer, hook))
            }
            GateUpProjections::Stacked(one) => {
                let both = one.forward(input, self.layer, hook);
                let inner = both.dims()[1] / 2;
                (both.clone().narrow(1, 0, inner), both.narrow(1, inner, inner))
            }
        };
        let product = match self.activation {
            Activation::Silu => kernels::swiglu(gate, up),
            Activation::GeluTanh => gelu_approximate(gate) * up,
        };
        self.down_proj.forward(hook.ffn_product(self.layer, product), self.layer, hook)
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut linears: Vec<&mut Linear> = match &mut self.gate_up {
            GateUpProjections::Split(both) => both.iter_mut().collect(),
            GateUpProjections::Stacked(one) => vec![one],
        };
        linears.push(&mut self.down_proj);
        linears
    }
}
