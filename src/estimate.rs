//! What a step will take of memory and disk, before it runs: from the shapes of the models in the
//! plan. Rough on purpose; it is to tell 6 GiB from 60.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use petgraph::graph::NodeIndex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    data::TokenSet,
    device, eval,
    exec::{NodeStatus, State},
    model::{ModelConfig, Products, SourceModel, largest_matrix, parameter_count, read_json},
    params::{
        ArtifactRef, BaseParams, DeviceName, Dtype, EvalParams, MergeParams, OptimizerParams, PretrainParams,
        TaskSpec, TokenizeParams, TrainParams,
    },
    peft::Adapter,
    plan::{Plan, StepNode},
    steps::{Input, lineage},
    train,
};

/// The step kinds that load or write a model.
const ESTIMATED: [&str; 5] = ["base", "merge", "pretrain", "train", "eval"];

/// Bytes that a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Estimate {
    /// Most memory at a time, of the device that it runs on; of steps that compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// What it writes into the cache; of steps that write weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_bytes: Option<u64>,
}

/// The estimate of every step that would run and loads or writes a model, as far as the shape of its
/// base is known: a base of the hub has none before it has been fetched. `states` are those of the
/// whole plan, whatever is selected: shapes come from the steps before.
pub(crate) fn estimates(plan: &Plan, states: &[(NodeIndex, NodeStatus)]) -> BTreeMap<NodeIndex, Estimate> {
    let paths = states.iter().filter_map(|(index, status)| Some((*index, status.path.as_ref()?.into())));
    let mut known = Known::new(plan, paths.collect());
    let would_run = states.iter().filter(|(_, status)| status.state != State::Cached);
    would_run.filter_map(|(index, _)| Some((*index, known.estimate(*index)?))).collect()
}

/// The memory that a step takes whose inputs are there.
pub(crate) fn memory(plan: &Plan, index: NodeIndex, inputs: &BTreeMap<String, Arc<Input>>) -> Option<u64> {
    if !ESTIMATED.contains(&plan.graph[index].kind.name) {
        return None;
    }
    let before = lineage(inputs.values());
    let paths = before.filter_map(|input| Some((plan.find(&input.node)?, input.path.clone())));
    Known::new(plan, paths.collect()).estimate(index)?.memory_bytes
}

/// What the plan's files say; each is read once.
struct Known<'p> {
    plan: &'p Plan,
    /// Artifacts that are there.
    paths: BTreeMap<NodeIndex, PathBuf>,
    shapes: BTreeMap<NodeIndex, Option<ModelConfig>>,
    lengths: BTreeMap<NodeIndex, Option<usize>>,
}

impl<'p> Known<'p> {
    fn new(plan: &'p Plan, paths: BTreeMap<NodeIndex, PathBuf>) -> Self {
        Self { plan, paths, shapes: BTreeMap::new(), lengths: BTreeMap::new() }
    }

    fn estimate(&mut self, index: NodeIndex) -> Option<Estimate> {
        let node = &self.plan.graph[index];
        if !ESTIMATED.contains(&node.kind.name) {
            return None;
        }
        let shape = self.shape(index)?;
        let weights = |dtype: Dtype| parameter_count(&shape).saturating_mul(dtype.bytes() as u64);
        let loaded = |dtype: Dtype, device: DeviceName, products: Products| {
            weights(dtype).saturating_add(widened_bytes(&shape, dtype, device, products))
        };
        match node.kind.name {
            "base" => Some(Estimate { memory_bytes: None, disk_bytes: Some(weights(Dtype::F32)) }),
            "merge" => {
                let params: MergeParams = read(node)?;
                Some(Estimate { memory_bytes: None, disk_bytes: Some(weights(params.dtype)) })
            }
            "pretrain" => {
                let params: PretrainParams = read(node)?;
                // The weights are what is trained.
                let training =
                    self.training(&shape, (parameter_count(&shape), 0), &params.optimizer, &params.tokens)?;
                Some(Estimate { memory_bytes: Some(training), disk_bytes: Some(weights(params.save_dtype)) })
            }
            "train" => {
                let params: TrainParams = read(node)?;
                let adapter = Adapter::new(&params.adapter);
                let trained = adapter.parameter_count(&shape).ok()?;
                let dropped = match params.adapter.lora_dropout > 0.0 {
                    true => adapter.dropped_values(&shape).ok()?,
                    false => 0,
                };
                let training =
                    self.training(&shape, (trained, dropped), &params.optimizer, &params.tokens)?;
                let loaded = loaded(params.dtype, params.device, Products::Joint);
                Some(Estimate {
                    memory_bytes: Some(loaded.saturating_add(training)),
                    disk_bytes: Some(trained.saturating_mul(4)),
                })
            }
            "eval" => {
                let params: EvalParams = read(node)?;
                let tasks = params.tasks.iter().filter_map(TaskSpec::resolve);
                let whole_scores = device::class(params.device, params.dtype) != "flex";
                let pass = |task| eval::pass_bytes(&shape, &task, params.batch_size, whole_scores);
                let pass = tasks.map(pass).max()?;
                let memory = loaded(params.dtype, params.device, Products::Alone).saturating_add(pass);
                Some(Estimate { memory_bytes: Some(memory), disk_bytes: None })
            }
            _ => None,
        }
    }

