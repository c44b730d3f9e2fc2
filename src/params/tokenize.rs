//! `uses: tokenize`: turn a dataset into token ids and loss labels for one base's tokenizer.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ArtifactRef, Problem, StepParams};

/// Parameters of a `tokenize` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeParams {
    /// The base whose tokenizer is used.
    pub base: ArtifactRef,
    /// The rows.
    pub dataset: ArtifactRef,
    /// How a row becomes a prompt and a target.
    #[serde(default)]
    pub prompt: PromptTemplate,
    /// With `prompt: chat`: what the system message says; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Compute the loss on the prompt too (LLM-Adapters' default for commonsense is true).
    #[serde(default)]
    pub train_on_inputs: bool,
    /// Rows are cut on the right after this many tokens; for `text`, the window length.
    #[serde(default = "default_max_seq_length")]
    pub max_seq_length: usize,
}

fn default_max_seq_length() -> usize {
    512
}

/// The prompt around a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptTemplate {
    /// Stanford Alpaca's, ending in `### Response:` without a space (the Trans-PEFT code's).
    #[default]
    Alpaca,
    /// LLM-Adapters' indented variant (the commonsense experiments').
    AlpacaIndented,
    /// The instruction alone, then the output, with nothing added but the tokenizer's specials.
    Plain,
    /// The base's own chat template: instruction and input are what the user says, the output is
    /// what the assistant says.
    Chat,
    /// Text rows joined by the end-of-sequence token and cut into windows of `max_seq_length`.
    Text,
    /// Text rows one by one, each followed by the end-of-sequence token.
    Document,
}

/// As a recipe has it.
impl fmt::Display for PromptTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(serde_json::to_value(self).map_err(|_| fmt::Error)?.as_str().unwrap_or_default())
    }
}

impl StepParams for TokenizeParams {
    const KIND: &'static str = "tokenize";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Turn a dataset into token ids and loss labels with a base's tokenizer.";

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.max_seq_length < 2 {
            problems.push(Problem::new("max_seq_length", "must be at least 2"));
        }
        if self.system.is_some() && self.prompt != PromptTemplate::Chat {
            problems.push(Problem::new("system", "only `prompt: chat` has a system message"));
        }
        problems
    }
}
