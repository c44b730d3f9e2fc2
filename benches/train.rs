//! Trains a LoRA adapter for a few steps and prints its speed, as one JSON line. `bench/train.sh`
//! sets it beside transformers and PEFT.
//!
//! `cargo bench --bench train -- MODEL_DIR GSM8K.jsonl [key=value ...]`; keys: `steps`, `batch`,
//! `max_len`, `r`, `pc`, `pi`, `device`, `dtype`.

#[path = "measure/matrix_peak.rs"]
mod matrix_peak;
#[path = "measure/memory.rs"]
mod memory;
#[path = "measure/weights.rs"]
mod weights;

use std::{collections::HashMap, path::Path, time::Instant};

use evergraft::{
    data::TokenSet,
    device,
    model::{BaseFolder, Decoder, ModelConfig},
    params::{DeviceName, Dtype, OptimizerParams, TransPeftParams},
    peft::Adapter,
    train::{Order, Subject, Trainer, Update},
};
use matrix_peak::matrix_peak;
use memory::peak_mib;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Row {
    question: String,
    answer: String,
}

fn main() -> anyhow::Result<()> {
    // cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [folder, rows, options @ ..] = &args[..] else {
        anyhow::bail!("usage: cargo bench --bench train -- MODEL_DIR GSM8K.jsonl [key=value ...]")
    };
    let options: HashMap<&str, &str> = options.iter().filter_map(|option| option.split_once('=')).collect();
    let number = |key: &str, default: f64| -> anyhow::Result<f64> {
        options.get(key).map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let name = |key: &str, default: &str| Value::from(*options.get(key).unwrap_or(&default));
    let (steps, batch) = (number("steps", 8.0)? as usize, number("batch", 8.0)? as usize);
    let device_name: DeviceName = serde_json::from_value(name("device", "auto"))?;
    let dtype: Dtype = serde_json::from_value(name("dtype", "f32"))?;

    let start = Instant::now();
    let device = device::resolve(device_name)?;
    let base = BaseFolder::open(Path::new(folder))?;
    let tokenizer = base.tokenizer.as_ref().ok_or_else(|| anyhow::anyhow!("the model has no tokenizer"))?;
    let mut model = Decoder::load(&base.config, base.weights.as_ref(), &device.clone().autodiff(), dtype)?;
    let adapter = Adapter::new(&serde_json::from_value(json!({
        "r": number("r", 32.0)? as usize, "lora_alpha": 2.0 * number("r", 32.0)?, "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }))?);
    adapter.attach_new(&mut model, 42)?;

    // The first step warms up and does not count.
    let mut tokens = TokenSet::new();
    let text = std::fs::read_to_string(rows)?;
    for line in text.lines().take(batch * (steps + 1)) {
        let row: Row = serde_json::from_str(line)?;
        let prompt = format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{}\n\n### Response:",
            row.question
        );
        let prompt = tokenizer.encode(&prompt, true)?;
        let mut answer = tokenizer.encode(&row.answer, true)?;
        answer.extend(tokenizer.eos_token_id());
        let ids = prompt.iter().chain(&answer).map(|id| *id as i32);
        let labels = prompt.iter().map(|_| -100).chain(answer.iter().map(|id| *id as i32));
        let cut = number("max_len", 256.0)? as usize;
        tokens.push(&ids.take(cut).collect::<Vec<_>>(), &labels.take(cut).collect::<Vec<_>>());
    }
    let params = OptimizerParams {
        learning_rate: 3e-4,
        max_steps: Some(steps + 1),
        per_device_train_batch_size: batch,
        ..Default::default()
    };
    let trans_peft = TransPeftParams { pc: number("pc", 0.0)?, pi: number("pi", 0.0)?, ..Default::default() };
    let trainer = Trainer {
        tokens: &tokens,
        held_out: None,
        params: &params,
        subject: Subject::Adapter { trans_peft, lora_dropout: 0.05 },
        seed: 42,
        checkpoints: None,
    };
    let startup = start.elapsed();
    let mut updates: Vec<(Update, Instant)> = Vec::new();
    trainer.run(&mut model, &mut |update: &Update| {
        updates.push((update.clone(), Instant::now()));
        Ok(())
    })?;
    let (_, warm) = &updates[0];
    let (last, end) = &updates[updates.len() - 1];
    let seconds = (*end - *warm).as_secs_f64();
    let sum =
        |count: fn(&Update) -> usize| updates[1..].iter().map(|(update, _)| count(update)).sum::<usize>();
    let (real, labels) = (sum(|update| update.tokens), sum(|update| update.label_tokens));
    let kept =
        1.0 - sum(|update| update.dropped_ffns) as f64 / (steps * base.config.num_hidden_layers) as f64;
    let flop = operations(&base.config, real as f64, labels as f64, kept);
    let peak = matrix_peak(&device, model.head().dtype());
    let order = Order::new(tokens.rows(), &params, trainer.seed);
    let rows: Vec<Vec<usize>> = (0..=steps).map(|step| order.step(step).concat()).collect();
    println!(
        "{}",
        json!({
            "device": device_name, "dtype": dtype, "steps": steps, "seconds": seconds, "loss": last.loss,
            "startup_s": startup.as_secs_f64(), "first_step_s": (*warm - start).as_secs_f64(),
            "real_tokens_per_s": real as f64 / seconds, "label_tokens_per_s": labels as f64 / seconds,
            "peak_rss_mib": peak_mib(),
            "gflop_per_s": flop / seconds / 1e9, "matrix_peak_gflop_per_s": peak / 1e9,
            "fraction_of_peak": flop / seconds / peak, "kept_ffns": kept, "rows": rows,
        })
    );
    Ok(())
}

/// Multiplications and additions of matrix products: two for each weight and token, forward and
/// once more for the gradient of the input (the base is frozen); the head for label tokens alone, FFNs
/// where they are kept. Attention and the adapter are left out.
fn operations(config: &ModelConfig, tokens: f64, labels: f64, kept: f64) -> f64 {
    let (layers, head) = weights::weights(config);
    let ffns = (3 * config.num_hidden_layers * config.hidden_size * config.intermediate_size) as f64;
    4.0 * ((layers - ffns * (1.0 - kept)) * tokens + head * labels)
}
