//! `uses: eval`: score a bare base, a trained adapter or a moved one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    common::{ArtifactRef, Dtype, Problem, SourceFile, StepParams, count},
    device_name::DeviceName,
    task::{
        FilterFunction, LABEL_TASK, OutputType, TaskDefinition, names_a_file, shipped_task, shipped_tasks,
    },
    tokenize::PromptTemplate,
};
use crate::diagnostic::closest;

/// Parameters of an `eval` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalParams {
    /// A `base`, `pretrain` or `merge` step (bare base), a `train` or `adapter` step (adapter on the base
    /// it was trained on) or a `swap` step (adapter on its new base).
    pub model: ArtifactRef,
    /// What to score.
    #[schemars(with = "Vec<TaskEntry>")]
    pub tasks: Vec<TaskSpec>,
    /// Score only the first rows of each task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Examples before each question, instead of the tasks' own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// What the draws of examples depend on.
    #[serde(default = "default_fewshot_seed")]
    pub fewshot_seed: u64,
    /// Ask in the base's own chat format: the whole prompt is what the user says.
    #[serde(default)]
    pub apply_chat_template: bool,
    /// With `apply_chat_template`: what the system message says; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_instruction: Option<String>,
    /// Sequences decoded together.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Where to run.
    #[serde(default)]
    pub device: DeviceName,
    /// Number format of the weights.
    #[serde(default)]
    pub dtype: Dtype,
    /// Rows that task files name; set by the planner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub task_data: Vec<SourceFile>,
}

fn default_batch_size() -> usize {
    16
}

/// lm-eval's.
fn default_fewshot_seed() -> u64 {
    1234
}

/// The schema of an entry of `tasks`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum TaskEntry {
    /// The path of a task file that names its rows.
    File(String),
    Task(Box<TaskSpec>),
}

/// One task: how to score, and the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// The name in results; by default the task's own.
    #[serde(default)]
    pub name: String,
    /// A shipped task (see `docs/evaluation.md`), or the path of a task file; by default, the shipped
    /// task called `name`, or `labels` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The test rows (a `dataset` step); a task file may name them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<ArtifactRef>,
    /// The rows that examples come from (a `dataset` step); by default the test rows, without the one
    /// that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fewshot_dataset: Option<ArtifactRef>,
    /// Examples before each question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// The answers that may be extracted from a generation, instead of the task's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Prompt of training instead of the task's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptTemplate>,
    /// With `prompt: chat`: what the system message says; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Longest generation, instead of the task's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// What the task file says; set by the planner, so that it counts in the step's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub definition: Option<TaskDefinition>,
    /// The place of its rows in `task_data`; set by the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub rows: Option<usize>,
    /// The place of its examples' rows in `task_data`; set by the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub fewshot_rows: Option<usize>,
}

impl TaskSpec {
    /// The task with what the recipe changes of it; none for an unknown one.
    pub fn resolve(&self) -> Option<TaskDefinition> {
        let name = self.task.as_ref().unwrap_or(&self.name);
        let shipped = || {
            let any = self.task.is_none() && !self.labels.is_empty();
            shipped_task(name).or_else(|| any.then(|| shipped_task(LABEL_TASK)).flatten())
        };
        let mut task = self.definition.clone().or_else(|| shipped().cloned())?;
        if !self.labels.is_empty() {
            task.set_labels(&self.labels);
        }
        if let Some(longest) = self.max_new_tokens {
            task.generation_kwargs.max_gen_toks = longest;
        }
        Some(task)
    }

