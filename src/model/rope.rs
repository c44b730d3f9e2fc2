//! Rotary position embedding (arXiv 2104.09864), in both pair orders that checkpoints use.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{ModelConfig, RopePairs, RopeScaling, cast::to_dtype, kernels};

/// Cosines and sines for the positions of one forward pass.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    /// `[tokens, head_dim / 2]`, in f32.
    cos: Tensor<2>,
    /// Like `cos`.
    sin: Tensor<2>,
    pairs: RopePairs,
}

/// Makes rotations. Angles are computed anew for every pass: next to the network that costs
/// nothing, and no table bounds the context.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    scaling: RopeScaling,
    head_dim: usize,
    theta: f64,
    trained: usize,
    pairs: RopePairs,
    /// For sequences that are not longer than those trained on.
    frequencies: Vec<f32>,
}

impl Rope {
    /// The rotation of a model's full-attention layers, or of its sliding ones where they have a
    /// base of their own.
    pub(super) fn new(config: &ModelConfig, theta: f64, scaling: RopeScaling) -> Self {
        let (head_dim, trained) = (config.head_dim, config.max_position_embeddings);
        let frequencies = scaling.frequencies(head_dim, theta, trained, trained);
        Self { scaling, head_dim, theta, trained, pairs: config.rope_pairs, frequencies }
    }

    /// The rotation of these positions. `lengths` are, for each, how many tokens its row has up to
    /// now, so that a row's numbers cannot depend on its neighbours.
    pub(super) fn at(&self, positions: &[i32], lengths: &[usize], device: &Device) -> Rotation {
        let (count, half) = (positions.len(), self.head_dim / 2);
        let mut angles: Vec<f32> = Vec::with_capacity(count * half);
        let mut own: Option<(usize, Vec<f32>)> = None;
        for (position, length) in positions.iter().zip(lengths) {
            let longer = matches!(self.scaling, RopeScaling::Dynamic { .. }) && *length > self.trained;
            if longer && own.as_ref().is_none_or(|(made_for, _)| made_for != length) {
                let made = self.scaling.frequencies(self.head_dim, self.theta, *length, self.trained);
                own = Some((*length, made));
            }
            let own = own.as_ref().filter(|_| longer).map(|(_, frequencies)| frequencies);
            let frequencies = own.unwrap_or(&self.frequencies);
            angles.extend(frequencies.iter().map(|frequency| *position as f32 * frequency));
        }
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.into_iter().map(f32::sin_cos).unzip();
        let tensor = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [count, half]), (device, DType::F32))
        };
        Rotation { cos: tensor(cos), sin: tensor(sin), pairs: self.pairs }
    }
}

impl Rotation {
    /// Rotates queries or keys.
    ///
    /// # Shapes
    /// `[tokens, heads * head_dim]` in and out.
    pub(super) fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let angles = [&self.cos, &self.sin].map(|angles| to_dtype(angles.clone(), x.dtype()));
        kernels::rotate(x, angles, self.pairs == RopePairs::Interleaved)
    }
}
