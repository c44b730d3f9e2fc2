//! One pass of the network, for evaluation.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::model::{Decoder, KvCache, TokenBatch, Untouched};

/// The network up to and including the last norm, nothing masked or dropped.
///
/// # Shapes
/// `[tokens, hidden_size]`.
pub(super) fn read(model: &Decoder, batch: &TokenBatch, cache: &mut KvCache) -> Tensor<2> {
    // Some hundred small parallel loops on the CPU: begun on a thread of the pool, none has to be
    // handed over to it first, which would put this thread to sleep each time.
    match *model.device() == Device::flex() {
        true => rayon::scope(|_| model.hidden(batch, Some(cache), &Untouched)),
        false => model.hidden(batch, Some(cache), &Untouched),
    }
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
