//! The loss of held-out rows: nothing masked, nothing dropped, nothing tracked.

use std::collections::BTreeSet;

use anyhow::ensure;

use super::{
    Evaluation, Trainer, Watch,
    course::Course,
    loss::loss_sum,
    state::{self, State},
    update::{batch, label_tokens},
};
use crate::{
    data::TokenSet,
    device::run_on,
    model::{Decoder, Untouched},
    rng,
};

/// Cuts rows into those to train on and those to hold out: the same ones whatever the seed of the
/// run, so that runs can be compared.
///
/// # Errors
/// When there are too few rows for both.
pub fn hold_out(tokens: &TokenSet, share: f64) -> anyhow::Result<(TokenSet, TokenSet)> {
    let rows = tokens.rows();
    ensure!(rows >= 2, "there are too few rows to hold some out: {rows}");
    let count = ((share * rows as f64).round() as usize).clamp(1, rows - 1);
    let mut order: Vec<usize> = (0..rows).collect();
    let mut random = rng::stream(0, "validation_split", &[]);
    for i in (1..rows).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let held: BTreeSet<usize> = order.into_iter().take(count).collect();
    let (mut train, mut held_out) = (TokenSet::new(), TokenSet::new());
    for row in 0..rows {
        let (ids, labels) = tokens.row(row);
        let set = if held.contains(&row) { &mut held_out } else { &mut train };
        set.push(ids, labels);
    }
    Ok((train, held_out))
}

impl Trainer<'_> {
    /// Whether the held-out rows are to be measured before the next step.
    pub(super) fn evaluates(&self, state: &State, course: &Course) -> bool {
        let due = state.step.is_multiple_of(course.eval_steps) || state.step == course.total;
        self.held_out.is_some() && state.step > state.evaluated && due
    }

    /// Measures the held-out rows; nothing changes when `watch` wants the run to end.
    pub(super) fn evaluate(
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

    /// Mean loss over the label tokens of all rows; none when the run should end.
    fn held_out_loss(&self, model: &mut Decoder, tokens: &TokenSet, watch: &dyn Watch) -> Option<f64> {
        let rows: Vec<usize> = (0..tokens.rows()).collect();
        let count = label_tokens(tokens, &rows).max(1);
        self.untracked(model, |model| {
            let mut sum = 0.0;
            for rows in rows.chunks(self.params.per_device_train_batch_size) {
                watch.check().ok()?;
                sum += self.untouched_loss(model, tokens, rows);
            }
            Some(sum / count as f64)
        })
    }

    /// Mean loss over the label tokens of one micro-batch, nothing masked or dropped.
    pub(super) fn micro_batch_loss(&self, model: &mut Decoder, rows: &[usize]) -> f64 {
        let count = label_tokens(self.tokens, rows).max(1);
        self.untracked(model, |model| self.untouched_loss(model, self.tokens, rows) / count as f64)
    }

    fn untouched_loss(&self, model: &Decoder, tokens: &TokenSet, rows: &[usize]) -> f64 {
        let (batch, targets) = batch(tokens, rows);
        run_on(model.device(), || {
            let hidden = model.hidden(&batch, None, &Untouched);
            loss_sum(model, &hidden.inner(), &targets)
        })
    }

    /// Runs with parameters that ask for no gradient, so that forward passes keep nothing.
    fn untracked<T>(&self, model: &mut Decoder, work: impl FnOnce(&Decoder) -> T) -> T {
        let values = state::values(self.trainable(model));
        for mut param in self.trainable(model) {
            if let Some(value) = values.get(&param.name) {
                param.set(burn::tensor::Tensor::from_inner(value.clone()));
            }
        }
        let result = work(model);
        state::set_values(self.trainable(model), &values);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_rows_are_never_trained_on() {
        let mut all = TokenSet::new();
        (0..40).for_each(|row| all.push(&[row, row], &[row, row]));
        let (train, held_out) = hold_out(&all, 0.2).unwrap();
        assert_eq!((train.rows(), held_out.rows()), (32, 8));
        let ids = |set: &TokenSet| (0..set.rows()).map(|row| set.row(row).0[0]).collect::<BTreeSet<_>>();
        assert!(ids(&train).is_disjoint(&ids(&held_out)));
        assert_eq!(hold_out(&all, 0.2).unwrap(), (train, held_out));
        assert_eq!(hold_out(&all, 0.001).unwrap().1.rows(), 1);
        assert!(hold_out(&TokenSet::new(), 0.5).is_err());
    }
}
