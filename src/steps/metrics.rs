//! `metrics.jsonl` and the progress line of a training step.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    time::Instant,
};

use anyhow::Context as _;

use super::StepContext;
use crate::{params::OptimizerParams, train::Update};

/// Writes every `logging_steps`-th update, the first and the last.
pub(crate) struct MetricsLog<'a> {
    ctx: &'a StepContext<'a>,
    file: BufWriter<File>,
    every: usize,
    total: usize,
    tokens: usize,
    start: Instant,
}

impl<'a> MetricsLog<'a> {
    pub(crate) fn create(
        ctx: &'a StepContext<'a>,
        params: &OptimizerParams,
        total: usize,
    ) -> anyhow::Result<Self> {
        let file = File::create(ctx.out.join("metrics.jsonl")).context("cannot write `metrics.jsonl`")?;
        ctx.progress.begin(Some(total as u64), "steps");
        Ok(Self {
            ctx,
            file: BufWriter::new(file),
            every: params.logging_steps,
            total,
            tokens: 0,
            start: Instant::now(),
        })
    }

    pub(crate) fn record(&mut self, update: &Update) -> anyhow::Result<()> {
        self.ctx.cancel.check()?;
        self.tokens += update.label_tokens;
        let rate = self.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let message =
            format!("loss {:.4}, lr {:.2e}, {rate:.0} label tokens/s", update.loss, update.learning_rate);
        self.ctx.progress.update(update.step as u64, &message);
        if update.step == 1 || update.step.is_multiple_of(self.every) || update.step == self.total {
            serde_json::to_writer(&mut self.file, update)?;
            writeln!(self.file).context("cannot write `metrics.jsonl`")?;
            self.ctx.log(format_args!("step {}/{}: {message}", update.step, self.total));
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.file.flush().context("cannot write `metrics.jsonl`")
    }
}
