//! What is fixed over a run: the order of rows, the rates of each step, when to measure.

use super::{Order, Schedule, Subject, Trainer, rates::Rates};

/// What is fixed over a run.
pub(super) struct Course<'a> {
    pub(super) order: Order,
    pub(super) total: usize,
    pub(super) schedule: Schedule,
    /// None when all parameters are trained.
    pub(super) rates: Option<Rates<'a>>,
    /// Optimizer steps between two measurements of the held-out rows.
    pub(super) eval_steps: usize,
}

impl Trainer<'_> {
    pub(super) fn course(&self) -> Course<'_> {
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
}
