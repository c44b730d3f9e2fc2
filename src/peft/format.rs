//! An adapter's folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
//! PEFT has no bottleneck adapters; their layout is that of docs/adapters.md.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{AdapterConfig, bottleneck, bottleneck::BottleneckConfig, lora};
use crate::{
    error::{excerpt, hinted},
    model::{
        Decoder, SafetensorsWeights, TensorWeights, WeightSource as _, read_short_json, write_safetensors,
    },
    params::{AdapterParams, AdapterType, Dtype},
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What an adapter's folder holds.
pub const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// A config with a rank for each module of a large model has some 100 KB.
const MAX_CONFIG: u64 = 1 << 20;

/// What an adapter's config says.
#[derive(Debug, Clone, PartialEq)]
pub enum Adapter {
    /// PEFT's LoRA, rsLoRA or DoRA.
    Lora(AdapterConfig),
    /// Bottleneck adapters.
    Bottleneck(BottleneckConfig),
}

impl Adapter {
    /// The adapter that a recipe asks for.
    pub fn new(params: &AdapterParams) -> Self {
        match params.kind {
            AdapterType::Lora => Self::Lora(AdapterConfig::new(params)),
            AdapterType::Bottleneck => Self::Bottleneck(BottleneckConfig::new(params)),
        }
    }

    /// Reads and checks an adapter folder's config.
    ///
    /// # Errors
    /// When it is missing, malformed, or asks for something that would be ignored.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(CONFIG);
        let shown = path.display().to_string();
        let raw = read_short_json(&path, MAX_CONFIG)?;
        match raw.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => AdapterConfig::parse(raw, &shown).map(Self::Lora),
            Some("BOTTLENECK") => BottleneckConfig::parse(raw, &shown).map(Self::Bottleneck),
            Some(other) => Err(hinted(
                format!("`{shown}` holds an adapter of type `{}`, which is not supported", excerpt(other)),
                "known ones: LORA, BOTTLENECK",
            )),
            None => bail!("`{shown}` has no `peft_type` that is a text"),
        }
    }

    /// Attaches it with fresh weights that leave the network as it is; gives the number of
    /// trainable parameters.
    ///
    /// # Errors
    /// When a target module does not exist.
    pub fn attach_new(&self, model: &mut Decoder, seed: u64) -> anyhow::Result<usize> {
        match self {
            Self::Lora(config) => lora::attach_new(model, config, seed)?,
            Self::Bottleneck(config) => bottleneck::attach_new(model, config, seed),
        }
        Ok(model.adapter_params().iter().map(|param| param.shape().iter().product::<usize>()).sum())
    }

    /// Writes the attached adapter as f32.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, model: &mut Decoder, folder: &Path) -> anyhow::Result<()> {
        let text = match self {
            Self::Lora(config) => serde_json::to_string_pretty(&lora::as_peft_loads_it(config, model))?,
            Self::Bottleneck(config) => serde_json::to_string_pretty(config)?,
        };
        fs::write(folder.join(CONFIG), text + "\n").with_context(|| format!("cannot write `{CONFIG}`"))?;
        let weights = TensorWeights::new(model.adapter_params());
        write_safetensors(&folder.join(WEIGHTS), &weights.shapes(), Dtype::F32, |name| weights.load(name))
    }

    /// Attaches the adapter of a folder.
    ///
    /// # Errors
    /// When a file is missing or malformed, or the adapter does not fit the model.
    pub fn load(model: &mut Decoder, folder: &Path) -> anyhow::Result<Self> {
        let adapter = Self::read(folder)?;
        let path = folder.join(WEIGHTS);
        let file = SafetensorsWeights::open_file(&path)?;
        let read = |name: &str, shape: &[usize]| -> anyhow::Result<Vec<f32>> {
            let found = file
                .shape(name)
                .with_context(|| format!("adapter `{}` has no weight `{name}`", path.display()))?;
            ensure!(
                found == shape,
                "adapter weight `{name}` in `{}` has shape {found:?}, but the base needs {shape:?}",
                path.display()
            );
            file.load(name)
        };
        match &adapter {
            Self::Lora(config) => lora::attach_saved(model, config, &read),
            Self::Bottleneck(config) => bottleneck::attach_saved(model, config, &read),
        }
        .with_context(|| format!("`{}` does not fit the base", folder.join(CONFIG).display()))?;
        let attached: BTreeSet<String> = model.adapter_params().into_iter().map(|param| param.name).collect();
        if let Some(extra) = file.names().into_iter().find(|name| !attached.contains(name)) {
            bail!(
                "adapter `{}` has the weight `{}`, which no module of this base takes",
                path.display(),
                excerpt(extra)
            );
        }
        Ok(adapter)
    }
}
