//! `--only`, `--from`, `--until`: which nodes of a plan a run is about.

use std::collections::BTreeSet;

use petgraph::graph::NodeIndex;

use super::Plan;
use crate::{diagnostic::closest, error::Error};

/// Names of steps (`train`, all its cells) or nodes (`train[seed=1]`). Empty lists select
/// everything.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These nodes alone.
    pub only: Vec<String>,
    /// These nodes and everything that needs them.
    pub from: Vec<String>,
    /// These nodes and everything that they need.
    pub until: Vec<String>,
}

impl Plan {
    /// The nodes that every given list selects.
    ///
    /// # Errors
    /// [`Error::NoMatch`] for a name that no step has, and when no node is in all lists.
    pub fn select(&self, selection: &Selection) -> Result<BTreeSet<NodeIndex>, Error> {
        let mut chosen: BTreeSet<NodeIndex> = self.graph.node_indices().collect();
        let mut keep = |set: BTreeSet<NodeIndex>| chosen.retain(|index| set.contains(index));
        if !selection.only.is_empty() {
            keep(self.named_all(&selection.only)?);
        }
        if !selection.from.is_empty() {
            keep(self.with_descendants(self.named_all(&selection.from)?));
        }
        if !selection.until.is_empty() {
            keep(self.with_ancestors(self.named_all(&selection.until)?));
        }
        if chosen.is_empty() {
            return Err(Error::NoMatch(
                "no step is selected by all of --only, --from and --until".to_owned(),
            ));
        }
        Ok(chosen)
    }

    /// The nodes that a step id or a node id means.
    ///
    /// # Errors
    /// [`Error::NoMatch`] with a suggestion.
    pub fn named(&self, name: &str) -> Result<Vec<NodeIndex>, Error> {
        let found: Vec<NodeIndex> = match self.find(name) {
            Some(node) => vec![node],
            None => self.cells(name).collect(),
        };
        if !found.is_empty() {
            return Ok(found);
        }
        let ids = self.graph.node_weights().flat_map(|node| [node.id.as_str(), node.step.as_str()]);
        let hint = match closest(name, ids) {
            Some(close) => format!("did you mean `{close}`?"),
            None => {
                let mut steps: Vec<&str> = Vec::new();
                for node in self.graph.node_weights() {
                    if steps.last() != Some(&node.step.as_str()) {
                        steps.push(&node.step);
                    }
                }
                format!("steps: {}", steps.join(", "))
            }
        };
        Err(Error::NoMatch(format!("no step is called `{name}`\nhint: {hint}")))
    }

    fn named_all(&self, names: &[String]) -> Result<BTreeSet<NodeIndex>, Error> {
        names.iter().try_fold(BTreeSet::new(), |mut set, name| {
            set.extend(self.named(name)?);
            Ok(set)
        })
    }
}
