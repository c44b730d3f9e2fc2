//! How likely texts are after other texts.

use anyhow::{bail, ensure};
use burn::tensor::{Int, Tensor, TensorData};

use super::NotFinite;
use crate::model::{Decoder, TokenBatch, Untouched, log_softmax};

/// One item: a context and the continuations to score after it (each non-empty). The context and a
/// continuation may be one token longer together than the model's context, since the last token is
/// only predicted.
#[derive(Debug, Clone)]
pub struct Choices {
    /// What stands before; not empty.
    pub context: Vec<u32>,
    /// What is scored.
    pub continuations: Vec<Vec<u32>>,
}

/// How likely a continuation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Sum of ln p over the continuation's tokens.
    pub log_likelihood: f64,
    /// Whether greedy decoding gives it.
    pub is_greedy: bool,
}

/// Scores every continuation. `on_done` gets an item's number and its scores as soon as they are
/// complete; `check` is asked before every pass and its error ends the work.
///
/// # Errors
/// When an item is empty or too long, when logits are not finite, or when a callback says so.
pub fn log_likelihoods(
    model: &Decoder,
    items: &[Choices],
    batch_size: usize,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
    on_done: &mut dyn FnMut(usize, &[Score]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (index, item) in items.iter().enumerate() {
        let mut scores = Vec::with_capacity(item.continuations.len());
        for continuations in item.continuations.chunks(batch_size.max(1)) {
            check()?;
            scores.extend(pass(model, index, &item.context, continuations)?);
        }
        on_done(index, &scores)?;
    }
    Ok(())
}

fn pass(
    model: &Decoder,
    index: usize,
    context: &[u32],
    continuations: &[Vec<u32>],
) -> anyhow::Result<Vec<Score>> {
    ensure!(!context.is_empty(), "item {index} has no context");
    let mut rows = Vec::with_capacity(continuations.len());
    for continuation in continuations {
        let Some((_, fed)) = continuation.split_last() else { bail!("item {index} has an empty choice") };
        let row: Vec<i32> = context.iter().chain(fed).map(|token| *token as i32).collect();
        let (length, most) = (row.len(), model.max_positions());
        ensure!(length <= most, "item {index} has {length} tokens, but the model takes {most}");
        rows.push(row);
    }
    let rows: Vec<&[i32]> = rows.iter().map(Vec::as_slice).collect();
    let batch = TokenBatch::right_padded(&rows, context[0] as i32, model);
    let [_, seq] = batch.dims();
    let hidden = model.hidden(&batch, None, &Untouched);
    continuations
        .iter()
        .enumerate()
        .map(|(row, continuation)| {
            let first = row * seq + context.len() - 1;
            let n = continuation.len();
            let device = model.device();
            let places: Vec<i32> = (first..first + n).map(|place| place as i32).collect();
            let places = Tensor::<1, Int>::from_data(TensorData::new(places, [n]), device);
            let tokens: Vec<i32> = continuation.iter().map(|token| *token as i32).collect();
            let wanted = Tensor::<2, Int>::from_data(TensorData::new(tokens, [n, 1]), device);
            let log_p = log_softmax(model.logits(hidden.clone().select(0, places)));
            let likely = log_p.clone().argmax(1).into_data();
            let log_p = log_p.gather(1, wanted).into_data();
            let log_likelihood: f64 = log_p.iter::<f32>().map(f64::from).sum();
            ensure!(log_likelihood.is_finite(), NotFinite { item: index });
            let is_greedy = likely.iter::<i64>().zip(continuation).all(|(a, b)| a == i64::from(*b));
            Ok(Score { log_likelihood, is_greedy })
        })
        .collect()
}
