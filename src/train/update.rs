//! One optimizer step: forward and backward over its micro-batches, clipping, AdamW.

use burn::tensor::Tensor;

use super::{
    AdamW, Intervention, Subject, Trainer, Update, Watch,
    course::Course,
    loss::cross_entropy,
    passes::Forward,
    state::{State, Tensors},
};
use crate::{
    data::{IGNORED_LABEL, TokenSet},
    device::run_on,
    model::{Decoder, ForwardHook, ParamMut, TokenBatch, Training},
    params::TransPeftParams,
    peft::TransPeft,
};

/// What one micro-batch added up to.
struct Pass {
    /// Sum of the loss over the label tokens, in nats.
    loss: f64,
    /// FFNs that were left out.
    dropped_ffns: usize,
    /// Intermediate elements that were zeroed, and all that a mask covered.
    masked: [u64; 2],
}

/// A row's targets (the labels moved one to the left) and how many count.
pub(super) fn targets(tokens: &TokenSet, row: usize) -> (Vec<i32>, usize) {
    let (_, labels) = tokens.row(row);
    let targets: Vec<i32> = labels.iter().skip(1).copied().chain([IGNORED_LABEL]).collect();
    let count = targets.iter().filter(|target| **target != IGNORED_LABEL).count();
    (targets, count)
}

/// The label tokens of some rows.
pub(super) fn label_tokens<'r>(tokens: &TokenSet, rows: impl IntoIterator<Item = &'r usize>) -> usize {
    rows.into_iter().map(|row| targets(tokens, *row).1).sum()
}

/// Rows one after another, and the targets of every position.
pub(super) fn batch(tokens: &TokenSet, rows: &[usize]) -> (TokenBatch, Vec<i32>) {
    let ids: Vec<&[i32]> = rows.iter().map(|row| tokens.row(*row).0).collect();
    let targets = rows.iter().flat_map(|row| targets(tokens, *row).0).collect();
    (TokenBatch::rows(&ids), targets)
}