    fn check(&self, place: &str) -> Vec<Problem> {
        let at = |field: &str| format!("{place}.{field}");
        let mut problems = Vec::new();
        let name = &self.name;
        if name.is_empty() && self.task.is_none() {
            problems.push(Problem::new(place, "names no task").hint("give `task:` or `name:`"));
            return problems;
        }
        if !names_a_file(name) {
            problems.push(
                Problem::new(at("name"), format!("`{name}` cannot name a file"))
                    .hint("use letters, digits, `_` and `-`"),
            );
        }
        if self.labels.iter().any(String::is_empty) {
            problems.push(Problem::new(at("labels"), "an empty label would match everything"));
        }
        if matches!(self.prompt, Some(PromptTemplate::Text | PromptTemplate::Document)) {
            problems.push(
                Problem::new(at("prompt"), "a task needs a prompt, and this template makes none")
                    .hint("use `alpaca`, `alpaca_indented`, `plain` or `chat`, or leave it out"),
            );
        }
        if self.system.is_some() && self.prompt != Some(PromptTemplate::Chat) {
            problems.push(Problem::new(at("system"), "only `prompt: chat` has a system message"));
        }
        problems.extend(self.max_new_tokens.and_then(|tokens| count(at("max_new_tokens"), tokens)));
        problems.extend(self.num_fewshot.and_then(|shots| too_many_examples(at("num_fewshot"), shots)));
        let Some(task) = self.resolve() else {
            let (field, asked) = match &self.task {
                Some(task) => ("task", task),
                None => ("name", name),
            };
            let known = shipped_tasks().iter().map(|task| task.task.as_str());
            let hint = match closest(asked, known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => "give `labels: [...]` or `task: <file>.yaml` for a task of your own".to_owned(),
            };
            problems.push(Problem::new(at(field), format!("unknown task `{asked}`")).hint(hint));
            return problems;
        };
        let generates = task.output_type == OutputType::GenerateUntil;
        let rolling = task.output_type == OutputType::LoglikelihoodRolling;
        let no_labels = task
            .filter_list
            .iter()
            .flat_map(|filter| &filter.filter)
            .any(|step| step.function == FilterFunction::Labels && step.labels.is_empty());
        if no_labels {
            problems.push(Problem::new(place, format!("task `{}` needs `labels: [...]`", task.task)));
        }
        if !self.labels.is_empty() && task.labels().is_empty() {
            problems.push(Problem::new(at("labels"), format!("task `{}` looks for no labels", task.task)));
        }
        if self.max_new_tokens.is_some() && !generates {
            problems
                .push(Problem::new(at("max_new_tokens"), format!("task `{}` generates nothing", task.task)));
        }
        if rolling && (self.prompt.is_some() || self.num_fewshot.unwrap_or(0) > 0) {
            let field = if self.prompt.is_some() { "prompt" } else { "num_fewshot" };
            problems
                .push(Problem::new(at(field), format!("task `{}` scores texts without a prompt", task.task)));
        }
        if self.dataset.is_none() && self.rows.is_none() {
            let hint = if self.definition.is_some() {
                "name a `dataset` step here, or give the task file `dataset_path: json` and `dataset_kwargs`"
            } else {
                "name a `dataset` step: `dataset: ${{ steps.<id> }}`"
            };
            let message = format!("task `{}` has no `dataset`", self.name);
            problems.push(Problem::new(place, message).hint(hint));
        }
        problems
    }
}

fn too_many_examples(field: impl Into<String>, shots: usize) -> Option<Problem> {
    let most = TaskDefinition::MAX_FEWSHOT;
    (shots > most).then(|| Problem::new(field, format!("must be at most {most}, found {shots}")))
}

impl StepParams for EvalParams {
    const KIND: &'static str = "eval";
    const VERSION: u32 = 5;
    const ABOUT: &'static str =
        "Score a base, an adapter or a moved adapter: generations, choices and log-likelihoods.";

    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        self.task_data.iter().map(|file| ("task_data", file)).collect()
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.tasks.is_empty() {
            problems.push(Problem::new("tasks", "names no task"));
        }
        problems.extend(count("batch_size", self.batch_size));
        problems.extend(self.limit.and_then(|limit| count("limit", limit)));
        problems.extend(self.num_fewshot.and_then(|shots| too_many_examples("num_fewshot", shots)));
        problems.extend(self.device.check());
        if self.system_instruction.is_some() && !self.apply_chat_template {
            problems.push(Problem::new("system_instruction", "is only for `apply_chat_template: true`"));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (index, task) in self.tasks.iter().enumerate() {
            let name = &task.name;
            if !name.is_empty() && !seen.insert(name) {
                problems.push(
                    Problem::new(format!("tasks.{index}.name"), format!("task `{name}` is listed twice"))
                        .hint("give one of them another `name`"),
                );
            }
            problems.extend(task.check(&format!("tasks.{index}")));
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
