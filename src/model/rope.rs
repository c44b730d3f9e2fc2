//! Rotary position embedding (arXiv 2104.09864), in both pair orders that checkpoints use.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{ModelConfig, RopePairs, RopeScaling, kernels};

/// Cosines and sines for the positions of one forward pass.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    /// `[batch, 1, seq, head_dim / 2]`.
    cos: Tensor<4>,
    /// Like `cos`.
    sin: Tensor<4>,
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

    /// The rotation of these positions. `lengths` are the rows' sequence lengths up to now, padding
    /// left out, so that a row's numbers cannot depend on its neighbours. Angles are computed in f32
    /// and given out in `dtype`.
    ///
    /// # Shapes
    /// `positions` is `[batch * seq]`, row by row.
    pub(super) fn at(&self, positions: &[i32], lengths: &[usize], device: &Device, dtype: DType) -> Rotation {
        let (batch, half) = (lengths.len(), self.head_dim / 2);
        let seq = positions.len() / batch.max(1);
        let mut angles: Vec<f32> = Vec::with_capacity(positions.len() * half);
        for (row, length) in positions.chunks(seq.max(1)).zip(lengths) {
            let longer = matches!(self.scaling, RopeScaling::Dynamic { .. }) && *length > self.trained;
            let own =
                longer.then(|| self.scaling.frequencies(self.head_dim, self.theta, *length, self.trained));
            let frequencies = own.as_ref().unwrap_or(&self.frequencies);
            for position in row {
                angles.extend(frequencies.iter().map(|frequency| *position as f32 * frequency));
            }
        }
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.into_iter().map(f32::sin_cos).unzip();
        let tensor = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [batch, 1, seq, half]), (device, dtype))
        };
        Rotation { cos: tensor(cos), sin: tensor(sin), pairs: self.pairs }
    }
}
impl Rotation {
    /// Rotates queries or keys of a batch that is `[tokens, 1]`.
    ///
    /// # Shapes
    /// `[tokens, heads * head_dim]` in and out.
    pub(super) fn apply_rows(&self, x: Tensor<2>) -> Tensor<2> {
        let [tokens, _, _, half] = self.cos.dims();
        let angles = [&self.cos, &self.sin].map(|angles| angles.clone().reshape([tokens, half]));
        kernels::rotate(x, angles, self.pairs == RopePairs::Interleaved)
    }

    /// Rotates queries or keys.
    ///
    /// # Shapes
    /// `[batch, heads, seq, head_dim]` in and out.
    pub(super) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, seq, head_dim] = x.dims();
        let half = head_dim / 2;
        let (first, second) = match self.pairs {
            RopePairs::Halves => (x.clone().narrow(3, 0, half), x.narrow(3, half, half)),
            RopePairs::Interleaved => {
                let pairs: Tensor<5> = x.reshape([batch, heads, seq, half, 2]);
                let member = |i| pairs.clone().narrow(4, i, 1).reshape([batch, heads, seq, half]);
                (member(0), member(1))
            }
        };
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
        let rotated_second = second * cos + first * sin;
        match self.pairs {
            RopePairs::Halves => Tensor::cat(vec![rotated_first, rotated_second], 3),
            RopePairs::Interleaved => {
                let pair = |t: Tensor<4>| t.reshape([batch, heads, seq, half, 1]);
                Tensor::<5>::cat(vec![pair(rotated_first), pair(rotated_second)], 4)
                    .reshape([batch, heads, seq, head_dim])
            }
        }
    }
}
