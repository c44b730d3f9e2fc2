//! Bottleneck adapters: configuration and weights. The network's side is `model::Bottleneck`.

use anyhow::{Context as _, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ReadWeight,
    config::{check_dropout, fields_of},
    targets::{PEFT_PREFIX, path},
};
use crate::{
    model::{Bottleneck, Decoder, Layer},
    params::{AdapterParams, MAX_RANK, NonLinearity, Placement},
    rng,
};

/// `adapter_config.json` of bottleneck adapters. PEFT has none; names follow LLM-Adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BottleneckConfig {
    /// Always `BOTTLENECK`.
    pub peft_type: String,
    /// Always `CAUSAL_LM`.
    pub task_type: String,
    /// Width between the two matrices.
    pub bottleneck_size: usize,
    /// Between the two matrices.
    pub non_linearity: NonLinearity,
    /// Where they sit.
    pub placement: Placement,
    /// Factor of the output.
    pub scaling: f64,
    /// Dropout on the input, used in training.
    pub adapter_dropout: f64,
}

impl BottleneckConfig {
    /// The config of freshly trained adapters.
    pub fn new(params: &AdapterParams) -> Self {
        Self {
            peft_type: "BOTTLENECK".to_owned(),
            task_type: "CAUSAL_LM".to_owned(),
            bottleneck_size: params.r,
            non_linearity: params.non_linearity.unwrap_or_default(),
            placement: params.placement.unwrap_or_default(),
            scaling: params.scaling.unwrap_or(1.0),
            adapter_dropout: params.lora_dropout,
        }
    }

    /// Reads and checks a config. `shown` is its file, for errors.
    pub(super) fn parse(raw: Value, shown: &str) -> anyhow::Result<Self> {
        let config: Self = fields_of(raw, shown)?;
        let size = config.bottleneck_size;
        ensure!(
            (1..=MAX_RANK).contains(&size),
            "`bottleneck_size` must lie between 1 and {MAX_RANK} in `{shown}`, found {size}"
        );
        ensure!(config.scaling.is_finite(), "`scaling` must be a finite number in `{shown}`");
        check_dropout("adapter_dropout", config.adapter_dropout).with_context(|| format!("in `{shown}`"))?;
        Ok(config)
    }
}

/// Fresh adapters: the first matrix uniform in ±1/√width as torch's `Linear`, the rest zero, so that
/// the first forward pass equals the base's.
pub(super) fn attach_new(model: &mut Decoder, config: &BottleneckConfig, seed: u64) {
    let (hidden, size) = (model.config.hidden_size, config.bottleneck_size);
    let device = model.device().clone();
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for (place, slot) in slots(layer, config.placement).into_iter().enumerate() {
            let mut random = rng::stream(seed, "bottleneck", &[index as u64, place as u64]);
            let bound = 1.0 / (hidden as f32).sqrt();
            let down = (0..size * hidden).map(|_| (2.0 * random.unit_f32() - 1.0) * bound).collect();
            *slot.1 = Some(adapter(
                slot.0,
                config,
                [matrix(down, [size, hidden], &device), Tensor::zeros([hidden, size], &device)],
                [Tensor::zeros([size], &device), Tensor::zeros([hidden], &device)],
            ));
        }
    }
}

/// Adapters with saved weights.
pub(super) fn attach_saved(
    model: &mut Decoder,
    config: &BottleneckConfig,
    weights: &ReadWeight,
) -> anyhow::Result<()> {
    let (hidden, size) = (model.config.hidden_size, config.bottleneck_size);
    let device = model.device().clone();
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for (name, slot) in slots(layer, config.placement) {
            let prefix = format!("{PEFT_PREFIX}{}", path(index, name));
            let read = |part: &str, shape: &[usize]| weights(&format!("{prefix}.{part}"), shape);
            let vector = |part: &str, length: usize| -> anyhow::Result<Tensor<1>> {
                Ok(Tensor::from_data(TensorData::new(read(part, &[length])?, [length]), &device))
            };
            *slot = Some(adapter(
                name,
                config,
                [
                    matrix(read("down.weight", &[size, hidden])?, [size, hidden], &device),
                    matrix(read("up.weight", &[hidden, size])?, [hidden, size], &device),
                ],
                [vector("down.bias", size)?, vector("up.bias", hidden)?],
            ));
        }
    }
    Ok(())
}

fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn adapter(
    name: &'static str,
    config: &BottleneckConfig,
    [down, up]: [Tensor<2>; 2],
    [down_bias, up_bias]: [Tensor<1>; 2],
) -> Bottleneck {
    Bottleneck {
        name,
        down,
        down_bias,
        up,
        up_bias,
        non_linearity: config.non_linearity,
        scaling: config.scaling,
        parallel: config.placement == Placement::Parallel,
    }
}

/// The places of a layer that get an adapter, under the names of the file.
fn slots(layer: &mut Layer, placement: Placement) -> Vec<(&'static str, &mut Option<Bottleneck>)> {
    let ffn = ("mlp.adapter", &mut layer.ffn_adapter);
    match placement {
        Placement::Houlsby => vec![("self_attn.adapter", &mut layer.attention_adapter), ffn],
        Placement::Pfeiffer | Placement::Parallel => vec![ffn],
    }
}