impl Trainer<'_> {
    /// The parameters that are trained.
    pub(super) fn trainable<'m>(&self, model: &'m mut Decoder) -> Vec<ParamMut<'m>> {
        match self.subject {
            Subject::Adapter { .. } => model.adapter_params(),
            Subject::Everything => model.params(),
        }
    }

    /// The next step's figures and gradients, or none when `watch` wants the run to end.
    pub(super) fn gradients(
        &self,
        model: &mut Decoder,
        state: &mut State,
        course: &Course,
        watch: &dyn Watch,
    ) -> Option<(Update, Tensors)> {
        let step = state.step;
        let micro_batches = course.order.step(step);
        let labelled = label_tokens(self.tokens, micro_batches.iter().flatten());
        let denominator = labelled.max(1) as f64;
        let rates = course.rates.as_ref().map(|rates| rates.at(step, &state.control));
        let mut update = Update {
            step: step + 1,
            epoch: (step + 1) as f64 / course.order.steps_per_epoch() as f64,
            loss: 0.0,
            learning_rate: course.schedule.at(step),
            grad_norm: 0.0,
            tokens: micro_batches.iter().flatten().map(|row| self.tokens.row(*row).0.len()).sum(),
            label_tokens: labelled,
            dropped_ffns: 0,
            trans_peft: rates.as_ref().map(|now| Intervention {
                pc: now.pc,
                pi: now.pi,
                ..Default::default()
            }),
        };
        let mut gradients = Tensors::new();
        let mut masked = [0, 0];
        for (index, rows) in micro_batches.iter().enumerate() {
            watch.check().ok()?;
            let place = (step, index);
            let device = model.device().clone();
            let pass = run_on(&device, || {
                self.accumulate(model, rows, place, rates.as_ref(), denominator, &mut gradients)
            });
            update.loss += pass.loss / denominator;
            update.dropped_ffns += pass.dropped_ffns;
            masked = [masked[0] + pass.masked[0], masked[1] + pass.masked[1]];
            if index == 0
                && let (Some(rates), Some(intervention)) = (&course.rates, &mut update.trans_peft)
                && rates.measures(step)
            {
                let touched = pass.loss / label_tokens(self.tokens, rows).max(1) as f64;
                intervention.loss_gap = Some(touched - self.micro_batch_loss(model, rows));
            }
        }
        // Nothing interrupts the step any more, so what it drew may be counted.
        if let (Some(rates), Some(intervention)) = (&course.rates, &mut update.trans_peft) {
            intervention.masked = masked[0] as f64 / masked[1].max(1) as f64;
            let ffns = model.layers.len() * micro_batches.len();
            state.expected_drops += intervention.pc * ffns as f64;
            state.masked = [state.masked[0] + masked[0], state.masked[1] + masked[1]];
            if let Some(gap) = intervention.loss_gap {
                rates.learn(step, gap, &mut state.control);
            }
        }
        update.grad_norm = norm(&gradients);
        Some((update, gradients))
    }

    /// Adds one micro-batch's gradients, each divided by `denominator`. `rates` are those in force;
    /// none without Trans-PEFT.
    fn accumulate(
        &self,
        model: &mut Decoder,
        rows: &[usize],
        (step, index): (usize, usize),
        rates: Option<&TransPeftParams>,
        denominator: f64,
        gradients: &mut Tensors,
    ) -> Pass {
        let (batch, targets) = batch(self.tokens, rows);
        let hook = rates.map(|rates| {
            let (layers, dropout) = (model.layers.len(), self.lora_dropout());
            TransPeft::draw(rates, dropout, self.seed, step, index, layers)
        });
        let hook_or_none: &dyn ForwardHook = match &hook {
            Some(hook) => hook,
            None => &Training,
        };
        let forward = Forward::run(model, &batch, hook_or_none, self.params.gradient_checkpointing);
        let with_head = matches!(self.subject, Subject::Everything);
        let loss = cross_entropy(model, &forward.hidden(), &targets, denominator, with_head);
        let add = |gradients: &mut Tensors, name: String, grad: Tensor<2>| {
            let sum = match gradients.remove(&name) {
                Some(sum) => sum + grad,
                None => grad,
            };
            gradients.insert(name, sum);
        };
        forward.backward(model, loss.hidden_grad, &mut |model, tape| {
            for param in self.trainable(model) {
                if let Some(grad) = param.grad(tape) {
                    add(gradients, param.name, grad.inner());
                }
            }
        });
        if let Some(grad) = loss.head_grad {
            add(gradients, model.head_name().to_owned(), grad);
        }
        let dropped = hook.as_ref().map_or(0, |hook| hook.dropped().iter().filter(|d| **d).count());
        let masked = hook.map_or([0, 0], |hook| hook.masked());
        Pass { loss: loss.sum, dropped_ffns: dropped, masked }
    }

    /// Clips the gradients, whose global norm is `norm`, to `max_grad_norm` and updates every
    /// parameter that has one.
    pub(super) fn apply(
        &self,
        model: &mut Decoder,
        mut gradients: Tensors,
        norm: f64,
        optimizer: &mut AdamW,
        lr: f64,
    ) {
        let limit = self.params.max_grad_norm;
        // torch's clip_grad_norm_ divides by the norm plus 1e-6.
        let factor = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for mut param in self.trainable(model) {
            if let Some(grad) = gradients.remove(&param.name) {
                let value = optimizer.update(&param.name, param.value(), grad * factor, lr, self.params);
                param.set_leaf(value);
            }
        }
    }
}

/// The global norm of the gradients.
fn norm(gradients: &Tensors) -> f64 {
    let squares = gradients.values().map(|grad| f64::from(grad.clone().square().sum().into_scalar::<f32>()));
    squares.sum::<f64>().sqrt()
}
