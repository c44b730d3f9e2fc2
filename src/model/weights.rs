//! Where tensors come from, under Hugging Face names, whatever the file format; and which tensors a
//! configuration needs. Knows nothing of any one format.

use anyhow::{Context as _, bail};
use burn::tensor::TensorData;
use half::{bf16, f16};

use super::{GateUp, ModelConfig, Qkv};
use crate::params::Dtype;

/// Named tensors, row-major (`[out, in]` for a linear layer).
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

    /// The number format that a tensor is held in, if it is not made on demand.
    fn stored_dtype(&self, _name: &str) -> Option<Dtype> {
        None
    }

    /// A tensor in a number format. Sources that hold it so already share it instead of copying.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn load_as(&self, name: &str, dtype: Dtype) -> anyhow::Result<TensorData> {
        let shape = self.shape(name).with_context(|| format!("there is no tensor `{name}`"))?;
        let values = self.load(name)?.into_iter();
        Ok(match dtype {
            Dtype::F32 => TensorData::new(values.collect::<Vec<f32>>(), shape),
            Dtype::Bf16 => TensorData::new(values.map(bf16::from_f32).collect::<Vec<_>>(), shape),
            Dtype::F16 => TensorData::new(values.map(f16::from_f32).collect::<Vec<_>>(), shape),
        })
    }
}

/// A linear layer of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinearShape {
    /// Name inside the layer, e.g. `self_attn.q_proj`.
    pub(crate) name: &'static str,
    /// `[out_features, in_features]`.
    pub(crate) shape: [usize; 2],
    /// Whether it has a bias.
    pub(crate) bias: bool,
}

/// The linear layers of a decoder layer, in the order of the forward pass.
pub(crate) fn linear_shapes(config: &ModelConfig) -> Vec<LinearShape> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let query = config.num_attention_heads * config.head_dim;
    let key_value = config.num_key_value_heads * config.head_dim;
    let names = config.names();
    let linear = |name, out, into, bias| LinearShape { name, shape: [out, into], bias };
    let mut linears = Vec::new();
    match names.qkv {
        Qkv::Split([q, k, v]) => {
            let rows = [(q, query), (k, key_value), (v, key_value)];
            linears.extend(rows.map(|(name, rows)| linear(name, rows, hidden, config.attention_bias)));
        }
        Qkv::Stacked(name) | Qkv::Grouped(name) => {
            linears.push(linear(name, query + 2 * key_value, hidden, config.attention_bias));
        }
    }
    linears.push(linear(names.output, hidden, query, config.attention_output_bias));
    match names.gate_up {
        GateUp::Split(both) => linears.extend(both.map(|name| linear(name, inner, hidden, config.mlp_bias))),
        GateUp::Stacked(name) => linears.push(linear(name, 2 * inner, hidden, config.mlp_bias)),
    }
    linears.push(linear(names.down, hidden, inner, config.mlp_bias));
    linears
}

/// Every tensor that the decoder reads, with its shape, in the order of the forward pass.
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    tensors(config).collect()
}

/// The same, made one by one: the number of layers may be only what a file says.
fn tensors(config: &ModelConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
    let linears = linear_shapes(config);
    let layers = (0..config.num_hidden_layers).flat_map(move |layer| layer_tensors(config, &linears, layer));
    let [embedding, norm, head] = outer_tensors(config);
    std::iter::once(embedding)
        .chain(layers)
        .chain([norm])
        .chain((!config.tie_word_embeddings).then_some(head))
}

/// Embedding, last norm and output head.
fn outer_tensors(config: &ModelConfig) -> [(String, Vec<usize>); 3] {
    let (names, hidden) = (config.names(), config.hidden_size);
    let rows = vec![config.vocab_size, hidden];
    [(names.embedding, rows.clone()), (names.norm, vec![hidden]), (names.head, rows)]
        .map(|(name, shape)| (name.to_owned(), shape))
}

fn layer_tensors(config: &ModelConfig, linears: &[LinearShape], layer: usize) -> Vec<(String, Vec<usize>)> {
    let (names, hidden) = (config.names(), config.hidden_size);
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[usize]| {
        tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
    };
    add(&format!("{}.weight", names.attention_norm), &[hidden]);
    for (at, linear) in linears.iter().enumerate() {
        // The FFN begins after the output projection of attention.
        if at > 0 && linears[at - 1].name == names.output {
            for name in names.query_key_norms.iter().flatten() {
                add(&format!("{name}.weight"), &[config.head_dim]);
            }
            for name in names.attention_out_norm.iter().chain([&names.ffn_norm]) {
                add(&format!("{name}.weight"), &[hidden]);
            }
        }
        add(&format!("{}.weight", linear.name), &linear.shape);
        if linear.bias {
            add(&format!("{}.bias", linear.name), &linear.shape[..1]);
        }
    }
    if let Some(name) = names.ffn_out_norm {
        add(&format!("{name}.weight"), &[hidden]);
    }
    tensors
}

/// The decoder layer that the name of a weight begins with, and the rest of the name.
pub(crate) fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// Number of parameters of a model; a tied head counts once.
pub fn parameter_count(config: &ModelConfig) -> u64 {
    let count = |tensors: &[(String, Vec<usize>)]| -> u64 {
        tensors.iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    };
    let outer = outer_tensors(config);
    let outer = if config.tie_word_embeddings { &outer[..2] } else { &outer[..] };
    count(outer) + config.num_hidden_layers as u64 * count(&layer_tensors(config, &linear_shapes(config), 0))
}

/// Number of values of a model's largest matrix.
pub fn largest_matrix(config: &ModelConfig) -> u64 {
    let [(_, embedding), ..] = outer_tensors(config);
    let shapes = linear_shapes(config).into_iter().map(|linear| linear.shape.to_vec()).chain([embedding]);
    shapes.map(|shape| shape.iter().map(|&n| n as u64).product()).max().unwrap_or(0)
}

/// Checks that every tensor the decoder reads is there, in the right shape.
///
/// # Errors
/// Names the first missing or misshapen tensor.
pub fn check_weights(config: &ModelConfig, weights: &dyn WeightSource) -> anyhow::Result<()> {
    for (name, expected) in tensors(config) {
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
