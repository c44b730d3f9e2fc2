//! What a person sees of a running training: progress, and lines of the step's log.

use std::time::Instant;

use super::StepContext;
use crate::{
    params::OptimizerParams,
    progress::EventFile,
    train::{Evaluation, Update, Watch},
};

/// Shows every update, and logs every `logging_steps`-th.
pub(crate) struct Onlooker<'a> {
    ctx: &'a StepContext<'a>,
    every: usize,
    total: usize,
    tokens: usize,
    start: Instant,
    eval_loss: Option<f64>,
    /// None when it cannot be written, which must not end a run.
    curves: Option<EventFile>,
}

impl<'a> Onlooker<'a> {
    pub(crate) fn new(ctx: &'a StepContext<'a>, params: &OptimizerParams, total: usize) -> Self {
        ctx.progress.begin(Some(total as u64), "steps");
        let curves = EventFile::create(ctx.tensorboard).map_err(|error| {
            ctx.log(format_args!("no curves for TensorBoard: {error}"));
        });
        Self {
            ctx,
            every: params.logging_steps,
            total,
            tokens: 0,
            start: Instant::now(),
            eval_loss: None,
            curves: curves.ok(),
        }
    }

    fn draw(&mut self, step: usize, scalars: &[(&str, f64)]) {
        if self.curves.as_mut().is_some_and(|curves| curves.add(step, scalars).is_err()) {
            self.curves = None;
        }
    }
}

impl Watch for Onlooker<'_> {
    fn check(&self) -> anyhow::Result<()> {
        self.ctx.cancel.check()
    }

    fn resumed(&mut self, step: usize) {
        let message = format!("resumes at step {step} of {}", self.total);
        self.ctx.log(&message);
        self.ctx.progress.update(step as u64, &message);
        self.ctx.progress.note(&message);
        self.start = Instant::now();
    }

    fn updated(&mut self, update: &Update) -> anyhow::Result<()> {
        self.tokens += update.tokens;
        let rate = self.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let eval = self.eval_loss.map(|loss| format!(", eval loss {loss:.4}")).unwrap_or_default();
        let message =
            format!("loss {:.4}{eval}, lr {:.2e}, {rate:.0} tokens/s", update.loss, update.learning_rate);
        self.ctx.progress.update(update.step as u64, &message);
        let mut scalars = vec![
            ("train/loss", update.loss),
            ("train/learning_rate", update.learning_rate),
            ("train/grad_norm", update.grad_norm),
            ("train/epoch", update.epoch),
            ("train/tokens_per_second", rate),
        ];
        if let Some(intervention) = &update.trans_peft {
            let dropped = update.dropped_ffns as f64;
            scalars.extend([("trans_peft/pc", intervention.pc), ("trans_peft/pi", intervention.pi)]);
            scalars
                .extend([("trans_peft/dropped_ffns", dropped), ("trans_peft/masked", intervention.masked)]);
            scalars.extend(intervention.loss_gap.map(|gap| ("trans_peft/loss_gap", gap)));
        }
        self.draw(update.step, &scalars);
        if update.step == 1 || update.step.is_multiple_of(self.every) || update.step == self.total {
            self.ctx.log(format_args!("step {}/{}: {message}", update.step, self.total));
        }
        Ok(())
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.eval_loss = Some(evaluation.eval_loss);
        self.draw(evaluation.step, &[("eval/loss", evaluation.eval_loss)]);
        self.ctx.log(format_args!("step {}: eval loss {:.4}", evaluation.step, evaluation.eval_loss));
    }

    /// Not as a warning of the log: those stand by the result and are shown with every use of it.
    fn trouble(&mut self, message: &str) {
        self.ctx.log(message);
        self.ctx.progress.warn(message);
    }

    fn warn(&mut self, message: &str) {
        self.ctx.warn(message);
    }
}
