//! Tokens for one forward pass, with their positions and what each may see.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{KvCache, kernels::Places};

/// Tokens for one forward pass: rows one after another, so that no padding is computed. Attention
/// alone knows where rows begin.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// Row by row.
    tokens: Vec<i32>,
    /// Of each token in its row.
    pub(super) positions: Vec<i32>,
    /// For each token, how many tokens its row has up to now.
    pub(super) lengths: Vec<usize>,
    /// New tokens of each row.
    pub(super) rows: Vec<usize>,
    /// Where each row goes on; none without a cache.
    pub(super) places: Option<Arc<Places>>,
}

impl TokenBatch {
    /// Whole rows, without a cache.
    pub fn rows(rows: &[&[i32]]) -> Self {
        Self {
            tokens: rows.concat(),
            positions: rows.iter().flat_map(|row| 0..row.len() as i32).collect(),
            lengths: rows.iter().flat_map(|row| std::iter::repeat_n(row.len(), row.len())).collect(),
            rows: rows.iter().map(|row| row.len()).collect(),
            places: None,
        }
    }

    /// New tokens of sequences that lie in a cache: each row's slot, and its tokens.
    pub fn cached(rows: &[(usize, &[u32])], cache: &KvCache) -> Self {
        let seen = |slot: usize| cache.length(slot);
        let positions = rows.iter().flat_map(|(slot, row)| (seen(*slot)..).take(row.len()));
        Self {
            tokens: rows.iter().flat_map(|(_, row)| row.iter().map(|token| *token as i32)).collect(),
            positions: positions.map(|position| position as i32).collect(),
            lengths: rows
                .iter()
                .flat_map(|(slot, row)| std::iter::repeat_n(seen(*slot) + row.len(), row.len()))
                .collect(),
            rows: rows.iter().map(|(_, row)| row.len()).collect(),
            places: Some(Places::new(rows.iter().map(|(slot, _)| cache.place(*slot)).collect())),
        }
    }

    /// Every token id, row by row.
    pub(super) fn tokens(&self, device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(self.tokens.clone(), [self.tokens.len()]), device)
    }
}
