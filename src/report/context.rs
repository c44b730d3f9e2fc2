//! [`ReportContext`]: everything a template may use. Holds no time and no path, so that a report
//! is a function of its inputs.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::{Comparison, Provenance, TaskTable, compare, signatures, table};
use crate::{
    params::{RecipeText, ReportParams},
    steps::Input,
};

/// The variables of a report's template; also `report.json`.
#[derive(Debug, Clone, Serialize)]
pub struct ReportContext {
    /// The document's title.
    pub title: String,
    /// Free values of the recipe.
    pub vars: BTreeMap<String, Value>,
    /// The averaged axis.
    pub over: String,
    /// One table a task.
    pub tables: Vec<TaskTable>,
    /// Each row against `vars.baseline`.
    pub comparisons: Vec<Comparison>,
    /// What in the scores asks for a second look.
    pub warnings: Vec<String>,
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// The recipe as written, what it includes, and the `--set` arguments.
    pub recipe: Vec<RecipeText>,
    /// Version of evergraft.
    pub evergraft: &'static str,
}

impl ReportContext {
    /// Collects the context from finished evaluations.
    ///
    /// # Errors
    /// When a results file is damaged or row names collide.
    pub fn new(params: &ReportParams, results: &[Arc<Input>]) -> anyhow::Result<Self> {
        let tables = table::tables(results, &params.over, &params.labels)?;
        let baseline = params.vars.get("baseline").and_then(Value::as_str);
        Ok(Self {
            title: params.title.clone().unwrap_or_else(|| "Results".to_owned()),
            vars: params.vars.clone(),
            over: params.over.clone(),
            comparisons: baseline.map(|name| compare::compare(&tables, name)).unwrap_or_default(),
            warnings: signatures::signatures(&tables),
            tables,
            recipe: params.recipe.clone(),
            provenance: Provenance::collect(results),
            evergraft: env!("CARGO_PKG_VERSION"),
        })
    }
}
