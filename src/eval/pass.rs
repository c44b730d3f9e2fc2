//! One pass of the network, for evaluation.

use burn::tensor::{Device, Tensor};

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
