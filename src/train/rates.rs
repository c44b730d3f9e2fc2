//! pc and pi of each step: a schedule, or a controller that watches what they cost.

use serde::{Deserialize, Serialize};

use crate::params::{RateShape, TransPeftParams};

/// Weight of the past in the controller's mean: single gaps are noisy, since which FFNs are dropped
/// is a draw.
const MEMORY: f64 = 0.8;

/// pc and pi over a run.
#[derive(Debug, Clone)]
pub(super) struct Rates<'a> {
    params: &'a TransPeftParams,
    warmup: usize,
    total: usize,
}

/// What the adaptive schedule carries from step to step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Control {
    /// The factor on pc and pi; none before the first measurement.
    factor: Option<f64>,
    /// Running mean of the measured gaps, not yet corrected for its start at 0.
    gap: f64,
    measured: i32,
}

impl<'a> Rates<'a> {
    /// The rates of a run of `total` optimizer steps.
    pub(super) fn new(params: &'a TransPeftParams, total: usize) -> Self {
        let ratio = (params.schedule.warmup_ratio * total as f64).ceil() as usize;
        Self { params, warmup: params.schedule.warmup_steps.unwrap_or(ratio), total }
    }

    /// The parameters in force in `step`, counted from 0.
    pub(super) fn at(&self, step: usize, control: &Control) -> TransPeftParams {
        let factor = self.factor(step, control);
        TransPeftParams { pc: self.params.pc * factor, pi: self.params.pi * factor, ..self.params.clone() }
    }

    fn factor(&self, step: usize, control: &Control) -> f64 {
        let schedule = &self.params.schedule;
        let start = match schedule.shape {
            RateShape::Constant => 1.0,
            RateShape::Adaptive => schedule.start.unwrap_or(1.0),
            _ => schedule.start.unwrap_or(0.0),
        };
        if step < self.warmup {
            return start * step as f64 / self.warmup as f64;
        }
        // The last step has the factor `end`.
        let steps = self.total.saturating_sub(self.warmup + 1).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / steps).min(1.0);
        let change = schedule.end.unwrap_or(1.0) - start;
        match schedule.shape {
            RateShape::Constant => start,
            RateShape::Linear => start + change * progress,
            RateShape::Cosine => start + change * 0.5 * (1.0 - (std::f64::consts::PI * progress).cos()),
            RateShape::Step if progress < schedule.at.unwrap_or(0.5) => start,
            RateShape::Step => start + change,
            RateShape::Adaptive => control.factor.unwrap_or(start),
        }
    }

    /// Whether the gap is measured in `step`.
    pub(super) fn measures(&self, step: usize) -> bool {
        let every = self.params.schedule.measure_steps.unwrap_or(10).max(1);
        self.params.schedule.shape == RateShape::Adaptive
            && (self.params.pc > 0.0 || self.params.pi > 0.0)
            && step >= self.warmup
            && (step - self.warmup).is_multiple_of(every)
    }

    /// Takes a gap measured in `step` into account: with the mean gap `g`, the factor moves by
    /// `gain * (target - g) / target`, at most by `gain`, and stays in [0, 1].
    pub(super) fn learn(&self, step: usize, gap: f64, control: &mut Control) {
        if !gap.is_finite() {
            return;
        }
        let factor = self.factor(step, control);
        control.gap = MEMORY * control.gap + (1.0 - MEMORY) * gap;
        control.measured += 1;
        let mean = control.gap / (1.0 - MEMORY.powi(control.measured));
        let target = self.params.schedule.target.unwrap_or(0.1);
        let error = ((target - mean) / target).clamp(-1.0, 1.0);
        let moved = factor + self.params.schedule.gain.unwrap_or(0.1) * error;
        control.factor = Some(moved.clamp(0.0, 1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::RateSchedule;

    fn params(schedule: RateSchedule) -> TransPeftParams {
        TransPeftParams { pc: 0.4, pi: 0.2, schedule, ..TransPeftParams::default() }
    }

    fn course(schedule: RateSchedule, total: usize) -> Vec<f64> {
        let params = params(schedule);
        let rates = Rates::new(&params, total);
        (0..total)
            .map(|step| {
                let now = rates.at(step, &Control::default());
                assert!((now.pi - now.pc / 2.0).abs() < 1e-15, "one factor for both");
                (now.pc / 0.4 * 1e6).round() / 1e6
            })
            .collect()
    }

    #[test]
    fn each_shape_goes_from_start_to_end_after_its_warmup() {
        let schedule = |shape| RateSchedule { shape, ..RateSchedule::default() };
        assert_eq!(course(schedule(RateShape::Constant), 3), [1.0, 1.0, 1.0]);
        assert_eq!(course(schedule(RateShape::Linear), 5), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(course(schedule(RateShape::Cosine), 5), [0.0, 0.146_447, 0.5, 0.853_553, 1.0]);
        assert_eq!(course(schedule(RateShape::Step), 5), [0.0, 0.0, 1.0, 1.0, 1.0]);
        let down = RateSchedule {
            start: Some(1.0),
            end: Some(0.5),
            warmup_steps: Some(2),
            ..schedule(RateShape::Linear)
        };
        assert_eq!(course(down, 7), [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5]);
        let late = RateSchedule { at: Some(0.75), warmup_ratio: 0.2, ..schedule(RateShape::Step) };
        assert_eq!(course(late, 6), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        let warm = RateSchedule { warmup_steps: Some(2), ..schedule(RateShape::Constant) };
        assert_eq!(course(warm, 4), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(course(schedule(RateShape::Linear), 1), [0.0]);
    }

    #[test]
    fn a_constant_schedule_is_exact() {
        let params = TransPeftParams { pc: 0.1, pi: 0.3, ..TransPeftParams::default() };
        let now = Rates::new(&params, 10).at(4, &Control::default());
        assert_eq!(now, params);
    }

    #[test]
    fn the_controller_settles_at_the_target_gap() {
        let schedule =
            RateSchedule { shape: RateShape::Adaptive, target: Some(0.3), ..RateSchedule::default() };
        let params = params(schedule);
        let rates = Rates::new(&params, 2000);
        let mut control = Control::default();
        let mut random = crate::rng::stream(1, "gap", &[]);
        let mut late = Vec::new();
        for step in 0..2000 {
            let pc = rates.at(step, &control).pc;
            if rates.measures(step) {
                // A gap of 2 pc on average, with noise: the target is met at pc = 0.15.
                rates.learn(step, 2.0 * pc * (0.5 + random.unit_f64()), &mut control);
            }
            if step >= 1000 {
                late.push(pc);
            }
        }
        let mean = late.iter().sum::<f64>() / late.len() as f64;
        assert!((mean - 0.15).abs() < 0.02, "{mean}");
        assert!(late.iter().all(|pc| (0.0..=0.4).contains(pc)));
    }

    #[test]
    fn the_controller_stays_between_nothing_and_all() {
        let schedule = RateSchedule { shape: RateShape::Adaptive, ..RateSchedule::default() };
        let params = params(schedule);
        let rates = Rates::new(&params, 100);
        for (gap, end) in [(100.0, 0.0), (-100.0, 0.4), (f64::NAN, 0.4)] {
            let mut control = Control::default();
            for step in 0..100 {
                rates.learn(step, gap, &mut control);
            }
            assert_eq!(rates.at(99, &control).pc, end, "gap {gap}");
        }
        let plain = TransPeftParams { pc: 0.0, pi: 0.0, ..params.clone() };
        assert!(!Rates::new(&plain, 100).measures(0), "plain LoRA measures nothing");
    }
}
