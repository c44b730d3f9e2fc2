//! A Hugging Face model folder: `config.json`, safetensors weights and `tokenizer.json`.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    config::{ModelConfig, token_ids_from_json, token_ids_to_json},
    files::{read_json, read_optional_json, write_json},
    safetensors_reader::{SINGLE_FILE, SafetensorsWeights},
    safetensors_writer::write_safetensors,
    tokenizer::{TOKENIZER_FILE, Tokenizer},
    weights::{WeightSource, check_weights, expected_tensors},
};
use crate::params::Dtype;

/// An opened model folder. Its tensors are known to be there, in the right shapes.
pub struct BaseFolder {
    /// What the model computes.
    pub config: ModelConfig,
    /// Its tensors.
    pub weights: Box<dyn WeightSource>,
    /// Its tokenizer, if the folder has one.
    pub tokenizer: Option<Tokenizer>,
}

impl std::fmt::Debug for BaseFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseFolder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl BaseFolder {
    /// Opens and checks a folder; reads headers, not weights.
    ///
    /// # Errors
    /// When a file is missing or damaged, the weights do not match the configuration, or the
    /// tokenizer does not fit the model.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        ensure!(dir.is_dir(), "`{}` is not a folder", dir.display());
        let in_dir = || format!("in model folder `{}`", dir.display());
        let path = dir.join("config.json");
        let mut config =
            ModelConfig::from_json(&read_json(&path)?).with_context(|| format!("in `{}`", path.display()))?;
        // As in transformers, generation_config.json has the last word on when to stop.
        if let Some(generation) = read_optional_json(&dir.join("generation_config.json"))? {
            let in_file = || format!("in `{}`", dir.join("generation_config.json").display());
            let ids =
                token_ids_from_json("eos_token_id", generation.get("eos_token_id")).with_context(in_file)?;
            if !ids.is_empty() {
                config.eos_token_ids = ids;
                config.validate().with_context(in_file)?;
            }
        }
        let weights = SafetensorsWeights::open_dir(dir)?;
        check_weights(&config, &weights).with_context(in_dir)?;
        let tokenizer = match dir.join(TOKENIZER_FILE).is_file() {
            true => Some(Tokenizer::from_dir(dir)?),
            false => None,
        };
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_fits(config.vocab_size).with_context(in_dir)?;
        }
        Ok(Self { config, weights: Box::new(weights), tokenizer })
    }
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors`. The weights' q and k
/// must be in the order of Hugging Face folders.
///
/// # Errors
/// When a tensor cannot be read or the disk is full.
pub fn write_model(
    dir: &Path,
    config: &ModelConfig,
    weights: &dyn WeightSource,
    dtype: Dtype,
) -> anyhow::Result<()> {
    let mut value = config.to_json();
    value["dtype"] = json!(dtype.torch_name());
    write_json(&dir.join("config.json"), &value)?;
    let mut generation = json!({ "eos_token_id": token_ids_to_json(&config.eos_token_ids) });
    if let Some(bos) = config.bos_token_id {
        generation["bos_token_id"] = json!(bos);
    }
    write_json(&dir.join("generation_config.json"), &generation)?;
    write_safetensors(&dir.join(SINGLE_FILE), &expected_tensors(config), dtype, |name| weights.load(name))
}
