//! The examples before a question.

use anyhow::ensure;

use crate::{data::Row, params::Sampler, rng};

/// Where examples come from.
pub(super) struct Examples<'r> {
    /// The rows.
    pub(super) rows: &'r [Row],
    /// How they are chosen.
    pub(super) sampler: Sampler,
    /// How many stand before a question.
    pub(super) count: usize,
    /// What the draws depend on, beside the question's number.
    pub(super) seed: u64,
}

impl<'r> Examples<'r> {
    /// The examples before the question of this number; never the question itself, nor one like it.
    pub(super) fn of(&self, number: usize, question: &Row) -> anyhow::Result<Vec<&'r Row>> {
        if self.count == 0 {
            return Ok(Vec::new());
        }
        let mut random = rng::stream(self.seed, "fewshot", &[number as u64]);
        let mut left: Vec<usize> = match self.sampler {
            Sampler::FirstN => (0..self.rows.len()).rev().collect(),
            Sampler::Default => (0..self.rows.len()).collect(),
        };
        let mut chosen = Vec::with_capacity(self.count);
        while chosen.len() < self.count {
            ensure!(
                !left.is_empty(),
                "{} examples are asked for, and there are {} rows beside the question",
                self.count,
                chosen.len()
            );
            let place = match self.sampler {
                Sampler::FirstN => left.len() - 1,
                Sampler::Default => random.below(left.len() as u64) as usize,
            };
            let row = &self.rows[left.swap_remove(place)];
            if row != question {
                chosen.push(row);
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn examples_are_other_rows_and_always_the_same() {
        let rows: Vec<Row> = (0..6).map(|n| json!({ "n": n % 5 }).as_object().unwrap().clone()).collect();
        let examples = |sampler, count| Examples { rows: &rows, sampler, count, seed: 1234 };
        let numbers = |found: Vec<&Row>| -> Vec<u64> {
            found.into_iter().map(|row| row["n"].as_u64().unwrap()).collect()
        };
        let first = examples(Sampler::FirstN, 3);
        assert_eq!(numbers(first.of(0, &rows[1]).unwrap()), [0, 2, 3]);
        let drawn = examples(Sampler::Default, 4);
        for number in 0..20 {
            let found = numbers(drawn.of(number, &rows[0]).unwrap());
            assert_eq!(found, numbers(drawn.of(number, &rows[0]).unwrap()));
            assert!(!found.contains(&0) && found.len() == 4, "{found:?}");
        }
        let error = examples(Sampler::Default, 5).of(0, &rows[0]).unwrap_err().to_string();
        assert_eq!(error, "5 examples are asked for, and there are 4 rows beside the question");
        assert!(examples(Sampler::FirstN, 0).of(0, &rows[0]).unwrap().is_empty());
    }
}
