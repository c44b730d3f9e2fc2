//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::{fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attach;
use crate::{
    error::hinted,
    model::{Decoder, SafetensorsWeights, TensorWeights, WeightDtype, WeightSource as _, write_safetensors},
    params::AdapterParams,
};

/// The fields of `adapter_config.json` that this version understands. Others are tolerated when
/// they change nothing and refused by name when they would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// Always `LORA`.
    pub peft_type: String,
    /// Always `CAUSAL_LM`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout used in training.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Module names.
    pub target_modules: Vec<String>,
    /// Only `none` is supported.
    #[serde(default = "none")]
    pub bias: String,
    /// Name of the base, for PEFT's own loading.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// True in files for inference.
    #[serde(default)]
    pub inference_mode: bool,
}

fn none() -> String {
    "none".to_owned()
}

/// Settings that change the result and that we cannot honour yet, with their harmless values.
const UNSUPPORTED: [&str; 9] = [
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "exclude_modules",
];

impl AdapterConfig {
    /// The config of a freshly trained adapter.
    pub fn new(params: &AdapterParams) -> Self {
        let mut target_modules = params.target_modules.clone();
        target_modules.sort();
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            r: params.r,
            lora_alpha: params.lora_alpha,
            lora_dropout: params.lora_dropout,
            target_modules,
            bias: none(),
            base_model_name_or_path: None,
            inference_mode: true,
        }
    }

    /// Reads and checks an adapter folder's config.
    ///
    /// # Errors
    /// When it is missing, malformed, or asks for something that would be ignored.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("adapter_config.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let raw: Value =
            serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", path.display()))?;
        for name in UNSUPPORTED {
            let harmless = match raw.get(name) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                Some(_) => false,
            };
            if !harmless {
                return Err(hinted(
                    format!("`{}` uses `{name}`, which is not supported", path.display()),
                    "merge that adapter with PEFT, or train one without it",
                ));
            }
        }
        let config: Self = serde_json::from_value(raw)
            .with_context(|| format!("`{}` is not a LoRA config", path.display()))?;
        ensure!(config.peft_type == "LORA", "adapter type `{}` is not supported", config.peft_type);
        if config.bias != "none" {
            bail!("`{}` trains biases (`bias: {}`), which is not supported", path.display(), config.bias);
        }
        ensure!(config.r > 0 && config.lora_alpha.is_finite(), "`{}` has an unusable scale", path.display());
        Ok(config)
    }
}

/// Writes the attached adapter as f32.
///
/// # Errors
/// When the folder cannot be written.
pub fn save_adapter(model: &mut Decoder, config: &AdapterConfig, folder: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(config)?;
    fs::write(folder.join("adapter_config.json"), text + "\n")
        .context("cannot write `adapter_config.json`")?;
    let weights = TensorWeights::new(model.adapter_params());
    let path = folder.join("adapter_model.safetensors");
    write_safetensors(&path, &weights.shapes(), WeightDtype::F32, |name| weights.load(name))
}

/// Attaches the adapter of a PEFT folder.
///
/// # Errors
/// When a file is missing or malformed, or the adapter does not fit the model.
pub fn load_adapter(model: &mut Decoder, folder: &Path) -> anyhow::Result<AdapterConfig> {
    let config = AdapterConfig::read(folder)?;
    let path = folder.join("adapter_model.safetensors");
    let file = SafetensorsWeights::open_file(&path)?;
    let scale = config.lora_alpha / config.r as f64;
    attach(model, &config.target_modules, config.r, scale, &|name, shape| {
        let found = file
            .shape(name)
            .with_context(|| format!("adapter `{}` has no weight `{name}`", path.display()))?;
        ensure!(found == shape, "adapter weight `{name}` has shape {found:?}, but the base needs {shape:?}");
        file.load(name)
    })?;
    let attached: std::collections::BTreeSet<String> =
        model.adapter_params().into_iter().map(|param| param.name).collect();
    if let Some(extra) = file.names().into_iter().find(|name| !attached.contains(name)) {
        bail!("adapter `{}` has the weight `{extra}`, which no module of this base takes", path.display());
    }
    Ok(config)
}
