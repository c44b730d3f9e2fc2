//! The loop over optimizer steps, shared by adapter training and full-parameter pre-training: what
//! comes when, and what survives.

use std::path::Path;

use anyhow::ensure;

use super::{
    Evaluation, HeldOut, Intervention, MeanRates, Order, Schedule, Summary, Update, Watch,
    checkpoint::Checkpoints,
    divergence::{Break, Pulse},
    rates::Rates,
    signatures,
    state::{self, State},
    update::{self, Gradients, label_tokens},
};
use crate::{
    data::TokenSet,
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
    /// Token that fills short rows.
    pub pad: i32,
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

/// What is fixed over a run.
struct Course<'a> {
    order: Order,
    total: usize,
    schedule: Schedule,
    /// None when all parameters are trained.
    rates: Option<Rates<'a>>,
    eval_steps: usize,
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

    fn course(&self) -> Course<'_> {
        let order = Order::new(self.tokens.rows(), self.params, self.seed);
        let total = order.total_steps(self.params);
        Course {
            schedule: Schedule::new(self.params, total),
            rates: match &self.subject {
                Subject::Adapter { trans_peft, .. } => Some(Rates::new(trans_peft, total)),
                Subject::Everything => None,
            },
            eval_steps: self.params.eval_steps.unwrap_or(order.steps_per_epoch()).max(1),
            order,
            total,
        }
    }

    /// Trains `model`, which must lie on an autodiff device, in place: from the newest checkpoint,
    /// else from the start. Both give the same bytes.
    ///
    /// # Errors
    /// When training diverges, or `watch` wants it to end.
    pub fn run(&self, model: &mut Decoder, watch: &mut dyn Watch) -> anyhow::Result<Finished> {
        ensure!(self.tokens.rows() > 0, "there is no row to train on");
        let course = self.course();
        let mut checkpoints = self.checkpoints.map(|folder| Checkpoints::open(folder, self.params));
        let mut state = self.begin(model, checkpoints.as_mut(), watch);
        loop {
            if let Err(stop) = watch.check() {
                if let Some(checkpoints) = &mut checkpoints
                    && checkpoints.is_wanted(state.step)
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
                    broken_weight: update::first_broken(&state::values(self.trainable(model))),
                    broken_gradient: update::first_broken(&gradients),
                };
                return Err(state.pulse.diagnosis(&broken, self.params, &kept));
            }
            self.apply(model, gradients, update.grad_norm, &mut state.optimizer, update.learning_rate);
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
    ) -> State {
        let fresh = state::values(self.trainable(model));
        let found = checkpoints.and_then(|all| all.newest(&fresh, &mut |message| watch.warn(message)));
        let (state, weights) = found.unwrap_or_else(|| (State::default(), fresh));
        state::set_values(self.trainable(model), &weights);
        if state.step > 0 {
            watch.resumed(state.step);
        }
        state
    }

    /// A full disk must not end a run that can still succeed.
    fn save(&self, model: &mut Decoder, state: &State, checkpoints: &mut Checkpoints, watch: &mut dyn Watch) {
        let weights = state::values(self.trainable(model));
        if let Err(error) = checkpoints.save(state, &weights) {
            watch.warn(&format!("the checkpoint of step {} is not written: {error:#}", state.step));
        }
    }

    fn evaluates(&self, state: &State, course: &Course) -> bool {
        let due = state.step.is_multiple_of(course.eval_steps) || state.step == course.total;
        self.held_out.is_some() && state.step > state.evaluated && due
    }

    fn evaluate(
        &self,
        model: &mut Decoder,
        held_out: &TokenSet,
        state: &mut State,
        course: &Course,
        watch: &mut dyn Watch,
    ) {
        let Some(eval_loss) = self.held_out_loss(model, held_out, watch) else { return };
        let epoch = state.step as f64 / course.order.steps_per_epoch() as f64;
        let evaluation = Evaluation { step: state.step, epoch, eval_loss };
        let best = state.measure(&evaluation, self.params.early_stopping_threshold);
        if best && self.params.load_best_model_at_end {
            state.best_weights = state::values(self.trainable(model));
        }
        watch.evaluated(&evaluation);
    }

    fn ran_out_of_patience(&self, state: &State) -> bool {
        self.params.early_stopping_patience.is_some_and(|patience| state.best.waited >= patience)
    }

    /// The next step's figures and gradients, or none when `watch` wants the run to end.
    fn gradients(
        &self,
        model: &mut Decoder,
        state: &mut State,
        course: &Course,
        watch: &dyn Watch,
    ) -> Option<(Update, Gradients)> {
        let step = state.step;
        let micro_batches = course.order.step(step);
        let label_tokens = label_tokens(self.tokens, micro_batches.iter().flatten());
        let denominator = label_tokens.max(1) as f64;
        let rates = course.rates.as_ref().map(|rates| rates.at(step, &state.control));
        let mut update = Update {
            step: step + 1,
            epoch: (step + 1) as f64 / course.order.steps_per_epoch() as f64,
            loss: 0.0,
            learning_rate: course.schedule.at(step),
            grad_norm: 0.0,
            tokens: micro_batches.iter().flatten().map(|row| self.tokens.row(*row).0.len()).sum(),
            label_tokens,
            dropped_ffns: 0,
            trans_peft: rates.as_ref().map(|now| Intervention {
                pc: now.pc,
                pi: now.pi,
                ..Default::default()
            }),
        };
        let mut gradients = Gradients::new();
        let mut masked = [0, 0];
        for (index, rows) in micro_batches.iter().enumerate() {
            watch.check().ok()?;
            let place = (step, index);
            let pass = self.accumulate(model, rows, place, rates.as_ref(), denominator, &mut gradients);
            update.loss += pass.loss / denominator;
            update.dropped_ffns += pass.dropped_ffns;
            masked = [masked[0] + pass.masked[0], masked[1] + pass.masked[1]];
            if index == 0
                && let (Some(rates), Some(intervention)) = (&course.rates, &mut update.trans_peft)
                && rates.measures(step)
            {
                let touched = pass.loss / update::label_tokens(self.tokens, rows).max(1) as f64;
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
        update.grad_norm = update::norm(&gradients);
        Some((update, gradients))
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
