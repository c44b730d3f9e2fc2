//! From a node and its inputs to its key; `plan` and `run` both come through here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::Context as _;
use petgraph::graph::NodeIndex;
use serde_json::Value;

use crate::{
    cache::{Cache, Mode, Record, Source},
    digest::Digest,
    error::hinted,
    key::StepKey,
    params::REF_KEY,
    plan::{Plan, StepNode},
    steps::Input,
};

/// Computes keys. Every source file is read once.
#[derive(Debug)]
pub struct Keys<'c> {
    cache: &'c Cache,
    sources: Mutex<HashMap<PathBuf, Source>>,
}

impl<'c> Keys<'c> {
    /// Knows no file yet.
    pub fn new(cache: &'c Cache) -> Self {
        Self { cache, sources: Mutex::default() }
    }

    /// The key of a node.
    ///
    /// # Errors
    /// When a source file cannot be read, or the commit of a hub source is not known.
    pub fn key(&self, node: &StepNode, inputs: &BTreeMap<String, Arc<Input>>) -> anyhow::Result<StepKey> {
        if let Some(name) = node.unpinned() {
            return Err(hinted(
                format!("the commit of `{name}` is not known"),
                "`evergraft run` asks the hub and writes it into the recipe's lock file",
            ));
        }
        let mut digests: BTreeMap<&Path, Digest> = BTreeMap::new();
        for (field, path) in &node.files {
            let source =
                self.source(path).with_context(|| format!("cannot read the file that `{field}` names"))?;
            digests.insert(path, source.digest);
        }
        Ok(StepKey::new(node, inputs, &digests))
    }

    /// # Errors
    /// When a source file is not what it was when the key was made.
    pub fn check_unchanged(&self, node: &StepNode) -> anyhow::Result<()> {
        node.files.iter().try_for_each(|(_, path)| self.source(path)?.check_unchanged())
    }

    /// The digest that a source file has in keys.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn source(&self, path: &Path) -> anyhow::Result<Source> {
        let mut sources = self.sources.lock().expect("no holder of this lock can panic");
        if let Some(source) = sources.get(path) {
            return Ok(source.clone());
        }
        let source = self.cache.source(path)?;
        sources.insert(path.to_owned(), source.clone());
        Ok(source)
    }
}

/// The artifacts that a node's parameters name, or the first upstream node that has none yet.
pub(super) fn inputs_of<'p>(
    plan: &'p Plan,
    index: NodeIndex,
    done: &HashMap<NodeIndex, Arc<Input>>,
) -> Result<BTreeMap<String, Arc<Input>>, &'p str> {
    let mut named = BTreeSet::new();
    references(&plan.graph[index].params, &mut named);
    let mut inputs = BTreeMap::new();
    for before in plan.upstream(index) {
        let id = plan.graph[before].id.as_str();
        let input = done.get(&before).ok_or(id)?;
        if named.contains(id) {
            inputs.insert(id.to_owned(), Arc::clone(input));
        }
    }
    Ok(inputs)
}

fn references<'v>(value: &'v Value, out: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => match map.get(REF_KEY) {
            Some(Value::String(id)) => {
                out.insert(id);
            }
            _ => map.values().for_each(|value| references(value, out)),
        },
        Value::Array(items) => items.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

/// A finished node as the input of others.
pub(super) fn as_input(
    node: &StepNode,
    record: &Record,
    key: &StepKey,
    cache: &Cache,
    inputs: &BTreeMap<String, Arc<Input>>,
) -> Arc<Input> {
    Arc::new(Input {
        node: node.id.clone(),
        step: node.step.clone(),
        kind: node.kind.name.to_owned(),
        cell: node.cell.clone(),
        params: key.params.clone(),
        key: record.digest.clone(),
        digest: record.artifact.clone(),
        path: cache.artifact_path(&record.artifact),
        inputs: inputs.values().cloned().collect(),
    })
}

/// Why nobody looked for a result.
pub(super) fn not_read(mode: Mode) -> String {
    format!("--cache-mode {} uses no results", mode.name())
}

/// Why a key has no result: the first field that differs from the last key of this node.
pub(super) fn reason(cache: &Cache, recipe: &str, node: &str, key: &StepKey) -> String {
    match cache.last_key(recipe, node) {
        None => "it has not run yet".to_owned(),
        Some(last) => match key.differences(&last).as_slice() {
            [] => "its result is not in the cache any more".to_owned(),
            [only] => format!("changed: {only}"),
            [first, rest @ ..] => format!("changed: {first} (and {} more)", rest.len()),
        },
    }
}
