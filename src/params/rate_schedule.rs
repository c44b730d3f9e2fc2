//! `trans_peft.schedule:`: how pc and pi move during training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Problem, below_one};

/// The share of `pc` and `pi` that is in force, step by step. Both are multiplied with one factor
/// in [0, 1], so the two fields stay the largest rates of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateSchedule {
    /// The factor's course.
    #[serde(rename = "type")]
    pub shape: RateShape,
    /// The factor after warmup, in [0, 1] [default: 0; 1 with `adaptive`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// The factor at the end of training, in [0, 1] [default: 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Steps in which the factor rises from 0; wins over `warmup_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Warmup as a share of all steps, rounded up.
    pub warmup_ratio: f64,
    /// With `step`: the share of the steps after warmup at which `start` gives way to `end`
    /// [default: 0.5].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    /// With `adaptive`: by how many nats a label token the loss of a training pass shall lie above
    /// that of an untouched pass over the same rows [default: 0.1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// With `adaptive`: how far one measurement may move the factor [default: 0.1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// With `adaptive`: optimizer steps between two measurements [default: 10].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure_steps: Option<usize>,
}

/// The course of a schedule after warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateShape {
    /// Always 1.
    #[default]
    Constant,
    /// Straight from `start` to `end`.
    Linear,
    /// Half a cosine from `start` to `end`.
    Cosine,
    /// `start`, then `end`.
    Step,
    /// Moved by what the masking and dropping costs: up while the gap between the two losses is
    /// below `target`, down while it is above.
    Adaptive,
}

impl RateShape {
    fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Step => "step",
            Self::Adaptive => "adaptive",
        }
    }
}

impl RateSchedule {
    /// Whether pc and pi are in force in full from the first step to the last.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let at = |field: &str| format!("trans_peft.schedule.{field}");
        let mut problems = Vec::new();
        let shaped = matches!(self.shape, RateShape::Linear | RateShape::Cosine | RateShape::Step);
        let adaptive = self.shape == RateShape::Adaptive;
        for (field, given, fits, those) in [
            ("start", self.start.is_some(), shaped || adaptive, "linear, cosine, step, adaptive"),
            ("end", self.end.is_some(), shaped, "linear, cosine, step"),
            ("at", self.at.is_some(), self.shape == RateShape::Step, "step"),
            ("target", self.target.is_some(), adaptive, "adaptive"),
            ("gain", self.gain.is_some(), adaptive, "adaptive"),
            ("measure_steps", self.measure_steps.is_some(), adaptive, "adaptive"),
        ] {
            if given && !fits {
                let message = format!("`{field}` means nothing with `type: {}`", self.shape.name());
                problems.push(Problem::new(at(field), message).hint(format!("it goes with: {those}")));
            }
        }
        for (field, value) in [("start", self.start), ("end", self.end), ("at", self.at)] {
            if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
                problems.push(Problem::new(at(field), format!("must lie in [0, 1], found {value}")));
            }
        }
        problems.extend(below_one(&at("warmup_ratio"), self.warmup_ratio));
        if let Some(target) = self.target.filter(|target| !(target.is_finite() && *target > 0.0)) {
            problems.push(Problem::new(at("target"), format!("must be more than 0, found {target}")));
        }
        if let Some(gain) = self.gain.filter(|gain| !(*gain > 0.0 && *gain <= 1.0)) {
            problems.push(Problem::new(at("gain"), format!("must lie in (0, 1], found {gain}")));
        }
        if self.measure_steps == Some(0) {
            problems.push(Problem::new(at("measure_steps"), "must be 1 or more, found 0"));
        }
        problems
    }
}
