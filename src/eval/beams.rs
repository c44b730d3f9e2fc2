//! Beam search, as transformers does it with a length penalty of 1 and without early stopping: LLM-Adapters
//! generates with four beams.

use std::collections::VecDeque;

use super::{NotFinite, generate::GenerateOptions, pass::last_logits};
use crate::model::{Decoder, KvCache, log_softmax};

/// Continues every prompt by the best of `options.beams` beams; several prompts share a pass.
pub(super) fn search(
    model: &Decoder,
    prompts: &[Vec<u32>],
    options: &GenerateOptions<'_>,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
    on_done: &mut dyn FnMut(usize, &[u32]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let beams = options.beams;
    let together = (options.batch_size / beams).clamp(1, prompts.len().max(1));
    let room = |prompt: &Vec<u32>| options.max_new_tokens.min(model.max_positions() - prompt.len());
    let capacity = prompts.iter().map(|prompt| prompt.len().max(room(prompt))).max().unwrap_or(0);
    // Of each search: the prompt, the beams, and the beams of the step after.
    let slots = 1 + 2 * beams;
    let mut cache = KvCache::new(&model.config, together * slots, capacity, model.device());
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
            running.push(Search::new(prompt, slot, room(&prompts[prompt])));
        }
        if running.is_empty() {
            return Ok(());
        }
        check()?;
        let mut rows: Vec<(usize, &[u32])> = Vec::new();
        for search in &running {
            match &search.beams[..] {
                [] => rows.push((search.slot, &prompts[search.prompt])),
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

    /// The best continuations of all beams: log-likelihood, beam, token.
    fn candidates(&self, log_p: &[&[f32]], kept: usize) -> Vec<(f64, usize, u32)> {
        let mut all: Vec<(f64, usize, u32)> = Vec::new();
        for (beam, row) in log_p.iter().enumerate() {
            let before = self.beams.get(beam).map_or(0.0, |beam| beam.log_likelihood);
            all.extend(row.iter().zip(0..).map(|(log_p, token)| (before + f64::from(*log_p), beam, token)));
        }
        let order = |a: &(f64, usize, u32), b: &(f64, usize, u32)| {
            b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        };
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
