//! What a training leaves beside its weights: `metrics.jsonl` and `train.json`.

use anyhow::Context as _;

use super::StepContext;
use crate::train::Finished;

/// Writes `metrics.jsonl` and `train.json`.
pub(crate) fn write(ctx: &StepContext, finished: &Finished) -> anyhow::Result<()> {
    std::fs::write(ctx.out.join("metrics.jsonl"), &finished.metrics)
        .context("cannot write `metrics.jsonl`")?;
    let summary = &finished.summary;
    ctx.write_json("train.json", &serde_json::to_value(summary)?)?;
    ctx.log(format_args!(
        "loss {:.4} -> {:.4} in {} steps",
        summary.first_loss, summary.last_loss, summary.steps
    ));
    if let Some(held_out) = &summary.held_out {
        ctx.log(format_args!(
            "eval loss {:.4}, the lowest {:.4} after step {}{}{}",
            held_out.eval_loss,
            held_out.best_eval_loss,
            held_out.best_step,
            if held_out.stopped_early { "; patience ran out" } else { "" },
            if held_out.best_loaded { "; its weights are the result" } else { "" },
        ));
    }
    Ok(())
}
