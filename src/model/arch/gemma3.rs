//! Gemma 3's text models (`gemma3_text`, e.g. the 1B): Gemma 2 with norms on query and key heads, five
//! sliding layers to a full one, and a rotation base of their own for the sliding layers.

use serde_json::{Value, json};

use super::{
    Architecture, Names,
    gemma2::{GEMMA_NAMES, read_gemma, write_gemma},
    sliding_layers,
};
use crate::model::{RopeScaling, config::MAX_POSITIONS, fields::Fields};

pub(super) const GEMMA3: Architecture = Architecture {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    read: |fields, config| {
        read_gemma(fields, config)?;
        config.attn_logit_softcapping = fields.number("attn_logit_softcapping")?;
        config.final_logit_softcapping = fields.number("final_logit_softcapping")?;
        let mut pattern = 6;
        for name in ["_sliding_window_pattern", "sliding_window_pattern"] {
            pattern = fields.optional_size(name, MAX_POSITIONS)?.unwrap_or(pattern);
        }
        config.sliding_layers =
            sliding_layers(fields, config.num_hidden_layers, |layer| !(layer + 1).is_multiple_of(pattern))?;
        // transformers 5 nests one table for each kind of layer; 4 has them side by side.
        let table = |kind: &str| fields.get("rope_parameters")?.get(kind)?.as_object();
        let (global, local) = (table("full_attention"), table("sliding_attention"));
        if let Some(global) = global {
            let (theta, scaling) = RopeScaling::read("rope_parameters.full_attention", &Fields(global))?;
            (config.rope_theta, config.rope_scaling) = (theta.unwrap_or(1e6), scaling);
        } else if fields.get("rope_theta").is_none() {
            config.rope_theta = 1e6;
        }
        let local = match local {
            Some(local) => {
                let (theta, scaling) =
                    RopeScaling::read("rope_parameters.sliding_attention", &Fields(local))?;
                anyhow::ensure!(
                    scaling == RopeScaling::None,
                    "a rotary scaling of the sliding layers is not supported"
                );
                theta
            }
            None => fields.number("rope_local_base_freq")?,
        };
        config.rope_local_base_freq = Some(local.unwrap_or(10_000.0));
        Ok(())
    },
    write: |config, out| {
        write_gemma(config, out);
        out.insert("attn_logit_softcapping".to_owned(), json!(config.attn_logit_softcapping));
        out.insert("final_logit_softcapping".to_owned(), json!(config.final_logit_softcapping));
        out.insert("rope_local_base_freq".to_owned(), json!(config.rope_local_base_freq));
        let mut global = config.rope_scaling.to_json();
        global.insert("rope_theta".to_owned(), json!(config.rope_theta));
        let local = json!({ "rope_type": "default", "rope_theta": config.rope_local_base_freq });
        let tables = json!({ "full_attention": Value::Object(global), "sliding_attention": local });
        out.insert("rope_parameters".to_owned(), tables);
    },
    names: &Names { query_key_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..GEMMA_NAMES },
};
