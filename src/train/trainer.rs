//! The optimizer-step loop, shared by adapter training and full-parameter pre-training.

use std::collections::BTreeMap;

use anyhow::ensure;
use burn::tensor::Tensor;
use serde::Serialize;

use super::{AdamW, Order, Schedule, loss::cross_entropy};
use crate::{
    data::{IGNORED_LABEL, TokenSet},
    error::hinted,
    model::{Decoder, ForwardHook, ParamMut, TokenBatch, Untouched},
    params::{OptimizerParams, TransPeftParams},
    peft::TransPeft,
};

/// What is trained.
#[derive(Debug, Clone)]
pub enum Subject {
    /// The attached adapter; the base stays frozen.
    Adapter {
        /// pc and pi.
        trans_peft: TransPeftParams,
        /// Dropout on the adapter's input.
        lora_dropout: f64,
    },
    /// Every weight of the base.
    Everything,
}

/// One optimizer step, as a line of `metrics.jsonl`. It holds no times: artifacts are content.
#[derive(Debug, Clone, Serialize)]
pub struct Update {
    /// Optimizer steps done.
    pub step: usize,
    /// Share of epochs done.
    pub epoch: f64,
    /// Mean over the step's label tokens, in nats.
    pub loss: f64,
    /// Rate of this step.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Label tokens of this step.
    pub label_tokens: usize,
    /// Dropped FFNs, summed over the step's micro-batches.
    pub dropped_ffns: usize,
}

/// What a whole run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Optimizer steps.
    pub steps: usize,
    /// Mean loss of the first logged window.
    pub first_loss: f64,
    /// Mean loss of the last logged window.
    pub last_loss: f64,
    /// Real (unpadded) tokens that went forward.
    pub tokens: usize,
    /// Label tokens.
    pub label_tokens: usize,
    /// Dropped FFNs over all micro-batches.
    pub dropped_ffns: usize,
}

/// A training run over tokenized rows.
pub struct Trainer<'a> {
    /// The rows.
    pub tokens: &'a TokenSet,
    /// Token that fills short rows.
    pub pad: i32,
    /// Optimizer and schedule.
    pub params: &'a OptimizerParams,
    /// What is trained.
    pub subject: Subject,
    /// Seed of every draw.
    pub seed: u64,
}

type Gradients = BTreeMap<String, Tensor<2>>;

