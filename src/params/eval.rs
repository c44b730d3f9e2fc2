//! `uses: eval`: score a bare base, a trained adapter or a moved one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    common::{ArtifactRef, Dtype, Problem, StepParams, count},
    device_name::DeviceName,
    tokenize::PromptTemplate,
};

/// Parameters of an `eval` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalParams {
    /// A `base`, `pretrain` or `merge` step (bare base), a `train` or `adapter` step (adapter on the base
    /// it was trained on) or a `swap` step (adapter on its new base).
    pub model: ArtifactRef,
    /// What to score.
    pub tasks: Vec<TaskSpec>,
    /// Score only the first rows of each task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Sequences decoded together.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Where to run.
    #[serde(default)]
    pub device: DeviceName,
    /// Number format of the weights.
    #[serde(default)]
    pub dtype: Dtype,
}

fn default_batch_size() -> usize {
    16
}

/// One task: how to score, and the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// `gsm8k`, or one of the commonsense tasks `boolq`, `piqa`, `siqa`, `hellaswag`,
    /// `winogrande`, `arc_e`, `arc_c`, `obqa`; or any name of your own, with `labels`.
    pub name: String,
    /// The test rows (a `dataset` step).
    pub dataset: ArtifactRef,
    /// For a task of your own: the answers that may be extracted from a generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Prompt; by default the task's own (GSM8K: Alpaca + "Let's think step by step.";
    /// commonsense: LLM-Adapters' evaluation prompt).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptTemplate>,
    /// With `prompt: chat`: what the system message says; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Longest generation; by default 1024 for GSM8K and 32 for label tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
}

/// The commonsense tasks and the labels that their answers use (LLM-Adapters).
pub const COMMONSENSE_LABELS: [(&str, &[&str]); 8] = [
    ("boolq", &["true", "false"]),
    ("piqa", &["solution1", "solution2"]),
    ("siqa", &["answer1", "answer2", "answer3", "answer4", "answer5"]),
    ("hellaswag", &["ending1", "ending2", "ending3", "ending4"]),
    ("winogrande", &["option1", "option2"]),
    ("arc_e", &["answer1", "answer2", "answer3", "answer4", "answer5"]),
    ("arc_c", &["answer1", "answer2", "answer3", "answer4", "answer5"]),
    ("obqa", &["answer1", "answer2", "answer3", "answer4", "answer5"]),
];

/// Every task name that needs no `labels`.
pub fn known_tasks() -> impl Iterator<Item = &'static str> {
    std::iter::once("gsm8k").chain(COMMONSENSE_LABELS.iter().map(|(name, _)| *name))
}

impl TaskSpec {
    /// Longest generation, in tokens.
    pub fn generation_limit(&self) -> usize {
        let labelled =
            !self.labels.is_empty() || COMMONSENSE_LABELS.iter().any(|(name, _)| *name == self.name);
        self.max_new_tokens.unwrap_or(if labelled { 32 } else { 1024 })
    }
}

impl StepParams for EvalParams {
    const KIND: &'static str = "eval";
    const VERSION: u32 = 3;
    const ABOUT: &'static str =
        "Score a base, an adapter or a moved adapter by generation and answer extraction.";

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.tasks.is_empty() {
            problems.push(Problem::new("tasks", "names no task"));
        }
        problems.extend(count("batch_size", self.batch_size));
        problems.extend(self.limit.and_then(|limit| count("limit", limit)));
        problems.extend(self.device.check());
        let mut seen = std::collections::BTreeSet::new();
        for (index, task) in self.tasks.iter().enumerate() {
            let name = &task.name;
            if !seen.insert(name) {
                problems.push(Problem::new(
                    format!("tasks.{index}.name"),
                    format!("task `{name}` is listed twice"),
                ));
            }
            let plain =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            if !plain {
                problems.push(
                    Problem::new(format!("tasks.{index}.name"), format!("`{name}` cannot name a file"))
                        .hint("use letters, digits, `_` and `-`"),
                );
            }
            if task.labels.iter().any(String::is_empty) {
                problems.push(Problem::new(
                    format!("tasks.{index}.labels"),
                    "an empty label would match everything",
                ));
            }
            if matches!(task.prompt, Some(PromptTemplate::Text | PromptTemplate::Document)) {
                let field = format!("tasks.{index}.prompt");
                problems.push(
                    Problem::new(field, "a task needs a prompt, and this template makes none")
                        .hint("use `alpaca`, `alpaca_indented`, `plain` or `chat`, or leave it out"),
                );
            }
            if task.system.is_some() && task.prompt != Some(PromptTemplate::Chat) {
                problems.push(Problem::new(
                    format!("tasks.{index}.system"),
                    "only `prompt: chat` has a system message",
                ));
            }
            let longest = |tokens| count(format!("tasks.{index}.max_new_tokens"), tokens);
            problems.extend(task.max_new_tokens.and_then(longest));
            if task.labels.is_empty() && !known_tasks().any(|known| known == name) {
                let close = known_tasks().min_by_key(|known| strsim::damerau_levenshtein(known, name));
                let hint = match close.filter(|known| strsim::damerau_levenshtein(known, name) <= 2) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "give `labels: [...]` for a task of your own".to_owned(),
                };
                problems.push(
                    Problem::new(format!("tasks.{index}.name"), format!("unknown task `{name}`")).hint(hint),
                );
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absurd_numbers_are_refused() {
        let fields = |number: usize| {
            let params: EvalParams = serde_json::from_value(json!({
                "model": { "$step": "base" }, "batch_size": number, "limit": number,
                "tasks": [{ "name": "gsm8k", "dataset": { "$step": "rows" }, "max_new_tokens": number }],
            }))
            .unwrap();
            params.check().into_iter().map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(1), [""; 0]);
        for number in [0, (1 << 32) + 1, usize::MAX] {
            assert_eq!(fields(number), ["batch_size", "limit", "tasks.0.max_new_tokens"], "{number}");
        }
    }
}
