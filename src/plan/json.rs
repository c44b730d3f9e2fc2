//! The plan as JSON, for scripts.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{Plan, Resources};

/// A plan as `plan --format json` shows it.
#[derive(Debug, Serialize)]
pub struct PlanJson<'p> {
    /// The recipe's name.
    pub recipe: &'p str,
    /// Nodes, each after those that it needs.
    pub nodes: Vec<NodeJson<'p>>,
}

/// One node of a [`PlanJson`].
#[derive(Debug, Serialize)]
pub struct NodeJson<'p> {
    /// Node id.
    pub id: &'p str,
    /// Step id.
    pub step: &'p str,
    /// Step kind.
    pub uses: &'static str,
    /// Matrix cell.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cell: &'p BTreeMap<String, Value>,
    /// Normalized parameters.
    pub with: &'p Value,
    /// Files outside the cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<&'p PathBuf>,
    /// Sources that lie elsewhere, at their commits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<String>,
    /// Ids of the nodes that come first: references and `needs`.
    pub needs: Vec<&'p str>,
    /// What it asks of the machine.
    pub resources: Resources,
    /// Longest run time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// How often a failed run is repeated.
    pub retries: u32,
}

impl Plan {
    /// The serialisable view.
    pub fn to_json(&self) -> PlanJson<'_> {
        let node = |index: petgraph::graph::NodeIndex| {
            let node = &self.graph[index];
            NodeJson {
                id: &node.id,
                step: &node.step,
                uses: node.kind.name,
                cell: &node.cell,
                with: &node.params,
                files: node.files.iter().map(|(_, path)| path).collect(),
                remotes: node.remotes.iter().map(|remote| remote.resolved().to_string()).collect(),
                needs: self.upstream(index).iter().map(|before| self.graph[*before].id.as_str()).collect(),
                resources: node.resources,
                timeout: node.timeout.map(|time| time.as_secs_f64()),
                retries: node.retries,
            }
        };
        PlanJson { recipe: &self.recipe_name, nodes: self.order().into_iter().map(node).collect() }
    }
}
