//! The lowest held-out loss so far, and when to stop waiting for a lower one.

use serde::{Deserialize, Serialize};

/// What the held-out losses came to, as transformers' `EarlyStoppingCallback` counts them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Best {
    /// The lowest loss and its step.
    pub(super) lowest: Option<(f64, usize)>,
    /// The last loss.
    pub(super) last: Option<f64>,
    /// Measurements in a row that were not better by more than the threshold.
    pub(super) waited: usize,
}

impl Best {
    /// Takes a loss into account; gives whether it is the lowest.
    pub(super) fn saw(&mut self, step: usize, loss: f64, threshold: f64) -> bool {
        let better = self.lowest.is_none_or(|(lowest, _)| lowest - loss > threshold);
        let lowest = loss.is_finite() && self.lowest.is_none_or(|(lowest, _)| loss < lowest);
        self.waited = if better && loss.is_finite() { 0 } else { self.waited + 1 };
        self.last = loss.is_finite().then_some(loss);
        if lowest {
            self.lowest = Some((loss, step));
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The callback resets its counter when the loss is below the lowest one by more than the threshold.
    #[test]
    fn patience_counts_as_transformers_does() {
        let mut best = Best::default();
        let seen: Vec<(bool, usize)> = [2.0, 1.5, 1.45, 1.3, 1.35, 1.29, f64::NAN]
            .into_iter()
            .enumerate()
            .map(|(step, loss)| (best.saw(step, loss, 0.1), best.waited))
            .collect();
        let expected = [(true, 0), (true, 0), (true, 1), (true, 0), (false, 1), (true, 2), (false, 3)];
        assert_eq!(seen, expected);
        assert_eq!(best.lowest, Some((1.29, 5)));
    }
}
