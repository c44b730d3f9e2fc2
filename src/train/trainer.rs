//! The loop over optimizer steps, shared by adapter training and full-parameter pre-training: what
//! comes when, and what survives.

use std::path::Path;

use anyhow::ensure;

use super::{
    HeldOut, MeanRates, Order, Summary, Watch,
    checkpoint::Checkpoints,
    course::Course,
    divergence::{Break, Pulse},
    signatures,
    state::{self, State},
};
use crate::{
    data::TokenSet,
    device::run_on,
    model::Decoder,
    params::{OptimizerParams, TransPeftParams},
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

/// A training run over tokenized rows.
pub struct Trainer<'a> {
    /// The rows.
    pub tokens: &'a TokenSet,
    /// Rows whose loss is measured now and then.
    pub held_out: Option<&'a TokenSet>,
    /// Optimizer and schedule.
    pub params: &'a OptimizerParams,
    /// What is trained.
    pub subject: Subject,
    /// Seed of every draw.
    pub seed: u64,
    /// Where checkpoints are found and left; none keeps nothing.
    pub checkpoints: Option<&'a Path>,
}

/// What a finished run leaves besides its weights.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The run in figures.
    pub summary: Summary,
    /// The content of `metrics.jsonl`.
    pub metrics: String,
}

impl Trainer<'_> {
    /// Optimizer steps of the run.
    pub fn total_steps(&self) -> usize {
        Order::new(self.tokens.rows(), self.params, self.seed).total_steps(self.params)
    }

    pub(super) fn lora_dropout(&self) -> f64 {
        match self.subject {
            Subject::Adapter { lora_dropout, .. } => lora_dropout,
            Subject::Everything => 0.0,
        }
    }

    /// Trains `model`, which must lie on an autodiff device, in place: from the newest checkpoint,
    /// else from the start. Both give the same bytes.
    ///
    /// # Errors
    /// When training diverges, a checkpoint cannot be read, or `watch` wants it to end.
    pub fn run(&self, model: &mut Decoder, watch: &mut dyn Watch) -> anyhow::Result<Finished> {
        ensure!(self.tokens.rows() > 0, "there is no row to train on");
        let course = self.course();
        let mut checkpoints = self.checkpoints.map(|folder| Checkpoints::open(folder, self.params));
        let mut state = self.begin(model, checkpoints.as_mut(), watch)?;
        loop {
            if let Err(stop) = watch.check() {
                if let Some(checkpoints) = &mut checkpoints
                    && checkpoints.is_wanted(state.step)
                    && state.pulse.is_sound()
                {
                    self.save(model, &state, checkpoints, watch);
                }
                return Err(stop);
            }
            // A step or a measurement that `watch` interrupts gives nothing; the check above ends
            // the run then.
            if let Some(held_out) = self.held_out.filter(|_| self.evaluates(&state, &course)) {
                self.evaluate(model, held_out, &mut state, &course, watch);
                continue;
            }
            if state.step >= course.total || self.ran_out_of_patience(&state) {
                break;
            }
            let Some((update, gradients)) = self.gradients(model, &mut state, &course, watch) else {
                continue;
            };
            if !Pulse::is_finite(&update) || state.pulse.saw(&update, !gradients.is_empty()) {
                let kept = checkpoints.as_ref().map_or_else(String::new, Checkpoints::describe);
                let broken = Break {
                    update: &update,
                    broken_base: self.broken_base(model, update.step),
                    broken_weight: state::first_broken_param(self.trainable(model)),
                    broken_gradient: state::first_broken(&gradients),
                };
                return Err(state.pulse.diagnosis(&broken, self.params, &kept));
            }
            let device = model.device().clone();
            run_on(&device, || {
                self.apply(model, gradients, update.grad_norm, &mut state.optimizer, update.learning_rate);
            });
            state.count(&update, self.params.logging_steps);
            let logged = update.step == 1
                || update.step == course.total
                || update.step.is_multiple_of(self.params.logging_steps)
                || update.measured();
            if logged || self.evaluates(&state, &course) {
                state.log(&update);
            }
            watch.updated(&update)?;
            if let Some(checkpoints) = &mut checkpoints
                && checkpoints.is_due(state.step)
                && state.step < course.total
                && state.pulse.is_sound()
            {
                self.save(model, &state, checkpoints, watch);
            }
        }
        Ok(self.finish(model, state, &course, watch))
    }

    /// The state to begin with; the parameters become leaves of gradient graphs.
    fn begin(
        &self,
        model: &mut Decoder,
        checkpoints: Option<&mut Checkpoints>,
        watch: &mut dyn Watch,
    ) -> anyhow::Result<State> {
        let fresh = state::values(self.trainable(model));
        let found = match checkpoints {
            Some(all) => all.newest(&fresh, &mut |message| watch.trouble(message))?,
            None => None,
        };
        let (state, weights) = found.unwrap_or_else(|| (State::default(), fresh));
        state::set_values(self.trainable(model), &weights);
        if state.step > 0 {
            watch.resumed(state.step);
        }
        Ok(state)
    }

    /// A full disk must not end a run that can still succeed.
    fn save(&self, model: &mut Decoder, state: &State, checkpoints: &mut Checkpoints, watch: &mut dyn Watch) {
        let weights = state::values(self.trainable(model));
        if let Err(error) = checkpoints.save(state, &weights) {
            watch.trouble(&format!("the checkpoint of step {} is not written: {error:#}", state.step));
        }
    }

    fn ran_out_of_patience(&self, state: &State) -> bool {
        self.params.early_stopping_patience.is_some_and(|patience| state.best.waited >= patience)
    }

    /// A weight that was not finite before anything was trained.
    fn broken_base(&self, model: &mut Decoder, step: usize) -> Option<String> {
        let everything = matches!(self.subject, Subject::Everything);
        let mut trained = Vec::new();
        for (index, layer) in model.layers.iter_mut().enumerate() {
            let biases = layer.linears().filter(|linear| linear.trained_bias_name().is_some());
            trained.extend(biases.map(|linear| format!("model.layers.{index}.{}.bias", linear.name)));
        }
        let mut params = model.params();
        // Before the first update nothing trained has changed.
        params.retain(|param| step == 1 || !everything && !trained.contains(&param.name));
        state::first_broken_param(params)
    }

    fn finish(&self, model: &mut Decoder, state: State, course: &Course, watch: &mut dyn Watch) -> Finished {
        if let Subject::Adapter { trans_peft, .. } = &self.subject {
            signatures::unapplied(trans_peft, &state).iter().for_each(|warning| watch.warn(warning));
        }
        state::set_values(self.trainable(model), &state.best_weights);
        let mean = |sum: f64, count: usize| sum / count as f64;
        let held_out = state.best.lowest.map(|(best_eval_loss, best_step)| HeldOut {
            eval_loss: state.best.last.unwrap_or(f64::NAN),
            best_eval_loss,
            best_step,
            stopped_early: state.step < course.total,
            best_loaded: !state.best_weights.is_empty(),
        });
        let rates = matches!(self.subject, Subject::Adapter { .. }).then(|| MeanRates {
            mean_pc: mean(state.rates[0], state.step),
            mean_pi: mean(state.rates[1], state.step),
            masked: state.masked[0] as f64 / state.masked[1].max(1) as f64,
        });
        let summary = Summary {
            steps: state.step,
            first_loss: mean(state.first_losses.iter().sum(), state.first_losses.len()),
            last_loss: mean(state.last_losses.iter().sum(), state.last_losses.len()),
            tokens: state.tokens,
            label_tokens: state.label_tokens,
            dropped_ffns: state.dropped_ffns,
            held_out,
            rates,
        };
        Finished { summary, metrics: state.metrics }
    }
}
