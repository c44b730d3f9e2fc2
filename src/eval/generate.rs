//! Batched greedy generation with a KV cache.

use anyhow::{bail, ensure};
use burn::tensor::{Int, Tensor, TensorData};

use crate::model::{Decoder, KvCache, TokenBatch, Untouched};

/// How to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Longest continuation, in tokens.
    pub max_new_tokens: usize,
    /// Sequences decoded together.
    pub batch_size: usize,
    /// Tokens that end a sequence; they are not part of the result.
    pub stop_token_ids: Vec<u32>,
}

/// Continues every prompt greedily. `on_done` gets a prompt's number and its new tokens as soon as
/// they are complete, in an order that is not the prompts'; `check` is asked before every step and
/// its error ends the work.
///
/// # Errors
/// When a prompt is empty or leaves no room in the context, when logits are not finite (the error
/// names the prompt), or when a callback says so.
pub fn generate(
    model: &Decoder,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
    on_done: &mut dyn FnMut(usize, &[u32]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (index, prompt) in prompts.iter().enumerate() {
        ensure!(!prompt.is_empty(), "prompt {index} is empty");
        ensure!(
            prompt.len() < model.max_positions(),
            "prompt {index} has {} tokens, but the model takes {}",
            prompt.len(),
            model.max_positions()
        );
    }
    // Neighbours in length share a batch, so that little is padded. Longest first: a batch that
    // does not fit into memory fails at once.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(prompts[*index].len()));
    for batch in order.chunks(options.batch_size.max(1)) {
        generate_batch(model, prompts, batch, options, check, on_done)?;
    }
    Ok(())
}

/// A sequence that is still growing.
struct Active {
    prompt: usize,
    padding: usize,
    new: Vec<u32>,
}

fn generate_batch(
    model: &Decoder,
    prompts: &[Vec<u32>],
    batch: &[usize],
    options: &GenerateOptions,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
    on_done: &mut dyn FnMut(usize, &[u32]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let device = model.device();
    let longest = batch.iter().map(|index| prompts[*index].len()).max().unwrap_or(0);
    // Each row ends where its own context does, so that its text cannot depend on its neighbours;
    // padding takes room in the cache, not in the context.
    let room = |index: usize| options.max_new_tokens.min(model.max_positions() - prompts[index].len());
    let capacity = longest + batch.iter().map(|index| room(*index)).max().unwrap_or(0);
    let mut cache = KvCache::new(&model.config, batch.len(), capacity, device, model.dtype());
    let mut active: Vec<Active> = batch
        .iter()
        .map(|index| Active { prompt: *index, padding: longest - prompts[*index].len(), new: Vec::new() })
        .collect();
    let pad_left = |row: &Active| {
        let prompt = &prompts[row.prompt];
        let fill = std::iter::repeat_n(prompt[0] as i32, row.padding);
        fill.chain(prompt.iter().map(|token| *token as i32)).collect::<Vec<_>>()
    };
    let mut tokens: Vec<i32> = active.iter().flat_map(pad_left).collect();
    let mut seq = longest;
    if options.max_new_tokens == 0 {
        return active.iter().try_for_each(|row| on_done(row.prompt, &[]));
    }
    loop {
        check()?;
        let padding: Vec<usize> = active.iter().map(|row| row.padding).collect();
        let input = TokenBatch::left_padded(tokens, seq, &padding, cache.length(), model);
        let hidden = model.hidden(&input, Some(&mut cache), &Untouched);
        let last: Vec<i32> = (0..active.len()).map(|row| ((row + 1) * seq - 1) as i32).collect();
        let last = Tensor::<1, Int>::from_data(TensorData::new(last, [active.len()]), device);
        let next = next_tokens(model.logits(hidden.select(0, last)), &active)?;
        let mut kept = Vec::with_capacity(active.len());
        let mut still = Vec::with_capacity(active.len());
        tokens = Vec::with_capacity(active.len());
        for (row, (mut sequence, token)) in active.into_iter().zip(next).enumerate() {
            let stopped = options.stop_token_ids.contains(&token);
            if !stopped {
                sequence.new.push(token);
            }
            if stopped || sequence.new.len() >= room(sequence.prompt) {
                on_done(sequence.prompt, &sequence.new)?;
            } else {
                kept.push(row as i32);
                tokens.push(token as i32);
                still.push(sequence);
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        if still.len() < padding.len() {
            cache.keep(&Tensor::from_data(TensorData::new(kept, [still.len()]), device));
        }
        active = still;
        seq = 1;
    }
}

/// The most likely token of each row.
fn next_tokens(logits: Tensor<2>, active: &[Active]) -> anyhow::Result<Vec<u32>> {
    // A sum is finite exactly when no logit is NaN or infinite (short of an overflow that only
    // broken weights could cause).
    let sums = logits.clone().sum_dim(1).into_data();
    for (sum, row) in sums.iter::<f32>().zip(active) {
        if !sum.is_finite() {
            bail!(
                "the model's logits for prompt {} are not finite after {} new tokens",
                row.prompt,
                row.new.len()
            );
        }
    }
    Ok(logits.argmax(1).into_data().iter::<i64>().map(|token| token as u32).collect())
}
