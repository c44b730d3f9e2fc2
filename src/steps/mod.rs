//! The step kinds: each turns its inputs' folders into one new folder of standard files.

mod base;
mod bases;
mod command;
mod context;
mod dataset;
mod eval;
mod held_out;
mod import;
mod merge;
mod metrics;
mod model_input;
mod onlooker;
mod pretrain;
mod process;
mod report;
mod secrets;
mod source;
mod swap;
mod tokenize;
mod train;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use bases::Bases;
pub(crate) use context::lineage;
pub use context::{Input, StepContext};
pub(crate) use process::{Group, Signal, kill_running, signal_group};

/// Whether a base that others may want again is in the way of this kind's own needs.
pub(crate) fn takes_the_memory(kind: &str) -> bool {
    matches!(kind, "train" | "pretrain" | "merge" | "command")
}

/// Runs a step of this kind with normalized parameters.
///
/// # Errors
/// What the step says.
pub fn run(kind: &str, params: &Value, ctx: &StepContext) -> anyhow::Result<()> {
    fn read<P: DeserializeOwned>(params: &Value) -> anyhow::Result<P> {
        Ok(serde_json::from_value(params.clone())?)
    }
    if takes_the_memory(kind) {
        ctx.bases.clear();
    }
    match kind {
        "base" => base::run(&read(params)?, ctx),
        "dataset" => dataset::run(&read(params)?, ctx),
        "tokenize" => tokenize::run(&read(params)?, ctx),
        "pretrain" => pretrain::run(&read(params)?, ctx),
        "train" => train::run(&read(params)?, ctx),
        "merge" => merge::run(&read(params)?, ctx),
        "adapter" => import::run(&read(params)?, ctx),
        "swap" => swap::run(&read(params)?, ctx),
        "eval" => eval::run(&read(params)?, ctx),
        "report" => report::run(&read(params)?, ctx),
        "command" => command::run(&read(params)?, ctx),
        _ => unreachable!("the planner knows every kind"),
    }
}
