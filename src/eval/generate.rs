//! Batched generation with a KV cache. A finished sequence's slot is given to the next prompt at
//! once, and what all prompts begin with is computed once.

use std::{collections::VecDeque, ops::ControlFlow};

use anyhow::ensure;
use burn::tensor::Tensor;

use super::{
    NotFinite, beams,
    pass::{last_logits, read},
    sampling::Sampling,
};
use crate::model::{Decoder, KvCache, TokenBatch};

/// Prompt tokens that go through the network together, at least one prompt. Bounds memory, and how
/// long the sequences that are already growing wait.
pub(super) const PROMPT_TOKENS: usize = 512;

/// How to generate.
#[derive(Clone)]
pub struct GenerateOptions<'a> {
    /// Longest continuation, in tokens.
    pub max_new_tokens: usize,
    /// Sequences decoded together.
    pub batch_size: usize,
    /// How many tokens all prompts begin with, which are computed once; as many as there are if not
    /// given. Who asks for some of a larger set's prompts says what the whole set has: where the common
    /// part ends may change a last bit.
    pub prefix: Option<usize>,
    /// Tokens that end a sequence; they are not part of the result.
    pub stop_token_ids: Vec<u32>,
    /// Asked after each new token, with all of them: whether the sequence ends here.
    pub stop: &'a dyn Fn(&[u32]) -> bool,
    /// The most likely token without.
    pub sampling: Option<Sampling>,
    /// More than one: the best of so many beams, without sampling.
    pub beams: usize,
}

impl Default for GenerateOptions<'_> {
    /// Greedy, to the end of the context.
    fn default() -> Self {
        Self {
            max_new_tokens: usize::MAX,
            batch_size: 16,
            prefix: None,
            stop_token_ids: Vec::new(),
            stop: &|_| false,
            sampling: None,
            beams: 1,
        }
    }
}

/// Continues every prompt. `on_done` gets a prompt's number and its new tokens as soon as they are
/// complete, in an order that is not the prompts'; `check` is asked before every step and its error
/// ends the work.
///
/// # Errors
/// When a prompt is empty or leaves no room in the context, when logits are not finite (the error
/// names the prompt), or when a callback says so.
pub fn generate(
    model: &Decoder,
    prompts: &[Vec<u32>],
    options: &GenerateOptions<'_>,
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
    if options.max_new_tokens == 0 {
        return (0..prompts.len()).try_for_each(|prompt| on_done(prompt, &[]));
    }
    if prompts.is_empty() {
        return Ok(());
    }
    if options.beams > 1 {
        ensure!(options.sampling.is_none(), "beams are not sampled");
        return beams::search(model, prompts, options, check, on_done);
    }
    let mut run = Run::new(model, prompts, options);
    check()?;
    run.read_prefix();
    while run.admit() {
        check()?;
        run.step(on_done)?;
    }
    Ok(())
}

/// How many tokens all sequences begin with. Each keeps one of its own.
pub fn shared_prefix<'s>(model: &Decoder, sequences: impl IntoIterator<Item = &'s [u32]>) -> usize {
    let mut sequences = sequences.into_iter();
    let Some(first) = sequences.next().filter(|_| model.shares_prefixes()) else { return 0 };
    let mut others = 0;
    let common = sequences.fold(first.len() - 1, |common, other| {
        others += 1;
        let same = first.iter().zip(other).take_while(|(a, b)| a == b).count();
        common.min(same).min(other.len() - 1)
    });
    if others == 0 { 0 } else { common }
}

/// What of a common beginning these sequences can share.
pub(super) fn prefix_of<'s>(
    model: &Decoder,
    known: Option<usize>,
    sequences: impl Iterator<Item = &'s [u32]> + Clone,
) -> usize {
    match known {
        Some(known) => sequences.map(|sequence| sequence.len() - 1).fold(known, usize::min),
        None => shared_prefix(model, sequences),
    }
}

/// A sequence that is growing.
struct Active {
    prompt: usize,
    slot: usize,
    new: Vec<u32>,
}

/// The state of a generation.
struct Run<'a> {
    model: &'a Decoder,
    prompts: &'a [Vec<u32>],
    options: &'a GenerateOptions<'a>,
    cache: KvCache,
    /// What every prompt begins with, in the last slot.
    prefix: usize,
    /// Prompts that wait.
    queue: VecDeque<usize>,
    free: Vec<usize>,
    active: Vec<Active>,
}

