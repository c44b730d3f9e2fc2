//! [`TaskDefinition`]: one task file.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{
    super::{common::Problem, tokenize::PromptTemplate},
    FilterFunction, FilterPipeline, GenerationKwargs, Metric, MetricName, RowTemplates,
};

/// A task: how to ask, how to read the answer, how to score it. Field names are lm-eval's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskDefinition {
    /// The task's name in results.
    pub task: String,
    /// For people and for lm-eval.
    #[serde(default, skip_serializing)]
    pub tag: Option<Value>,
    /// `json`, with `dataset_kwargs`: the task brings its own rows. Without it, the recipe's `dataset`
    /// is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_path: Option<DatasetPath>,
    /// Where the rows are.
    #[serde(default, skip_serializing)]
    pub dataset_kwargs: Option<DataFiles>,
    /// The split of `dataset_kwargs.data_files` that is scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_split: Option<String>,
    /// Scored where there is no `test_split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<String>,
    /// Examples come from here where there is no `fewshot_split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_split: Option<String>,
    /// The split that examples come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fewshot_split: Option<String>,
    /// What the model is asked for.
    pub output_type: OutputType,
    /// Stands once before everything else (a template).
    #[serde(default)]
    pub description: String,
    /// The question: a minijinja template over the row's fields.
    #[serde(default)]
    pub doc_to_text: String,
    /// The target: a template; with `doc_to_choice`, a choice or its number from 0.
    pub doc_to_target: String,
    /// The choices: a template of one `{{ expression }}` that gives a list, or a list of templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_to_choice: Option<ChoiceTemplates>,
    /// Between a question and its answer.
    #[serde(default = "default_target_delimiter")]
    pub target_delimiter: String,
    /// Between examples.
    #[serde(default = "default_fewshot_delimiter")]
    pub fewshot_delimiter: String,
    /// Examples before the question.
    #[serde(default)]
    pub num_fewshot: usize,
    /// How examples are chosen and written.
    #[serde(default)]
    pub fewshot_config: FewshotConfig,
    /// With `generate_until`: how answers are generated.
    #[serde(default)]
    pub generation_kwargs: GenerationKwargs,
    /// With `generate_until`: how answers are read out of generations. Without any, the generation is
    /// the answer (filter `none`).
    #[serde(default)]
    pub filter_list: Vec<FilterPipeline>,
    /// How answers are scored; without any, in the usual way for `output_type`.
    #[serde(default)]
    pub metric_list: Vec<Metric>,
    /// About the task.
    pub metadata: TaskMetadata,
}

/// What the model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// A text.
    GenerateUntil,
    /// How likely each choice is after the question.
    MultipleChoice,
    /// How likely the target is after the question.
    Loglikelihood,
    /// How likely the target is as a text of its own.
    LoglikelihoodRolling,
}

impl OutputType {
    /// Its name in task files.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenerateUntil => "generate_until",
            Self::MultipleChoice => "multiple_choice",
            Self::Loglikelihood => "loglikelihood",
            Self::LoglikelihoodRolling => "loglikelihood_rolling",
        }
    }
}

/// How a task names its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetPath {
    /// Files of rows, under `dataset_kwargs`.
    Json,
}

/// `dataset_kwargs:`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataFiles {
    /// A file for each split; relative paths start at the task file's folder.
    pub data_files: BTreeMap<String, PathBuf>,
}

/// `doc_to_choice:`.
#[derive(Debug, Clone, PartialEq)]
pub enum ChoiceTemplates {
    /// One expression.
    List(String),
    /// A template each.
    Each(Vec<String>),
}

impl Serialize for ChoiceTemplates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(text) => text.serialize(serializer),
            Self::Each(texts) => texts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ChoiceTemplates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong =
            |found| serde::de::Error::custom(format!("expected a text or a list of texts, found {found}"));
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::List(text)),
            Value::Array(items) => {
                let texts = items.into_iter().map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(wrong(other)),
                });
                Ok(Self::Each(texts.collect::<Result<_, _>>()?))
            }
            other => Err(wrong(other)),
        }
    }
}

impl JsonSchema for ChoiceTemplates {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ChoiceTemplates".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
        })
    }
}

/// `fewshot_config:`. What is not given is as for the question.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FewshotConfig {
    /// How examples are chosen.
    #[serde(default)]
    pub sampler: Sampler,
    /// An example's question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_to_text: Option<String>,
    /// An example's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_to_target: Option<String>,
}

/// How examples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Drawn for each item, by `fewshot_seed` and the item's number. The draws are not lm-eval's.
    #[default]
    Default,
    /// The first ones, for every item the same: as in lm-eval.
    FirstN,
}

/// `metadata:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskMetadata {
    /// To be raised whenever a score could change.
    pub version: f64,
    /// The metric that reports show, as `metric,filter`; by default the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_metric: Option<String>,
    /// The training prompt that goes with the question; a model that was trained with another one is
    /// warned of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_with: Option<PromptTemplate>,
    /// For people.
    #[serde(default, skip_serializing)]
    pub description: Option<String>,
}

