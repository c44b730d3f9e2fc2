//! How many numbers an adapter holds, from its config alone.

use super::{Adapter, targets::path};
use crate::{
    model::{ModelConfig, linear_shapes},
    params::Placement,
};

impl Adapter {
    /// Trainable parameters on a model of this shape.
    ///
    /// # Errors
    /// When its target modules are not patterns.
    pub fn parameter_count(&self, model: &ModelConfig) -> anyhow::Result<u64> {
        let linears = linear_shapes(model);
        let mut count = 0;
        match self {
            Self::Lora(config) => {
                let (targets, scales) = (config.targets()?, config.scales()?);
                for layer in 0..model.num_hidden_layers {
                    for linear in &linears {
                        let [out, into] = linear.shape.map(|n| n as u64);
                        let targeted = targets.matches(layer, linear.name);
                        if targeted {
                            let (r, _) = scales.of(&path(layer, linear.name));
                            count += r as u64 * (into + out) + if config.use_dora { out } else { 0 };
                        }
                        if linear.bias && config.trains_bias(targeted) {
                            count += out;
                        }
                    }
                }
            }
            Self::Bottleneck(config) => {
                let (hidden, size) = (model.hidden_size as u64, config.bottleneck_size as u64);
                let places = if config.placement == Placement::Houlsby { 2 } else { 1 };
                count = model.num_hidden_layers as u64 * places * (2 * hidden * size + hidden + size);
            }
        }
        Ok(count)
    }

    /// Numbers that dropout on the adapter's inputs keeps for each token: the mask and its product.
    /// LoRA's own linear layers draw the mask again instead; DoRA's and bottlenecks keep it.
    ///
    /// # Errors
    /// When its target modules are not patterns.
    pub fn dropped_values(&self, model: &ModelConfig) -> anyhow::Result<u64> {
        let layers = model.num_hidden_layers;
        Ok(match self {
            Self::Lora(config) if !config.use_dora => 0,
            Self::Lora(config) => {
                let targets = config.targets()?;
                let adapted = |layer: usize| {
                    let linears = linear_shapes(model).into_iter();
                    let targeted = linears.filter(|linear| targets.matches(layer, linear.name));
                    targeted.map(|linear| 2 * linear.shape[1] as u64).sum::<u64>()
                };
                (0..layers).map(adapted).sum()
            }
            Self::Bottleneck(config) => {
                let places = if config.placement == Placement::Houlsby { 2 } else { 1 };
                2 * layers as u64 * places * model.hidden_size as u64
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// trans-peft-facts.md 5.2: Qwen2-7B, r 64, on q, k, v and o.
    #[test]
    fn qwen2_7b_has_the_papers_count() {
        let model = json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152_064,
            "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131_072, "rope_theta": 1e6, "tie_word_embeddings": false,
        });
        let params = json!({
            "r": 64, "lora_alpha": 128, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        });
        let adapter = Adapter::new(&serde_json::from_value(params).unwrap());
        let count = adapter.parameter_count(&ModelConfig::from_json(&model).unwrap()).unwrap();
        assert_eq!(count, 40_370_176);
    }
}
