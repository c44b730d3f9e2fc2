//! Root-mean-square normalisation (arXiv 1910.07467).

use burn::tensor::Tensor;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Debug, Clone)]
pub(super) struct RmsNorm {
    /// `[hidden_size]`.
    pub(super) weight: Tensor<1>,
    /// Added to the mean square.
    pub(super) eps: f64,
}

impl RmsNorm {
    /// # Shapes
    /// `[tokens, hidden_size]` in and out.
    pub(super) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let mean_square = input.clone().square().mean_dim(1);
        let scale = (mean_square + self.eps).sqrt().recip();
        input * scale * self.weight.clone().unsqueeze()
    }
}
