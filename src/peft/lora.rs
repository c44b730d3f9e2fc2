//! Attaching LoRA pairs to a decoder.

use anyhow::{bail, ensure};
use burn::tensor::{Tensor, TensorData};

use crate::{
    error::hinted,
    model::{Decoder, LowRank},
    params::AdapterParams,
    rng,
};

/// Module names that can carry an adapter.
const MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Gives the values of a weight by its PEFT name and shape.
pub type ReadWeight<'a> = dyn Fn(&str, [usize; 2]) -> anyhow::Result<Vec<f32>> + 'a;

/// Attaches fresh pairs to every target module: A uniform in ±1/√in_features (PEFT's
/// Kaiming-uniform with a = √5), B zero, so that the first forward pass equals the base's. Gives
/// back the number of trainable parameters.
///
/// # Errors
/// When a target module does not exist.
pub fn attach_new(model: &mut Decoder, adapter: &AdapterParams, seed: u64) -> anyhow::Result<usize> {
    check_targets(&adapter.target_modules)?;
    let device = model.device().clone();
    let scale = adapter.lora_alpha / adapter.r as f64;
    let mut count = 0;
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for (place, linear) in layer.linears().enumerate() {
            if !adapter.target_modules.iter().any(|target| target == linear.module()) {
                continue;
            }
            let (d_in, d_out) = linear.features();
            let mut random = rng::stream(seed, "lora_A", &[index as u64, place as u64]);
            let bound = 1.0 / (d_in as f32).sqrt();
            let values: Vec<f32> =
                (0..adapter.r * d_in).map(|_| (2.0 * random.unit_f32() - 1.0) * bound).collect();
            let a = Tensor::from_data(TensorData::new(values, [adapter.r, d_in]), &device);
            let b = Tensor::zeros([d_out, adapter.r], &device);
            linear.lora = Some(LowRank { a, b, scale });
            count += adapter.r * (d_in + d_out);
        }
    }
    Ok(count)
}

/// Attaches pairs given by `weights(name, shape)`, where names are PEFT's.
///
/// # Errors
/// When a target module does not exist or a weight is missing or of the wrong shape.
pub fn attach(
    model: &mut Decoder,
    target_modules: &[String],
    r: usize,
    scale: f64,
    weights: &ReadWeight,
) -> anyhow::Result<()> {
    check_targets(target_modules)?;
    ensure!(r > 0, "the adapter's rank is 0");
    let device = model.device().clone();
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for linear in layer.linears() {
            if !target_modules.iter().any(|target| target == linear.module()) {
                continue;
            }
            let (d_in, d_out) = linear.features();
            let prefix = format!("base_model.model.model.layers.{index}.{}", linear.name);
            let read = |part: &str, shape: [usize; 2]| -> anyhow::Result<Tensor<2>> {
                let values = weights(&format!("{prefix}.{part}.weight"), shape)?;
                Ok(Tensor::from_data(TensorData::new(values, shape), &device))
            };
            linear.lora =
                Some(LowRank { a: read("lora_A", [r, d_in])?, b: read("lora_B", [d_out, r])?, scale });
        }
    }
    Ok(())
}

fn check_targets(targets: &[String]) -> anyhow::Result<()> {
    for target in targets {
        if !MODULES.contains(&target.as_str()) {
            return Err(hinted(
                format!("target module `{target}` is not a linear layer of this model"),
                format!("one of: {}", MODULES.join(", ")),
            ));
        }
    }
    if targets.is_empty() {
        bail!("the adapter targets no module");
    }
    Ok(())
}
