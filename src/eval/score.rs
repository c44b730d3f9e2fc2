//! From answers and log-likelihoods to scores: a task's metrics, compiled.

use regex::Regex;

use super::{Score, math::is_math_equal};
use crate::params::{Aggregation, MathMode, Metric, MetricName, score_name};

/// One score of a task.
#[derive(Debug)]
pub struct Scorer {
    /// `metric,filter`.
    pub key: String,
    /// What is measured.
    pub metric: MetricName,
    /// The filter whose answers count.
    pub filter: String,
    settings: Metric,
    ignored: Vec<Regex>,
}

/// What an item came to: a score and its weight, or a log-likelihood and the number of units that it
/// is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemScore {
    /// The value.
    pub value: f64,
    /// Its weight.
    pub weight: f64,
}

/// What is known of an item with choices.
#[derive(Debug)]
pub struct Chosen<'c> {
    /// The choices' texts.
    pub choices: &'c [String],
    /// How likely each is.
    pub scores: &'c [Score],
    /// The place of the right one.
    pub gold: usize,
}

impl Scorer {
    /// Compiles a metric for one filter.
    ///
    /// # Errors
    /// When a pattern is none.
    pub fn new(metric: &Metric, filter: &str) -> anyhow::Result<Self> {
        let ignored = metric.regexes_to_ignore.iter().map(|pattern| Regex::new(pattern));
        Ok(Self {
            key: score_name(metric.metric, filter),
            metric: metric.metric,
            filter: filter.to_owned(),
            settings: metric.clone(),
            ignored: ignored.collect::<Result<_, _>>()?,
        })
    }

    /// The score of an answer that was read out of a generation.
    pub fn of_answer(&self, answer: Option<&str>, target: &str) -> ItemScore {
        let right = answer.is_some_and(|answer| match self.metric {
            MetricName::MathEqual => {
                is_math_equal(self.settings.mode.unwrap_or(MathMode::Strict), answer, target)
            }
            MetricName::Acc => answer == target,
            _ => self.relevant(answer) == self.relevant(target),
        });
        right_or_wrong(right)
    }

    /// What of a text `exact_match` compares, in lm-eval's order of steps.
    fn relevant(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.ignored {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.settings.ignore_case {
            text = text.to_lowercase();
        }
        if self.settings.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.settings.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        text
    }

    /// The score of an item with choices.
    pub fn of_choices(&self, item: &Chosen) -> ItemScore {
        let likely = |length: fn(&str) -> usize| {
            let each = item.scores.iter().zip(item.choices);
            // A choice without characters is never the best for its length.
            first_largest(each.map(|(score, choice)| score.log_likelihood / length(choice) as f64))
        };
        let best = match self.metric {
            MetricName::AccNorm => likely(|choice| choice.chars().count()),
            MetricName::AccBytes => likely(str::len),
            MetricName::ExactMatch => {
                return right_or_wrong(item.scores.get(item.gold).is_some_and(|score| score.is_greedy));
            }
            _ => first_largest(item.scores.iter().map(|score| score.log_likelihood)),
        };
        right_or_wrong(best == Some(item.gold))
    }

    /// The score of a text: its log-likelihood in this metric's unit.
    pub fn of_text(&self, score: Score, text: &str, tokens: usize) -> ItemScore {
        let weight = match self.metric {
            MetricName::Acc => return right_or_wrong(score.is_greedy),
            MetricName::TokenPerplexity => tokens,
            // lm-eval's count: Python's `re.split(r"\s+", text)`.
            MetricName::WordPerplexity => words(text),
            MetricName::BytePerplexity | MetricName::BitsPerByte => text.len(),
            _ => 1,
        };
        ItemScore { value: score.log_likelihood, weight: weight as f64 }
    }

    /// The task's score.
    pub fn aggregate(&self, items: impl Iterator<Item = ItemScore>) -> f64 {
        self.aggregation().of(items.map(|item| (item.value, item.weight)))
    }

    /// How items become a score.
    pub fn aggregation(&self) -> Aggregation {
        self.metric.aggregation()
    }
}

fn right_or_wrong(right: bool) -> ItemScore {
    ItemScore { value: f64::from(u8::from(right)), weight: 1.0 }
}

/// The place of the first largest value, as numpy's `argmax`; NaN is never the largest.
fn first_largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, value) in values.enumerate().filter(|(_, value)| !value.is_nan()) {
        if best.is_none_or(|(_, most)| value > most) {
            best = Some((place, value));
        }
    }
    best.map(|(place, _)| place)
}

