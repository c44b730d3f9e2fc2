//! `metric_list:` how an answer is scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{super::common::Problem, definition::OutputType, filter::pattern_problem};

/// One metric and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What is measured.
    pub metric: MetricName,
    /// With several filters: only the answers of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// As in lm-eval's files; every metric has one aggregation, and this may only name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// As in lm-eval's files; every metric has one direction, and this may only name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub higher_is_better: Option<bool>,
    /// With `exact_match`: capitals do not count.
    #[serde(default)]
    pub ignore_case: bool,
    /// With `exact_match`: ASCII punctuation does not count.
    #[serde(default)]
    pub ignore_punctuation: bool,
    /// With `exact_match`: digits do not count.
    #[serde(default)]
    pub ignore_numbers: bool,
    /// With `exact_match`: what matches one of these does not count, on both sides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<String>,
    /// With `math_equal`: which grader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MathMode>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// Generations: the answer is the target's text. Choices: greedy decoding gives the target.
    ExactMatch,
    /// Generations: the answer is the target as mathematics, by the grader of `mode`.
    MathEqual,
    /// Choices: the most likely one is the target. Log-likelihoods: greedy decoding gives the target.
    /// Generations: the answer is the target.
    Acc,
    /// Choices: the most likely one for its length in characters is the target.
    AccNorm,
    /// Choices: the most likely one for its length in UTF-8 bytes is the target.
    AccBytes,
    /// Log-likelihoods: e to the minus mean log-likelihood of a target.
    Perplexity,
    /// Log-likelihoods: the same of a token.
    TokenPerplexity,
    /// Log-likelihoods: the same of a word (between white space).
    WordPerplexity,
    /// Log-likelihoods: the same of a UTF-8 byte.
    BytePerplexity,
    /// Log-likelihoods: minus the mean binary logarithm of a byte's likelihood.
    BitsPerByte,
}

/// From the items' scores to the task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Of scores.
    Mean,
    /// e to the minus mean log-likelihood.
    Perplexity,
    /// e to the minus mean log-likelihood of a unit.
    WeightedPerplexity,
    /// Minus the mean binary logarithm of a byte's likelihood.
    BitsPerByte,
}

/// Which grader of mathematics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MathMode {
    /// Equal after MATH's own normalisation; a text that it cannot normalise is compared as it is.
    Strict,
    /// The Trans-PEFT code's: hundredfold and hundredth count, and so does a prediction that cannot be
    /// normalised.
    PaperCompat,
}

impl MetricName {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact_match",
            Self::MathEqual => "math_equal",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::Perplexity => "perplexity",
            Self::TokenPerplexity => "token_perplexity",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
        }
    }

    /// The metric of this name, or of `name,filter`.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.split(',').next().unwrap_or_default();
        serde_json::from_value(name.into()).ok()
    }

    /// How items' scores become the task's.
    pub fn aggregation(self) -> Aggregation {
        match self {
            Self::Perplexity => Aggregation::Perplexity,
            Self::TokenPerplexity | Self::WordPerplexity | Self::BytePerplexity => {
                Aggregation::WeightedPerplexity
            }
            Self::BitsPerByte => Aggregation::BitsPerByte,
            _ => Aggregation::Mean,
        }
    }

    /// Whether it is a share of right answers.
    pub fn is_share(self) -> bool {
        self.aggregation() == Aggregation::Mean
    }

    fn fits(self, output: OutputType) -> bool {
        let outputs: &[OutputType] = match self {
            Self::ExactMatch => &[OutputType::GenerateUntil, OutputType::MultipleChoice],
            Self::MathEqual => &[OutputType::GenerateUntil],
            Self::Acc => &[OutputType::GenerateUntil, OutputType::MultipleChoice, OutputType::Loglikelihood],
            Self::AccNorm | Self::AccBytes => &[OutputType::MultipleChoice],
            Self::Perplexity => &[OutputType::Loglikelihood],
            Self::TokenPerplexity | Self::WordPerplexity | Self::BytePerplexity | Self::BitsPerByte => {
                &[OutputType::Loglikelihood, OutputType::LoglikelihoodRolling]
            }
        };
        outputs.contains(&output)
    }
}

impl Aggregation {
    /// The task's score of items' values and weights; each value is a log-likelihood but for
    /// [`Aggregation::Mean`].
    pub fn of(self, items: impl Iterator<Item = (f64, f64)>) -> f64 {
        let (value, weight) = items.fold((0.0, 0.0), |(v, w), (value, weight)| (v + value, w + weight));
        let mean = if weight > 0.0 { value / weight } else { 0.0 };
        match self {
            Self::Mean => mean,
            Self::Perplexity | Self::WeightedPerplexity => (-mean).exp(),
            Self::BitsPerByte => -mean / std::f64::consts::LN_2,
        }
    }
}

impl Metric {
    /// A metric without settings.
    pub fn plain(metric: MetricName) -> Self {
        Self {
            metric,
            filters: Vec::new(),
            aggregation: None,
            higher_is_better: None,
            ignore_case: false,
            ignore_punctuation: false,
            ignore_numbers: false,
            regexes_to_ignore: Vec::new(),
            mode: None,
        }
    }

    pub(super) fn check(&self, place: &str, output: OutputType, filters: &[&str]) -> Vec<Problem> {
        let at = |field: &str| format!("{place}.{field}");
        let name = self.metric.name();
        let mut problems = Vec::new();
        if !self.metric.fits(output) {
            let output = output.name();
            problems.push(Problem::new(at("metric"), format!("`{name}` is no metric of `{output}`")));
        }
        for (index, filter) in self.filters.iter().enumerate() {
            if !filters.contains(&filter.as_str()) {
                let known = crate::diagnostic::suggest(filter, filters.iter().copied());
                let problem = Problem::new(
                    format!("{place}.filters.{index}"),
                    format!("there is no filter `{filter}`"),
                );
                problems.push(match known {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                });
            }
        }
        let own = self.metric.aggregation();
        // lm-eval calls both of them so.
        if self.aggregation.is_some_and(|given| given != own) {
            problems.push(Problem::new(at("aggregation"), format!("is not the aggregation of `{name}`")));
        }
        if self.higher_is_better.is_some_and(|given| given != self.metric.is_share()) {
            problems.push(Problem::new(at("higher_is_better"), format!("is wrong for `{name}`")));
        }
        let exact = self.metric == MetricName::ExactMatch && output == OutputType::GenerateUntil;
        let only_for_exact = [
            ("ignore_case", self.ignore_case),
            ("ignore_punctuation", self.ignore_punctuation),
            ("ignore_numbers", self.ignore_numbers),
            ("regexes_to_ignore", !self.regexes_to_ignore.is_empty()),
        ];
        for (field, given) in only_for_exact {
            if given && !exact {
                problems.push(Problem::new(at(field), "is only for `exact_match` of generations"));
            }
        }
        for (index, pattern) in self.regexes_to_ignore.iter().enumerate() {
            problems.extend(pattern_problem(pattern, &format!("{place}.regexes_to_ignore.{index}")));
        }
        match (self.metric == MetricName::MathEqual, self.mode) {
            (true, None) => problems.push(
                Problem::new(at("metric"), "`math_equal` needs a `mode`")
                    .hint("one of: strict, paper-compat"),
            ),
            (false, Some(_)) => problems.push(Problem::new(at("mode"), "is only for `math_equal`")),
            _ => {}
        }
        problems
    }
}
