//! Folding a LoRA adapter into its base's weights, one tensor at a time.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};

use super::{
    Adapter, AdapterConfig,
    config::Scales,
    targets::{PEFT_PREFIX, Targets, path},
};
use crate::{
    error::{excerpt, hinted},
    model::{Linear, LowRank, ModelConfig, SafetensorsWeights, WeightSource, layer_of},
};

/// A base's weights with an adapter folded in.
pub struct Merged<'b> {
    base: &'b dyn WeightSource,
    names: Vec<&'static str>,
    config: AdapterConfig,
    targets: Targets,
    scales: Scales,
    file: SafetensorsWeights,
}

impl<'b> Merged<'b> {
    /// Opens an adapter folder for merging.
    ///
    /// # Errors
    /// When it is damaged, does not fit the base, or is of a kind that cannot be folded in.
    pub fn open(model: &ModelConfig, base: &'b dyn WeightSource, folder: &Path) -> anyhow::Result<Self> {
        let config = match Adapter::read(folder)? {
            Adapter::Lora(config) => config,
            Adapter::Bottleneck(_) => {
                return Err(hinted(
                    "a bottleneck adapter has a non-linearity and cannot be folded into weights",
                    "keep it as an adapter, or train a LoRA adapter",
                ));
            }
        };
        let merged = Self {
            base,
            names: model.linear_names(),
            targets: config.targets()?,
            scales: config.scales()?,
            config,
            file: SafetensorsWeights::open_file(&folder.join("adapter_model.safetensors"))?,
        };
        merged.check_nothing_is_left(model)?;
        Ok(merged)
    }

    /// Every weight of the adapter must find its place.
    fn check_nothing_is_left(&self, model: &ModelConfig) -> anyhow::Result<()> {
        for name in self.file.names() {
            let place = || -> Option<(usize, &str)> {
                let (layer, rest) = layer_of(name.strip_prefix(PEFT_PREFIX)?)?;
                Some((layer, self.names.iter().find(|name| rest.starts_with(**name))?))
            };
            let fits = place().is_some_and(|(layer, linear)| {
                let pair = name.contains(".lora_");
                layer < model.num_hidden_layers && (!pair || self.targets.matches(layer, linear))
            });
            ensure!(
                fits,
                "the adapter has the weight `{}`, which no module of this base takes",
                excerpt(&name)
            );
        }
        Ok(())
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> anyhow::Result<Tensor<D>> {
        let shape = self.file.shape(name).with_context(|| format!("the adapter has no weight `{name}`"))?;
        ensure!(shape.len() == D, "adapter weight `{name}` has shape {shape:?}");
        Ok(Tensor::from_data(TensorData::new(self.file.load(name)?, shape), device))
    }

    /// The weight of a linear layer with its pair folded in.
    fn fold(&self, path: &str, values: Vec<f32>, shape: &[usize]) -> anyhow::Result<Vec<f32>> {
        let device = Device::flex();
        let weight = Tensor::<2>::from_data(TensorData::new(values, [shape[0], shape[1]]), &device);
        let prefix = format!("{PEFT_PREFIX}{path}");
        let (r, scale) = self.scales.of(path);
        let magnitude = match self.config.use_dora {
            true => Some(self.tensor::<1>(&format!("{prefix}.lora_magnitude_vector"), &device)?),
            false => None,
        };
        let lora = LowRank {
            a: self.tensor(&format!("{prefix}.lora_A.weight"), &device)?,
            b: self.tensor(&format!("{prefix}.lora_B.weight"), &device)?,
            scale,
            magnitude,
            fixed_norm: None,
        };
        let fits = lora.a.dims() == [r, shape[1]] && lora.b.dims() == [shape[0], r];
        ensure!(
            fits && lora.magnitude.as_ref().is_none_or(|magnitude| magnitude.dims() == [shape[0]]),
            "the adapter's weights of `{path}` do not fit a matrix of shape {shape:?}"
        );
        lora.merged(weight).into_data().try_to_vec().map_err(|error| anyhow::anyhow!("{error:?}"))
    }
}

impl WeightSource for Merged<'_> {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.base.shape(name)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let values = self.base.load(name)?;
        let place = || -> Option<(usize, &str, &str)> {
            let (layer, rest) = layer_of(name)?;
            let (linear, kind) = rest.rsplit_once('.')?;
            Some((layer, linear, kind))
        };
        let Some((layer, linear, kind)) = place() else { return Ok(values) };
        if !self.names.contains(&linear) {
            return Ok(values);
        }
        let targeted = self.targets.matches(layer, linear);
        match kind {
            "weight" if targeted => {
                let shape = self.shape(name).context("it was just read")?;
                self.fold(&path(layer, linear), values, &shape)
            }
            "bias" if self.config.trains_bias(targeted) => {
                let name = format!("{PEFT_PREFIX}{}", path(layer, &Linear::bias_name(linear, targeted)));
                let bias = self.file.load(&name)?;
                if bias.len() != values.len() {
                    bail!("adapter weight `{name}` has {} values, not {}", bias.len(), values.len());
                }
                Ok(bias)
            }
            _ => Ok(values),
        }
    }
}
