//! `uses: swap`: attach a trained adapter to another base.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ArtifactRef, StepParams};

/// Parameters of a `swap` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapParams {
    /// The trained adapter (a `train` or `adapter` step).
    pub adapter: ArtifactRef,
    /// The base it moves to.
    pub to: ArtifactRef,
}

impl StepParams for SwapParams {
    const KIND: &'static str = "swap";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Move an adapter to another base, after checking that the two fit.";
}
