//! `uses: base`: get a base model as a Hugging Face folder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address::RepoKind,
    common::{OneOrMany, Problem, RemoteFields, SourceFile, StepParams, one_or_many},
};

/// Parameters of a `base` step. Exactly one of `source` and `init` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaseParams {
    /// A Hugging Face model folder, a `.gguf` file or a llama2.c `.bin` file; or
    /// `hf://org/name[@revision]` (a model of the hub), `hf://org/name[@revision]/file.gguf`, or an
    /// `https://` address of one file with its `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceFile>,
    /// Branch, tag or commit of an `hf://` source that names none [default: main]. The commit that
    /// it means is pinned into the recipe's `.lock` file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 digest of an `https://` source.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub sha256: Vec<String>,
    /// Tokenizer for a source that has none of its own (llama2.c): a `tokenizer.json`, a folder
    /// that holds one, `hf://org/name[@revision]`, or a llama2.c `tok*.bin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<SourceFile>,
    /// BLAKE3 digest that the source must have (`blake3:<hex>`); printed by the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Start a new base from seeded random weights instead of reading one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<RandomInit>,
}

/// A new base with random weights: Gaussian with `initializer_range`, norms at one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomInit {
    /// The fields of a Hugging Face `config.json` (`model_type`, `hidden_size`, ...);
    /// `vocab_size` is filled in from the tokenizer.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// The tokenizer to train for it.
    pub tokenizer: TokenizerTraining,
    /// Seed of the weights.
    #[serde(default)]
    pub seed: u64,
}

/// A byte-level BPE tokenizer trained on text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerTraining {
    /// Number of tokens, special ones included.
    pub vocab_size: usize,
    /// The `dataset` step whose rows the merges are learned from.
    pub text: super::ArtifactRef,
}

impl StepParams for BaseParams {
    const KIND: &'static str = "base";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Get a base model: a Hugging Face folder or hub repository, GGUF, llama2.c, or seeded random weights.";

    const REMOTE: Option<RemoteFields> =
        Some(RemoteFields { fields: &["source", "tokenizer"], kind: RepoKind::Model });

    fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    fn sha256(&self) -> &[String] {
        &self.sha256
    }

    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        let source = self.source.iter().map(|file| ("source", file));
        source.chain(self.tokenizer.iter().map(|file| ("tokenizer", file))).collect()
    }

    fn check(&self) -> Vec<Problem> {
        match (&self.source, &self.init) {
            (None, None) => {
                vec![Problem::new("", "a base needs `source` or `init`").hint("source: path/to/model-folder")]
            }
            (Some(_), Some(_)) => vec![Problem::new("init", "`source` and `init` exclude each other")],
            _ => Vec::new(),
        }
    }
}
