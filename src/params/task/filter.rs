//! `filter_list:` how an answer is read out of a generation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::common::Problem;

/// One way to read answers, under the name that its scores have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterPipeline {
    /// What stands behind the comma of the metric's name, e.g. `strict-match`.
    pub name: String,
    /// The steps, one after the other.
    pub filter: Vec<FilterStep>,
}

/// One step of a filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterStep {
    /// What the step does.
    pub function: FilterFunction,
    /// With `regex`: the pattern. Its first non-empty group counts, without groups the whole match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex_pattern: Option<String>,
    /// With `regex`: which match; -1 is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_select: Option<i64>,
    /// With `regex`: the answer where nothing matches; without it, there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// With `labels`: the answers there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// What a filter's step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilterFunction {
    /// A match of `regex_pattern` (Rust's `regex` crate: no look-around, no back-references).
    Regex,
    /// The first generation; there is only one.
    TakeFirst,
    /// Without white space at both ends.
    RemoveWhitespace,
    /// In lower case.
    Lowercase,
    /// In upper case.
    Uppercase,
    /// The first of `labels` that the text names, case-sensitively (LLM-Adapters).
    Labels,
    /// What the last `\boxed{...}` holds.
    MathBoxed,
    /// What the last `\boxed{...}` holds; without one, as `paper_math`.
    MathAnswer,
    /// What stands behind the last `The answer is: ` (Trans-PEFT's code for MATH).
    PaperMath,
    /// The number behind the last `The answer is: `, rounded to an integer (Trans-PEFT's code for GSM8K).
    PaperGsm8k,
}

impl FilterPipeline {
    pub(super) fn check(&self, place: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.name.is_empty() || self.name.contains(',') {
            let name = &self.name;
            problems.push(Problem::new(format!("{place}.name"), format!("`{name}` cannot name a filter")));
        }
        for (index, step) in self.filter.iter().enumerate() {
            problems.extend(step.check(&format!("{place}.filter.{index}")));
        }
        problems
    }
}

impl FilterStep {
    fn check(&self, place: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let is_regex = self.function == FilterFunction::Regex;
        match &self.regex_pattern {
            None if is_regex => {
                problems.push(Problem::new(place, format!("`{place}` has no `regex_pattern`")));
            }
            Some(pattern) => problems.extend(pattern_problem(pattern, &format!("{place}.regex_pattern"))),
            None => {}
        }
        let only_for_regex = [
            ("regex_pattern", self.regex_pattern.is_some()),
            ("group_select", self.group_select.is_some()),
            ("fallback", self.fallback.is_some()),
        ];
        for (field, given) in only_for_regex {
            if given && !is_regex {
                problems.push(Problem::new(format!("{place}.{field}"), "is only for `function: regex`"));
            }
        }
        let is_labels = self.function == FilterFunction::Labels;
        if !is_labels && !self.labels.is_empty() {
            problems.push(Problem::new(format!("{place}.labels"), "is only for `function: labels`"));
        }
        if self.labels.iter().any(String::is_empty) {
            problems.push(Problem::new(format!("{place}.labels"), "an empty label would match everything"));
        }
        problems
    }
}

/// What is wrong with a regular expression.
pub(super) fn pattern_problem(pattern: &str, place: &str) -> Option<Problem> {
    let error = regex::Regex::new(pattern).err()?.to_string();
    let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
    let problem = Problem::new(place, format!("`{pattern}` is no valid pattern: {reason}"));
    Some(problem.hint("patterns are those of Rust's `regex` crate: no look-around, no back-references"))
}
