//! Which linear layers an adapter sits on, by PEFT's rules (`check_target_module_exists`).

use std::collections::BTreeSet;

use anyhow::{Context as _, Error, ensure};
use regex::{Regex, RegexSet};

use crate::params::{PatternMap, TargetModules, module_pattern};

/// More names than any model has linear layers; each is compared with each layer.
const MAX_NAMES: usize = 10_000;

/// The chosen linear layers.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    modules: Matcher,
    exclude: Option<Matcher>,
    layers: Option<BTreeSet<usize>>,
}

#[derive(Debug, Clone)]
enum Matcher {
    All,
    Pattern(Box<Regex>),
    Names(Vec<String>),
}

impl Targets {
    /// # Errors
    /// When a regular expression is wrong, or uses what only Python's engine knows.
    pub(super) fn new(
        modules: &TargetModules,
        exclude: Option<&TargetModules>,
        layers: Option<&[usize]>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            modules: Matcher::new(modules).context("in `target_modules`")?,
            exclude: exclude.map(Matcher::new).transpose().context("in `exclude_modules`")?,
            layers: layers.map(|layers| layers.iter().copied().collect()),
        })
    }

    /// Whether a linear layer carries an adapter. `name` is its path inside the decoder layer, e.g.
    /// `self_attn.q_proj`.
    pub(super) fn matches(&self, layer: usize, name: &str) -> bool {
        let path = path(layer, name);
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
            && self.modules.matches(&path)
            && !self.exclude.as_ref().is_some_and(|exclude| exclude.matches(&path))
    }

    /// The first listed layer that a model of `layers` layers does not have.
    pub(super) fn layer_beyond(&self, layers: usize) -> Option<usize> {
        self.layers.as_ref()?.range(layers..).next().copied()
    }

    /// The listed names that stand for no linear layer of the model.
    pub(super) fn unknown<'t>(&'t self, paths: &[String]) -> Vec<&'t str> {
        let Matcher::Names(names) = &self.modules else { return Vec::new() };
        let known = |name: &&str| paths.iter().any(|path| ends_with(path, name));
        names.iter().map(String::as_str).filter(|name| !known(name)).collect()
    }
}

/// A linear layer's path in the whole model, as PEFT sees it.
pub(super) fn path(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Matcher {
    fn new(modules: &TargetModules) -> anyhow::Result<Self> {
        Ok(match modules {
            TargetModules::Pattern(text) if text == "all-linear" => Self::All,
            TargetModules::Pattern(text) => {
                Self::Pattern(Box::new(module_pattern::whole_path(text).map_err(Error::msg)?))
            }
            TargetModules::Names(names) => {
                ensure!(names.len() <= MAX_NAMES, "{} names are above the limit of {MAX_NAMES}", names.len());
                Self::Names(names.clone())
            }
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(regex) => regex.is_match(path),
            Self::Names(names) => names.iter().any(|name| ends_with(path, name)),
        }
    }
}

/// What PEFT puts before the name of a module of the base.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";

/// Values for modules whose paths end in a pattern, as in PEFT's `rank_pattern`.
#[derive(Debug, Clone)]
pub(super) struct Patterns<V> {
    set: RegexSet,
    values: Vec<V>,
}

impl<V: Copy> Patterns<V> {
    /// # Errors
    /// When a pattern is no regular expression, or they are too long together.
    pub(super) fn new(patterns: &PatternMap<V>) -> anyhow::Result<Self> {
        let set = module_pattern::path_ends(patterns.patterns()).map_err(Error::msg)?;
        Ok(Self { set, values: patterns.iter().map(|(_, value)| *value).collect() })
    }

    /// The value of the first pattern that fits.
    pub(super) fn of(&self, path: &str) -> Option<V> {
        self.set.matches(path).iter().next().map(|first| self.values[first])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(
        modules: TargetModules,
        exclude: Option<TargetModules>,
        layers: Option<&[usize]>,
    ) -> Vec<String> {
        let targets = Targets::new(&modules, exclude.as_ref(), layers).unwrap();
        let mut out = Vec::new();
        for layer in 0..2 {
            for name in ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"] {
                if targets.matches(layer, name) {
                    out.push(format!("{layer}.{name}"));
                }
            }
        }
        out
    }

    #[test]
    fn pefts_rules_choose_the_layers() {
        let names = |names: &[&str]| TargetModules::Names(names.iter().map(ToString::to_string).collect());
        let pattern = |text: &str| TargetModules::Pattern(text.to_owned());
        assert_eq!(matches(names(&["q_proj"]), None, None), ["0.self_attn.q_proj", "1.self_attn.q_proj"]);
        assert_eq!(matches(names(&["proj"]), None, None), [""; 0]);
        assert_eq!(matches(names(&["layers.1.mlp.up_proj"]), None, None), ["1.mlp.up_proj"]);
        assert_eq!(matches(pattern("all-linear"), None, None).len(), 6);
        assert_eq!(
            matches(pattern("all-linear"), Some(names(&["k_proj", "q_proj"])), Some(&[1])),
            ["1.mlp.up_proj"]
        );
        assert_eq!(
            matches(pattern(r".*\.0\..*[qk]_proj"), None, None),
            ["0.self_attn.q_proj", "0.self_attn.k_proj"]
        );
        assert_eq!(matches(pattern("q_proj"), None, None), [""; 0], "the whole path must match");
        assert!(Targets::new(&pattern("(?=x)"), None, None).is_err());
        assert!(Targets::new(&pattern("a)|(?:.*v_proj"), None, None).is_err(), "it escapes its group");
    }

    #[test]
    fn a_pattern_must_be_whole_by_itself() {
        let patterns = |text: &str| Patterns::new(&serde_json::from_str::<PatternMap<usize>>(text).unwrap());
        let error = patterns(r#"{"q_proj": 1, "a)|(?:.*v_proj": 2}"#).unwrap_err().to_string();
        assert!(error.starts_with("`a)|(?:.*v_proj` is not a regular expression"), "{error}");
        let patterns = patterns(r#"{"q_proj|k_proj": 1, "v_proj": 2}"#).unwrap();
        assert_eq!(patterns.of("model.layers.0.self_attn.k_proj"), Some(1));
        assert_eq!(patterns.of("model.layers.0.self_attn.v_proj"), Some(2));
        assert_eq!(patterns.of("model.layers.0.self_attn.o_proj"), None);
    }

    #[test]
    fn names_that_stand_for_nothing_are_told() {
        let modules = TargetModules::Names(vec!["q_proj".to_owned(), "q_porj".to_owned()]);
        let targets = Targets::new(&modules, None, None).unwrap();
        assert_eq!(targets.unknown(&[path(0, "self_attn.q_proj")]), ["q_porj"]);
    }
}
