//! A small random decoder, made in memory.

use evergraft::{
    model::{Decoder, ModelConfig, WeightSource, expected_tensors},
    params::Dtype,
    rng,
};
use serde_json::json;

pub(crate) struct RandomWeights(pub(crate) ModelConfig);

impl WeightSource for RandomWeights {
    fn names(&self) -> Vec<String> {
        expected_tensors(&self.0).into_iter().map(|(name, _)| name).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        expected_tensors(&self.0).into_iter().find(|(other, _)| other == name).map(|(_, shape)| shape)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let size = self.shape(name).expect("a known name").iter().product();
        let mut random = rng::stream(3, name, &[]);
        let norm = name.contains("norm");
        Ok((0..size).map(|_| if norm { 1.0 } else { 0.3 * random.normal() as f32 }).collect())
    }
}

pub(crate) fn config(layers: usize) -> ModelConfig {
    ModelConfig::from_json(&json!({
        "model_type": "qwen2", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
    }))
    .unwrap()
}

pub(crate) fn decoder(layers: usize, device: &burn::tensor::Device) -> Decoder {
    decoder_of(&config(layers), device)
}

pub(crate) fn decoder_of(config: &ModelConfig, device: &burn::tensor::Device) -> Decoder {
    Decoder::load(config, &RandomWeights(config.clone()), device, Dtype::F32).unwrap()
}
