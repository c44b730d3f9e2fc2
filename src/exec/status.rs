//! What a run would do, and why, without running anything.

use std::collections::{BTreeSet, HashMap};

use petgraph::graph::NodeIndex;
use serde::Serialize;

use super::keys::{Keys, as_input, inputs_of, not_read, reason};
use crate::{
    cache::{Cache, MissReason},
    digest::Digest,
    key::StepKey,
    plan::Plan,
};

/// What would happen to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its result is there.
    Cached,
    /// It would run.
    Run,
    /// A step before it would run, or another with the same key, or the hub must be asked for a commit first.
    /// If that turns out as before, this one is cached.
    Waits,
}

/// One node's state.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Node id.
    pub step: String,
    /// What would happen.
    pub state: State,
    /// Why.
    pub why: String,
    /// Digest of its key, once all inputs are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Digest of its artifact, if cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Folder of its artifact, if cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The key, for `explain`.
    #[serde(skip)]
    pub preimage: Option<StepKey>,
}

/// The state of every node, each after those that it needs. `forced` nodes run whatever is cached.
///
/// # Errors
/// When a source file cannot be read.
pub fn status(
    plan: &Plan,
    cache: &Cache,
    forced: &BTreeSet<NodeIndex>,
) -> anyhow::Result<Vec<(NodeIndex, NodeStatus)>> {
    let keys = Keys::new(cache);
    let mut done = HashMap::new();
    let mut promised: HashMap<Digest, String> = HashMap::new();
    let mut out = Vec::new();
    for index in plan.order() {
        let node = &plan.graph[index];
        let mut status = NodeStatus {
            step: node.id.clone(),
            state: State::Run,
            why: String::new(),
            key: None,
            artifact: None,
            path: None,
            preimage: None,
        };
        match inputs_of(plan, index, &done) {
            Err(before) => {
                status.state = State::Waits;
                status.why = format!("`{before}` runs first");
            }
            Ok(_) if let Some(name) = node.unpinned() => {
                status.state = State::Waits;
                status.why = format!("the commit of `{name}` is not in the lock file yet");
            }
            Ok(inputs) => {
                let key = keys.key(node, &inputs)?;
                let digest = key.digest();
                status.key = Some(digest.to_string());
                let found = match cache.peek(&digest) {
                    _ if forced.contains(&index) => Err("forced".to_owned()),
                    Ok(record) => {
                        status.path = Some(cache.artifact_path(&record.artifact).display().to_string());
                        Ok((record, "same key"))
                    }
                    Err(miss) => cache
                        .peek_remote(&digest)
                        .map(|record| (record, "in the remote cache"))
                        .ok_or_else(|| match miss {
                            MissReason::New => reason(cache, &plan.recipe_name, &node.id, &key),
                            MissReason::Damaged(problem) => problem,
                            MissReason::NotRead(mode) => not_read(mode),
                        }),
                };
                match found {
                    Ok((record, why)) => {
                        status.state = State::Cached;
                        status.why = why.to_owned();
                        status.artifact = Some(record.artifact.to_string());
                        done.insert(index, as_input(node, &record, &key, cache, &inputs));
                    }
                    Err(_) if !forced.contains(&index) && promised.contains_key(&digest) => {
                        status.state = State::Waits;
                        status.why = format!("`{}` has the same key", promised[&digest]);
                    }
                    Err(why) => {
                        status.why = why;
                        promised.insert(digest, node.id.clone());
                    }
                }
                status.preimage = Some(key);
            }
        }
        out.push((index, status));
    }
    Ok(out)
}
