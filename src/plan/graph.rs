//! [`Plan`]: the graph of steps that a recipe makes, one node per matrix cell.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    path::PathBuf,
    time::Duration,
};

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
    visit::EdgeRef as _,
};
use serde_json::Value;

use super::Resources;
use crate::params::{Kind, Remote};

/// One step of one matrix cell.
#[derive(Debug, Clone)]
pub struct StepNode {
    /// `train`, or `train[method=lora,seed=1]`.
    pub id: String,
    /// Step id in the recipe.
    pub step: String,
    /// What it does.
    pub kind: &'static Kind,
    /// The matrix cell, own and inherited axes; empty for a plain step.
    pub cell: BTreeMap<String, Value>,
    /// Parameters with every default written out, absolute paths, and references as
    /// `{"$step": "<node id>"}`.
    pub params: Value,
    /// Files outside the cache that it reads, with the field that names each.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Sources that lie elsewhere.
    pub remotes: Vec<Remote>,
    /// What it asks of the machine.
    pub resources: Resources,
    /// Longest run time.
    pub timeout: Option<Duration>,
    /// How often a failed run is repeated.
    pub retries: u32,
    /// Node ids that must be done first although no data comes from them.
    pub needs: Vec<String>,
}

/// Everything that a recipe would run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The recipe's name.
    pub recipe_name: String,
    /// The recipe's file, absolute.
    pub recipe_path: PathBuf,
    /// Edges go from a step to those that need it. Nodes stand in the order of the recipe.
    pub graph: DiGraph<StepNode, ()>,
}

impl Plan {
    /// The node of this id.
    pub fn find(&self, id: &str) -> Option<NodeIndex> {
        self.graph.node_indices().find(|index| self.graph[*index].id == id)
    }

    /// The nodes of a step, one per cell.
    pub fn cells<'p>(&'p self, step: &'p str) -> impl Iterator<Item = NodeIndex> + 'p {
        self.graph.node_indices().filter(move |index| self.graph[*index].step == step)
    }

    /// Every node after all that it needs; among those that are ready, in the recipe's order.
    pub fn order(&self) -> Vec<NodeIndex> {
        let mut missing: Vec<usize> =
            self.graph.node_indices().map(|index| self.upstream(index).len()).collect();
        let ready = self.graph.node_indices().filter(|index| missing[index.index()] == 0);
        let mut ready: BinaryHeap<Reverse<NodeIndex>> = ready.map(Reverse).collect();
        let mut order = Vec::with_capacity(self.graph.node_count());
        while let Some(Reverse(index)) = ready.pop() {
            order.push(index);
            for next in self.downstream(index) {
                missing[next.index()] -= 1;
                if missing[next.index()] == 0 {
                    ready.push(Reverse(next));
                }
            }
        }
        order
    }

    /// What a node needs directly, in the recipe's order.
    pub fn upstream(&self, node: NodeIndex) -> Vec<NodeIndex> {
        self.next_to(node, Direction::Incoming)
    }

    /// What needs a node directly, in the recipe's order.
    pub fn downstream(&self, node: NodeIndex) -> Vec<NodeIndex> {
        self.next_to(node, Direction::Outgoing)
    }

    /// Nodes with all that they need, directly or not.
    pub fn with_ancestors(&self, nodes: impl IntoIterator<Item = NodeIndex>) -> BTreeSet<NodeIndex> {
        self.reach(nodes, Direction::Incoming)
    }

    /// Nodes with all that needs them, directly or not.
    pub fn with_descendants(&self, nodes: impl IntoIterator<Item = NodeIndex>) -> BTreeSet<NodeIndex> {
        self.reach(nodes, Direction::Outgoing)
    }

    fn next_to(&self, node: NodeIndex, direction: Direction) -> Vec<NodeIndex> {
        let mut found: Vec<_> = self
            .graph
            .edges_directed(node, direction)
            .map(|edge| if direction == Direction::Incoming { edge.source() } else { edge.target() })
            .collect();
        found.sort_unstable();
        found
    }

    /// Every node is visited once, however many lead to it.
    fn reach(&self, from: impl IntoIterator<Item = NodeIndex>, direction: Direction) -> BTreeSet<NodeIndex> {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<NodeIndex> = from.into_iter().collect();
        while let Some(next) = stack.pop() {
            if seen.insert(next) {
                stack.extend(self.next_to(next, direction));
            }
        }
        seen
    }
}
