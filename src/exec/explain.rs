//! Why a step would run: how its key differs from its last one, and what before it led to that, back
//! to where it began.

use std::collections::{BTreeSet, HashMap, VecDeque};

use petgraph::graph::NodeIndex;
use serde::Serialize;
use serde_json::Value;

use super::{NodeStatus, State};
use crate::{
    cache::Cache,
    key::{Difference, StepKey},
    plan::Plan,
};

/// The whole reason for the state of a node.
#[derive(Debug, Serialize)]
pub struct Explanation<'s> {
    /// The node's state.
    pub status: &'s NodeStatus,
    /// Its key, once all inputs are known.
    pub key: Option<&'s StepKey>,
    /// Whether there is an earlier key to compare with.
    pub has_earlier: bool,
    /// How the key differs from the earlier one; nothing when the result is there.
    pub differences: Vec<Difference>,
    /// What before it is behind that, the nearest first.
    pub causes: Vec<Cause>,
}

/// A node before the explained one.
#[derive(Debug, Serialize)]
pub struct Cause {
    /// Node id.
    pub step: String,
    /// What is new with it.
    pub why: String,
    /// How its key differs from the one that it had before.
    pub differences: Vec<Difference>,
}

/// Explains a node of a plan, given the state of all.
pub fn explain<'s>(
    plan: &Plan,
    cache: &Cache,
    states: &'s [(NodeIndex, NodeStatus)],
    node: NodeIndex,
) -> Explanation<'s> {
    let states: HashMap<NodeIndex, &NodeStatus> =
        states.iter().map(|(index, status)| (*index, status)).collect();
    let last_key = |index: NodeIndex| cache.last_key(&plan.recipe_name, &plan.graph[index].id);
    let status = states[&node];
    let earlier = last_key(node);
    let mut explanation = Explanation {
        status,
        key: status.preimage.as_ref(),
        has_earlier: earlier.is_some(),
        differences: Vec::new(),
        causes: Vec::new(),
    };
    if status.state == State::Cached {
        return explanation;
    }
    let mut seen = BTreeSet::from([node]);
    let mut open = VecDeque::from([(node, earlier)]);
    while let Some((index, earlier)) = open.pop_front() {
        let status = states[&index];
        let differences = match (&status.preimage, &earlier) {
            (Some(now), Some(earlier)) => now.differences(earlier),
            _ => Vec::new(),
        };
        for before in plan.upstream(index) {
            let other = states[&before];
            let changed = differences.iter().find(|one| is_content_of(one, other));
            let next = match (other.state, changed) {
                (State::Cached, None) => continue,
                // It ran already: what counts is the key that led to the bytes of before.
                (State::Cached, Some(difference)) => {
                    digest(&difference.before).and_then(|artifact| cache.maker_of(&artifact))
                }
                _ => last_key(before),
            };
            if seen.insert(before) {
                open.push_back((before, next));
            }
        }
        if index == node {
            explanation.differences = differences;
            continue;
        }
        let why = match status.state {
            State::Cached if earlier.is_none() => {
                "it made other bytes; the result of before is not in the cache any more".to_owned()
            }
            State::Cached => "it made other bytes".to_owned(),
            _ => status.why.clone(),
        };
        explanation.causes.push(Cause { step: status.step.clone(), why, differences });
    }
    explanation
}

/// Whether a difference is that of this node's artifact.
fn is_content_of(difference: &Difference, node: &NodeStatus) -> bool {
    difference.field.ends_with(".$artifact")
        && node.artifact.is_some()
        && difference.now.as_ref().and_then(Value::as_str) == node.artifact.as_deref()
}

fn digest(value: &Option<Value>) -> Option<crate::digest::Digest> {
    value.as_ref()?.as_str()?.parse().ok()
}
