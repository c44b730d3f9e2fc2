//! [`Recipe`]: one whole recipe, shape checked, parameters computed, steps as written.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    source::{Sources, Span},
    tree::{Entry, Node},
};
use crate::params::Kind;

/// A recipe whose shape is right. [`crate::plan::build`] makes the plan from it.
#[derive(Debug)]
pub struct Recipe {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) path: PathBuf,
    pub(crate) sources: Sources,
    /// Computed, in the order of the text.
    pub(crate) params: Vec<(String, Node)>,
    pub(crate) defaults: Defaults,
    pub(crate) steps: Vec<Step>,
}

/// `defaults:`.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    /// Values for `with`, by field name.
    pub(crate) with: Vec<Entry>,
    pub(crate) resources: Option<Node>,
    pub(crate) timeout: Option<Node>,
    pub(crate) retries: Option<Node>,
}

/// One entry of `steps:`, expressions not yet evaluated.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) id: String,
    pub(crate) id_span: Span,
    pub(crate) kind: &'static Kind,
    pub(crate) with: Vec<Entry>,
    /// Where a missing field is reported.
    pub(crate) with_span: Span,
    pub(crate) needs: Option<Node>,
    pub(crate) matrix: Option<Node>,
    pub(crate) when: Option<Node>,
    pub(crate) resources: Option<Node>,
    pub(crate) timeout: Option<Node>,
    pub(crate) retries: Option<Node>,
}

impl Recipe {
    /// `name:`, or the file's name. Letters, digits, `_`, `-` and `.` only: it names folders.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `description:`.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The recipe's file, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recipe as written, without what it includes.
    pub fn text(&self) -> &str {
        self.sources.text(0)
    }

    /// The parameters after `--set`, expressions evaluated.
    pub fn params(&self) -> Value {
        self.params.iter().map(|(name, node)| (name.clone(), node.to_json())).collect()
    }

    /// Step ids in the order of the text.
    pub fn step_ids(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.id.as_str())
    }
}
