//! What the runner and a worker process tell each other: one JSON value a line, orders on the worker's
//! stdin, replies on a pipe of their own.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{digest::Digest, steps::Input};

/// To a worker process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Do this.
    Run(Box<Order>),
    /// Stop this job as the signal would.
    Stop { id: u64, signal: i32 },
    /// The answer to [`Reply::AskDigest`].
    Digest { id: u64, digest: Result<Digest, String> },
}

/// One step to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Names the job in everything that is said of it.
    pub(super) id: u64,
    /// Node id.
    pub(super) node: String,
    /// Step kind.
    pub(super) kind: String,
    /// Normalized parameters.
    pub(super) params: Value,
    /// Digest of the step's key.
    pub(super) key: Digest,
    /// The device class in the key, if the step computes: the worker must find the same.
    pub(super) device_class: Option<String>,
    /// `CUDA_VISIBLE_DEVICES` of the programs that the step starts.
    pub(super) gpus: Option<String>,
    /// See [`crate::steps::StepContext`] for these.
    pub(super) out: PathBuf,
    pub(super) checkpoints: PathBuf,
    pub(super) downloads: PathBuf,
    pub(super) tensorboard: PathBuf,
    pub(super) log: PathBuf,
    /// Held while the step runs: after a runner was killed, the next one's step must not begin before
    /// this one's process is gone.
    pub(super) lock: PathBuf,
    pub(super) inputs: Lineage,
}

/// From a worker process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// The job.
    pub(super) id: u64,
    pub(super) reply: Reply,
}

/// What a worker process says of a job.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Begin {
        total: Option<u64>,
        unit: String,
    },
    Update {
        done: u64,
        message: String,
    },
    Note(String),
    Warn(String),
    /// The step runs a program in this process group. Where the worker dies, nobody else can end it.
    Program(u32),
    /// Which digest does this source have in the key?
    AskDigest(PathBuf),
    /// The last reply of a job.
    Ended {
        outcome: Outcome,
        /// The base that the worker still holds.
        kept: Option<Digest>,
    },
}

/// How a job ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Done,
    Cancelled,
    Failed { error: String, hint: Option<String> },
    Defect(String),
}

/// The inputs of a step with everything before them. Flat, since a tree would repeat what several of
/// them come from, again at each level.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lineage {
    /// Each after those that it comes from.
    steps: Vec<Ancestor>,
    /// Places in `steps` of those that the parameters name.
    named: Vec<usize>,
}

/// An [`Input`] whose own inputs are places in a list.
#[derive(Debug, Serialize, Deserialize)]
struct Ancestor {
    node: String,
    step: String,
    kind: String,
    cell: BTreeMap<String, Value>,
    params: Value,
    key: Digest,
    digest: Digest,
    path: PathBuf,
    inputs: Vec<usize>,
}

impl Lineage {
    pub(super) fn of(inputs: &BTreeMap<String, Arc<Input>>) -> Self {
        let (mut steps, mut places) = (Vec::new(), HashMap::new());
        let named = inputs.values().map(|input| place(input, &mut steps, &mut places)).collect();
        Self { steps, named }
    }

    /// The inputs without what they come from, which no command asks for: of long chains it is nearly
    /// all of the plan, and every step would tell it again.
    pub(super) fn of_command(inputs: &BTreeMap<String, Arc<Input>>) -> Self {
        let steps: Vec<Ancestor> = inputs.values().map(|input| Ancestor::of(input, Vec::new())).collect();
        Self { named: (0..steps.len()).collect(), steps }
    }

    /// # Errors
    /// When a place does not exist.
    pub(super) fn restore(self) -> anyhow::Result<BTreeMap<String, Arc<Input>>> {
        let mut restored: Vec<Arc<Input>> = Vec::with_capacity(self.steps.len());
        for Ancestor { node, step, kind, cell, params, key, digest, path, inputs } in self.steps {
            let inputs = inputs.iter().map(|at| restored.get(*at).cloned()).collect::<Option<Vec<_>>>();
            let inputs = inputs.context("an input comes before what it is made from")?;
            restored.push(Arc::new(Input { node, step, kind, cell, params, key, digest, path, inputs }));
        }
        let named = self.named.iter().map(|at| restored.get(*at).cloned());
        let named = named.collect::<Option<Vec<_>>>().context("an input is not among those told")?;
        Ok(named.into_iter().map(|input| (input.node.clone(), input)).collect())
    }
}

impl Ancestor {
    fn of(input: &Input, inputs: Vec<usize>) -> Self {
        Self {
            node: input.node.clone(),
            step: input.step.clone(),
            kind: input.kind.clone(),
            cell: input.cell.clone(),
            params: input.params.clone(),
            key: input.key.clone(),
            digest: input.digest.clone(),
            path: input.path.clone(),
            inputs,
        }
    }
}

fn place<'i>(input: &'i Input, steps: &mut Vec<Ancestor>, places: &mut HashMap<&'i str, usize>) -> usize {
    if let Some(at) = places.get(input.node.as_str()) {
        return *at;
    }
    let inputs = input.inputs.iter().map(|input| place(input, steps, places)).collect();
    steps.push(Ancestor::of(input, inputs));
    places.insert(&input.node, steps.len() - 1);
    steps.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(node: &str, inputs: Vec<Arc<Input>>) -> Arc<Input> {
        Arc::new(Input {
            node: node.to_owned(),
            step: node.to_owned(),
            kind: "base".to_owned(),
            cell: BTreeMap::from([("seed".to_owned(), Value::from(1))]),
            params: serde_json::json!({ "z": 0.1, "a": [1e-300, -0.0] }),
            key: Digest::of_bytes(node.as_bytes()),
            digest: Digest::of_bytes(b"content"),
            path: "/x".into(),
            inputs,
        })
    }

    #[test]
    fn a_lineage_comes_back_as_it_was_and_grows_with_its_steps_alone() {
        let mut last = vec![input("first", Vec::new())];
        for level in 0..40 {
            let side = input(&format!("side {level}"), last.clone());
            last = vec![input(&format!("main {level}"), [&last[..], &[side]].concat())];
        }
        let inputs = BTreeMap::from([("main 39".to_owned(), Arc::clone(&last[0]))]);
        let text = serde_json::to_string(&Lineage::of(&inputs)).unwrap();
        let back = serde_json::from_str::<Lineage>(&text).unwrap().restore().unwrap();
        assert_eq!(text, serde_json::to_string(&Lineage::of(&back)).unwrap());
        let main = &back["main 39"];
        assert_eq!(main.params.to_string(), last[0].params.to_string());
        assert_eq!((main.inputs.len(), &main.cell), (2, &last[0].cell));
        assert!(Arc::ptr_eq(&main.inputs[0], &main.inputs[1].inputs[0]));
    }
}
