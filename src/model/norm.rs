//! Root-mean-square normalisation (arXiv 1910.07467).

use burn::tensor::Tensor;

use super::{
    ParamMut,
    cast::{to_dtype, to_f32},
};

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Debug, Clone)]
pub(super) struct RmsNorm {
    /// One number a feature.
    pub(super) weight: Tensor<1>,
    /// Added to the mean square.
    pub(super) eps: f64,
    /// Multiply by one plus the weight, as Gemma does.
    pub(super) plus_one: bool,
}

impl RmsNorm {
    pub(super) fn param(&mut self, prefix: &str, name: &str) -> ParamMut<'_> {
        ParamMut::vector(format!("{prefix}{name}.weight"), &mut self.weight)
    }

    /// Computed in f32 whatever the input's number format.
    ///
    /// # Shapes
    /// `[.., features]` in and out.
    pub(super) fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let dtype = input.dtype();
        let input = to_f32(input);
        let mean_square = input.clone().square().mean_dim(D - 1);
        let scale = (mean_square + self.eps).sqrt().recip();
        let weight = to_f32(self.weight.clone());
        let weight = if self.plus_one { weight + 1.0 } else { weight };
        to_dtype(input * scale * weight.unsqueeze(), dtype)
    }
}