impl Trainer<'_> {
    /// Optimizer steps of the run.
    pub fn total_steps(&self) -> usize {
        Order::new(self.tokens.rows(), self.params, self.seed).total_steps(self.params)
    }

    /// Trains `model`, which must lie on an autodiff device, in place. `on_update` is called after
    /// every optimizer step; its error ends the run.
    ///
    /// # Errors
    /// When the loss or a gradient is not finite, or `on_update` says so.
    pub fn run(
        &self,
        model: &mut Decoder,
        on_update: &mut dyn FnMut(&Update) -> anyhow::Result<()>,
    ) -> anyhow::Result<Summary> {
        ensure!(self.tokens.rows() > 0, "there is no row to train on");
        let order = Order::new(self.tokens.rows(), self.params, self.seed);
        let total = order.total_steps(self.params);
        let schedule = Schedule::new(self.params, total);
        let mut optimizer = AdamW::default();
        let mut losses = Vec::new();
        let mut summary = Summary {
            steps: total,
            first_loss: 0.0,
            last_loss: 0.0,
            tokens: 0,
            label_tokens: 0,
            dropped_ffns: 0,
        };
        for mut param in self.trainable(model) {
            let value = param.value();
            param.set_leaf(value);
        }
        for step in 0..total {
            let micro_batches = order.step(step);
            let label_tokens = micro_batches.iter().flatten().map(|row| self.targets(*row).1).sum::<usize>();
            let mut update = Update {
                step: step + 1,
                epoch: (step + 1) as f64 / order.steps_per_epoch() as f64,
                loss: 0.0,
                learning_rate: schedule.at(step),
                grad_norm: 0.0,
                label_tokens,
                dropped_ffns: 0,
            };
            let mut gradients = Gradients::new();
            for (index, rows) in micro_batches.iter().enumerate() {
                summary.tokens += rows.iter().map(|row| self.tokens.row(*row).0.len()).sum::<usize>();
                let place = (step, index);
                update.loss += self.accumulate(
                    model,
                    rows,
                    place,
                    label_tokens,
                    &mut gradients,
                    &mut update.dropped_ffns,
                );
            }
            update.grad_norm = self.apply(model, gradients, &mut optimizer, update.learning_rate);
            if !update.loss.is_finite() || !update.grad_norm.is_finite() {
                return Err(hinted(
                    format!(
                        "training diverged in step {}: loss {}, gradient norm {}",
                        step + 1,
                        update.loss,
                        update.grad_norm
                    ),
                    "halve `learning_rate`; with Trans-PEFT, halve `pc` and `pi`",
                ));
            }
            losses.push(update.loss);
            summary.label_tokens += label_tokens;
            summary.dropped_ffns += update.dropped_ffns;
            on_update(&update)?;
        }
        let window = self.params.logging_steps.min(losses.len());
        let mean = |slice: &[f64]| slice.iter().sum::<f64>() / slice.len() as f64;
        summary.first_loss = mean(&losses[..window]);
        summary.last_loss = mean(&losses[losses.len() - window..]);
        Ok(summary)
    }

    fn trainable<'m>(&self, model: &'m mut Decoder) -> Vec<ParamMut<'m>> {
        match self.subject {
            Subject::Adapter { .. } => model.adapter_params(),
            Subject::Everything => model.params(),
        }
    }

    /// A row's targets (the labels moved one to the left) and how many count.
    fn targets(&self, row: usize) -> (Vec<i32>, usize) {
        let (_, labels) = self.tokens.row(row);
        let targets: Vec<i32> = labels.iter().skip(1).copied().chain([IGNORED_LABEL]).collect();
        let count = targets.iter().filter(|target| **target != IGNORED_LABEL).count();
        (targets, count)
    }

    /// Adds one micro-batch's gradients; gives its share of the step's loss.
    fn accumulate(
        &self,
        model: &mut Decoder,
        rows: &[usize],
        (step, index): (usize, usize),
        label_tokens: usize,
        gradients: &mut Gradients,
        dropped_ffns: &mut usize,
    ) -> f64 {
        let ids: Vec<&[i32]> = rows.iter().map(|row| self.tokens.row(*row).0).collect();
        let batch = TokenBatch::right_padded(&ids, self.pad, model);
        let [_, seq] = batch.dims();
        let targets: Vec<i32> = rows
            .iter()
            .flat_map(|row| {
                self.targets(*row).0.into_iter().chain(std::iter::repeat(IGNORED_LABEL)).take(seq)
            })
            .collect();
        let hook: Box<dyn ForwardHook> = match &self.subject {
            Subject::Adapter { trans_peft, lora_dropout } => {
                let layers = model.layers.len();
                let hook = TransPeft::draw(
                    trans_peft,
                    *lora_dropout,
                    self.seed,
                    step,
                    index,
                    layers,
                    model.device(),
                );
                *dropped_ffns += hook.dropped().iter().filter(|dropped| **dropped).count();
                Box::new(hook)
            }
            Subject::Everything => Box::new(Untouched),
        };
        let hidden = model.hidden(&batch, None, hook.as_ref());
        let with_head = matches!(self.subject, Subject::Everything);
        let denominator = label_tokens.max(1) as f64;
        let loss = cross_entropy(model, &hidden.clone().inner(), &targets, denominator, with_head);
        let add = |gradients: &mut Gradients, name: String, grad: Tensor<2>| {
            let sum = match gradients.remove(&name) {
                Some(sum) => sum + grad,
                None => grad,
            };
            gradients.insert(name, sum);
        };
        // The loss as a function of the hidden states is linearised at the point where it was
        // computed, so this backward pass carries its exact gradient into the network. Nothing is
        // tracked when every adapted FFN of this pass was dropped.
        if hidden.is_tracked() {
            let tape = (hidden * Tensor::from_inner(loss.hidden_grad)).sum().backward();
            for param in self.trainable(model) {
                if let Some(grad) = param.grad(&tape) {
                    add(gradients, param.name, grad.inner());
                }
            }
        }
        if let Some(grad) = loss.head_grad {
            add(gradients, model.head_name().to_owned(), grad);
        }
        loss.sum / denominator
    }

    /// Clips the gradients to `max_grad_norm` and updates every parameter that has one. Gives the
    /// norm before clipping.
    fn apply(&self, model: &mut Decoder, mut gradients: Gradients, optimizer: &mut AdamW, lr: f64) -> f64 {
        let squares =
            gradients.values().map(|grad| f64::from(grad.clone().square().sum().into_scalar::<f32>()));
        let norm = squares.sum::<f64>().sqrt();
        let limit = self.params.max_grad_norm;
        // torch's clip_grad_norm_ divides by the norm plus 1e-6.
        let factor = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for mut param in self.trainable(model) {
            if let Some(grad) = gradients.remove(&param.name) {
                let value = optimizer.update(&param.name, param.value(), grad * factor, lr, self.params);
                param.set_leaf(value);
            }
        }
        norm
    }
}
