//! The learning rate of each step, as transformers' schedulers give it.

use crate::params::{LrSchedule, OptimizerParams};

/// Linear warmup from 0, then the chosen shape down to 0.
#[derive(Debug, Clone)]
pub struct Schedule {
    peak: f64,
    shape: LrSchedule,
    warmup: usize,
    total: usize,
}

impl Schedule {
    /// The schedule of a run of `total` optimizer steps.
    pub fn new(params: &OptimizerParams, total: usize) -> Self {
        let ratio = (params.warmup_ratio * total as f64).ceil() as usize;
        Self {
            peak: params.learning_rate,
            shape: params.lr_scheduler_type,
            warmup: params.warmup_steps.unwrap_or(ratio),
            total,
        }
    }

    /// The rate that the optimizer uses in `step`, counted from 0. The first step of a warmup has
    /// rate 0, as in transformers.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup.max(1) as f64;
        }
        let after = (self.total.saturating_sub(self.warmup)).max(1) as f64;
        let progress = (step - self.warmup) as f64 / after;
        let factor = match self.shape {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear => (1.0 - progress).max(0.0),
            LrSchedule::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
        };
        self.peak * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of trans-peft-facts.md 5.2, taken from transformers.
    #[test]
    fn cosine_matches_transformers() {
        let params = OptimizerParams { learning_rate: 3e-4, warmup_ratio: 0.03, ..Default::default() };
        let schedule = Schedule::new(&params, 18_750);
        for (step, expected) in [
            (0, 0.0),
            (1, 5.328_597e-7),
            (281, 1.497_336e-4),
            (563, 3e-4),
            (5000, 2.580_576e-4),
            (9656, 1.500_130e-4),
            (15_000, 3.038_519e-5),
            (18_750, 0.0),
        ] {
            let got = schedule.at(step);
            assert!((got - expected).abs() <= 1e-6 * expected.max(1e-4), "step {step}: {got} != {expected}");
        }
    }

    #[test]
    fn warmup_steps_win_over_the_ratio() {
        let params = OptimizerParams {
            learning_rate: 1.0,
            warmup_steps: Some(2),
            lr_scheduler_type: LrSchedule::Linear,
            ..Default::default()
        };
        let schedule = Schedule::new(&params, 6);
        let rates: Vec<f64> = (0..7).map(|step| schedule.at(step)).collect();
        assert_eq!(rates, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }
}
