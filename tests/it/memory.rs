//! What number formats and memory maps cost and change.

use std::{path::Path, process::Command};

use burn::tensor::{DType, Device};
use evergraft::{
    data::TokenSet,
    eval,
    model::{
        BaseFolder, Decoder, KvCache, ModelConfig, TokenBatch, Untouched, WeightSource, expected_tensors,
        parameter_count, write_model,
    },
    params::{Dtype, OptimizerParams, TransPeftParams, shipped_task},
    peft::Adapter,
    train::{self, Subject, Trainer, Update},
};
use serde_json::json;

use crate::devices::on_every_device;

fn load(name: &str, device: &Device, dtype: Dtype) -> Decoder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    let base = BaseFolder::open(&folder).unwrap();
    Decoder::load(&base.config, base.weights.as_ref(), device, dtype).unwrap()
}

const PROMPT: [u32; 12] = [5, 9, 23, 40, 7, 11, 3, 60, 2, 17, 33, 8];

/// Logits of a prompt that is read in two parts through the cache.
fn logits(model: &Decoder) -> Vec<f32> {
    let mut cache = KvCache::new(&model.config, 1, PROMPT.len(), model.device());
    let mut all = Vec::new();
    for part in PROMPT.chunks(8) {
        let batch = TokenBatch::cached(&[(0, part)], &cache);
        let logits = model.logits(model.hidden(&batch, Some(&mut cache), &Untouched));
        all.extend(logits.into_data().try_to_vec::<f32>().unwrap());
    }
    all
}

#[test]
fn half_precision_computes_nearly_the_same() {
    on_every_device(half_precision_on);
}

fn half_precision_on(device: &Device) {
    for name in
        ["llama", "llama-llama3", "mistral", "qwen2", "qwen3", "internlm2", "gemma2", "gemma3", "phi3"]
    {
        let exact = logits(&load(name, device, Dtype::F32));
        let scale = exact.iter().fold(0_f32, |most, x| most.max(x.abs()));
        // Half the distance between two neighbours, relative: 2^-9 and 2^-12; errors add up over layers.
        for (dtype, tolerance) in [(Dtype::Bf16, 6e-2), (Dtype::F16, 6e-3)] {
            let model = load(name, device, dtype);
            let rounded = logits(&model);
            let furthest = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max);
            println!("{name} {dtype:?}: {:.1e} of the largest logit", furthest / scale);
            assert!(
                furthest > 0.0 && furthest < tolerance * scale,
                "{name} {dtype:?}: {furthest} of {scale}"
            );
        }
    }
}

#[test]
fn an_adapter_on_a_bf16_base_stays_f32_and_learns_the_same() {
    on_every_device(adapter_on_bf16);
}

fn adapter_on_bf16(device: &Device) {
    let params = OptimizerParams { max_steps: Some(4), per_device_train_batch_size: 2, ..Default::default() };
    let mut tokens = TokenSet::new();
    for row in 0..8 {
        let ids = PROMPT.map(|token| (token as i32 + row) % 60);
        tokens.push(&ids, &ids);
    }
    let adapter = Adapter::new(&serde_json::from_value(json!({"use_dora": true, "bias": "all"})).unwrap());
    let losses = |dtype| {
        let mut model = load("qwen2", &device.clone().autodiff(), dtype);
        adapter.attach_new(&mut model, 1).unwrap();
        let trainer = Trainer {
            tokens: &tokens,
            held_out: None,
            checkpoints: None,
            params: &params,
            subject: Subject::Adapter {
                trans_peft: TransPeftParams { pi: 0.2, ..Default::default() },
                lora_dropout: 0.1,
            },
            seed: 1,
        };
        let mut losses = Vec::new();
        trainer
            .run(&mut model, &mut |update: &Update| {
                losses.push(update.loss);
                Ok(())
            })
            .unwrap();
        assert!(model.adapter_params().iter().all(|param| param.value().dtype() == DType::F32));
        losses
    };
    for (exact, rounded) in losses(Dtype::F32).iter().zip(losses(Dtype::Bf16)) {
        assert!((exact - rounded).abs() < 1e-2 * exact && *exact != rounded, "{exact} {rounded}");
    }
}

/// Any weights: only their size matters.
struct Constant(ModelConfig);

impl WeightSource for Constant {
    fn names(&self) -> Vec<String> {
        expected_tensors(&self.0).into_iter().map(|(name, _)| name).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        expected_tensors(&self.0).into_iter().find(|(other, _)| other == name).map(|(_, shape)| shape)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        Ok(vec![0.01; self.shape(name).unwrap().iter().product()])
    }
}

/// Set in the child process that [`loading_peaks_below_1_3_times_the_weights`] measures.
const CHILD: &str = "EVERGRAFT_TEST_LOADS";

