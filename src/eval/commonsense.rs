//! The commonsense tasks' answer: the first label that a generation names (LLM-Adapters'
//! `commonsense_evaluate.py`).

use anyhow::Context as _;
use regex::Regex;

/// Finds labels in generations.
#[derive(Debug, Clone)]
pub(super) struct LabelExtractor(Regex);

impl LabelExtractor {
    /// Looks for these labels, case-sensitively. At one place the longest wins, so that `answer1`
    /// cannot hide `answer10`.
    ///
    /// # Errors
    /// When there are too many labels for one expression.
    pub(super) fn new<S: AsRef<str>>(labels: &[S]) -> anyhow::Result<Self> {
        let mut labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        labels.sort_by_key(|label| std::cmp::Reverse(label.len()));
        let pattern = labels.iter().map(|label| regex::escape(label)).collect::<Vec<_>>().join("|");
        Ok(Self(Regex::new(&pattern).context("the labels make too large an expression")?))
    }

    /// The first label in a generation.
    pub(super) fn extract<'t>(&self, generation: &'t str) -> Option<&'t str> {
        self.0.find(generation).map(|found| found.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// trans-peft-facts.md 5.8.
    #[test]
    fn the_first_label_counts() {
        let boolq = LabelExtractor::new(&["true", "false"]).unwrap();
        assert_eq!(boolq.extract("the correct answer is true"), Some("true"));
        assert_eq!(boolq.extract("True"), None);
        assert_eq!(boolq.extract(""), None);
        assert_eq!(boolq.extract("solution1"), None);
        let piqa = LabelExtractor::new(&["solution1", "solution2"]).unwrap();
        assert_eq!(piqa.extract("solution2, not solution1"), Some("solution2"));
        let many = LabelExtractor::new(&["answer1", "answer10", "a.c"]).unwrap();
        assert_eq!(many.extract("abc answer10"), Some("answer10"));
    }
}
