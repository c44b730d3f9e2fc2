//! How much memory an evaluation takes beside the weights, from shapes alone.

use std::num::Saturating;

use super::{
    beams, generate,
    log_likelihood::{CHUNK, TOKENS},
};
use crate::{
    model::{ModelConfig, most_scores},
    params::{OutputType, TaskDefinition},
};

/// Taken for the longest prompt, which only the rows would tell.
const PROMPT: usize = 512;

/// What is held at a time.
struct Held {
    /// Of the cache, with the one of the common beginning.
    slots: usize,
    /// Tokens of a slot.
    capacity: usize,
    /// That a pass computes.
    tokens: usize,
    /// Of those, of one row.
    row: usize,
    /// Values of the size of the vocabulary, for each token whose logits are asked for.
    logits: usize,
}

/// The most that a task takes at a time: the cache of keys and values, the widest layer of a pass, and the
/// logits; all in f32. With `whole_scores`, the scores of whole rows too, and what softmax makes of them: only
/// `flex` has a kernel that goes through them piece by piece.
pub fn pass_bytes(model: &ModelConfig, task: &TaskDefinition, batch_size: usize, whole_scores: bool) -> u64 {
    let context = model.max_positions();
    let held = match task.output_type {
        OutputType::GenerateUntil => generating(task, batch_size, context),
        _ => scoring(task, batch_size, context),
    };
    let n = |n: usize| Saturating(n as u64);
    let cached = n(2) * n(model.num_hidden_layers) * n(model.num_key_value_heads) * n(model.head_dim);
    let layer = n(6) * n(model.hidden_size) + n(3) * n(model.intermediate_size);
    let cache = n(held.slots) * n(held.capacity) * cached;
    let scores = match whole_scores {
        true => n(2) * n(model.num_attention_heads) * n(most_scores(held.tokens, held.row, held.capacity)),
        false => n(0),
    };
    (n(4) * (cache + n(held.tokens) * layer + scores + n(held.logits) * n(model.vocab_size))).0
}

fn generating(task: &TaskDefinition, batch_size: usize, context: usize) -> Held {
    let wanted = &task.generation_kwargs;
    let (prompt, beams) = (PROMPT.min(context), wanted.num_beams.max(1));
    let capacity = prompt.saturating_add(wanted.max_gen_toks).min(context);
    if beams == 1 {
        let tokens = batch_size.saturating_add(generate::PROMPT_TOKENS);
        return Held {
            slots: batch_size.saturating_add(1),
            capacity,
            tokens,
            row: prompt,
            logits: batch_size.saturating_mul(3),
        };
    }
    let searches = beams::searches(batch_size, beams);
    Held {
        slots: searches.saturating_mul(beams::slots(beams)).saturating_add(1),
        capacity,
        tokens: searches.saturating_mul(beams.max(prompt)),
        row: prompt,
        logits: beams.saturating_mul(searches.saturating_mul(3).saturating_add(beams::CANDIDATE)),
    }
}

fn scoring(task: &TaskDefinition, batch_size: usize, context: usize) -> Held {
    let capacity = match task.output_type {
        // A long text fills its windows.
        OutputType::LoglikelihoodRolling => TOKENS.min(context),
        _ => PROMPT.min(context),
    };
    let rows = batch_size.max(1);
    Held {
        // Contexts, continuations, and what all contexts begin with.
        slots: rows.saturating_mul(2).saturating_add(1),
        capacity,
        tokens: rows.saturating_mul(capacity).min(TOKENS),
        row: capacity,
        logits: 3 * CHUNK,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model() -> ModelConfig {
        ModelConfig::from_json(&json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
        }))
        .unwrap()
    }

    fn bytes(batch_size: usize, output: &str, more: serde_json::Value) -> u64 {
        let mut task = json!({
            "task": "t", "output_type": output, "doc_to_target": "a", "metadata": { "version": 1 },
        });
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pass_bytes(&model(), &serde_json::from_value(task).unwrap(), batch_size, false)
    }

    /// Of a token: keys and values of 3 layers, 2 heads and 16 features, in f32.
    const CACHED: u64 = 2 * 3 * 2 * 16 * 4;

    #[test]
    fn beams_and_new_tokens_are_counted() {
        let of = |beams: usize, new: usize| {
            bytes(
                8,
                "generate_until",
                json!({"generation_kwargs": {"num_beams": beams, "max_gen_toks": new}}),
            )
        };
        assert_eq!(of(1, 200) - of(1, 100), 9 * 100 * CACHED);
        // Two searches of four beams, each with the prompt's slot and two for each beam.
        assert_eq!(of(4, 200) - of(4, 100), (1 + 2 * 9) * 100 * CACHED);
        // More beams than the batch has rows are computed all the same.
        assert!(of(4, 100) > of(1, 100) && of(32, 100) > of(16, 100));
        assert_eq!(of(1, usize::MAX), of(1, 10_000), "no more than the context");
    }

    #[test]
    fn scores_of_a_whole_row_are_counted_where_they_exist() {
        let more = |output: &str| {
            let task = json!({
                "task": "t", "output_type": output, "doc_to_target": "a", "metadata": { "version": 1 },
            });
            let task = serde_json::from_value(task).unwrap();
            pass_bytes(&model(), &task, 4, true) - pass_bytes(&model(), &task, 4, false)
        };
        // A window of 2048 tokens, 4 heads, in f32: the scores and what softmax makes of them.
        assert_eq!(more("loglikelihood_rolling"), 2 * 4 * 2048 * 2048 * 4);
        // Short rows together have a bound of their own.
        assert_eq!(more("loglikelihood"), 2 * 4 * (1 << 20) * 4);
    }

    #[test]
    fn contexts_and_continuations_are_counted() {
        let of =
            |batch_size: usize| bytes(batch_size, "multiple_choice", json!({ "doc_to_choice": ["a", "b"] }));
        assert!(of(16) > of(8) && of(2) > of(1));
        let rolling = bytes(4, "loglikelihood_rolling", json!({}));
        assert!(rolling > bytes(4, "loglikelihood", json!({})));
    }
}
