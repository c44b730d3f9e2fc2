//! Telling a run that diverges, and what broke first.

use std::{collections::VecDeque, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::Update;
use crate::{
    error::{count, hinted},
    params::OptimizerParams,
};

/// Sound losses that the running median is taken of.
const REMEMBERED: usize = 64;
/// Losses that make up the start of a run.
const START: usize = 10;
/// A loss counts as exploding above this many medians, if it is also above the start's.
const FACTOR: f64 = 2.0;
/// Exploding losses in a row that end a run, and gradients in a row that are exactly zero.
const PATIENCE: usize = 10;

/// The run's pulse.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Pulse {
    /// The first losses.
    start: Vec<f64>,
    /// The last sound losses.
    losses: VecDeque<f64>,
    /// Their gradient norms.
    norms: VecDeque<f64>,
    /// Exploding losses in a row.
    exploding: usize,
    /// Gradients in a row that are exactly zero.
    dead: usize,
}

/// Where training broke.
pub(super) struct Break<'a> {
    /// The step that broke.
    pub(super) update: &'a Update,
    /// A weight of the base that was not finite before training.
    pub(super) broken_base: Option<String>,
    /// A parameter that was not finite before the step.
    pub(super) broken_weight: Option<String>,
    /// A parameter whose gradient is not finite.
    pub(super) broken_gradient: Option<String>,
}

impl Pulse {
    /// Whether all is well enough for a checkpoint.
    pub(super) fn is_sound(&self) -> bool {
        self.exploding == 0 && self.dead == 0
    }

    /// Whether a step's figures can be used at all.
    pub(super) fn is_finite(update: &Update) -> bool {
        update.loss.is_finite() && update.grad_norm.is_finite()
    }

    /// Takes a finite step into account; gives whether the run is lost. `tracked` tells whether the
    /// loss depended on anything that is trained: it does not where all adapted FFNs were dropped.
    pub(super) fn saw(&mut self, update: &Update, tracked: bool) -> bool {
        let dead = tracked && update.grad_norm == 0.0 && update.label_tokens > 0;
        self.dead = if dead { self.dead + 1 } else { 0 };
        if self.dead >= PATIENCE {
            return true;
        }
        if self.start.len() < START {
            self.start.push(update.loss);
        } else if update.loss > FACTOR * median(&self.losses) && update.loss > mean(&self.start) {
            self.exploding += 1;
            return self.exploding >= PATIENCE;
        }
        self.exploding = 0;
        for (values, value) in [(&mut self.losses, update.loss), (&mut self.norms, update.grad_norm)] {
            values.push_back(value);
            if values.len() > REMEMBERED {
                values.pop_front();
            }
        }
        false
    }

