//! The architectures: what each `model_type` reads from its `config.json`, and what it calls its
//! weights. One file each; what they compute lies in the shared parts of the decoder.

mod gemma2;
mod gemma3;
mod internlm2;
mod llama;
mod mistral;
mod names;
mod phi3;
mod qwen2;
mod qwen3;

use serde_json::{Map, Value};

pub use names::{GateUp, Names, Qkv};

use super::{ModelConfig, config::MAX_POSITIONS, fields::Fields};

/// One architecture.
pub(super) struct Architecture {
    /// `model_type` of its `config.json`.
    pub(super) model_type: &'static str,
    /// Class of transformers that runs it.
    pub(super) class: &'static str,
    /// Fills in what is particular to it; the common fields are already there.
    pub(super) read: fn(&Fields, &mut ModelConfig) -> anyhow::Result<()>,
    /// The same, back into a `config.json`.
    pub(super) write: fn(&ModelConfig, &mut Map<String, Value>),
    /// What its weights are called.
    pub(super) names: &'static Names,
}

const ALL: &[&Architecture] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &internlm2::INTERNLM2,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
];

/// The architecture of this `model_type`.
pub(super) fn find(model_type: &str) -> Option<&'static Architecture> {
    ALL.iter().find(|architecture| architecture.model_type == model_type).copied()
}

/// Every known `model_type`.
pub fn known_model_types() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|architecture| architecture.model_type)
}

/// Which layers look only a window back: those that `layer_types` says, else those of `default`.
fn sliding_layers(
    fields: &Fields,
    layers: usize,
    default: impl Fn(usize) -> bool,
) -> anyhow::Result<Vec<bool>> {
    let Some(types) = fields.get("layer_types") else { return Ok((0..layers).map(default).collect()) };
    let known = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let types: &[Value] = types.as_array().map_or(&[], Vec::as_slice);
    let kinds: Vec<bool> = types.iter().filter_map(known).collect();
    anyhow::ensure!(
        kinds.len() == types.len(),
        "`layer_types` in the model config must be a list of `full_attention` and `sliding_attention`; others are not supported"
    );
    anyhow::ensure!(
        kinds.len() == layers,
        "`layer_types` in the model config names {} layers, but there are {layers}",
        kinds.len()
    );
    Ok(kinds)
}

/// A `sliding_window`, if there is one, in every layer.
fn window_in_every_layer(fields: &Fields, config: &mut ModelConfig) -> anyhow::Result<()> {
    config.sliding_window = fields.optional_size("sliding_window", MAX_POSITIONS)?;
    config.sliding_layers = vec![config.sliding_window.is_some(); config.num_hidden_layers];
    Ok(())
}

/// `layer_types` as transformers writes it: one for each layer.
fn layer_types(config: &ModelConfig) -> Value {
    let name = |layer| if config.window(layer).is_some() { "sliding_attention" } else { "full_attention" };
    (0..config.num_hidden_layers).map(name).collect()
}
