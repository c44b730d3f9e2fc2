//! Which adapter is trained, under PEFT's names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    common::{Problem, below_one},
    module_pattern,
    pattern_map::PatternMap,
};

/// Which adapter is trained. Names are PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterParams {
    /// The method.
    #[serde(rename = "type")]
    pub kind: AdapterType,
    /// Rank; the width of a bottleneck adapter.
    pub r: usize,
    /// Numerator of the scale `lora_alpha / r` (LoRA only).
    pub lora_alpha: f64,
    /// Dropout on the adapter's input.
    pub lora_dropout: f64,
    /// The linear layers that get an adapter (LoRA only): a list of names, a regular expression
    /// for the whole path (`model.layers.0.self_attn.q_proj`), or `all-linear`.
    pub target_modules: TargetModules,
    /// Linear layers that get none although `target_modules` names them (LoRA only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<TargetModules>,
    /// Decoder layers that get an adapter, from 0; all when absent (LoRA only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Scale by `lora_alpha / sqrt(r)` instead (arXiv 2312.03732).
    #[serde(skip_serializing_if = "is_false")]
    pub use_rslora: bool,
    /// Train a magnitude for each output beside the direction (arXiv 2402.09353).
    #[serde(skip_serializing_if = "is_false")]
    pub use_dora: bool,
    /// Which biases of the base are trained too (LoRA only).
    #[serde(skip_serializing_if = "is_default")]
    pub bias: Bias,
    /// Ranks of modules whose names end in these patterns; the first that fits counts (LoRA only).
    #[serde(skip_serializing_if = "PatternMap::is_empty")]
    #[schemars(with = "BTreeMap<String, usize>")]
    pub rank_pattern: PatternMap<usize>,
    /// The same for `lora_alpha`.
    #[serde(skip_serializing_if = "PatternMap::is_empty")]
    #[schemars(with = "BTreeMap<String, f64>")]
    pub alpha_pattern: PatternMap<f64>,
    /// Where bottleneck adapters sit; `houlsby` by default (bottleneck only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Between a bottleneck's two matrices; `relu` by default (bottleneck only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub non_linearity: Option<NonLinearity>,
    /// Factor of a bottleneck's output; 1 by default (bottleneck only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<f64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The adapter methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterType {
    /// Low-rank adaptation (arXiv 2106.09685).
    #[default]
    Lora,
    /// Two small matrices with a non-linearity between them (arXiv 1902.00751).
    Bottleneck,
}

/// Linear layers, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear` (every linear layer but the output head), or a regular expression for the
    /// whole path.
    Pattern(String),
    /// Ends of paths: `q_proj`, `self_attn.q_proj`, `layers.0.self_attn.q_proj`.
    Names(Vec<String>),
}

impl<'de> Deserialize<'de> for TargetModules {
    // By hand, since derived untagged enums lose the message of the failing variant.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(pattern) => Ok(Self::Pattern(pattern)),
            value @ serde_json::Value::Array(_) => {
                serde_json::from_value(value).map(Self::Names).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!(
                "expected a list of names, a regular expression or `all-linear`, found {other}"
            ))),
        }
    }
}

impl<const N: usize> From<[&str; N]> for TargetModules {
    fn from(names: [&str; N]) -> Self {
        Self::Names(names.map(String::from).to_vec())
    }
}

/// Which biases of the base are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of a linear layer.
    All,
    /// Those of the layers with an adapter.
    LoraOnly,
}

/// Where bottleneck adapters sit in a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// After attention and after the FFN, before each residual add (arXiv 1902.00751).
    #[default]
    Houlsby,
    /// After the FFN, before its residual add (arXiv 2005.00247).
    Pfeiffer,
    /// Beside the FFN, on its normed input (arXiv 2110.04366).
    Parallel,
}

/// Between a bottleneck's two matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonLinearity {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Default for AdapterParams {
    fn default() -> Self {
        Self {
            kind: AdapterType::Lora,
            r: 32,
            lora_alpha: 64.0,
            lora_dropout: 0.05,
            target_modules: ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"].into(),
            exclude_modules: None,
            layers_to_transform: None,
            use_rslora: false,
            use_dora: false,
            bias: Bias::None,
            rank_pattern: PatternMap::default(),
            alpha_pattern: PatternMap::default(),
            placement: None,
            non_linearity: None,
            scaling: None,
        }
    }
}

/// Every linear layer of a known architecture; a test holds the list complete.
pub const LINEAR_MODULES: [&str; 14] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv_proj",
    "gate_up_proj",
    "wqkv",
    "wo",
    "w1",
    "w2",
    "w3",
];

