//! A bottleneck adapter on a branch of a decoder layer.

use burn::tensor::{
    Tensor,
    activation::{relu, silu},
};

use super::{
    ForwardHook, ParamMut, Site,
    cast::{to_dtype, to_f32},
    kernels,
};
use crate::params::NonLinearity;

/// `s * (act(hook(x) D^T + d) U^T + u)` (arXiv 1902.00751).
#[derive(Debug, Clone)]
pub struct Bottleneck {
    /// `self_attn.adapter` or `mlp.adapter`.
    pub name: &'static str,
    /// `[size, hidden_size]`.
    pub down: Tensor<2>,
    /// `[size]`.
    pub down_bias: Tensor<1>,
    /// `[hidden_size, size]`.
    pub up: Tensor<2>,
    /// `[hidden_size]`.
    pub up_bias: Tensor<1>,
    /// Between the two.
    pub non_linearity: NonLinearity,
    /// Factor of the output.
    pub scaling: f64,
    /// Takes the branch's input instead of its output.
    pub parallel: bool,
}

impl Bottleneck {
    /// What the adapter adds to its branch.
    ///
    /// # Shapes
    /// `[tokens, hidden_size]` in and out.
    pub(super) fn forward(&self, input: Tensor<2>, layer: usize, hook: &dyn ForwardHook) -> Tensor<2> {
        let dtype = input.dtype();
        let input = to_f32(input);
        let input = match hook.adapter_dropout(Site { layer, module: self.name }) {
            Some(dropout) => dropout.apply(input),
            None => input,
        };
        let low =
            kernels::linear(input, self.down.clone(), hook.products()) + self.down_bias.clone().unsqueeze();
        let low = match self.non_linearity {
            NonLinearity::Relu => relu(low),
            NonLinearity::Silu => silu(low),
            NonLinearity::Tanh => low.tanh(),
        };
        let update =
            kernels::linear(low, self.up.clone(), hook.products()) + self.up_bias.clone().unsqueeze();
        to_dtype(update.mul_scalar(self.scaling), dtype)
    }

    pub(super) fn params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        let name = |part: &str| format!("{prefix}{}.{part}", self.name);
        let names = ["down.weight", "down.bias", "up.weight", "up.bias"].map(name);
        let [down, down_bias, up, up_bias] = names;
        out.push(ParamMut::matrix(down, &mut self.down));
        out.push(ParamMut::vector(down_bias, &mut self.down_bias));
        out.push(ParamMut::matrix(up, &mut self.up));
        out.push(ParamMut::vector(up_bias, &mut self.up_bias));
    }
}