    /// The error that ends the run: what broke first, what was in force, what to try.
    pub(super) fn diagnosis(&self, broken: &Break, params: &OptimizerParams, kept: &str) -> anyhow::Error {
        let update = broken.update;
        if let Some(name) = &broken.broken_base {
            return hinted(
                format!(
                    "the loss is {} in step {}: the base is damaged, its weight `{name}` holds a number that is \
                     not finite",
                    update.loss, update.step
                ),
                "get or make the base anew; no setting of the training mends it",
            );
        }
        let mut text = format!("training diverged in step {}: ", update.step);
        let _ = match (&broken.broken_weight, &broken.broken_gradient) {
            (Some(name), _) => {
                write!(text, "the weight `{name}` is not finite since the update of step {}", update.step - 1)
            }
            _ if !update.loss.is_finite() => {
                write!(
                    text,
                    "the loss is {} while all weights are finite: the forward pass broke",
                    update.loss
                )
            }
            (_, Some(name)) => write!(
                text,
                "the loss is {:.4}, but the gradient of `{name}` is not finite: the backward pass broke",
                update.loss
            ),
            _ if !update.grad_norm.is_finite() => {
                write!(text, "the loss is {:.4}, but the gradient norm overflowed", update.loss)
            }
            _ if self.dead >= PATIENCE => write!(
                text,
                "the loss is {:.4}, and every gradient of the last {PATIENCE} steps was exactly zero: the \
                 network is saturated and learns no more",
                update.loss
            ),
            _ => write!(
                text,
                "the loss is {:.4} and was for {PATIENCE} steps above {FACTOR} times the median of the steps \
                 before ({:.4}) and above that of the start ({:.4}); the weights are finite but ruined",
                update.loss,
                median(&self.losses),
                mean(&self.start)
            ),
        };
        let _ = write!(text, "; in force: learning rate {:.2e}", update.learning_rate);
        if let Some(intervention) = &update.trans_peft {
            let _ = write!(
                text,
                ", pc {} and pi {} ({} dropped)",
                intervention.pc,
                intervention.pi,
                count(update.dropped_ffns, "FFN")
            );
        }
        if let Some(last) = self.norms.back() {
            let _ = write!(
                text,
                "; gradient norm {:.3} here, {last:.3} in the last sound step, {:.3} in the median",
                update.grad_norm,
                median(&self.norms)
            );
        }
        let _ = write!(text, "; {kept}");
        let mut hint = String::new();
        if update.trans_peft.as_ref().is_some_and(|t| t.pc > 0.0 || t.pi > 0.0) {
            hint.push_str("halve `pc` and `pi` first, as the paper advises; then ");
        }
        hint.push_str("halve `learning_rate`");
        if params.max_grad_norm == 0.0 {
            hint.push_str("; clip gradients with `max_grad_norm: 1`");
        }
        if params.warmup_steps.unwrap_or(1) == 0
            || params.warmup_ratio == 0.0 && params.warmup_steps.is_none()
        {
            hint.push_str("; warm up with `warmup_ratio: 0.03`");
        }
        hinted(text, hint)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(values: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::hint_of, train::Intervention};

    fn update(step: usize, loss: f64) -> Update {
        Update {
            step,
            epoch: 0.0,
            loss,
            learning_rate: 3e-4,
            grad_norm: 1.0,
            tokens: 9,
            label_tokens: 9,
            dropped_ffns: 2,
            trans_peft: Some(Intervention { pc: 0.2, pi: 0.1, ..Intervention::default() }),
        }
    }

    fn lost_after(losses: impl IntoIterator<Item = f64>) -> Option<usize> {
        let mut pulse = Pulse::default();
        losses.into_iter().enumerate().position(|(step, loss)| pulse.saw(&update(step + 1, loss), true))
    }

    #[test]
    fn an_exploding_loss_ends_the_run_after_its_patience() {
        let falling = (0..100).map(|step| 2.0 / (1.0 + f64::from(step) / 10.0));
        assert_eq!(lost_after(falling.clone()), None);
        assert_eq!(lost_after(falling.clone().chain([9.0; 20])), Some(100 + PATIENCE - 1));
        let spikes = (0..300).map(|step| if step % 10 == 9 { 30.0 } else { 0.5 });
        assert_eq!(lost_after(spikes), None, "single spikes pass");
        let mut pulse = Pulse::default();
        let dead = Update { grad_norm: 0.0, ..update(1, 2.0) };
        assert_eq!((0..20).position(|_| pulse.saw(&dead, true)), Some(PATIENCE - 1));
        assert!((0..20).all(|_| !pulse.saw(&dead, false)), "nothing adapted took part");
        // A loss near 0 that triples is no explosion as long as it lies below the start's.
        assert_eq!(lost_after(falling.chain([1.2; 50])), None);
    }

    #[test]
    fn the_diagnosis_names_what_broke_first() {
        let mut pulse = Pulse::default();
        pulse.saw(&update(1, 2.0), true);
        let nan = update(2, f64::NAN);
        let say = |broken_weight, broken_gradient, update| {
            let broken = Break { update, broken_base: None, broken_weight, broken_gradient };
            pulse.diagnosis(&broken, &OptimizerParams::default(), "nothing is kept")
        };
        let text = say(Some("w".to_owned()), None, &nan).to_string();
        assert!(text.contains("the weight `w` is not finite since the update of step 1"), "{text}");
        assert!(text.contains("learning rate 3.00e-4, pc 0.2 and pi 0.1 (2 FFNs dropped)"), "{text}");
        let text = say(None, None, &nan).to_string();
        assert!(text.contains("step 2: the loss is NaN while all weights are finite"), "{text}");
        let error = say(None, Some("g".to_owned()), &Update { grad_norm: f64::INFINITY, ..update(2, 1.0) });
        assert!(error.to_string().contains("the loss is 1.0000, but the gradient of `g`"), "{error}");
        assert_eq!(
            hint_of(&error),
            Some("halve `pc` and `pi` first, as the paper advises; then halve `learning_rate`")
        );
    }
}
