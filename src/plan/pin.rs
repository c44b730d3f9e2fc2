//! Pins: the commits that the plan's hub sources stand for. They come from the recipe's lock file;
//! without one, a node has no key yet.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::NodeIndex;
use serde_json::Value;

use super::{Plan, StepNode};
use crate::params::{Address, HubAddress, Remote};

impl StepNode {
    /// The first hub source whose commit is not known.
    pub fn unpinned(&self) -> Option<String> {
        self.remotes.iter().find_map(Remote::unpinned)
    }
}

impl Plan {
    /// Whether anything is read from the hub at a revision that can move.
    pub fn wants_pins(&self) -> bool {
        self.graph.node_weights().any(|node| node.remotes.iter().any(|remote| remote.pin_name().is_some()))
    }

    /// Hub sources without a commit, by the name that they are pinned under.
    pub fn unpinned(&self) -> BTreeSet<String> {
        self.graph.node_weights().flat_map(|node| node.remotes.iter().filter_map(Remote::unpinned)).collect()
    }

    /// The hub sources of some nodes that need a pin, by its name. `all` counts those that have one.
    pub fn pins_of(&self, nodes: &BTreeSet<NodeIndex>, all: bool) -> BTreeMap<String, HubAddress> {
        let mut found = BTreeMap::new();
        for remote in nodes.iter().flat_map(|index| &self.graph[*index].remotes) {
            let name = if all { remote.pin_name() } else { remote.unpinned() };
            if let (Some(name), Address::Hub(hub)) = (name, &remote.address) {
                found.insert(name, hub.clone());
            }
        }
        found
    }

    /// Writes the commits into the parameters of the nodes that they are for.
    pub fn pin(&mut self, commits: &BTreeMap<String, String>) {
        for node in self.graph.node_weights_mut() {
            for remote in &mut node.remotes {
                let Some(commit) = remote.pin_name().and_then(|name| commits.get(&name)) else { continue };
                remote.commit = Some(commit.clone());
                if let Some(slot) = slot(&mut node.params, remote.field, remote.index) {
                    *slot = Value::String(remote.resolved().to_string());
                }
            }
        }
    }
}

/// Where the parameters hold the file of this number of a field.
pub(super) fn slot<'v>(params: &'v mut Value, field: &str, index: usize) -> Option<&'v mut Value> {
    match params.get_mut(field) {
        Some(Value::Array(items)) => items.get_mut(index),
        other => other,
    }
}