/// Why a text cannot stand for linear layers, and what to write instead where that is known.
fn wrong_target(targets: &TargetModules) -> Option<(String, Option<String>)> {
    match targets {
        TargetModules::Pattern(text) if text == "all-linear" => None,
        TargetModules::Pattern(text) => {
            let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if plain {
                let message = format!("`{text}` is a regular expression here, and matches no whole path");
                return Some((message, Some(format!("for the layers of that name write [{text}]"))));
            }
            module_pattern::whole_path(text).err().map(|message| (message, None))
        }
        TargetModules::Names(names) => names.iter().find_map(|name| {
            let module = name.rsplit('.').next().unwrap_or(name);
            let close = |known: &&&str| strsim::damerau_levenshtein(known, module);
            let known = LINEAR_MODULES.iter().min_by_key(close).filter(|known| close(known) <= 2);
            (!module.is_empty() && !LINEAR_MODULES.contains(&module)).then(|| {
                let hint = match known {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("one of: {}", LINEAR_MODULES.join(", ")),
                };
                (format!("`{name}` is a linear layer of no known architecture"), Some(hint))
            })
        }),
    }
}

/// Above the width of any layer a rank means nothing.
pub(crate) const MAX_RANK: usize = 1 << 16;

impl AdapterParams {
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: String, hint: Option<&str>| {
            let problem = Problem::new(format!("adapter.{field}"), message);
            problems.push(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        };
        let ranks = self.rank_pattern.iter().map(|(name, r)| (format!("rank_pattern.{name}"), *r));
        for (field, r) in ranks.chain([("r".to_owned(), self.r)]) {
            if !(1..=MAX_RANK).contains(&r) {
                problem(&field, format!("must lie between 1 and {MAX_RANK}, found {r}"), None);
            }
        }
        let alphas = self.alpha_pattern.iter().map(|(name, alpha)| (format!("alpha_pattern.{name}"), *alpha));
        let scaling = self.scaling.map(|scaling| ("scaling".to_owned(), scaling));
        for (field, value) in alphas.chain([("lora_alpha".to_owned(), self.lora_alpha)]).chain(scaling) {
            if !value.is_finite() || value <= 0.0 {
                problem(&field, format!("must be a number above 0, found {value}"), None);
            }
        }
        let names_nothing = |targets: &TargetModules| match targets {
            TargetModules::Names(names) => names.is_empty() || names.iter().any(String::is_empty),
            TargetModules::Pattern(pattern) => pattern.is_empty(),
        };
        if names_nothing(&self.target_modules) {
            problem(
                "target_modules",
                "names no layer".to_owned(),
                Some("for example [q_proj, k_proj, v_proj, o_proj], or all-linear"),
            );
        }
        for (field, targets) in [
            ("target_modules", Some(&self.target_modules)),
            ("exclude_modules", self.exclude_modules.as_ref()),
        ] {
            if let Some((message, hint)) = targets.and_then(wrong_target) {
                problem(field, message, hint.as_deref());
            }
        }
        for (field, patterns) in [
            ("rank_pattern", module_pattern::path_ends(self.rank_pattern.patterns())),
            ("alpha_pattern", module_pattern::path_ends(self.alpha_pattern.patterns())),
        ] {
            if let Err(message) = patterns {
                problem(field, message, None);
            }
        }
        if self.layers_to_transform.as_ref().is_some_and(Vec::is_empty) {
            problem("layers_to_transform", "names no layer".to_owned(), Some("leave it out for all layers"));
        }
        let lora = self.kind == AdapterType::Lora;
        for (field, given, of_lora) in [
            ("exclude_modules", self.exclude_modules.is_some(), true),
            ("layers_to_transform", self.layers_to_transform.is_some(), true),
            ("use_rslora", self.use_rslora, true),
            ("use_dora", self.use_dora, true),
            ("bias", self.bias != Bias::None, true),
            ("rank_pattern", !self.rank_pattern.is_empty(), true),
            ("alpha_pattern", !self.alpha_pattern.is_empty(), true),
            ("placement", self.placement.is_some(), false),
            ("non_linearity", self.non_linearity.is_some(), false),
            ("scaling", self.scaling.is_some(), false),
        ] {
            if given && of_lora != lora {
                let other = if of_lora { "lora" } else { "bottleneck" };
                problem(field, format!("`{field}` belongs to adapters of type `{other}`"), None);
            }
        }
        problems.extend(below_one("adapter.lora_dropout", self.lora_dropout));
        problems
    }
}
