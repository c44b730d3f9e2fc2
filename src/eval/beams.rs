//! Beam search, as transformers does it with a length penalty of 1 and without early stopping: LLM-Adapters
//! generates with four beams.

use std::collections::VecDeque;

use super::{
    NotFinite,
    generate::{GenerateOptions, prefix_of},
    pass::{last_logits, read},
};
use crate::model::{Decoder, KvCache, TokenBatch, log_softmax};

/// Values of f32 that a candidate takes: one for each token behind each beam of a search.
pub(super) const CANDIDATE: usize = size_of::<Candidate>() / size_of::<f32>();

/// A continuation: log-likelihood, beam, token.
type Candidate = (f64, usize, u32);

/// How many prompts are searched together.
pub(super) fn searches(batch_size: usize, beams: usize) -> usize {
    (batch_size / beams).max(1)
}

/// Slots of the cache that a search takes: the prompt's, the beams', and those of the step after.
pub(super) fn slots(beams: usize) -> usize {
    beams.saturating_mul(2).saturating_add(1)
}

/// Continues every prompt by the best of `options.beams` beams; several prompts share a pass.
pub(super) fn search(
    model: &Decoder,
    prompts: &[Vec<u32>],
    options: &GenerateOptions<'_>,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
    on_done: &mut dyn FnMut(usize, &[u32]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let prefix = prefix_of(model, options.prefix, prompts.iter().map(Vec::as_slice));
    let together = searches(options.batch_size, options.beams).min(prompts.len());
    let room = |prompt: &Vec<u32>| options.max_new_tokens.min(model.max_positions() - prompt.len());
    let own = |prompt: &Vec<u32>| (prompt.len() - prefix).max(room(prompt));
    let capacity = prompts.iter().map(own).max().unwrap_or(0).max(prefix);
    // The last slot holds what all prompts begin with.
    let (slots, shared) = (slots(options.beams), together * slots(options.beams));
    let all_slots = shared + usize::from(prefix > 0);
    let mut cache = KvCache::new(&model.config, all_slots, capacity, model.device());
    if prefix > 0 {
        check()?;
        let batch = TokenBatch::cached(&[(shared, &prompts[0][..prefix])], &cache);
        read(model, &batch, &mut cache);
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(prompts[*index].len()));
    let mut queue: VecDeque<usize> = order.into();
    let mut running: Vec<Search> = Vec::new();
    let mut free: Vec<usize> = (0..together).map(|at| at * slots).collect();
    loop {
        while let Some(prompt) = queue.front().copied()
            && let Some(slot) = free.pop()
        {
            queue.pop_front();
            cache.clear(slot);
            if prefix > 0 {
                cache.fork(shared, slot);
            }
            running.push(Search::new(prompt, slot, room(&prompts[prompt])));
        }
        if running.is_empty() {
            return Ok(());
        }
        check()?;
        let mut rows: Vec<(usize, &[u32])> = Vec::new();
        for search in &running {
            match &search.beams[..] {
                [] => rows.push((search.slot, &prompts[search.prompt][prefix..])),
                beams => rows.extend(beams.iter().map(|beam| (beam.slot, std::slice::from_ref(beam.last())))),
            }
        }
        let owners: Vec<usize> = running.iter().map(|search| search.beams.len().max(1)).collect();
        let log_p = log_softmax(last_logits(model, &rows, &mut cache));
        let [_, vocab] = log_p.dims();
        let log_p = log_p.into_data().try_to_vec::<f32>()?;
        let mut log_p = log_p.chunks_exact(vocab);
        let mut next = Vec::new();
        for (mut search, count) in std::mem::take(&mut running).into_iter().zip(owners) {
            let rows: Vec<&[f32]> = log_p.by_ref().take(count).collect();
            if rows.iter().any(|row| row[0].is_nan()) {
                return Err(NotFinite { item: search.prompt }.into());
            }
            search.step(&rows, options, &mut cache);
            match search.is_over() {
                true => {
                    free.push(search.slot);
                    on_done(search.prompt, search.best())?;
                }
                false => next.push(search),
            }
        }
        running = next;
    }
}

/// The beams of one prompt.
struct Search {
    prompt: usize,
    /// The prompt's; those of the beams follow.
    slot: usize,
    /// The most new tokens.
    room: usize,
    /// New tokens of each running beam.
    length: usize,
    /// Best first; none before the prompt was read.
    beams: Vec<Beam>,
    /// Best first, with the mean logarithm of their tokens' probabilities.
    finished: Vec<(f64, Vec<u32>)>,
    /// Once no running beam can get better than the finished ones.
    over: bool,
}

struct Beam {
    slot: usize,
    tokens: Vec<u32>,
    log_likelihood: f64,
}

impl Beam {
    fn last(&self) -> &u32 {
        self.tokens.last().expect("a beam has a token from its first step on")
    }
}

impl Search {
    fn new(prompt: usize, slot: usize, room: usize) -> Self {
        Self { prompt, slot, room, length: 0, beams: Vec::new(), finished: Vec::new(), over: false }
    }

    /// One more token, out of the logarithms of probabilities behind each beam, or behind the prompt.
    fn step(&mut self, log_p: &[&[f32]], options: &GenerateOptions<'_>, cache: &mut KvCache) {
        let width = options.beams;
        let ends = &options.stop_token_ids;
        // Enough to go on with, even if each beam's best tokens all end it.
        let kept = width * (1 + ends.len()).max(2);
        self.length += 1;
        let mut finished = Vec::new();
        let mut going_on = Vec::new();
        for (rank, (score, beam, token)) in self.candidates(log_p, kept).into_iter().enumerate() {
            let mut tokens = self.beams.get(beam).map_or(Vec::new(), |beam| beam.tokens.clone());
            let at_end = ends.contains(&token);
            if !at_end {
                tokens.push(token);
            }
            let ended = at_end || self.length >= self.room || (options.stop)(&tokens);
            if ended && rank < width {
                // An end token counts, though it is not part of the result.
                finished.push((score / self.length as f64, tokens));
            } else if !ended && going_on.len() < width {
                going_on.push((score, beam, tokens));
            }
        }
        if !self.over {
            self.finished.extend(finished);
            self.finished.sort_by(|a, b| b.0.total_cmp(&a.0));
            self.finished.truncate(width);
        }
        // The two halves of the slots take turns.
        let half = self.slot + 1 + (self.length % 2) * width;
        let mut copies = Vec::new();
        let beams = going_on.into_iter().enumerate().map(|(at, (log_likelihood, beam, tokens))| {
            copies.extend(self.beams.get(beam).map(|parent| (parent.slot, half + at)));
            Beam { slot: half + at, tokens, log_likelihood }
        });
        let beams: Vec<Beam> = beams.collect();
        if copies.is_empty() {
            beams.iter().for_each(|beam| cache.fork(self.slot, beam.slot));
        }
        cache.copy(&copies);
        self.beams = beams;
        let best = self.beams.first().map(|beam| beam.log_likelihood / self.length as f64);
        let worst = self.finished.get(width - 1).map(|(score, _)| *score);
        let hopeless = best.zip(worst).is_some_and(|(best, worst)| best <= worst);
        self.over = self.beams.is_empty() || self.length >= self.room || hopeless;
    }

    /// The best continuations of all beams.
    fn candidates(&self, log_p: &[&[f32]], kept: usize) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = Vec::new();
        for (beam, row) in log_p.iter().enumerate() {
            let before = self.beams.get(beam).map_or(0.0, |beam| beam.log_likelihood);
            all.extend(row.iter().zip(0..).map(|(log_p, token)| (before + f64::from(*log_p), beam, token)));
        }
        let order = |a: &Candidate, b: &Candidate| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
        if kept < all.len() {
            all.select_nth_unstable_by(kept, order);
            all.truncate(kept);
        }
        all.sort_unstable_by(order);
        all
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn best(&self) -> &[u32] {
        match (self.finished.first(), self.beams.first()) {
            (Some((_, tokens)), _) => tokens,
            (None, Some(beam)) => &beam.tokens,
            (None, None) => &[],
        }
    }
}
