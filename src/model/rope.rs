//! Rotary position embedding (arXiv 2104.09864), in both pair orders that checkpoints use.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::RopePairs;

/// Cosines and sines for the positions of one forward pass.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    /// `[batch, 1, seq, head_dim / 2]`.
    cos: Tensor<4>,
    /// Like `cos`.
    sin: Tensor<4>,
    pairs: RopePairs,
}

/// Tables of cosines and sines up to a largest position.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    cos: Tensor<2>,
    sin: Tensor<2>,
    pairs: RopePairs,
}

impl Rope {
    /// Tables for positions `0..positions`, computed in f32 like transformers does.
    pub(super) fn new(
        head_dim: usize,
        theta: f64,
        positions: usize,
        pairs: RopePairs,
        device: &Device,
    ) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let table = |values| Tensor::from_data(TensorData::new(values, [positions, half]), device);
        Self { cos: table(cos), sin: table(sin), pairs }
    }

    /// Largest number of positions in the tables.
    pub(super) fn positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// The rotation of these positions.
    ///
    /// # Shapes
    /// `positions` is `[batch, seq]`.
    pub(super) fn at(&self, positions: Tensor<2, Int>) -> Rotation {
        let [batch, seq] = positions.dims();
        let half = self.cos.dims()[1];
        let flat: Tensor<1, Int> = positions.reshape([batch * seq]);
        let pick = |table: &Tensor<2>| table.clone().select(0, flat.clone()).reshape([batch, 1, seq, half]);
        Rotation { cos: pick(&self.cos), sin: pick(&self.sin), pairs: self.pairs }
    }
}

impl Rotation {
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
