//! `uses: command`: any program with declared inputs and outputs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ArtifactRef, Problem, SourceFile, StepParams, leaves_its_folder};

/// Parameters of a `command` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandParams {
    /// A shell line (`sh -e -c`), run in the step's own empty folder.
    pub run: String,
    /// Files and folders that the line reads. Each is given as the environment variable
    /// `INPUT_<n>` (from 1) and as `$INPUTS`, one absolute path a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<SourceFile>,
    /// Steps whose artifacts the line reads: `STEP_<NAME>` holds each one's folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, ArtifactRef>,
    /// Files and folders that the line must make, relative to its folder.
    pub outputs: Vec<String>,
    /// More environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of environment variables that must be set where evergraft runs, and whose values nobody may
    /// see: they are no part of the key, `***` in the log, and an error in an output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

impl StepParams for CommandParams {
    const KIND: &'static str = "command";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Run a shell line in its own folder, with declared inputs and outputs.";

    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        self.inputs.iter().map(|file| ("inputs", file)).collect()
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.run.trim().is_empty() {
            problems.push(Problem::new("run", "is empty"));
        }
        if self.outputs.is_empty() {
            problems.push(Problem::new("outputs", "names no file").hint("outputs: [result.txt]"));
        }
        for name in self.steps.keys() {
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !plain || name.is_empty() {
                problems.push(
                    Problem::new(format!("steps.{name}"), format!("`{name}` cannot become `STEP_<NAME>`"))
                        .hint("use lower-case letters, digits and `_`"),
                );
            }
        }
        let names_a_variable =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        for name in self.env.keys().filter(|name| !names_a_variable(name)) {
            let message = format!("`{name}` cannot name an environment variable");
            problems.push(Problem::new(format!("env.{name}"), message).hint("use letters, digits and `_`"));
        }
        for (index, name) in self.secrets.iter().enumerate() {
            if !names_a_variable(name) {
                problems.push(
                    Problem::new(
                        format!("secrets.{index}"),
                        format!("`{name}` cannot name an environment variable"),
                    )
                    .hint("give the name of the variable, never its value"),
                );
            } else if self.env.contains_key(name) {
                problems.push(
                    Problem::new(format!("secrets.{index}"), format!("`{name}` stands under `env` too"))
                        .hint("what stands in the recipe is no secret; take it out of `env`"),
                );
            }
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if leaves_its_folder(output) {
                problems.push(
                    Problem::new(format!("outputs.{index}"), format!("`{output}` leaves the step's folder"))
                        .hint("give a relative path without `..`"),
                );
            }
        }
        problems
    }
}
