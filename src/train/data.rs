//! Which rows each step sees: a function of the seed and the epoch.

use crate::{params::OptimizerParams, rng};

/// A seeded order of rows, cut into micro-batches and optimizer steps.
#[derive(Debug, Clone)]
pub struct Order {
    rows: usize,
    batch: usize,
    accumulation: usize,
    seed: u64,
}

impl Order {
    /// The order of `rows` rows (at least one).
    pub fn new(rows: usize, params: &OptimizerParams, seed: u64) -> Self {
        Self {
            rows,
            batch: params.per_device_train_batch_size,
            accumulation: params.gradient_accumulation_steps,
            seed,
        }
    }

    /// Optimizer steps in one epoch; the last may hold fewer rows.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.batch.saturating_mul(self.accumulation)).max(1)
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self, params: &OptimizerParams) -> usize {
        let epochs = (params.num_train_epochs * self.steps_per_epoch() as f64).ceil() as usize;
        params.max_steps.unwrap_or(epochs).max(1)
    }

    /// The micro-batches of an optimizer step, each a list of row numbers.
    pub fn step(&self, step: usize) -> Vec<Vec<usize>> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        let order = self.epoch(epoch);
        let size = self.batch.saturating_mul(self.accumulation);
        let start = within.saturating_mul(size);
        order[start..start.saturating_add(size).min(self.rows)]
            .chunks(self.batch)
            .map(<[usize]>::to_vec)
            .collect()
    }

    fn epoch(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows).collect();
        let mut random = rng::stream(self.seed, "order", &[epoch as u64]);
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_row_once_and_epochs_differ() {
        let params = OptimizerParams {
            per_device_train_batch_size: 3,
            gradient_accumulation_steps: 2,
            ..Default::default()
        };
        let order = Order::new(20, &params, 1);
        assert_eq!(order.steps_per_epoch(), 4);
        let epoch =
            |first: usize| (first..first + 4).flat_map(|s| order.step(s)).flatten().collect::<Vec<_>>();
        let (one, two) = (epoch(0), epoch(4));
        let mut sorted = one.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        assert_ne!(one, two);
        assert_eq!(order.step(3).iter().map(Vec::len).collect::<Vec<_>>(), [2]);
        assert_ne!(one, Order::new(20, &params, 2).step(0).concat());
    }
}
