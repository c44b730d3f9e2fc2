//! How many weights the tokens of a pass meet.

use evergraft::model::{ModelConfig, parameter_count};

/// Those of the layers, for every token, and those of the output matrix, for every prediction.
pub(crate) fn weights(config: &ModelConfig) -> (f64, f64) {
    let head = (config.vocab_size * config.hidden_size) as f64;
    let embedding = if config.tie_word_embeddings { 0.0 } else { head };
    (parameter_count(config) as f64 - head - embedding, head)
}