fn default_target_delimiter() -> String {
    " ".to_owned()
}

fn default_fewshot_delimiter() -> String {
    "\n\n".to_owned()
}

/// The filter of a score without filters.
const NO_FILTER: &str = "none";

impl TaskDefinition {
    /// Examples before a question are at most this many.
    pub const MAX_FEWSHOT: usize = 1000;
    /// Choices of an item are at most this many.
    pub const MAX_CHOICES: usize = 1000;

    /// The filters: those given, else one that does nothing.
    pub fn filters(&self) -> Vec<FilterPipeline> {
        match self.filter_list.as_slice() {
            [] => vec![FilterPipeline { name: NO_FILTER.to_owned(), filter: Vec::new() }],
            given => given.to_vec(),
        }
    }

    /// The metrics: those given, else the usual ones.
    pub fn metrics(&self) -> Vec<Metric> {
        let usual: &[MetricName] = match self.output_type {
            OutputType::GenerateUntil => &[MetricName::ExactMatch],
            OutputType::MultipleChoice => &[MetricName::Acc, MetricName::AccNorm],
            OutputType::Loglikelihood => &[MetricName::Perplexity, MetricName::Acc],
            OutputType::LoglikelihoodRolling => {
                &[MetricName::WordPerplexity, MetricName::BytePerplexity, MetricName::BitsPerByte]
            }
        };
        match self.metric_list.as_slice() {
            [] => usual.iter().map(|name| Metric::plain(*name)).collect(),
            given => given.to_vec(),
        }
    }

    /// Every score of the task: its metric and the name of its filter.
    pub fn scores(&self) -> Vec<(Metric, String)> {
        let filters: Vec<String> = self.filters().into_iter().map(|filter| filter.name).collect();
        let of = |metric: Metric| {
            let wanted = metric.filters.clone();
            let filters = filters.clone().into_iter();
            filters
                .filter(move |filter| wanted.is_empty() || wanted.contains(filter))
                .map(move |filter| (metric.clone(), filter))
        };
        self.metrics().into_iter().flat_map(of).collect()
    }

    /// The score that reports show.
    pub fn primary_metric(&self) -> String {
        let first = || self.scores().first().map(|(metric, filter)| score_name(metric.metric, filter));
        self.metadata.primary_metric.clone().or_else(first).unwrap_or_default()
    }

    /// Every answer that its filters can give, when they know them all.
    pub fn labels(&self) -> &[String] {
        let mut steps = self.filter_list.iter().flat_map(|filter| &filter.filter);
        steps.find(|step| step.function == FilterFunction::Labels).map_or(&[], |step| &step.labels)
    }

    /// Makes all its label filters look for these.
    pub fn set_labels(&mut self, labels: &[String]) {
        let steps = self.filter_list.iter_mut().flat_map(|filter| &mut filter.filter);
        for step in steps.filter(|step| step.function == FilterFunction::Labels) {
            labels.clone_into(&mut step.labels);
        }
    }

    /// The files of the rows and of the examples.
    pub fn data_files(&self) -> (Option<&PathBuf>, Option<&PathBuf>) {
        let file = |split: Option<&String>| self.dataset_kwargs.as_ref()?.data_files.get(split?);
        let fewshot = self.fewshot_split.as_ref().or(self.training_split.as_ref());
        (file(self.test_split.as_ref().or(self.validation_split.as_ref())), file(fewshot))
    }

    /// Its templates.
    ///
    /// # Errors
    /// Those that are none.
    pub fn templates(&self) -> Result<RowTemplates, Vec<Problem>> {
        let mut templates = RowTemplates::default();
        let mut problems = Vec::new();
        let mut add = |field: &str, text: &str| {
            problems.extend(templates.add(field, text).err().map(|wrong| Problem::new(field, wrong)));
        };
        add("description", &self.description);
        add("doc_to_text", &self.doc_to_text);
        add("doc_to_target", &self.doc_to_target);
        let fewshot = &self.fewshot_config;
        add("fewshot_config.doc_to_text", fewshot.doc_to_text.as_ref().unwrap_or(&self.doc_to_text));
        add("fewshot_config.doc_to_target", fewshot.doc_to_target.as_ref().unwrap_or(&self.doc_to_target));
        match &self.doc_to_choice {
            Some(ChoiceTemplates::List(text)) => add("doc_to_choice", text),
            Some(ChoiceTemplates::Each(texts)) => {
                texts.iter().enumerate().for_each(|(at, text)| add(&format!("doc_to_choice.{at}"), text));
            }
            None => {}
        }
        if problems.is_empty() { Ok(templates) } else { Err(problems) }
    }
}

/// The name of a score in results.
pub(crate) fn score_name(metric: MetricName, filter: &str) -> String {
    format!("{},{filter}", metric.name())
}

/// Whether a task's name can be part of a file's name.
pub(in crate::params) fn names_a_file(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}
