//! `generation_kwargs:` how a task's answers are generated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::common::{Problem, count};

/// How answers are generated. Greedily, unless `do_sample`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationKwargs {
    /// Texts that end a generation; they are no part of it.
    #[serde(default)]
    pub until: Vec<String>,
    /// Longest generation, in tokens.
    #[serde(default = "default_max_gen_toks")]
    pub max_gen_toks: usize,
    /// Draw tokens instead of taking the most likely one.
    #[serde(default)]
    pub do_sample: bool,
    /// With `do_sample`: logits are divided by it. 0 means greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// With `do_sample`: draw from the most likely tokens that have this share together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// With `do_sample`: draw from this many of the most likely tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// With `do_sample`: what the draws depend on, beside the item.
    #[serde(default)]
    pub seed: u64,
    /// Beam search with this many beams; 1 is none.
    #[serde(default = "one")]
    pub num_beams: usize,
}

/// lm-eval's.
fn default_max_gen_toks() -> usize {
    256
}

fn one() -> usize {
    1
}

impl Default for GenerationKwargs {
    fn default() -> Self {
        Self {
            until: Vec::new(),
            max_gen_toks: default_max_gen_toks(),
            do_sample: false,
            temperature: None,
            top_p: None,
            top_k: None,
            seed: 0,
            num_beams: 1,
        }
    }
}

impl GenerationKwargs {
    /// Whether tokens are drawn.
    pub fn samples(&self) -> bool {
        self.do_sample && self.temperature != Some(0.0)
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let at = |field: &str| format!("generation_kwargs.{field}");
        let mut problems: Vec<Problem> = count(at("max_gen_toks"), self.max_gen_toks).into_iter().collect();
        if self.until.iter().any(String::is_empty) {
            problems.push(Problem::new(at("until"), "an empty text would end every generation"));
        }
        if self.temperature.is_some_and(|value| !(0.0..=100.0).contains(&value)) {
            problems.push(Problem::new(at("temperature"), "must lie between 0 and 100"));
        }
        if self.top_p.is_some_and(|value| !(value > 0.0 && value <= 1.0)) {
            problems.push(Problem::new(at("top_p"), "must lie in (0, 1]"));
        }
        if self.top_k == Some(0) {
            problems.push(Problem::new(at("top_k"), "must be at least 1"));
        }
        if !(1..=64).contains(&self.num_beams) {
            problems.push(Problem::new(at("num_beams"), "must lie between 1 and 64"));
        }
        if self.num_beams > 1 && self.samples() {
            problems.push(Problem::new(at("num_beams"), "must be 1 with `do_sample`"));
        }
        problems
    }
}
