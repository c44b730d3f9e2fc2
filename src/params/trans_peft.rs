//! `trans_peft:` of a `train` step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    RateSchedule,
    common::{Problem, below_one},
};

/// Trans-PEFT's two probabilities (arXiv 2506.06844).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransPeftParams {
    /// Cross-layer knowledge dropping: chance in [0, 1) that a layer's whole FFN is left out of a
    /// forward pass.
    pub pc: f64,
    /// Intra-layer knowledge masking: chance in [0, 1) that an intermediate FFN activation is
    /// zeroed.
    pub pi: f64,
    /// What one masking draw covers.
    pub mask: MaskKind,
    /// How much of `pc` and `pi` is in force in each step.
    #[serde(skip_serializing_if = "RateSchedule::is_plain")]
    pub schedule: RateSchedule,
}

/// Granularity of intra-layer masking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskKind {
    /// A fresh draw for every token and neuron (the reference code).
    #[default]
    Element,
    /// One pattern of neurons per layer and step, shared by all tokens (the paper's figure).
    Neuron,
}

impl TransPeftParams {
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(below_one("trans_peft.pc", self.pc));
        problems.extend(below_one("trans_peft.pi", self.pi));
        problems.extend(self.schedule.check());
        problems
    }
}
