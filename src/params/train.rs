//! `uses: train` (an adapter, with pc/pi) and `uses: pretrain` (all parameters).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AdapterParams,
    common::{ArtifactRef, Dtype, Problem, StepParams},
    device_name::DeviceName,
};

/// Parameters of a `train` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainParams {
    /// The base to adapt; stays frozen.
    pub base: ArtifactRef,
    /// Tokenized rows (a `tokenize` step).
    pub tokens: ArtifactRef,
    /// The adapter.
    #[serde(default)]
    pub adapter: AdapterParams,
    /// Trans-PEFT's masking and dropping; both 0 is plain LoRA.
    #[serde(default)]
    pub trans_peft: TransPeftParams,
    /// Optimizer and schedule.
    #[serde(default)]
    pub optimizer: OptimizerParams,
    /// Seed of initialisation, order, dropout, masks and drops.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Where to train.
    #[serde(default)]
    pub device: DeviceName,
    /// Number format of the frozen base.
    #[serde(default)]
    pub dtype: Dtype,
}

/// Parameters of a `pretrain` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainParams {
    /// The base to continue from.
    pub base: ArtifactRef,
    /// Tokenized text (a `tokenize` step).
    pub tokens: ArtifactRef,
    /// Optimizer and schedule.
    #[serde(default)]
    pub optimizer: OptimizerParams,
    /// Seed of the order.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Where to train.
    #[serde(default)]
    pub device: DeviceName,
    /// Number format of the weights.
    #[serde(default)]
    pub dtype: Dtype,
    /// Number format of the written weights.
    #[serde(default)]
    pub save_dtype: Dtype,
}

fn default_seed() -> u64 {
    42
}

/// Trans-PEFT's two probabilities (arXiv 2506.06844).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransPeftParams {
    /// Cross-layer knowledge dropping: chance in [0, 1) that a layer's whole FFN is left out of a
    /// forward pass.
    pub pc: f64,
    /// Intra-layer knowledge masking: chance in [0, 1) that an intermediate FFN activation is
    /// zeroed.
    pub pi: f64,
    /// What one masking draw covers.
    pub mask: MaskKind,
}

impl Default for TransPeftParams {
    fn default() -> Self {
        Self { pc: 0.0, pi: 0.0, mask: MaskKind::Element }
    }
}

/// Granularity of intra-layer masking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskKind {
    /// A fresh draw for every token and neuron (the reference code).
    #[default]
    Element,
    /// One pattern of neurons per layer and step, shared by all tokens (the paper's figure).
    Neuron,
}

/// AdamW and its schedule. Names are transformers' `TrainingArguments`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerParams {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape after warmup.
    pub lr_scheduler_type: LrSchedule,
    /// Warmup steps; wins over `warmup_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Warmup as a share of all steps, rounded up.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay rate of the first moment.
    pub adam_beta1: f64,
    /// Decay rate of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Largest global gradient norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Optimizer steps; wins over `num_train_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Rows in one forward pass.
    pub per_device_train_batch_size: usize,
    /// Forward passes in one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Optimizer steps between two lines of `metrics.jsonl`.
    pub logging_steps: usize,
}

impl Default for OptimizerParams {
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            lr_scheduler_type: LrSchedule::Cosine,
            warmup_steps: None,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 16,
            gradient_accumulation_steps: 1,
            logging_steps: 10,
        }
    }
}

/// Learning rate over the steps after warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// Stays at the peak.
    Constant,
    /// Straight down to 0.
    Linear,
    /// Half a cosine down to 0.
    Cosine,
}

/// More steps, or rows in one, than any run has; larger numbers are slips of the pen.
const MAX_COUNT: usize = 1 << 32;

impl OptimizerParams {
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut positive = |field: &str, value: f64, zero_is_fine: bool| {
            if !value.is_finite() || value < 0.0 || (value == 0.0 && !zero_is_fine) {
                let bound = if zero_is_fine { "0 or more" } else { "more than 0" };
                problems.push(Problem::new(
                    format!("optimizer.{field}"),
                    format!("must be a number of {bound}, found {value}"),
                ));
            }
        };
        positive("learning_rate", self.learning_rate, false);
        positive("weight_decay", self.weight_decay, true);
        positive("adam_epsilon", self.adam_epsilon, false);
        positive("max_grad_norm", self.max_grad_norm, true);
        positive("num_train_epochs", self.num_train_epochs, false);
        positive("per_device_train_batch_size", self.per_device_train_batch_size as f64, false);
        positive("gradient_accumulation_steps", self.gradient_accumulation_steps as f64, false);
        positive("logging_steps", self.logging_steps as f64, false);
        for (field, value) in [
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("max_steps", self.max_steps.unwrap_or(1)),
        ] {
            if value > MAX_COUNT || value == 0 && field == "max_steps" {
                problems.push(Problem::new(
                    format!("optimizer.{field}"),
                    format!("must lie between 1 and {MAX_COUNT}, found {value}"),
                ));
            }
        }
        if self.num_train_epochs > MAX_COUNT as f64 {
            problems.push(Problem::new("optimizer.num_train_epochs", format!("must be at most {MAX_COUNT}")));
        }
        for (field, value) in [
            ("warmup_ratio", self.warmup_ratio),
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
        ] {
            problems.extend(below_one(&format!("optimizer.{field}"), value));
        }
        problems
    }
}

/// A problem unless `value` lies in [0, 1).
pub(super) fn below_one(field: &str, value: f64) -> Option<Problem> {
    (!(0.0..1.0).contains(&value)).then(|| Problem::new(field, format!("must lie in [0, 1), found {value}")))
}

impl StepParams for TrainParams {
    const KIND: &'static str = "train";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Train an adapter on a frozen base, with Trans-PEFT's pc and pi.";

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.optimizer.check();
        problems.extend(below_one("trans_peft.pc", self.trans_peft.pc));
        problems.extend(below_one("trans_peft.pi", self.trans_peft.pi));
        problems.extend(self.adapter.check());
        if self.dtype == Dtype::F16 {
            problems.push(Problem::new(
                "dtype",
                "gradients underflow in f16 without loss scaling; train in `bf16` or `f32`",
            ));
        }
        problems.extend(self.device.check());
        problems
    }
}

impl StepParams for PretrainParams {
    const KIND: &'static str = "pretrain";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Continue pre-training all parameters on text: makes the next version of a base.";

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.optimizer.check();
        if self.dtype != Dtype::F32 {
            problems.push(Problem::new(
                "dtype",
                "all weights are trained, which needs `f32`; `save_dtype` rounds them in the end",
            ));
        }
        problems.extend(self.device.check());
        problems
    }
}
