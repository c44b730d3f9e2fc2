//! A task as data: the YAML file that says how rows become prompts, generations become answers, and
//! answers become scores, in lm-evaluation-harness's vocabulary.

mod definition;
mod filter;
mod generation;
mod metric;
mod rules;
mod shipped;
mod template;

pub(super) use definition::names_a_file;
pub(crate) use definition::score_name;
pub use definition::{
    ChoiceTemplates, DataFiles, FewshotConfig, OutputType, Sampler, TaskDefinition, TaskMetadata,
};
pub use filter::{FilterFunction, FilterPipeline, FilterStep};
pub use generation::GenerationKwargs;
pub use metric::{Aggregation, MathMode, Metric, MetricName};
pub(in crate::params) use shipped::LABEL_TASK;
pub use shipped::{shipped_task, shipped_tasks};
pub use template::RowTemplates;

/// JSON Schema (draft 2020-12) of a task file.
pub fn task_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(TaskDefinition).to_value();
    schema["title"] = "Evergraft task".into();
    schema
}
