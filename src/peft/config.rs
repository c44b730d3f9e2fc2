//! PEFT's `adapter_config.json` of a LoRA adapter.

use anyhow::{Context as _, anyhow, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::targets::{Patterns, Targets};
use crate::{
    error::{excerpt, hinted},
    params::{AdapterParams, Bias, MAX_RANK, PatternMap, TargetModules},
};

/// The fields of `adapter_config.json` that are understood. Others are tolerated when they change
/// nothing and refused by name when they would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// Always `LORA`.
    pub peft_type: String,
    /// Always `CAUSAL_LM`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout used in training.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Linear layers with an adapter.
    pub target_modules: TargetModules,
    /// Linear layers without one although `target_modules` names them.
    #[serde(default)]
    pub exclude_modules: Option<TargetModules>,
    /// Decoder layers with an adapter; all when absent.
    #[serde(default, deserialize_with = "one_or_many")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Scale by `lora_alpha / sqrt(r)`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Trains magnitudes.
    #[serde(default)]
    pub use_dora: bool,
    /// Trained biases of the base.
    #[serde(default)]
    pub bias: Bias,
    /// Ranks of some modules; the first pattern that fits counts.
    #[serde(default)]
    pub rank_pattern: PatternMap<usize>,
    /// Alphas of some modules.
    #[serde(default)]
    pub alpha_pattern: PatternMap<f64>,
    /// Name of the base, for PEFT's own loading.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// True in files for inference.
    #[serde(default)]
    pub inference_mode: bool,
}

/// `3`, `[3, 4]` or nothing.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<usize>>, D::Error> {
    use serde::de::Error;
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::Array(list) if list.is_empty() => None,
        value @ Value::Number(_) => Some(vec![serde_json::from_value(value).map_err(D::Error::custom)?]),
        value => Some(serde_json::from_value(value).map_err(D::Error::custom)?),
    })
}

/// Settings that change the result and that are not honoured, unless they are absent, null, false
/// or empty.
const UNSUPPORTED: [&str; 19] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
    "eva_config",
    "layers_pattern",
];

impl AdapterConfig {
    /// The config of a freshly trained adapter.
    pub fn new(params: &AdapterParams) -> Self {
        let mut target_modules = params.target_modules.clone();
        if let TargetModules::Names(names) = &mut target_modules {
            names.sort();
        }
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            r: params.r,
            lora_alpha: params.lora_alpha,
            lora_dropout: params.lora_dropout,
            target_modules,
            exclude_modules: params.exclude_modules.clone(),
            layers_to_transform: params.layers_to_transform.clone(),
            use_rslora: params.use_rslora,
            use_dora: params.use_dora,
            bias: params.bias,
            rank_pattern: params.rank_pattern.clone(),
            alpha_pattern: params.alpha_pattern.clone(),
            base_model_name_or_path: None,
            inference_mode: true,
        }
    }

    /// Reads and checks a config. `shown` is its file, for errors.
    ///
    /// # Errors
    /// When it is malformed or asks for something that would be ignored.
    pub(super) fn parse(raw: Value, shown: &str) -> anyhow::Result<Self> {
        let refuse = |what: String| {
            Err(hinted(
                format!("`{shown}` uses {what}, which is not supported"),
                "merge that adapter with PEFT, or train one without it",
            ))
        };
        for name in UNSUPPORTED {
            let harmless = match raw.get(name) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::String(text)) => name == "layers_pattern" && text == "layers",
                Some(_) => false,
            };
            if !harmless {
                return refuse(format!("`{name}`"));
            }
        }
        // Others put a part of the base's weights into the adapter.
        match raw.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(init)) if ["gaussian", "eva", "orthogonal"].contains(&init.as_str()) => {}
            Some(other) => return refuse(format!("`init_lora_weights: {}`", excerpt(other))),
        }
        let config: Self = fields_of(raw, shown)?;
        config.check_numbers().with_context(|| format!("in `{shown}`"))?;
        config.targets().with_context(|| format!("in `{shown}`"))?;
        config.scales().with_context(|| format!("in `{shown}`"))?;
        Ok(config)
    }

    fn check_numbers(&self) -> anyhow::Result<()> {
        let pattern = |field: &str, name: &String| format!("{field}.{}", excerpt(name));
        let ranks = self.rank_pattern.iter().map(|(name, r)| (pattern("rank_pattern", name), *r));
        for (field, r) in ranks.chain([("r".to_owned(), self.r)]) {
            ensure!((1..=MAX_RANK).contains(&r), "`{field}` must lie between 1 and {MAX_RANK}, found {r}");
        }
        let alphas = self.alpha_pattern.iter().map(|(name, alpha)| (pattern("alpha_pattern", name), *alpha));
        for (field, alpha) in alphas.chain([("lora_alpha".to_owned(), self.lora_alpha)]) {
            ensure!(alpha.is_finite(), "`{field}` must be a finite number, found {alpha}");
        }
        check_dropout("lora_dropout", self.lora_dropout)
    }

    /// The linear layers that carry a pair.
    ///
    /// # Errors
    /// When a regular expression is not understood.
    pub(super) fn targets(&self) -> anyhow::Result<Targets> {
        Targets::new(&self.target_modules, self.exclude_modules.as_ref(), self.layers_to_transform.as_deref())
    }

    /// Rank and scale of the pair on each module.
    ///
    /// # Errors
    /// When a pattern is not understood.
    pub(super) fn scales(&self) -> anyhow::Result<Scales> {
        Ok(Scales {
            r: self.r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            ranks: Patterns::new(&self.rank_pattern).context("in `rank_pattern`")?,
            alphas: Patterns::new(&self.alpha_pattern).context("in `alpha_pattern`")?,
        })
    }

    /// Whether the bias of a linear layer is trained; `adapted` says whether it carries a pair.
    pub(super) fn trains_bias(&self, adapted: bool) -> bool {
        match self.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly => adapted,
        }
    }

    /// `bias` as it stands in the file.
    pub(super) fn bias_name(&self) -> &'static str {
        match self.bias {
            Bias::None => "none",
            Bias::All => "all",
            Bias::LoraOnly => "lora_only",
        }
    }
}

