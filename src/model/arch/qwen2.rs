//! Qwen2 and Qwen2.5: LLaMA with biases on queries, keys and values, and an optional window in the
//! upper layers.

use serde_json::{Map, Value, json};

use super::{Architecture, Names, layer_types, sliding_layers};
use crate::model::{ModelConfig, config::MAX_POSITIONS, fields::Fields};

pub(super) const QWEN2: Architecture = Architecture {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    read: |fields, config| {
        config.attention_bias = true;
        read_window(fields, config)
    },
    write: write_window,
    names: &Names::LLAMA,
};

/// `use_sliding_window` switches the window on; it slides from layer `max_window_layers` up.
pub(super) fn read_window(fields: &Fields, config: &mut ModelConfig) -> anyhow::Result<()> {
    let layers = config.num_hidden_layers;
    if !fields.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(());
    }
    let Some(window) = fields.optional_size("sliding_window", MAX_POSITIONS)? else { return Ok(()) };
    let first = fields.optional_count("max_window_layers", MAX_POSITIONS)?.unwrap_or(28);
    config.sliding_window = Some(window);
    config.sliding_layers = sliding_layers(fields, layers, |layer| layer >= first)?;
    Ok(())
}

pub(super) fn write_window(config: &ModelConfig, out: &mut Map<String, Value>) {
    let slides = (0..config.num_hidden_layers).filter(|layer| config.window(*layer).is_some()).count();
    out.insert("use_sliding_window".to_owned(), json!(slides > 0));
    out.insert("sliding_window".to_owned(), json!(config.sliding_window.filter(|_| slides > 0)));
    out.insert("max_window_layers".to_owned(), json!(config.num_hidden_layers - slides));
    out.insert("layer_types".to_owned(), layer_types(config));
}