    /// What training takes beside weights that stay as they are.
    fn training(
        &mut self,
        shape: &ModelConfig,
        (trained, dropped): (u64, u64),
        optimizer: &OptimizerParams,
        tokens: &ArtifactRef,
    ) -> Option<u64> {
        let length = self.row_length(tokens)?.min(shape.max_positions());
        let pass = train::pass_bytes(
            shape,
            optimizer.per_device_train_batch_size,
            length,
            dropped,
            optimizer.gradient_checkpointing,
        );
        Some(train::state_bytes(trained).saturating_add(pass))
    }

    /// The shape of the model that a node makes or works on.
    fn shape(&mut self, index: NodeIndex) -> Option<ModelConfig> {
        if let Some(known) = self.shapes.get(&index) {
            return known.clone();
        }
        let shape = self.find_shape(index);
        self.shapes.insert(index, shape.clone());
        shape
    }

    fn find_shape(&mut self, index: NodeIndex) -> Option<ModelConfig> {
        let node = &self.plan.graph[index];
        if let Some(path) = self.paths.get(&index)
            && let Some(shape) = shape_in(path)
        {
            return Some(shape);
        }
        let upstream = match node.kind.name {
            "base" => return new_shape(&read(node)?),
            "pretrain" | "train" | "adapter" => "base",
            "swap" => "to",
            "merge" => "adapter",
            "eval" => "model",
            _ => return None,
        };
        let reference: ArtifactRef = serde_json::from_value(node.params.get(upstream)?.clone()).ok()?;
        self.shape(self.plan.find(&reference.0)?)
    }

    /// Longest row of a `tokenize` step: what it found if it is cached, or what it allows.
    fn row_length(&mut self, tokens: &ArtifactRef) -> Option<usize> {
        let index = self.plan.find(&tokens.0)?;
        if let Some(known) = self.lengths.get(&index) {
            return *known;
        }
        let found = self.paths.get(&index).and_then(|path| TokenSet::longest_row(path).ok());
        let allowed = || Some(read::<TokenizeParams>(&self.plan.graph[index])?.max_seq_length);
        let length = found.or_else(allowed);
        self.lengths.insert(index, length);
        length
    }
}

/// Where the CPU has no half precision, one matrix at a time is widened for its product; not where `flex`
/// computes each token by itself.
fn widened_bytes(shape: &ModelConfig, dtype: Dtype, device: DeviceName, products: Products) -> u64 {
    if dtype == Dtype::F32 {
        return 0;
    }
    // `class` may start a driver, so it is asked last.
    match (device::class(device, dtype), products) {
        ("libtorch:cpu", _) | ("flex", Products::Joint) => 4 * largest_matrix(shape),
        _ => 0,
    }
}

fn read<P: DeserializeOwned>(node: &StepNode) -> Option<P> {
    serde_json::from_value(node.params.clone()).ok()
}

/// Of a Hugging Face folder, or of one model file.
fn shape_in(path: &Path) -> Option<ModelConfig> {
    if path.is_dir() {
        return ModelConfig::from_json(&read_json(&path.join("config.json")).ok()?).ok();
    }
    Some(SourceModel::open_without_tokenizer(path).ok()?.config)
}

/// Of a base that is not in the cache.
fn new_shape(params: &BaseParams) -> Option<ModelConfig> {
    if let Some(init) = &params.init {
        let mut config = init.config.clone();
        config.insert("vocab_size".to_owned(), Value::from(init.tokenizer.vocab_size));
        return ModelConfig::from_json(&Value::Object(config)).ok();
    }
    shape_in(&params.source.as_ref()?.0)
}