impl<'a> Run<'a> {
    fn new(model: &'a Decoder, prompts: &'a [Vec<u32>], options: &'a GenerateOptions<'a>) -> Self {
        let prefix = prefix_of(model, options.prefix, prompts.iter().map(Vec::as_slice));
        let slots = options.batch_size.clamp(1, prompts.len());
        let room = |prompt: &Vec<u32>| {
            let new = options.max_new_tokens.min(model.max_positions() - prompt.len());
            prompt.len() - prefix + new
        };
        let capacity = prompts.iter().map(room).max().unwrap_or(0).max(prefix);
        let all_slots = slots + usize::from(prefix > 0);
        // Longest first: what does not fit into memory fails at once, and the last ones to run are
        // short.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(prompts[*index].len()));
        Self {
            model,
            prompts,
            options,
            cache: KvCache::new(&model.config, all_slots, capacity, model.device()),
            prefix,
            queue: order.into(),
            free: (0..slots).rev().collect(),
            active: Vec::new(),
        }
    }

    /// Computes what all prompts begin with.
    fn read_prefix(&mut self) {
        if self.prefix > 0 {
            let prefix = &self.prompts[0][..self.prefix];
            let batch = TokenBatch::cached(&[(self.prefix_slot(), prefix)], &self.cache);
            read(self.model, &batch, &mut self.cache);
        }
    }

    /// Gives free slots to waiting prompts; false when nothing is left to do.
    fn admit(&mut self) -> bool {
        let mut tokens = 0;
        while let (Some(next), Some(_)) = (self.queue.front(), self.free.last()) {
            let own = self.prompts[*next].len() - self.prefix;
            if tokens > 0 && tokens + own > PROMPT_TOKENS {
                break;
            }
            tokens += own;
            if let (Some(prompt), Some(slot)) = (self.queue.pop_front(), self.free.pop()) {
                self.cache.clear(slot);
                if self.prefix > 0 {
                    self.cache.fork(self.prefix_slot(), slot);
                }
                self.active.push(Active { prompt, slot, new: Vec::new() });
            }
        }
        !self.active.is_empty()
    }

    fn prefix_slot(&self) -> usize {
        self.cache.slots() - 1
    }

    /// One pass: new prompts are read, and every sequence gets a token.
    fn step(&mut self, on_done: &mut dyn FnMut(usize, &[u32]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let prompts = self.prompts;
        let rows: Vec<(usize, &[u32])> = self
            .active
            .iter()
            .map(|row| {
                (row.slot, row.new.last().map_or(&prompts[row.prompt][self.prefix..], std::slice::from_ref))
            })
            .collect();
        let logits = last_logits(self.model, &rows, &mut self.cache);
        let next = self.next_tokens(logits)?;
        for (mut row, token) in std::mem::take(&mut self.active).into_iter().zip(next) {
            match self.grow(&mut row, token) {
                ControlFlow::Continue(()) => self.active.push(row),
                ControlFlow::Break(()) => {
                    self.free.push(row.slot);
                    on_done(row.prompt, &row.new)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a token to a sequence, unless it ends it.
    fn grow(&self, row: &mut Active, token: u32) -> ControlFlow<()> {
        if self.options.stop_token_ids.contains(&token) {
            return ControlFlow::Break(());
        }
        row.new.push(token);
        let length = self.prompts[row.prompt].len() + row.new.len();
        let full = row.new.len() >= self.options.max_new_tokens || length >= self.model.max_positions();
        match full || (self.options.stop)(&row.new) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// The next token of each row.
    fn next_tokens(&self, logits: Tensor<2>) -> anyhow::Result<Vec<u32>> {
        // A sum is finite exactly when no logit is NaN or infinite (short of an overflow that only
        // broken weights could cause).
        let sums = logits.clone().sum_dim(1).into_data();
        for (sum, row) in sums.iter::<f32>().zip(&self.active) {
            if !sum.is_finite() {
                return Err(NotFinite { item: row.prompt }.into());
            }
        }
        let Some(sampling) = &self.options.sampling else {
            return Ok(logits.argmax(1).into_data().iter::<i64>().map(|token| token as u32).collect());
        };
        let [_, vocab] = logits.dims();
        let logits = logits.into_data().try_to_vec::<f32>()?;
        let rows = logits.chunks_exact(vocab).zip(&self.active);
        Ok(rows
            .map(|(logits, row)| sampling.draw(logits, &self.prompts[row.prompt], row.new.len()))
            .collect())
    }
}
