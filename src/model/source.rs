//! Opens a model file of any known format as configuration, Hugging Face weights and tokenizer.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    config::ModelConfig,
    files::write_json,
    gguf::{self, GgufFile, GgufWeights},
    llama2c::{self, Llama2cWeights},
    rope_order::HalvesOrder,
    tokenizer::TOKENIZER_FILE,
    weights::{WeightSource, check_weights},
};
use crate::error::hinted;

/// The formats a base can come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFormat {
    /// A folder with `config.json` and safetensors.
    HuggingFace,
    /// One `.gguf` file.
    Gguf,
    /// A llama2.c checkpoint.
    Llama2c,
}

impl SourceFormat {
    /// What a path holds, by its first bytes and its name.
    ///
    /// # Errors
    /// When it is none of the formats.
    pub fn detect(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Ok(Self::HuggingFace);
        }
        let mut start = Vec::new();
        let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        file.take(4).read_to_end(&mut start).with_context(|| format!("cannot read `{}`", path.display()))?;
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if start == *b"GGUF" || extension == "gguf" {
            return Ok(Self::Gguf);
        }
        // A zip archive or a pickle stream: what `torch.save` writes.
        if start.starts_with(b"PK") || (start.first() == Some(&0x80) && start.get(1).is_some_and(|v| *v <= 5))
        {
            return Err(hinted(
                format!("`{}` is a pickle, which is not read", path.display()),
                "pickles can run code; convert the model to safetensors first",
            ));
        }
        if matches!(extension, "safetensors" | "json") {
            return Err(hinted(
                format!("`{}` is one file of a model folder", path.display()),
                "give the folder that holds config.json and the weights",
            ));
        }
        if extension == "bin" {
            return Ok(Self::Llama2c);
        }
        Err(hinted(
            format!("`{}` is no known model format", path.display()),
            "known ones: a Hugging Face folder, a `.gguf` file, a llama2.c `.bin` file",
        ))
    }

    /// The format's name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::HuggingFace => "Hugging Face folder",
            Self::Gguf => "GGUF",
            Self::Llama2c => "llama2.c",
        }
    }
}

/// Contents of the two files of a tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`
    pub tokenizer: Value,
    /// `tokenizer_config.json`
    pub config: Value,
}

impl TokenizerFiles {
    /// The tokenizer of a llama2.c `tok*.bin` for a model of this vocabulary.
    ///
    /// # Errors
    /// When the file is damaged or has another number of tokens.
    pub fn from_llama2c(path: &Path, vocab_size: usize) -> anyhow::Result<Self> {
        llama2c::tokenizer_files(path, vocab_size).map(Self::from)
    }

    /// Learns a byte-level BPE tokenizer of at most `vocab_size` tokens.
    ///
    /// # Errors
    /// When `vocab_size` is out of range.
    pub fn train(vocab_size: usize, texts: impl Iterator<Item = String> + Send) -> anyhow::Result<Self> {
        super::tokenizer_training::train_tokenizer(vocab_size, texts).map(Self::from)
    }

    /// Writes both files.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        write_json(&dir.join(TOKENIZER_FILE), &self.tokenizer)?;
        write_json(&dir.join("tokenizer_config.json"), &self.config)
    }
}

impl From<(Value, Value)> for TokenizerFiles {
    fn from((tokenizer, config): (Value, Value)) -> Self {
        Self { tokenizer, config }
    }
}

/// A model file opened for conversion.
pub struct SourceModel {
    /// What the model computes, q and k in the order of `weights`.
    pub config: ModelConfig,
    /// Its tensors.
    pub weights: Box<dyn WeightSource>,
    /// Its tokenizer, if the format holds one.
    pub tokenizer: Option<TokenizerFiles>,
}

impl SourceModel {
    /// Opens a GGUF or llama2.c file as it is, interleaved q and k included.
    ///
    /// # Errors
    /// When the file is damaged, of another format, or lacks tensors.
    pub fn open_native(path: &Path) -> anyhow::Result<Self> {
        Self::open_with(path, true)
    }

    /// As [`Self::open_native`], without asking for the file's tokenizer.
    ///
    /// # Errors
    /// As there.
    pub fn open_without_tokenizer(path: &Path) -> anyhow::Result<Self> {
        Self::open_with(path, false)
    }

    fn open_with(path: &Path, with_tokenizer: bool) -> anyhow::Result<Self> {
        let in_file = || format!("in `{}`", path.display());
        let model = match SourceFormat::detect(path)? {
            SourceFormat::Gguf => {
                let file = GgufFile::open(path)?;
                let tokenizer = match with_tokenizer {
                    true => Some(gguf::tokenizer_files(&file).with_context(in_file)?.into()),
                    false => None,
                };
                let (config, weights) = GgufWeights::new(file).with_context(in_file)?;
                Self { config, weights: Box::new(weights), tokenizer }
            }
            SourceFormat::Llama2c => {
                let (config, weights) = Llama2cWeights::open(path)?;
                Self { config, weights: Box::new(weights), tokenizer: None }
            }
            SourceFormat::HuggingFace => bail!("`{}` is a folder, not a model file", path.display()),
        };
        check_weights(&model.config, model.weights.as_ref()).with_context(in_file)?;
        Ok(model)
    }

    /// The same model with q and k in the order of Hugging Face folders.
    #[must_use]
    pub fn into_halves(self) -> Self {
        let (config, weights) = HalvesOrder::wrap(&self.config, self.weights);
        Self { config, weights, tokenizer: self.tokenizer }
    }
}
