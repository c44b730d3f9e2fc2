//! One pass of the network, for evaluation.

use burn::tensor::{Int, Tensor, TensorData};

use crate::{
    device::run_on,
    model::{Decoder, KvCache, TokenBatch, Untouched},
};

/// The network up to and including the last norm, nothing masked or dropped.
///
/// # Shapes
/// `[tokens, hidden_size]`.
pub(super) fn read(model: &Decoder, batch: &TokenBatch, cache: &mut KvCache) -> Tensor<2> {
    run_on(model.device(), || model.hidden(batch, Some(cache), &Untouched))
}

/// Logits behind the last token of each row; rows are a slot and its new tokens.
///
/// # Shapes
/// `[rows, vocab_size]`, in f32.
pub(super) fn last_logits(model: &Decoder, rows: &[(usize, &[u32])], cache: &mut KvCache) -> Tensor<2> {
    let batch = TokenBatch::cached(rows, cache);
    let lasts = rows.iter().scan(-1, |last, (_, tokens)| {
        *last += tokens.len() as i32;
        Some(*last)
    });
    let lasts = TensorData::from(&lasts.collect::<Vec<i32>>()[..]);
    let hidden = read(model, &batch, cache);
    model.logits(hidden.select(0, Tensor::<1, Int>::from_data(lasts, model.device())))
}
