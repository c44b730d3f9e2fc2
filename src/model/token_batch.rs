//! Tokens for one forward pass, with their positions and what each may see.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Decoder;

/// Added to the score of a key that must not be seen. Finite, so that a row that sees nothing
/// (left padding) stays free of NaN.
const HIDDEN: f32 = -1.0e9;

/// Tokens for one forward pass, with their positions and what each may see.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch, seq]`.
    pub(super) tokens: Tensor<2, Int>,
    /// `[batch * seq]`, row by row.
    pub(super) positions: Vec<i32>,
    /// Tokens of each row up to now, padding left out.
    pub(super) lengths: Vec<usize>,
    /// Additive, broadcasts to `[batch, 1, seq, keys]`.
    pub(super) mask: Tensor<4>,
    /// The same for layers that look only a window back.
    pub(super) sliding_mask: Option<Tensor<4>>,
}

impl TokenBatch {
    /// Rows padded on the right to the longest with `pad`. Causality alone hides the padding from
    /// every real token.
    pub fn right_padded(rows: &[&[i32]], pad: i32, model: &Decoder) -> Self {
        let (batch, seq) = (rows.len(), rows.iter().map(|row| row.len()).max().unwrap_or(0));
        let pad_row =
            |row: &&[i32]| row.iter().copied().chain(std::iter::repeat(pad)).take(seq).collect::<Vec<i32>>();
        let mask = |window: usize| {
            let sees = |t: usize, key: usize| key <= t && t - key < window;
            let mask = (0..seq * seq).map(|i| if sees(i / seq, i % seq) { 0.0 } else { HIDDEN }).collect();
            Tensor::from_data(TensorData::new::<f32, _>(mask, [1, 1, seq, seq]), model.device())
        };
        Self {
            tokens: int_tensor(rows.iter().flat_map(pad_row).collect(), [batch, seq], model.device()),
            positions: (0..batch).flat_map(|_| 0..seq as i32).collect(),
            lengths: rows.iter().map(|row| row.len()).collect(),
            mask: mask(usize::MAX),
            sliding_mask: model.any_window().map(mask),
        }
    }

    /// New tokens of left-padded sequences. `padding[row]` keys at the front of a row are padding;
    /// `seen` keys are already in the cache.
    pub fn left_padded(
        tokens: Vec<i32>,
        seq: usize,
        padding: &[usize],
        seen: usize,
        model: &Decoder,
    ) -> Self {
        let batch = padding.len();
        let keys = seen + seq;
        let place = |row: usize, t: usize| (seen + t).saturating_sub(padding[row]) as i32;
        let mask = |window: usize| {
            let mut mask = Vec::with_capacity(batch * seq * keys);
            for pad in padding {
                for t in seen..keys {
                    let sees = |key: usize| key <= t && t - key < window && key >= *pad;
                    mask.extend((0..keys).map(|key| if sees(key) { 0.0 } else { HIDDEN }));
                }
            }
            Tensor::from_data(TensorData::new::<f32, _>(mask, [batch, 1, seq, keys]), model.device())
        };
        Self {
            tokens: int_tensor(tokens, [batch, seq], model.device()),
            positions: (0..batch).flat_map(|row| (0..seq).map(move |t| place(row, t))).collect(),
            lengths: padding.iter().map(|pad| keys.saturating_sub(*pad)).collect(),
            mask: mask(usize::MAX),
            sliding_mask: model.any_window().map(mask),
        }
    }

    /// `[batch, seq]`.
    pub fn dims(&self) -> [usize; 2] {
        self.tokens.dims()
    }
}

fn int_tensor(values: Vec<i32>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
