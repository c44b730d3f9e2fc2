//! Which of the steps that could run goes first: the one with the longest way to the end of the run.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use petgraph::graph::NodeIndex;

use crate::{cache::Cache, plan::Plan};

/// For every step, the time from its begin to the end of the longest chain that needs it, as long as
/// steps took when they ran last.
pub(super) fn priorities(
    plan: &Plan,
    cache: &Cache,
    nodes: &BTreeSet<NodeIndex>,
) -> HashMap<NodeIndex, Duration> {
    let mut times = HashMap::with_capacity(nodes.len());
    for index in plan.order().into_iter().rev().filter(|index| nodes.contains(index)) {
        let node = &plan.graph[index];
        let own = cache.last_duration(&plan.recipe_name, &node.id).unwrap_or(usual(node.kind.name));
        let after = plan.downstream(index).into_iter().filter_map(|next| times.get(&next)).max();
        let total = own.saturating_add(after.copied().unwrap_or_default());
        times.insert(index, total);
    }
    times
}

/// A guess, for steps that have not run yet.
fn usual(kind: &str) -> Duration {
    Duration::from_secs(match kind {
        "pretrain" | "train" => 3600,
        "eval" => 600,
        "base" | "merge" => 60,
        "report" => 1,
        _ => 10,
    })
}
