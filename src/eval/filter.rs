//! From a generation to an answer: a task's filters, compiled.

use anyhow::Context as _;
use regex::Regex;

use super::{commonsense::LabelExtractor, gsm8k::paper_number, math::paper_answer};
use crate::{
    data::last_boxed,
    params::{FilterFunction, FilterPipeline, FilterStep},
};

/// One way to read answers.
#[derive(Debug)]
pub struct Filter {
    /// Its name in results.
    pub name: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Regex { pattern: Regex, select: i64, fallback: Option<String> },
    Labels(LabelExtractor),
    Plain(FilterFunction),
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// When a pattern is none.
    pub fn new(pipeline: &FilterPipeline) -> anyhow::Result<Self> {
        let steps = pipeline.filter.iter().map(Step::new).collect::<anyhow::Result<_>>();
        let steps = steps.with_context(|| format!("in filter `{}`", pipeline.name))?;
        Ok(Self { name: pipeline.name.clone(), steps })
    }

    /// The answer that a generation gives.
    pub fn extract(&self, generation: &str) -> Option<String> {
        self.steps.iter().try_fold(generation.to_owned(), |text, step| step.apply(&text))
    }
}

impl Step {
    fn new(step: &FilterStep) -> anyhow::Result<Self> {
        Ok(match step.function {
            FilterFunction::Regex => Self::Regex {
                pattern: Regex::new(step.regex_pattern.as_deref().unwrap_or_default())?,
                select: step.group_select.unwrap_or(0),
                fallback: step.fallback.clone(),
            },
            FilterFunction::Labels => Self::Labels(LabelExtractor::new(&step.labels)?),
            plain => Self::Plain(plain),
        })
    }

    fn apply(&self, text: &str) -> Option<String> {
        match self {
            Self::Regex { pattern, select, fallback } => {
                find(pattern, text, *select).map(|found| found.trim().to_owned()).or_else(|| fallback.clone())
            }
            // As LLM-Adapters, on the trimmed generation.
            Self::Labels(labels) => labels.extract(text.trim()).map(str::to_owned),
            Self::Plain(function) => match function {
                FilterFunction::RemoveWhitespace => Some(text.trim().to_owned()),
                FilterFunction::Lowercase => Some(text.to_lowercase()),
                FilterFunction::Uppercase => Some(text.to_uppercase()),
                FilterFunction::MathBoxed => last_boxed(text).map(str::to_owned),
                FilterFunction::MathAnswer => {
                    last_boxed(text).or_else(|| paper_answer(text)).map(str::to_owned)
                }
                FilterFunction::PaperMath => paper_answer(text).map(str::to_owned),
                FilterFunction::PaperGsm8k => paper_number(text).map(|number| number.to_string()),
                FilterFunction::TakeFirst | FilterFunction::Regex | FilterFunction::Labels => {
                    Some(text.to_owned())
                }
            },
        }
    }
}

/// lm-eval's choice among Python's `findall`: the whole match of a pattern without groups, else the
/// first group that is not empty.
fn find<'t>(pattern: &Regex, text: &'t str, select: i64) -> Option<&'t str> {
    let place = usize::try_from(if select < 0 { -1 - select } else { select }).ok()?;
    let found = match select {
        0.. => pattern.captures_iter(text).nth(place)?,
        _ => {
            let all: Vec<_> = pattern.captures_iter(text).collect();
            all.into_iter().rev().nth(place)?
        }
    };
    match pattern.captures_len() {
        1 => found.get(0).map(|whole| whole.as_str()),
        _ => found.iter().skip(1).flatten().map(|group| group.as_str()).find(|group| !group.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::shipped_task;

    /// What lm-eval 0.4.13's filters of `gsm8k` give, and trans-peft-facts.md 5.4.
    #[test]
    fn the_filters_of_gsm8k() {
        let task = shipped_task("gsm8k").unwrap();
        let filters: Vec<Filter> = task.filters().iter().map(|filter| Filter::new(filter).unwrap()).collect();
        let read = |text: &str| -> Vec<Option<String>> {
            filters.iter().map(|filter| filter.extract(text)).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        let text = "He has 3 apples and $1,200.50.\n#### 1,200\nand 7.";
        assert_eq!(read(text), [some("1,200"), some("7."), None]);
        assert_eq!(read("The answer is: 12.5"), [None, some("12.5"), some("12")]);
        assert_eq!(read("none"), [None, None, None]);
    }

    #[test]
    fn matches_are_chosen_as_lm_eval_chooses() {
        let regex = |pattern: &str, select: i64| {
            let pattern = Regex::new(pattern).unwrap();
            move |text: &str| find(&pattern, text, select).map(str::to_owned)
        };
        assert_eq!(regex("[a-z]+", 1)("ab cd ef").as_deref(), Some("cd"));
        assert_eq!(regex("[a-z]+", -2)("ab cd ef").as_deref(), Some("cd"));
        assert_eq!(regex("[a-z]+", 3)("ab cd ef"), None);
        assert_eq!(regex("[a-z]+", i64::MIN)("ab"), None);
        assert_eq!(regex("x(a)?(b)?", 0)("xb").as_deref(), Some("b"));
        assert_eq!(regex("x(a)?(b)?", 0)("x"), None);
        let with_fallback = FilterPipeline {
            name: "f".to_owned(),
            filter: serde_json::from_str(
                r#"[{"function": "regex", "regex_pattern": "z", "fallback": "[invalid]"}, {"function": "uppercase"}]"#,
            )
            .unwrap(),
        };
        assert_eq!(Filter::new(&with_fallback).unwrap().extract("a").as_deref(), Some("[INVALID]"));
    }
}
