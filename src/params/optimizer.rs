//! `optimizer:` of a training step, under the names of transformers' `TrainingArguments`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{MAX_COUNT, Problem, below_one};

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
    /// Optimizer steps between two checkpoints; 0 writes none. Without it one is written about
    /// every minute, less often where writing takes long. Changes no result, so no key either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_steps: Option<usize>,
    /// Checkpoints that are kept.
    pub save_total_limit: usize,
    /// Keep only each layer's input between the two passes and run the layer again in the backward
    /// pass: less memory, about a third more time, the same bytes.
    pub gradient_checkpointing: bool,
    /// Optimizer steps between two measurements of the held-out rows' loss [default: an epoch]. The
    /// end of training is always measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<usize>,
    /// Stop after this many measurements in a row without a better `eval_loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<usize>,
    /// By how much `eval_loss` must fall to count as better for `early_stopping_patience`.
    pub early_stopping_threshold: f64,
    /// Give the weights with the lowest `eval_loss` instead of the last ones.
    pub load_best_model_at_end: bool,
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
            save_steps: None,
            save_total_limit: 2,
            gradient_checkpointing: false,
            eval_steps: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            load_best_model_at_end: false,
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

impl OptimizerParams {
    /// Checkpoints change no byte of the result.
    pub(super) const NOT_IN_KEY: &'static [&'static str] =
        &["optimizer.gradient_checkpointing", "optimizer.save_steps", "optimizer.save_total_limit"];

    /// The fields in use that mean nothing without held-out rows.
    pub(super) fn needs_held_out_rows(&self) -> Vec<&'static str> {
        let asked = [
            ("eval_steps", self.eval_steps.is_some()),
            ("early_stopping_patience", self.early_stopping_patience.is_some()),
            ("load_best_model_at_end", self.load_best_model_at_end),
        ];
        asked.into_iter().filter(|(_, asked)| *asked).map(|(field, _)| field).collect()
    }

    pub(super) fn check(&self) -> Vec<Problem> {
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
        positive("save_total_limit", self.save_total_limit as f64, false);
        positive("eval_steps", self.eval_steps.unwrap_or(1) as f64, false);
        positive("early_stopping_patience", self.early_stopping_patience.unwrap_or(1) as f64, false);
        positive("early_stopping_threshold", self.early_stopping_threshold, true);
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
