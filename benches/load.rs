//! Loads a model folder and prints what that took, as one JSON line:
//! `cargo bench --bench load -- MODEL_DIR [f32|bf16|f16]`. `bench/load.sh` sets it beside
//! transformers.

#[path = "measure/memory.rs"]
mod memory;

use std::{path::Path, time::Instant};

use burn::tensor::Device;
use evergraft::{
    model::{BaseFolder, Decoder, KvCache, TokenBatch, Untouched},
    params::Dtype,
};
use memory::peak_mib;
use serde_json::json;

fn main() -> anyhow::Result<()> {
    // cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [folder, dtype @ ..] = &args[..] else {
        anyhow::bail!("usage: cargo bench --bench load -- MODEL_DIR [f32|bf16|f16]")
    };
    let dtype: Dtype = match dtype.first() {
        Some(name) => serde_json::from_value(json!(name))?,
        None => Dtype::F32,
    };
    let start = Instant::now();
    let base = BaseFolder::open(Path::new(folder))?;
    let device = Device::flex();
    let model = Decoder::load(&base.config, base.weights.as_ref(), &device, dtype)?;
    let loaded = start.elapsed().as_secs_f64();
    let loaded_mib = peak_mib();
    // One token, so that memory which is only promised is touched.
    let mut cache = KvCache::new(&base.config, 1, 1, &device);
    let batch = TokenBatch::cached(&[(0, &[1])], &cache);
    let hidden = model.hidden(&batch, Some(&mut cache), &Untouched);
    let logits = model.logits(hidden);
    println!(
        "{}",
        json!({
            "load_s": loaded,
            "first_token_s": start.elapsed().as_secs_f64(),
            "load_peak_mib": loaded_mib,
            "first_token_peak_mib": peak_mib(),
            "sum": logits.sum().into_scalar::<f32>(),
        })
    );
    Ok(())
}