/// The fields of an adapter's config; a wrong one is named.
pub(super) fn fields_of<T: DeserializeOwned>(raw: Value, file: &str) -> anyhow::Result<T> {
    serde_path_to_error::deserialize(raw).map_err(|error| {
        let place = match error.path().iter().next() {
            Some(_) => format!("`{}` in `{file}`", excerpt(error.path())),
            None => format!("`{file}`"),
        };
        anyhow!("{place} is wrong: {}", excerpt(error.inner()))
    })
}

/// A dropout drops less than everything.
pub(super) fn check_dropout(name: &str, dropout: f64) -> anyhow::Result<()> {
    ensure!((0.0..1.0).contains(&dropout), "`{name}` must be at least 0 and below 1, found {dropout}");
    Ok(())
}

/// Ranks and scales, patterns compiled.
#[derive(Debug, Clone)]
pub(super) struct Scales {
    r: usize,
    lora_alpha: f64,
    use_rslora: bool,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
}

impl Scales {
    /// Rank and scale of the pair on the module with this path.
    pub(super) fn of(&self, path: &str) -> (usize, f64) {
        let r = self.ranks.of(path).unwrap_or(self.r);
        let alpha = self.alphas.of(path).unwrap_or(self.lora_alpha);
        (r, alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As PEFT's `get_pattern_key`, which walks the patterns as they stand in the file.
    #[test]
    fn the_first_pattern_of_the_file_counts() {
        let scale_in_layer_0 = |patterns: &str| {
            let mut raw =
                json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"] });
            raw["alpha_pattern"] = serde_json::from_str(patterns).unwrap();
            let config = AdapterConfig::parse(raw, "adapter_config.json").unwrap();
            config.scales().unwrap().of("model.layers.0.self_attn.q_proj").1
        };
        let (all, first) = (r#""q_proj": 32"#, r#""layers.0.self_attn.q_proj": 8"#);
        assert_eq!(scale_in_layer_0(&format!("{{{all}, {first}}}")), 32.0 / 4.0);
        assert_eq!(scale_in_layer_0(&format!("{{{first}, {all}}}")), 8.0 / 4.0);
    }
}
