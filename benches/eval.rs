//! Runs one evaluation workload and prints what it took and gave, as one JSON line:
//! `cargo bench --bench eval -- MODEL_DIR WORK.json [device=flex] [dtype=f32]`. `bench/peer_eval.py`
//! writes workloads and runs them in transformers; `bench/eval.sh` sets the two side by side, and
//! `scripts/check-eval.py` compares what they give.

#[path = "measure/matrix_peak.rs"]
mod matrix_peak;
#[path = "measure/weights.rs"]
mod weights;

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use evergraft::{
    device,
    eval::{Choices, GenerateOptions, Score, generate, log_likelihoods, shared_prefix},
    model::{BaseFolder, Decoder, ModelConfig},
    params::{DeviceName, Dtype},
};
use matrix_peak::matrix_peak;
use serde::Deserialize;
use serde_json::{Value, json};

/// What to do, in tokens.
#[derive(Deserialize)]
struct Work {
    batch_size: usize,
    /// To continue.
    #[serde(default)]
    prompts: Vec<Vec<u32>>,
    #[serde(default)]
    max_new_tokens: usize,
    #[serde(default)]
    stop_token_ids: Vec<u32>,
    #[serde(default = "one")]
    beams: usize,
    /// To score.
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    context: Vec<u32>,
    continuations: Vec<Vec<u32>>,
}

fn main() -> anyhow::Result<()> {
    // cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [folder, work, options @ ..] = &args[..] else {
        anyhow::bail!("usage: cargo bench --bench eval -- MODEL_DIR WORK.json [key=value ...]")
    };
    let options: HashMap<&str, &str> = options.iter().filter_map(|option| option.split_once('=')).collect();
    let name = |key: &str, default: &str| Value::from(*options.get(key).unwrap_or(&default));
    let device_name: DeviceName = serde_json::from_value(name("device", "flex"))?;
    let dtype: Dtype = serde_json::from_value(name("dtype", "f32"))?;
    let work: Work = serde_json::from_slice(&std::fs::read(work)?)?;
    let device = device::resolve(device_name)?;
    let base = BaseFolder::open(Path::new(folder))?;
    let model = Decoder::load(&base.config, base.weights.as_ref(), &device, dtype)?;
    // Weights that lie in a mapped file come into memory now.
    generate(&model, &[vec![1]], &new_tokens(1), &mut || Ok(()), &mut |_, _| Ok(()))?;

    let mut tokens = vec![Vec::new(); work.prompts.len()];
    let generation = GenerateOptions {
        batch_size: work.batch_size,
        stop_token_ids: work.stop_token_ids,
        beams: work.beams,
        ..new_tokens(work.max_new_tokens)
    };
    let start = Instant::now();
    generate(&model, &work.prompts, &generation, &mut || Ok(()), &mut |index, new| {
        tokens[index] = new.to_vec();
        Ok(())
    })?;
    let items: Vec<Choices> = work
        .items
        .into_iter()
        .map(|item| Choices { context: item.context, continuations: item.continuations })
        .collect();
    let mut scores: Vec<Vec<Score>> = vec![Vec::new(); items.len()];
    log_likelihoods(&model, &items, work.batch_size, None, &mut || Ok(()), &mut |index, found| {
        scores[index] = found.to_vec();
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();

    let new: usize = tokens.iter().map(Vec::len).sum();
    let (bandwidth, peak) = (bandwidth(), matrix_peak(&device, model.head().dtype()));
    let machine = Machine { bandwidth, peak, weight_bytes: dtype.bytes() as f64 };
    let least = machine.to_generate(&base.config, &model, &work.prompts, new, work.batch_size)
        + machine.to_score(&base.config, &model, &items);
    println!(
        "{}",
        json!({
            "device": device_name, "dtype": dtype, "seconds": seconds, "new_tokens": new,
            "tokens_per_s": new as f64 / seconds, "items_per_s": items.len() as f64 / seconds,
            "gb_per_s": bandwidth / 1e9, "matrix_peak_gflop_per_s": peak / 1e9, "least_seconds": least,
            "tokens": tokens,
            "scores": scores.iter().map(|scores| scores.iter().map(|score| json!([score.log_likelihood, score.is_greedy])).collect()).collect::<Vec<Value>>(),
        })
    );
    Ok(())
}

/// What the machine reaches at its best.
struct Machine {
    /// Bytes a second that all cores read from memory.
    bandwidth: f64,
    /// Operations a second of a large matrix product.
    peak: f64,
    weight_bytes: f64,
}

impl Machine {
    /// The least seconds in which prompts can be continued: two operations for each weight that a token
    /// meets, what all prompts begin with once, and every weight read once for each token that a batch grows
    /// by. Attention is left out.
    fn to_generate(
        &self,
        config: &ModelConfig,
        model: &Decoder,
        prompts: &[Vec<u32>],
        new: usize,
        batch_size: usize,
    ) -> f64 {
        let (layers, head) = weights::weights(config);
        let read = distinct(model, prompts.iter().map(Vec::as_slice));
        // A prompt's last token predicts the first new one.
        let (first, grown) = (prompts.len() as f64, new.saturating_sub(prompts.len()) as f64);
        let passes = (grown / batch_size as f64).ceil();
        let prompts = 2.0 * (layers * read + head * first) / self.peak;
        let products = 2.0 * (layers + head) * grown / self.peak;
        prompts + products.max(passes * (layers + head) * self.weight_bytes / self.bandwidth)
    }

    /// The least seconds in which items can be scored: each context read once, and of each continuation all
    /// but the last token.
    fn to_score(&self, config: &ModelConfig, model: &Decoder, items: &[Choices]) -> f64 {
        let (layers, head) = weights::weights(config);
        let contexts = distinct(model, items.iter().map(|item| item.context.as_slice()));
        let later: usize = items.iter().flat_map(|item| &item.continuations).map(|one| one.len() - 1).sum();
        let predicted = (items.len() + later) as f64;
        2.0 * (layers * (contexts + later as f64) + head * predicted) / self.peak
    }
}

/// The tokens of all sequences, with those that all begin with counted once.
fn distinct<'s>(model: &Decoder, sequences: impl Iterator<Item = &'s [u32]> + Clone) -> f64 {
    let prefix = shared_prefix(model, sequences.clone());
    let own: usize = sequences.map(|sequence| sequence.len() - prefix).sum();
    (own + prefix) as f64
}

fn one() -> usize {
    1
}

fn new_tokens(max_new_tokens: usize) -> GenerateOptions<'static> {
    GenerateOptions { max_new_tokens, ..Default::default() }
}

fn bandwidth() -> f64 {
    let block = vec![1.0_f32; 1 << 27];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let once = || {
        let start = Instant::now();
        let sum: f32 = std::thread::scope(|scope| {
            let parts: Vec<_> =
                block.chunks(block.len() / threads).map(|part| scope.spawn(move || sum(part))).collect();
            parts.into_iter().map(|part| part.join().unwrap_or(f32::NAN)).sum()
        });
        assert!(sum > 0.0);
        start.elapsed()
    };
    let best = (0..5).map(|_| once()).min().unwrap_or(Duration::MAX);
    (block.len() * 4) as f64 / best.as_secs_f64()
}

/// In many sums, so that additions do not wait for each other.
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0_f32; 128];
    for chunk in values.as_chunks::<128>().0 {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    sums.iter().sum()
}
