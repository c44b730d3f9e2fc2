//! `uses: adapter`: an adapter that was trained elsewhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address::RepoKind,
    common::{ArtifactRef, RemoteFields, SourceFile, StepParams},
};

/// Parameters of an `adapter` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportParams {
    /// An adapter folder as PEFT writes it (`adapter_config.json`, `adapter_model.safetensors`), or
    /// `hf://org/name[@revision]`.
    pub source: SourceFile,
    /// Branch, tag or commit of an `hf://` source that names none [default: main].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The base that it was trained on.
    pub base: ArtifactRef,
}

impl StepParams for ImportParams {
    const KIND: &'static str = "adapter";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Take an adapter that PEFT wrote, for `swap`, `merge` and `eval`.";

    const REMOTE: Option<RemoteFields> = Some(RemoteFields { fields: &["source"], kind: RepoKind::Model });

    fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        vec![("source", &self.source)]
    }
}
