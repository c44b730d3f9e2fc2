//! Where the numbers come from: every step before the results, once, in order.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use crate::steps::Input;

/// Everything before the results.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Provenance {
    /// Every step, each after those that it needs.
    pub steps: Vec<StepRow>,
    /// Trained adapters.
    pub trainings: Vec<TrainingRow>,
    /// Moves to another base.
    pub swaps: Vec<SwapRow>,
    /// Seeds of the trainings.
    pub seeds: Vec<Value>,
}

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct StepRow {
    /// Node id.
    pub node: String,
    /// Step kind.
    pub kind: String,
    /// Digest of the key.
    pub key: String,
    /// Digest of the artifact.
    pub artifact: String,
    /// Parameters as they entered the key.
    pub params: Value,
}

/// What training an adapter came to.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingRow {
    /// Node id.
    pub node: String,
    /// Rates of the lineage.
    pub pc: Value,
    /// See `pc`.
    pub pi: Value,
    /// `train.json`.
    pub summary: Value,
}

/// What a swap measured.
#[derive(Debug, Clone, Serialize)]
pub struct SwapRow {
    /// Node id.
    pub node: String,
    /// `swap.json`.
    pub report: Value,
}

impl Provenance {
    /// Walks from the results upwards.
    pub fn collect(results: &[Arc<Input>]) -> Self {
        let mut out = Self::default();
        let mut seen = BTreeSet::new();
        results.iter().for_each(|input| out.add(input, &mut seen));
        out
    }

    fn add(&mut self, input: &Arc<Input>, seen: &mut BTreeSet<String>) {
        if !seen.insert(input.node.clone()) {
            return;
        }
        input.inputs.iter().for_each(|before| self.add(before, seen));
        let node = input.node.clone();
        self.steps.push(StepRow {
            node: node.clone(),
            kind: input.kind.clone(),
            key: input.key.to_string(),
            artifact: input.digest.to_string(),
            params: input.params.clone(),
        });
        match input.kind.as_str() {
            "train" => {
                if let Some(seed) = input.params.get("seed").filter(|seed| !self.seeds.contains(seed)) {
                    self.seeds.push(seed.clone());
                }
                let lineage = read(&input.path, "evergraft.json");
                let summary = read(&input.path, "train.json");
                let (pc, pi) = (lineage["pc"].clone(), lineage["pi"].clone());
                self.trainings.push(TrainingRow { node, pc, pi, summary });
            }
            "swap" => self.swaps.push(SwapRow { node, report: read(&input.path, "swap.json") }),
            _ => {}
        }
    }
}

fn read(folder: &Path, name: &str) -> Value {
    fs::read(folder.join(name))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null)
}
