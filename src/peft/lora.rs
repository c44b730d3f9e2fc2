//! Attaching LoRA pairs to a decoder.

use anyhow::Context as _;
use burn::tensor::{Tensor, TensorData};

use super::{
    AdapterConfig,
    targets::{PEFT_PREFIX, Targets, path},
};
use crate::{
    error::{count, excerpt, hinted},
    model::{Decoder, Linear, LowRank, to_f32},
    params::TargetModules,
    rng,
};

/// Gives the values of a weight by its PEFT name and shape.
pub type ReadWeight<'a> = dyn Fn(&str, &[usize]) -> anyhow::Result<Vec<f32>> + 'a;

/// Attaches fresh pairs to every target module: A uniform in ±1/√in_features (PEFT's
/// Kaiming-uniform with a = √5), B zero, so that the first forward pass equals the base's.
///
/// # Errors
/// When a target module or a layer of `layers_to_transform` does not exist.
pub(super) fn attach_new(model: &mut Decoder, config: &AdapterConfig, seed: u64) -> anyhow::Result<()> {
    check_layers(model, &config.targets()?)?;
    attach(model, config, &mut |module| {
        let (d_in, d_out) = module.linear.features();
        let mut random = rng::stream(seed, "lora_A", &[module.layer as u64, module.place as u64]);
        let bound = 1.0 / (d_in as f32).sqrt();
        let values: Vec<f32> =
            (0..module.r * d_in).map(|_| (2.0 * random.unit_f32() - 1.0) * bound).collect();
        let device = module.linear.weight.device();
        Ok(LowRank {
            a: Tensor::from_data(TensorData::new(values, [module.r, d_in]), &device),
            b: Tensor::zeros([d_out, module.r], &device),
            scale: module.scale,
            // DoRA begins with the magnitudes that the weight has.
            magnitude: config
                .use_dora
                .then(|| to_f32(module.linear.weight.clone()).square().sum_dim(1).sqrt().squeeze_dim(1)),
            fixed_norm: None,
        })
    })
}

/// Attaches pairs given by `weights(name, shape)`, where names are PEFT's.
///
/// # Errors
/// When a target module does not exist or a weight is missing or of the wrong shape.
pub(super) fn attach_saved(
    model: &mut Decoder,
    config: &AdapterConfig,
    weights: &ReadWeight,
) -> anyhow::Result<()> {
    attach(model, config, &mut |module| {
        let (d_in, d_out) = module.linear.features();
        let device = module.linear.weight.device();
        let prefix = format!("{PEFT_PREFIX}{}", path(module.layer, module.linear.name));
        let matrix = |part: &str, shape: [usize; 2]| -> anyhow::Result<Tensor<2>> {
            let values = weights(&format!("{prefix}.{part}.weight"), &shape)?;
            Ok(Tensor::from_data(TensorData::new(values, shape), &device))
        };
        let magnitude = match config.use_dora {
            true => {
                let values = weights(&format!("{prefix}.lora_magnitude_vector"), &[d_out])?;
                Some(Tensor::from_data(TensorData::new(values, [d_out]), &device))
            }
            false => None,
        };
        let mut lora = LowRank {
            a: matrix("lora_A", [module.r, d_in])?,
            b: matrix("lora_B", [d_out, module.r])?,
            scale: module.scale,
            magnitude,
            fixed_norm: None,
        };
        // Nothing changes any more, so the norms need not be computed in every pass.
        lora.fixed_norm = lora.magnitude.is_some().then(|| lora.norm(&module.linear.weight));
        Ok(lora)
    })?;
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for linear in layer.linears() {
            let Some(name) = linear.trained_bias_name() else { continue };
            let device = linear.weight.device();
            if let Some(bias) = &mut linear.bias {
                let shape = bias.dims();
                let name = format!("{PEFT_PREFIX}{}", path(index, &name));
                let values = weights(&name, &shape)
                    .with_context(|| format!("the adapter says `bias: {}`", config.bias_name()))?;
                *bias = Tensor::from_data(TensorData::new(values, shape), &device);
            }
        }
    }
    Ok(())
}

/// A linear layer that gets a pair.
struct Module<'m> {
    layer: usize,
    /// Its number inside the layer.
    place: usize,
    linear: &'m Linear,
    r: usize,
    scale: f64,
}

fn attach(
    model: &mut Decoder,
    config: &AdapterConfig,
    make: &mut dyn FnMut(&Module) -> anyhow::Result<LowRank>,
) -> anyhow::Result<()> {
    let (targets, scales) = (config.targets()?, config.scales()?);
    check_targets(model, &targets)?;
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for (place, linear) in layer.linears().enumerate() {
            let targeted = targets.matches(index, linear.name);
            if targeted {
                let (r, scale) = scales.of(&path(index, linear.name));
                linear.lora = Some(make(&Module { layer: index, place, linear, r, scale })?);
            }
            linear.trains_bias = config.trains_bias(targeted);
            if linear.trains_bias {
                linear.bias = linear.bias.take().map(to_f32);
            }
        }
    }
    Ok(())
}

fn check_layers(model: &Decoder, targets: &Targets) -> anyhow::Result<()> {
    let layers = model.layers.len();
    match targets.layer_beyond(layers) {
        None => Ok(()),
        Some(layer) => Err(hinted(
            format!(
                "`layers_to_transform` names layer {layer}, but this model has {}",
                count(layers, "layer")
            ),
            format!("layers are counted from 0, so the last one is {}", layers.saturating_sub(1)),
        )),
    }
}

fn check_targets(model: &mut Decoder, targets: &Targets) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    let mut names = Vec::new();
    let mut any = false;
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for linear in layer.linears() {
            any |= targets.matches(index, linear.name);
            paths.push(path(index, linear.name));
            if index == 0 {
                names.push(linear.module());
            }
        }
    }
    let hint = format!("its linear layers: {}", names.join(", "));
    if let [first, ..] = targets.unknown(&paths)[..] {
        return Err(hinted(
            format!("target module `{}` is not a linear layer of this model", excerpt(first)),
            hint,
        ));
    }
    if !any {
        check_layers(model, targets)?;
        return Err(hinted("the adapter targets no linear layer of this model", hint));
    }
    Ok(())
}

/// The config to write. PEFT refuses `layers_to_transform` beside a pattern, so the layers that the
/// two chose are listed instead.
pub(super) fn as_peft_loads_it(config: &AdapterConfig, model: &mut Decoder) -> AdapterConfig {
    let pattern = matches!(config.target_modules, TargetModules::Pattern(_));
    if !pattern || config.layers_to_transform.is_none() {
        return config.clone();
    }
    let mut paths = Vec::new();
    for (index, layer) in model.layers.iter_mut().enumerate() {
        let adapted = layer.linears().filter(|linear| linear.lora.is_some());
        paths.extend(adapted.map(|linear| path(index, linear.name)));
    }
    AdapterConfig {
        target_modules: TargetModules::Names(paths),
        exclude_modules: None,
        layers_to_transform: None,
        ..config.clone()
    }
}
