//! `uses: train` (an adapter, with pc/pi) and `uses: pretrain` (all parameters).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AdapterParams, OptimizerParams, TransPeftParams,
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
    /// Held-out rows (a `tokenize` step); their loss is measured every `optimizer.eval_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_tokens: Option<ArtifactRef>,
    /// Instead of `eval_tokens`: the share of the rows, in (0, 1), that is held out. The same rows
    /// whatever the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<f64>,
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
    /// Held-out rows (a `tokenize` step); their loss is measured every `optimizer.eval_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_tokens: Option<ArtifactRef>,
    /// Instead of `eval_tokens`: the share of the rows, in (0, 1), that is held out. The same rows
    /// whatever the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<f64>,
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

/// The rules between held-out rows and what is done with their loss.
fn check_held_out(
    optimizer: &OptimizerParams,
    eval_tokens: Option<&ArtifactRef>,
    validation_split: Option<f64>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(share) = validation_split {
        if !(share > 0.0 && share < 1.0) {
            problems.push(
                Problem::new("validation_split", format!("must lie above 0 and below 1, found {share}"))
                    .hint("leave it out to hold out nothing"),
            );
        }
        if eval_tokens.is_some() {
            problems.push(
                Problem::new("validation_split", "`validation_split` cannot stand beside `eval_tokens`")
                    .hint("either names rows to hold out, or the share of `tokens` to hold out"),
            );
        }
    }
    if eval_tokens.is_none() && validation_split.is_none() {
        for field in optimizer.needs_held_out_rows() {
            let message = format!("`{field}` needs rows that are held out from training");
            problems.push(
                Problem::new(format!("optimizer.{field}"), message)
                    .hint("set `validation_split: 0.1`, or `eval_tokens` to a `tokenize` step"),
            );
        }
    }
    problems
}

impl StepParams for TrainParams {
    const KIND: &'static str = "train";
    const VERSION: u32 = 5;
    const NOT_IN_KEY: &'static [&'static str] = OptimizerParams::NOT_IN_KEY;
    const ABOUT: &'static str = "Train an adapter on a frozen base, with Trans-PEFT's pc and pi.";

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.optimizer.check();
        problems.extend(check_held_out(&self.optimizer, self.eval_tokens.as_ref(), self.validation_split));
        problems.extend(self.trans_peft.check());
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
    const VERSION: u32 = 4;
    const NOT_IN_KEY: &'static [&'static str] = OptimizerParams::NOT_IN_KEY;
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
        problems.extend(check_held_out(&self.optimizer, self.eval_tokens.as_ref(), self.validation_split));
        problems
    }
}
