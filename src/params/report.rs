//! `uses: report`: render results into a document.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ArtifactRef, Problem, SourceFile, StepParams};

/// Parameters of a `report` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportParams {
    /// Name of a shipped template (`report`) or path of a minijinja file.
    #[serde(default = "default_template")]
    pub template: String,
    /// The `eval` steps to compare; a matrix step gives all its cells. Cells that differ only in
    /// `over` are one row.
    pub results: Vec<ArtifactRef>,
    /// The matrix axis to average over.
    #[serde(default = "default_over")]
    pub over: String,
    /// Row names, by step id (`scores`) or cell without the averaged axis
    /// (`scores[method=lora]`). Rows stand in this order, the others after them.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub labels: serde_json::Map<String, serde_json::Value>,
    /// The document's title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Free values for the template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, serde_json::Value>,
    /// The template file, when `template` is a path; set by the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub template_file: Option<SourceFile>,
    /// The recipe as written, what it includes, and the `--set` arguments; set by the planner, so
    /// that a report shows them and is made anew when they change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub recipe: Vec<RecipeText>,
}

/// One text of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeText {
    /// File name without its folder, or `--set`.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Templates that need no file of their own.
pub const SHIPPED_TEMPLATES: &[&str] = &["report"];

fn default_template() -> String {
    "report".to_owned()
}

fn default_over() -> String {
    "seed".to_owned()
}

impl StepParams for ReportParams {
    const KIND: &'static str = "report";
    const VERSION: u32 = 5;
    const LIST_FIELDS: &'static [&'static str] = &["results"];
    const ABOUT: &'static str =
        "Render evaluation results, their statistics and their provenance with a minijinja template.";

    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        self.template_file.iter().map(|file| ("template_file", file)).collect()
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.results.is_empty() {
            problems.push(Problem::new("results", "lists no evaluation"));
        }
        let name = self.template.strip_suffix(".j2").unwrap_or(&self.template);
        if name.ends_with(".json") || name.ends_with(".svg") {
            problems.push(
                Problem::new(
                    "template",
                    "a report's data and plot are already called `report.json` and `report.svg`",
                )
                .hint("make another kind of document, e.g. `.md.j2`, `.html.j2` or `.tex.j2`"),
            );
        }
        for (key, value) in &self.labels {
            if !value.is_string() {
                problems
                    .push(Problem::new(format!("labels.{key}"), format!("must be a text, found {value}")));
            }
        }
        problems
    }
}
