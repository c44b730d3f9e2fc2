//! Log-likelihoods of continuations. An item's context goes through the network once, whatever the
//! number of its choices, and what all contexts begin with once for all of them.

use anyhow::ensure;
use burn::tensor::{Int, Tensor, TensorData};

use super::{NotFinite, generate::prefix_of, pass::read};
use crate::model::{Decoder, KvCache, TokenBatch, log_softmax};

/// Positions whose logits exist at the same time. Bounds memory to `CHUNK * vocab_size`.
pub(super) const CHUNK: usize = 256;

/// Tokens that go through the network together, at least those of one row. Bounds memory.
pub(super) const TOKENS: usize = 4096;

/// A context, and what may follow it.
#[derive(Debug, Clone)]
pub struct Choices {
    /// At least one token.
    pub context: Vec<u32>,
    /// At least one token each.
    pub continuations: Vec<Vec<u32>>,
}

/// What the model makes of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Of the whole continuation, in nats.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the most likely one.
    pub is_greedy: bool,
}

/// Scores every item's continuations; at most `batch_size` contexts, and as many continuations, go through the
/// network together. `prefix` is as in [`super::GenerateOptions`]. `on_done` gets an item's number and its scores,
/// in an order that is not the items'; `check` is asked before every pass and its error ends the work.
///
/// # Errors
/// When a context or a continuation is empty or the two are longer than the model takes, when logits
/// are not finite (the error names the item), or when a callback says so.
pub fn log_likelihoods(
    model: &Decoder,
    items: &[Choices],
    batch_size: usize,
    prefix: Option<usize>,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
    on_done: &mut dyn FnMut(usize, &[Score]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (index, item) in items.iter().enumerate() {
        ensure!(!item.context.is_empty(), "item {index} has an empty context");
        ensure!(item.continuations.iter().all(|c| !c.is_empty()), "item {index} has an empty continuation");
        // The last token of a continuation is only predicted, never read.
        let length = item.context.len() + longest(item).saturating_sub(1);
        ensure!(
            length <= model.max_positions(),
            "item {index} has {length} tokens, but the model takes {}",
            model.max_positions()
        );
    }
    let contexts = || items.iter().map(|item| item.context.as_slice());
    let prefix = prefix_of(model, prefix, contexts());
    // Longest first: what does not fit into memory fails at once.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(items[*index].context.len()));
    let batch_size = batch_size.max(1);
    let groups = passes(order, batch_size, |index| items[*index].context.len() - prefix);
    let slots = groups.iter().map(|group| {
        let continuations: usize = group.iter().map(|index| items[*index].continuations.len()).sum();
        group.len() + continuations.min(batch_size)
    });
    let capacity = items.iter().map(|item| (item.context.len() - prefix).max(longest(item))).max();
    let (slots, capacity) = (1 + slots.max().unwrap_or(0), capacity.unwrap_or(0).max(prefix));
    let mut cache = KvCache::new(&model.config, slots, capacity, model.device());
    if prefix > 0 {
        check()?;
        let batch = TokenBatch::cached(&[(0, &items[0].context[..prefix])], &cache);
        read(model, &batch, &mut cache);
    }
    for group in groups {
        let group: Vec<(usize, &Choices)> = group.into_iter().map(|index| (index, &items[index])).collect();
        check()?;
        let scores = score(model, &mut cache, prefix, &group, batch_size, check)?;
        for (scores, (index, _)) in scores.iter().zip(&group) {
            on_done(*index, scores)?;
        }
    }
    Ok(())
}

fn longest(item: &Choices) -> usize {
    item.continuations.iter().map(Vec::len).max().unwrap_or(0)
}

/// Divides rows that are to be read, in their order, into passes of at most `most` rows and [`TOKENS`] tokens, yet
/// at least one row each.
fn passes<T>(rows: impl IntoIterator<Item = T>, most: usize, tokens: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut passes: Vec<Vec<T>> = Vec::new();
    let mut sum = 0;
    for row in rows {
        let own = tokens(&row);
        sum += own;
        match passes.last_mut() {
            Some(pass) if pass.len() < most && sum <= TOKENS => pass.push(row),
            _ => {
                passes.push(vec![row]);
                sum = own;
            }
        }
    }
    passes
}

/// One token that a pass predicts.
struct Wanted {
    /// The row of the hidden states that predicts it.
    position: i32,
    token: u32,
    /// The item's place in its group, and the continuation.
    of: (usize, usize),
}

/// The scores of a group of items. Slot 0 holds what all contexts begin with.
fn score(
    model: &Decoder,
    cache: &mut KvCache,
    prefix: usize,
    group: &[(usize, &Choices)],
    batch_size: usize,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Vec<Score>>> {
    let nothing = Score { log_likelihood: 0.0, is_greedy: true };
    let mut scores: Vec<Vec<Score>> =
        group.iter().map(|(_, item)| vec![nothing; item.continuations.len()]).collect();
    let contexts: Vec<(usize, &[u32])> =
        group.iter().enumerate().map(|(place, (_, item))| (1 + place, &item.context[prefix..])).collect();
    for (slot, _) in &contexts {
        cache.clear(*slot);
        if prefix > 0 {
            cache.fork(0, *slot);
        }
    }
    let mut wanted = Vec::new();
    let mut position = -1;
    for (place, (_, item)) in group.iter().enumerate() {
        position += (item.context.len() - prefix) as i32;
        let firsts = item.continuations.iter().enumerate();
        wanted.extend(firsts.map(|(choice, tokens)| Wanted {
            position,
            token: tokens[0],
            of: (place, choice),
        }));
    }
    pass(model, cache, &contexts, &wanted, group, &mut scores)?;

    // What is read of each continuation: all but its last token, which is only predicted.
    let mut continuations: Vec<((usize, usize), &[u32])> = Vec::new();
    for (place, (_, item)) in group.iter().enumerate() {
        let of_item = item.continuations.iter().enumerate();
        continuations.extend(of_item.map(|(choice, tokens)| ((place, choice), &tokens[..])));
    }
    continuations.retain(|(_, tokens)| tokens.len() > 1);
    for part in passes(continuations, batch_size, |(_, tokens)| tokens.len() - 1) {
        let mut rows: Vec<(usize, &[u32])> = Vec::new();
        let mut wanted = Vec::new();
        let mut position = 0;
        for (of, tokens) in part {
            let slot = 1 + group.len() + rows.len();
            cache.fork(1 + of.0, slot);
            rows.push((slot, &tokens[..tokens.len() - 1]));
            let predicted = tokens[1..].iter().zip(position..);
            wanted.extend(predicted.map(|(token, position)| Wanted { position, token: *token, of }));
            position += tokens.len() as i32 - 1;
        }
        check()?;
        pass(model, cache, &rows, &wanted, group, &mut scores)?;
    }
    Ok(scores)
}

/// Reads some rows and adds what they say of the wanted tokens to the scores.
fn pass(
    model: &Decoder,
    cache: &mut KvCache,
    rows: &[(usize, &[u32])],
    wanted: &[Wanted],
    group: &[(usize, &Choices)],
    scores: &mut [Vec<Score>],
) -> anyhow::Result<()> {
    let device = model.device();
    let batch = TokenBatch::cached(rows, cache);
    let hidden = read(model, &batch, cache);
    for wanted in wanted.chunks(CHUNK) {
        let column = |values: Vec<i32>| Tensor::<1, Int>::from_data(TensorData::from(&values[..]), device);
        let positions = column(wanted.iter().map(|wanted| wanted.position).collect());
        let tokens = column(wanted.iter().map(|wanted| wanted.token as i32).collect());
        let log_p = log_softmax(model.logits(hidden.clone().select(0, positions)));
        let best = log_p.clone().argmax(1).into_data();
        let likely = log_p.gather(1, tokens.unsqueeze_dim(1)).into_data();
        let found = likely.iter::<f32>().zip(best.iter::<i64>());
        for (wanted, (log_p, best)) in wanted.iter().zip(found) {
            let (place, choice) = wanted.of;
            if !log_p.is_finite() {
                return Err(NotFinite { item: group[place].0 }.into());
            }
            let score = &mut scores[place][choice];
            score.log_likelihood += f64::from(log_p);
            score.is_greedy &= best == i64::from(wanted.token);
        }
    }
    Ok(())
}
