//! Tokens for one forward pass, with their positions and what each may see.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Decoder;

/// Added to the score of a key that must not be seen. Finite, so that a row that sees nothing
/// (left padding) stays free of NaN.
const HIDDEN: f32 = -1.0e9;

/// Tokens for one forward pass, with their positions and what each may see.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// Row by row.
    tokens: Vec<i32>,
    /// `[batch, seq]`.
    dims: [usize; 2],
    /// `[batch * seq]`, row by row.
    pub(super) positions: Vec<i32>,
    /// Tokens of each row up to now, padding left out.
    pub(super) lengths: Vec<usize>,
    view: View,
}

/// What tokens may see.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one a batch")]
enum View {
    /// Additive, broadcast to `[batch, 1, seq, keys]`; the second for layers that look only a
    /// window back.
    Masks(Tensor<4>, Option<Tensor<4>>),
    /// Those before them in their own row; how many tokens each row has.
    Rows(Vec<usize>),
}

/// What tokens may see in one layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sight<'b> {
    /// Additive, broadcasts to `[batch, 1, seq, keys]`.
    Mask(&'b Tensor<4>),
    /// Those before them in their own row, at most a window back.
    Rows { lengths: &'b [usize], window: Option<usize> },
}

impl TokenBatch {
    /// Rows one after another, so that no padding is computed: the batch is `[tokens, 1]`, and
    /// attention alone knows where rows begin. Without a cache.
    pub fn rows(rows: &[&[i32]]) -> Self {
        let tokens = rows.concat();
        let count = tokens.len();
        Self {
            tokens,
            dims: [count, 1],
            positions: rows.iter().flat_map(|row| 0..row.len() as i32).collect(),
            lengths: rows.iter().flat_map(|row| std::iter::repeat_n(row.len(), row.len())).collect(),
            view: View::Rows(rows.iter().map(|row| row.len()).collect()),
        }
    }

    /// What the tokens may see in a layer that looks `window` back.
    pub(super) fn sight(&self, window: Option<usize>) -> Sight<'_> {
        match &self.view {
            View::Masks(_, Some(sliding)) if window.is_some() => Sight::Mask(sliding),
            View::Masks(full, _) => Sight::Mask(full),
            View::Rows(lengths) => Sight::Rows { lengths, window },
        }
    }

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
            tokens: rows.iter().flat_map(pad_row).collect(),
            dims: [batch, seq],
            positions: (0..batch).flat_map(|_| 0..seq as i32).collect(),
            lengths: rows.iter().map(|row| row.len()).collect(),
            view: View::Masks(mask(usize::MAX), model.any_window().map(mask)),
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
            tokens,
            dims: [batch, seq],
            positions: (0..batch).flat_map(|row| (0..seq).map(move |t| place(row, t))).collect(),
            lengths: padding.iter().map(|pad| keys.saturating_sub(*pad)).collect(),
            view: View::Masks(mask(usize::MAX), model.any_window().map(mask)),
        }
    }

    /// Every token id, row by row.
    pub(super) fn tokens(&self, device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(self.tokens.clone(), [self.tokens.len()]), device)
    }

    /// `[batch, seq]`.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }
}
