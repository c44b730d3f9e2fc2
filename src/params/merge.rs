//! `uses: merge`: fold a LoRA adapter into its base.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ArtifactRef, Dtype, StepParams};

/// Parameters of a `merge` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeParams {
    /// A `train` or `adapter` step (merged into the base it was trained on) or a `swap` step (into
    /// its new base).
    pub adapter: ArtifactRef,
    /// Number format of the written weights; the sum is always made in f32.
    #[serde(default)]
    pub dtype: Dtype,
}

impl StepParams for MergeParams {
    const KIND: &'static str = "merge";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Fold a LoRA adapter into its base: a Hugging Face folder that needs no adapter any more.";
}
