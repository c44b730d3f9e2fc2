//! Where tensors come from, under Hugging Face names and as f32, whatever the file format; and
//! which tensors a configuration needs. Knows nothing of any one format.

use anyhow::{Context as _, bail};

use super::config::ModelConfig;

/// Named tensors, row-major (`[out, in]` for a linear layer), given out as f32.
pub trait WeightSource: Send + Sync {
    /// Every tensor's name, sorted.
    fn names(&self) -> Vec<String>;

    /// A tensor's shape, or nothing when there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A tensor's values.
    ///
    /// # Errors
    /// When there is no such tensor or its bytes cannot be read.
    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>>;
}

/// Every tensor that the decoder reads, with its shape, in the order of the forward pass.
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let ffn = config.intermediate_size;
    let query = config.num_attention_heads * config.head_dim;
    let key_value = config.num_key_value_heads * config.head_dim;

    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[hidden]);
        for (name, rows, columns, bias) in [
            ("self_attn.q_proj", query, hidden, config.attention_bias),
            ("self_attn.k_proj", key_value, hidden, config.attention_bias),
            ("self_attn.v_proj", key_value, hidden, config.attention_bias),
            ("self_attn.o_proj", hidden, query, config.attention_output_bias),
        ] {
            add(&format!("{name}.weight"), &[rows, columns]);
            if bias {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        add("post_attention_layernorm.weight", &[hidden]);
        for (name, rows, columns) in
            [("mlp.gate_proj", ffn, hidden), ("mlp.up_proj", ffn, hidden), ("mlp.down_proj", hidden, ffn)]
        {
            add(&format!("{name}.weight"), &[rows, columns]);
            if config.mlp_bias {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    tensors
}

/// Number of parameters of a model; a tied head counts once.
pub fn parameter_count(config: &ModelConfig) -> u64 {
    expected_tensors(config).iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
}

/// Checks that every tensor the decoder reads is there, in the right shape.
///
/// # Errors
/// Names the first missing or misshapen tensor.
pub fn check_weights(config: &ModelConfig, weights: &dyn WeightSource) -> anyhow::Result<()> {
    for (name, expected) in expected_tensors(config) {
        let found =
            weights.shape(&name).with_context(|| format!("the weights do not contain tensor `{name}`"))?;
        if found != expected {
            bail!("tensor `{name}` has shape {found:?}, but the model config asks for {expected:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(changes: serde_json::Value) -> ModelConfig {
        let mut value = json!({
            "model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1
        });
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        ModelConfig::from_json(&value).unwrap()
    }

    struct Shapes(Vec<(String, Vec<usize>)>);

    impl WeightSource for Shapes {
        fn names(&self) -> Vec<String> {
            self.0.iter().map(|(name, _)| name.clone()).collect()
        }
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.iter().find(|(other, _)| other == name).map(|(_, shape)| shape.clone())
        }
        fn load(&self, _: &str) -> anyhow::Result<Vec<f32>> {
            bail!("only shapes")
        }
    }

    #[test]
    fn expected_tensors_follow_the_biases_and_the_head() {
        let names = |changes| -> Vec<String> {
            expected_tensors(&config(changes)).into_iter().map(|(name, _)| name).collect()
        };
        let plain = names(json!({}));
        assert_eq!(plain.len(), 1 + 2 * 9 + 2);
        assert!(plain.contains(&"lm_head.weight".to_owned()));
        assert!(!names(json!({"tie_word_embeddings": true})).contains(&"lm_head.weight".to_owned()));
        let qwen2 = names(json!({"model_type": "qwen2"}));
        assert!(qwen2.contains(&"model.layers.1.self_attn.v_proj.bias".to_owned()));
        assert!(!qwen2.contains(&"model.layers.1.self_attn.o_proj.bias".to_owned()));
        let biased = names(json!({"attention_bias": true, "mlp_bias": true}));
        assert_eq!(biased.len(), plain.len() + 2 * 7);
    }

    #[test]
    fn parameters_of_a_small_model() {
        // embedding and head 2*80, final norm 8, per layer: norms 16, q 64, k 32, v 32, o 64, ffn 3*96
        assert_eq!(parameter_count(&config(json!({}))), 160 + 8 + 2 * (16 + 64 + 32 + 32 + 64 + 288));
    }

    #[test]
    fn check_names_the_missing_and_the_misshapen() {
        let config = config(json!({}));
        let full = expected_tensors(&config);
        check_weights(&config, &Shapes(full.clone())).unwrap();

        let mut missing = full.clone();
        missing.retain(|(name, _)| name != "model.norm.weight");
        let message = check_weights(&config, &Shapes(missing)).unwrap_err().to_string();
        assert!(message.contains("`model.norm.weight`"), "{message}");

        let mut wrong = full;
        wrong[0].1 = vec![9, 8];
        let message = check_weights(&config, &Shapes(wrong)).unwrap_err().to_string();
        assert!(message.contains("[9, 8]") && message.contains("[10, 8]"), "{message}");
    }
}