fn words(text: &str) -> usize {
    let inner = text.split_whitespace().count();
    let edges =
        usize::from(text.starts_with(char::is_whitespace)) + usize::from(text.ends_with(char::is_whitespace));
    if inner == 0 { 1 + usize::from(!text.is_empty()) } else { inner + edges }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::shipped_task;

    fn scorer(metric: MetricName) -> Scorer {
        Scorer::new(&Metric::plain(metric), "none").unwrap()
    }

    #[test]
    fn gsm8k_ignores_what_lm_eval_ignores() {
        let task = shipped_task("gsm8k").unwrap();
        let (metric, filter) = &task.scores()[0];
        let scorer = Scorer::new(metric, filter).unwrap();
        assert_eq!(scorer.key, "exact_match,strict-match");
        for (answer, target, right) in [
            ("1,200", "1200", 1.0),
            ("$5.", "5", 1.0),
            ("5", "So 2 + 3 = 5.\n#### 5", 1.0),
            ("5.0", "5", 0.0),
            ("", "5", 0.0),
        ] {
            assert_eq!(scorer.of_answer(Some(answer), target).value, right, "{answer} {target}");
        }
        assert_eq!(scorer.of_answer(None, "").value, 0.0);
        let mut metric = Metric::plain(MetricName::ExactMatch);
        (metric.ignore_punctuation, metric.ignore_numbers, metric.ignore_case) = (true, true, true);
        let scorer = Scorer::new(&metric, "none").unwrap();
        assert_eq!(scorer.of_answer(Some("A.b 1"), "aB 2!").value, 1.0);
    }

    /// numpy: argmax of [-4, -6, -6] is 0; by characters [-4, -1.5, -1.2] it is 2; by bytes
    /// [-4, -1.5, -0.6] as well.
    #[test]
    fn choices_are_compared_as_lm_eval_compares() {
        let choices = ["a", "bcde", "ééééé"].map(str::to_owned);
        let scores = [-4.0, -6.0, -6.0]
            .map(|log_likelihood| Score { log_likelihood, is_greedy: log_likelihood == -4.0 });
        let at = |metric: MetricName, gold: usize| {
            scorer(metric).of_choices(&Chosen { choices: &choices, scores: &scores, gold }).value
        };
        assert_eq!([0, 1, 2].map(|gold| at(MetricName::Acc, gold)), [1.0, 0.0, 0.0]);
        assert_eq!([0, 1, 2].map(|gold| at(MetricName::AccNorm, gold)), [0.0, 0.0, 1.0]);
        assert_eq!([0, 1, 2].map(|gold| at(MetricName::AccBytes, gold)), [0.0, 0.0, 1.0]);
        assert_eq!([0, 1, 2].map(|gold| at(MetricName::ExactMatch, gold)), [1.0, 0.0, 0.0]);
        assert_eq!(first_largest([1.0, 1.0].into_iter()), Some(0));
        assert_eq!(first_largest([f64::NAN, -1.0].into_iter()), Some(1));
    }

    #[test]
    fn perplexities_have_units() {
        let score = Score { log_likelihood: -8.0, is_greedy: false };
        let of = |metric: MetricName| {
            let scorer = scorer(metric);
            scorer.aggregate([scorer.of_text(score, "ab cdé", 4)].into_iter())
        };
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(of(MetricName::Perplexity), 8f64.exp()));
        assert!(close(of(MetricName::TokenPerplexity), 2f64.exp()));
        assert!(close(of(MetricName::WordPerplexity), 4f64.exp()));
        assert!(close(of(MetricName::BytePerplexity), (8.0f64 / 7.0).exp()));
        assert!(close(of(MetricName::BitsPerByte), 8.0 / 7.0 / std::f64::consts::LN_2));
        // Python: [len(re.split(r"\s+", t)) for t in ("", " ", "a", " a b ", "a  b")]
        assert_eq!(["", " ", "a", " a b ", "a  b"].map(words), [1, 2, 1, 4, 2]);
    }
}