/// Highest resident memory of this process, mapped files included.
#[cfg(target_os = "linux")]
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn loading_peaks_below_1_3_times_the_weights() {
    if let Ok(request) = std::env::var(CHILD) {
        let [folder, stored, computed] = request.split('|').collect::<Vec<_>>()[..] else { unreachable!() };
        let dtype: Dtype = serde_json::from_value(json!(computed)).unwrap();
        let base = BaseFolder::open(Path::new(folder)).unwrap();
        let before = peak_bytes();
        let model = Decoder::load(&base.config, base.weights.as_ref(), &Device::flex(), dtype).unwrap();
        if stored == computed {
            // Mapped weights come into memory when they are first read.
            let mut cache = KvCache::new(&base.config, 1, 1, model.device());
            let batch = TokenBatch::cached(&[(0, &[1])], &cache);
            model.logits(model.hidden(&batch, Some(&mut cache), &Untouched)).sum().into_scalar::<f32>();
        }
        println!("grew by {}", peak_bytes() - before);
        return;
    }
    let config = json!({
        "model_type": "llama", "vocab_size": 2000, "hidden_size": 512, "intermediate_size": 2048,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8,
        "tie_word_embeddings": true
    });
    let config = ModelConfig::from_json(&config).unwrap();
    let parameters = parameter_count(&config);
    for (stored, computed, width) in
        [("f32", "f32", 4), ("bf16", "bf16", 2), ("bf16", "f32", 4), ("f32", "bf16", 2)]
    {
        let folder = tempfile::tempdir().unwrap();
        let dtype: Dtype = serde_json::from_value(json!(stored)).unwrap();
        write_model(folder.path(), &config, &Constant(config.clone()), dtype).unwrap();
        let request = format!("{}|{stored}|{computed}", folder.path().display());
        let grew = growth_in_child("memory::loading_peaks_below_1_3_times_the_weights", &request);
        let size = parameters * width;
        println!("{stored} on disk, {computed} in memory: {:.2} of the weights", grew as f64 / size as f64);
        assert!(grew * 10 < size * 13, "{stored} as {computed}: {grew} for {size} bytes of weights");
    }
}

#[test]
fn estimates_of_absurd_numbers_do_not_overflow() {
    let config = json!({
        "model_type": "llama", "vocab_size": 2000, "hidden_size": 128, "intermediate_size": 384,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2
    });
    let config = ModelConfig::from_json(&config).unwrap();
    for rows in [1 << 60, usize::MAX] {
        assert_eq!(train::pass_bytes(&config, rows, usize::MAX, 0, false), u64::MAX);
        let mut beams = shipped_task("gsm8k").unwrap().clone();
        (beams.generation_kwargs.max_gen_toks, beams.generation_kwargs.num_beams) = (usize::MAX, 4);
        for task in [&beams, shipped_task("gsm8k").unwrap(), shipped_task("arc_e_choices").unwrap()] {
            assert_eq!(eval::pass_bytes(&config, task, rows, true), u64::MAX);
        }
    }
    assert_eq!(train::state_bytes(u64::MAX), u64::MAX);
}

#[cfg(target_os = "linux")]
#[test]
fn training_takes_about_what_plan_says() {
    const ROWS: usize = 4;
    let config = json!({
        "model_type": "llama", "vocab_size": 2000, "hidden_size": 128, "intermediate_size": 384,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
        "tie_word_embeddings": true
    });
    let config = ModelConfig::from_json(&config).unwrap();
    let adapter = Adapter::new(&serde_json::from_value(json!({"r": 8})).unwrap());
    if let Ok(request) = std::env::var(CHILD) {
        let [length, lora_dropout, recomputed] = request.split('|').collect::<Vec<_>>()[..] else {
            unreachable!()
        };
        let (length, lora_dropout): (usize, f64) = (length.parse().unwrap(), lora_dropout.parse().unwrap());
        let mut tokens = TokenSet::new();
        for row in 0..ROWS {
            let ids: Vec<i32> = (0..length).map(|at| ((at * 7 + row * 31) % 2000) as i32).collect();
            tokens.push(&ids, &ids);
        }
        let params = OptimizerParams {
            max_steps: Some(2),
            per_device_train_batch_size: ROWS,
            gradient_checkpointing: recomputed == "true",
            ..Default::default()
        };
        let before = peak_bytes();
        let device = Device::flex().autodiff();
        let mut model = Decoder::load(&config, &Constant(config.clone()), &device, Dtype::F32).unwrap();
        adapter.attach_new(&mut model, 1).unwrap();
        let subject = Subject::Adapter { trans_peft: TransPeftParams::default(), lora_dropout };
        let trainer =
            Trainer { tokens: &tokens, held_out: None, params: &params, subject, seed: 1, checkpoints: None };
        trainer.run(&mut model, &mut |_: &Update| Ok(())).unwrap();
        println!("grew by {}", peak_bytes() - before);
        return;
    }
    for (length, lora_dropout, recomputed) in
        [(128, 0.0, false), (128, 0.1, false), (800, 0.0, false), (800, 0.0, true)]
    {
        let dropped = if lora_dropout > 0.0 { adapter.dropped_values(&config).unwrap() } else { 0 };
        let estimate = 4 * parameter_count(&config)
            + train::state_bytes(adapter.parameter_count(&config).unwrap())
            + train::pass_bytes(&config, ROWS, length, dropped, recomputed);
        let request = format!("{length}|{lora_dropout}|{recomputed}");
        let grew = growth_in_child("memory::training_takes_about_what_plan_says", &request);
        let ratio = grew as f64 / estimate as f64;
        println!(
            "{length} tokens, dropout {lora_dropout}, checkpointing {recomputed}: {ratio:.2} of the estimate of {estimate} bytes"
        );
        // Threads that allocate at the same time leave gaps of some MiB.
        let most = 1.5 * estimate as f64 + f64::from(32 << 20);
        assert!(ratio > 0.6 && (grew as f64) < most, "{grew} bytes, {estimate} estimated");
    }
}

/// Runs one test of this binary again, in a process of its own, and reads what it printed.
#[cfg(target_os = "linux")]
fn growth_in_child(test: &str, request: &str) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, request)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let grew = text.lines().find_map(|line| line.trim().strip_prefix("grew by "));
    grew.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}
