//! Runs one evaluation workload and prints what it took and gave, as one JSON line:
//! `cargo bench --bench eval -- MODEL_DIR WORK.json [device=flex] [dtype=f32]`. `bench/peer_eval.py`
//! writes workloads and runs them in transformers; `bench/eval.sh` sets the two side by side, and
//! `scripts/check-eval.py` compares what they give.

#[path = "measure/matrix_peak.rs"]
mod matrix_peak;

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use evergraft::{
    device,
    eval::{Choices, GenerateOptions, Score, generate, log_likelihoods},
    model::{BaseFolder, Decoder},
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
    let weights: usize = base
        .weights
        .names()
        .iter()
        .filter_map(|name| base.weights.shape(name))
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    let (bandwidth, peak) = (bandwidth(), matrix_peak(&device, model.head().dtype()));
    // Each step reads every weight once and makes two operations a weight and sequence.
    let steps = new as f64 / work.batch_size as f64;
    println!(
        "{}",
        json!({
            "device": device_name, "dtype": dtype, "seconds": seconds, "new_tokens": new,
            "tokens_per_s": new as f64 / seconds, "items_per_s": items.len() as f64 / seconds,
            "gb_per_s": bandwidth / 1e9, "matrix_peak_gflop_per_s": peak / 1e9,
            "fraction_of_bandwidth": steps * (weights * dtype.bytes()) as f64 / seconds / bandwidth,
            "fraction_of_peak": 2.0 * (weights * new) as f64 / seconds / peak,
            "tokens": tokens,
            "scores": scores.iter().map(|scores| scores.iter().map(|score| json!([score.log_likelihood, score.is_greedy])).collect()).collect::<Vec<Value>>(),
        })
    );
    Ok(())
}

fn one() -> usize {
    1
}

fn new_tokens(max_new_tokens: usize) -> GenerateOptions<'static> {
    GenerateOptions { max_new_tokens, ..Default::default() }
}

/// Bytes a second that all cores read from memory.
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
