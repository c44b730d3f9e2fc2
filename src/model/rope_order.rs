//! Reorders q and k rows from interleaved rotation pairs to halves, the order of Hugging Face
//! folders. A head's output row `2i + j` becomes row `j * d/2 + i`.

use anyhow::ensure;

use super::{
    config::{ModelConfig, RopePairs},
    weights::WeightSource,
};

/// Another source's weights with q and k in the order of Hugging Face folders.
pub struct HalvesOrder {
    inner: Box<dyn WeightSource>,
    config: ModelConfig,
}

impl HalvesOrder {
    /// Wraps weights of a model with this configuration, and returns the configuration they have
    /// afterwards. Weights that are in that order already stay as they are.
    pub fn wrap(
        config: &ModelConfig,
        weights: Box<dyn WeightSource>,
    ) -> (ModelConfig, Box<dyn WeightSource>) {
        let halves = ModelConfig { rope_pairs: RopePairs::Halves, ..config.clone() };
        match config.rope_pairs {
            RopePairs::Halves => (halves, weights),
            RopePairs::Interleaved => (halves, Box::new(Self { inner: weights, config: config.clone() })),
        }
    }
}

impl WeightSource for HalvesOrder {
    fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.inner.shape(name)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let values = self.inner.load(name)?;
        let heads = if name.contains(".self_attn.q_proj.") {
            self.config.num_attention_heads
        } else if name.contains(".self_attn.k_proj.") {
            self.config.num_key_value_heads
        } else {
            return Ok(values);
        };
        let rows = heads * self.config.head_dim;
        ensure!(
            values.len().is_multiple_of(rows),
            "tensor `{name}` has {} values, which are not rows of {heads} heads",
            values.len()
        );
        Ok(to_halves(&values, heads, self.config.head_dim))
    }
}

/// Reorders the rows of a `[heads * head_dim, columns]` matrix (or a bias: one column).
fn to_halves(values: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let columns = values.len() / (heads * head_dim);
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for j in 0..2 {
            for i in 0..half {
                let row = head * head_dim + 2 * i + j;
                out.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_part_into_halves_head_by_head() {
        // two heads of width 4, one column
        let bias: Vec<f32> = vec![0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        assert_eq!(to_halves(&bias, 2, 4), [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0]);
        // one head, two columns
        let matrix: Vec<f32> = vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5];
        assert_eq!(to_halves(&matrix, 1, 4), [0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5]);
    }
}
