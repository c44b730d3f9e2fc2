//! What a training run tells: of each step, of each measurement, of the whole.

use serde::Serialize;

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
    /// Real (unpadded) tokens of this step.
    pub tokens: usize,
    /// Label tokens of this step.
    pub label_tokens: usize,
    /// Dropped FFNs, summed over the step's micro-batches.
    pub dropped_ffns: usize,
    /// What Trans-PEFT did; none without it.
    #[serde(flatten)]
    pub trans_peft: Option<Intervention>,
}

impl Update {
    /// Whether the adaptive schedule measured its gap in this step.
    pub(super) fn measured(&self) -> bool {
        self.trans_peft.as_ref().is_some_and(|intervention| intervention.loss_gap.is_some())
    }
}

/// What Trans-PEFT did in one optimizer step.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Intervention {
    /// The rate of dropping in force.
    pub pc: f64,
    /// The rate of masking in force.
    pub pi: f64,
    /// Share of the intermediate activations that were zeroed, in the FFNs that were not dropped.
    pub masked: f64,
    /// Loss of the first micro-batch less that of an untouched pass over it, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_gap: Option<f64>,
}

/// A measurement on the held-out rows, as a line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Optimizer steps done.
    pub step: usize,
    /// Share of epochs done.
    pub epoch: f64,
    /// Mean over the label tokens, in nats; nothing masked or dropped.
    pub eval_loss: f64,
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
    /// What the held-out rows showed.
    #[serde(flatten)]
    pub held_out: Option<HeldOut>,
    /// Trans-PEFT over the whole run.
    #[serde(flatten)]
    pub rates: Option<MeanRates>,
}

/// What the held-out rows showed.
#[derive(Debug, Clone, Serialize)]
pub struct HeldOut {
    /// The last loss.
    pub eval_loss: f64,
    /// The lowest.
    pub best_eval_loss: f64,
    /// The step of the lowest.
    pub best_step: usize,
    /// Whether patience ran out before the last step.
    pub stopped_early: bool,
    /// Whether the result holds the weights of `best_step`.
    pub best_loaded: bool,
}

/// Trans-PEFT over a whole run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MeanRates {
    /// Mean of pc over the steps.
    pub mean_pc: f64,
    /// Mean of pi over the steps.
    pub mean_pi: f64,
    /// Share of the intermediate activations that were zeroed.
    pub masked: f64,
}

/// Who looks on. All but `updated` may be left out.
pub trait Watch {
    /// Asked before every forward pass; an error ends the run after a checkpoint.
    ///
    /// # Errors
    /// When the run should end.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// The run goes on from a checkpoint after this step.
    fn resumed(&mut self, _step: usize) {}

    /// An optimizer step is done.
    ///
    /// # Errors
    /// When the run should end.
    fn updated(&mut self, update: &Update) -> anyhow::Result<()>;

    /// The held-out rows were measured.
    fn evaluated(&mut self, _evaluation: &Evaluation) {}

    /// Something that the user should know of this run, not of its result.
    fn trouble(&mut self, _message: &str) {}

    /// Something that the user should know of the result.
    fn warn(&mut self, _message: &str) {}
}

impl<F: FnMut(&Update) -> anyhow::Result<()>> Watch for F {
    fn updated(&mut self, update: &Update) -> anyhow::Result<()> {
        self(update)
    }
}
