//! Root-mean-square normalisation (arXiv 1910.07467).

use burn::tensor::Tensor;

use super::{
    ParamMut,
    cast::{to_dtype, to_f32},
    kernels,
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
        let (dtype, shape) = (input.dtype(), input.dims());
        let width = shape[D - 1];
        let weight = to_f32(self.weight.clone());
        let weight = if self.plus_one { weight + 1.0 } else { weight };
        let rows = to_f32(input).reshape([shape.iter().product::<usize>() / width, width]);
        to_dtype(kernels::rms_norm(rows, weight, self.eps as f32).reshape(shape), dtype)
    }
}
