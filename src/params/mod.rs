//! The typed parameters of every step kind: what may stand under `with:`.
//!
//! One file per kind. These types are the recipe's JSON Schema, the validator's
//! field list and the steps' input, so the three cannot drift apart. This module
//! knows nothing of recipes, caches or tensors.

mod adapter;
mod address;
mod base;
mod command;
mod common;
mod dataset;
mod device_name;
mod eval;
mod import;
mod kind;
mod merge;
pub(crate) mod module_pattern;
mod optimizer;
mod pattern_map;
mod rate_schedule;
mod remote;
mod report;
mod slice;
mod swap;
mod task;
mod tokenize;
mod train;
mod trans_peft;

pub(crate) use adapter::MAX_RANK;
pub use adapter::{AdapterParams, AdapterType, Bias, LINEAR_MODULES, NonLinearity, Placement, TargetModules};
pub use address::{
    Address, AddressError, HubAddress, RepoKind, file_name, host_of, is_commit, is_hex, is_loopback,
    is_safe_path,
};
pub use base::{BaseParams, RandomInit, TokenizerTraining};
pub use command::CommandParams;
pub use common::{ArtifactRef, Dtype, Problem, REF_KEY, RemoteFields, SourceFile, StepParams};
pub use dataset::{ArtifactFile, DatasetFormat, DatasetParams, Sources};
pub use device_name::DeviceName;
pub use eval::{EvalParams, TaskSpec};
pub use import::ImportParams;
pub use kind::{KINDS, Kind, Parsed};
pub use merge::MergeParams;
pub use optimizer::{LrSchedule, OptimizerParams};
pub use pattern_map::PatternMap;
pub use rate_schedule::{RateSchedule, RateShape};
pub use remote::Remote;
pub use report::{RecipeText, ReportParams, SHIPPED_TEMPLATES};
pub use slice::Split;
pub use swap::SwapParams;
pub(crate) use task::score_name;
pub use task::{
    Aggregation, ChoiceTemplates, DataFiles, FewshotConfig, FilterFunction, FilterPipeline, FilterStep,
    GenerationKwargs, MathMode, Metric, MetricName, OutputType, RowTemplates, Sampler, TaskDefinition,
    TaskMetadata, shipped_task, shipped_tasks, task_schema,
};
pub use tokenize::{PromptTemplate, TokenizeParams};
pub use train::{PretrainParams, TrainParams};
pub use trans_peft::{MaskKind, TransPeftParams};
