//! Everything that a run carries from one optimizer step to the next.

use std::collections::{BTreeMap, VecDeque};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{AdamW, Evaluation, Update, best::Best, divergence::Pulse, rates::Control};
use crate::model::ParamMut;

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, Tensor<2>>;

/// A run between two optimizer steps. Draws are no part of it: each is a function of its step.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Optimizer steps done.
    pub(super) step: usize,
    /// The last step after which the held-out rows were measured.
    pub(super) evaluated: usize,
    pub(super) tokens: usize,
    pub(super) label_tokens: usize,
    pub(super) dropped_ffns: usize,
    /// Intermediate elements that were zeroed, and all that a mask covered.
    pub(super) masked: [u64; 2],
    /// pc and pi, summed over the steps.
    pub(super) rates: [f64; 2],
    /// FFNs that should have been dropped, on average.
    pub(super) expected_drops: f64,
    /// Losses of the first steps.
    pub(super) first_losses: Vec<f64>,
    /// Losses of the last steps.
    pub(super) last_losses: VecDeque<f64>,
    pub(super) pulse: Pulse,
    pub(super) control: Control,
    pub(super) best: Best,
    /// Lines of `metrics.jsonl` so far.
    #[serde(skip)]
    pub(super) metrics: String,
    #[serde(skip)]
    pub(super) optimizer: AdamW,
    /// The weights with the lowest held-out loss, where they are wanted.
    #[serde(skip)]
    pub(super) best_weights: Tensors,
}

impl State {
    /// Takes a finished step's figures over; `window` losses are kept from both ends.
    pub(super) fn count(&mut self, update: &Update, window: usize) {
        self.step = update.step;
        self.tokens += update.tokens;
        self.label_tokens += update.label_tokens;
        self.dropped_ffns += update.dropped_ffns;
        if let Some(intervention) = &update.trans_peft {
            self.rates[0] += intervention.pc;
            self.rates[1] += intervention.pi;
        }
        if self.first_losses.len() < window {
            self.first_losses.push(update.loss);
        }
        self.last_losses.push_back(update.loss);
        if self.last_losses.len() > window {
            self.last_losses.pop_front();
        }
    }

    /// Adds a line to the metrics.
    pub(super) fn log(&mut self, line: &impl Serialize) {
        self.metrics.push_str(&serde_json::to_string(line).expect("figures are plain data"));
        self.metrics.push('\n');
    }

    /// Takes a measurement of the held-out rows over; gives whether it is the best.
    pub(super) fn measure(&mut self, evaluation: &Evaluation, threshold: f64) -> bool {
        self.evaluated = evaluation.step;
        self.log(evaluation);
        self.best.saw(evaluation.step, evaluation.eval_loss, threshold)
    }
}

/// The parameters as they stand; values are shared, not copied.
pub(super) fn values(params: Vec<ParamMut<'_>>) -> Tensors {
    params.into_iter().map(|param| (param.name.clone(), param.value())).collect()
}

/// Replaces the parameters that `values` holds.
pub(super) fn set_values(params: Vec<ParamMut<'_>>, values: &Tensors) {
    for mut param in params {
        if let Some(value) = values.get(&param.name) {
            param.set_leaf(value.clone());
        }
    }
}

/// The first of some tensors that holds a number that is not finite.
pub(super) fn first_broken(tensors: &Tensors) -> Option<String> {
    tensors.iter().find(|(_, tensor)| is_broken(tensor)).map(|(name, _)| name.clone())
}

/// The first of some parameters that does.
pub(super) fn first_broken_param(params: Vec<ParamMut<'_>>) -> Option<String> {
    params.into_iter().find(|param| is_broken(&param.value())).map(|param| param.name)
}

fn is_broken(tensor: &Tensor<2>) -> bool {
    let data = tensor.to_data().convert::<f32>();
    !data.iter::<f32>().all(f32::is_finite)
}
