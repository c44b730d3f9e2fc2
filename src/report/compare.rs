//! Paired comparison of each row with a baseline, on the same items.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::TaskTable;
use crate::{
    eval::stats,
    params::{Aggregation, MetricName},
};

const RESAMPLES: usize = 10_000;

/// One row against the baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Task name.
    pub task: String,
    /// The row.
    pub label: String,
    /// Whether the score is a share, shown in %.
    pub share: bool,
    /// Its score minus the baseline's: over the items that both have, or of all when there are none.
    pub difference: f64,
    /// 95 % interval of the difference: paired bootstrap over items, each item's score averaged
    /// over the runs. It holds the item sampling, not the spread between seeds.
    pub ci95: Option<(f64, f64)>,
    /// Items that both have: the same place, row and target.
    pub items: usize,
    /// Probability of a difference at least as large between equally good models.
    pub p: Option<f64>,
    /// `mcnemar` (exact; one run each, right or wrong) or `sign-flip` (else).
    pub test: Option<&'static str>,
    /// `p` by Holm's correction over the tasks of this row.
    pub p_holm: Option<f64>,
    /// The difference that 80 of 100 such comparisons would find at the level of 5 %.
    pub detectable: Option<f64>,
    /// Whether `detectable` is that of a paired comparison, or of two samples of their own.
    pub detectable_paired: bool,
}

/// Every other row of every table against the row called `baseline`.
pub(super) fn compare(tables: &[TaskTable], baseline: &str) -> Vec<Comparison> {
    let mut out = Vec::new();
    for table in tables {
        let Some(base) = table.rows.iter().find(|row| row.label == baseline) else { continue };
        let aggregation = MetricName::find(&table.metric).map_or(Aggregation::Mean, MetricName::aggregation);
        let base_items = items(&base.samples, &table.metric, aggregation);
        for row in table.rows.iter().filter(|row| row.label != baseline) {
            let other = items(&row.samples, &table.metric, aggregation);
            let pairs: Vec<(Score, Score)> = match (&base_items, &other) {
                (Some(a), Some(b)) => {
                    a.iter().filter_map(|(id, a)| Some((a.clone(), b.get(id)?.clone()))).collect()
                }
                _ => Vec::new(),
            };
            let unpaired = table.share.then(|| {
                let n = base.items.min(row.items) as usize;
                stats::detectable_unpaired(base.mean, n)
            });
            let paired = paired(&pairs, aggregation, base.n == 1 && row.n == 1);
            out.push(Comparison {
                task: table.task.clone(),
                label: row.label.clone(),
                share: table.share,
                difference: paired.difference.unwrap_or(row.mean - base.mean),
                ci95: paired.ci95,
                items: pairs.len(),
                p: paired.p,
                test: paired.test,
                p_holm: None,
                detectable: paired.detectable.or(unpaired.filter(|found| *found > 0.0 && found.is_finite())),
                detectable_paired: paired.detectable.is_some(),
            });
        }
    }
    correct(&mut out);
    out
}

/// Holm's correction: a row is tested once for each task.
fn correct(comparisons: &mut [Comparison]) {
    let mut labels: Vec<String> = comparisons.iter().map(|row| row.label.clone()).collect();
    labels.sort();
    labels.dedup();
    for label in labels {
        let mut family: Vec<&mut Comparison> =
            comparisons.iter_mut().filter(|row| row.label == label && row.p.is_some()).collect();
        let p_values: Vec<f64> = family.iter().filter_map(|row| row.p).collect();
        for (row, corrected) in family.iter_mut().zip(stats::holm(&p_values)) {
            row.p_holm = Some(corrected);
        }
    }
}

/// An item's score in each run, and its weight. Shares are averaged over the runs from the start.
#[derive(Debug, Clone)]
struct Score {
    values: Vec<f64>,
    weight: f64,
}

#[derive(Debug, Default)]
struct Paired {
    difference: Option<f64>,
    ci95: Option<(f64, f64)>,
    p: Option<f64>,
    test: Option<&'static str>,
    detectable: Option<f64>,
}

/// What the items that both have say. `binary`: each was right or wrong, not right in some runs.
fn paired(pairs: &[(Score, Score)], aggregation: Aggregation, binary: bool) -> Paired {
    if pairs.is_empty() {
        return Paired::default();
    }
    // The mean over the runs of what each comes to, as in the tables.
    let mean = |side: fn(&(Score, Score)) -> &Score, places: &[usize]| {
        let runs = side(&pairs[0]).values.len();
        let of_run = |run: usize| {
            aggregation.of(places.iter().map(|place| {
                let score = side(&pairs[*place]);
                (score.values[run], score.weight)
            }))
        };
        (0..runs).map(of_run).sum::<f64>() / runs as f64
    };
    let difference_of = |places: &[usize]| mean(|pair| &pair.1, places) - mean(|pair| &pair.0, places);
    let found = stats::bootstrap(pairs.len(), RESAMPLES, difference_of);
    let difference = Some(difference_of(&(0..pairs.len()).collect::<Vec<_>>()));
    // Of scores that are too large for a number, there is none.
    let ci95 = found.map(|found| found.ci95).filter(|(low, high)| !low.is_nan() && !high.is_nan());
    // Tests of shares, and of log-likelihoods for what is made of them.
    let differences: Vec<f64> =
        pairs.iter().map(|(base, row)| stats::mean(&row.values) - stats::mean(&base.values)).collect();
    let (p, test) = if binary && aggregation == Aggregation::Mean {
        let gained = differences.iter().filter(|difference| **difference > 0.0).count();
        let lost = differences.iter().filter(|difference| **difference < 0.0).count();
        (stats::mcnemar_exact(gained, lost), "mcnemar")
    } else {
        (stats::sign_flip(&differences, RESAMPLES), "sign-flip")
    };
    let detectable = match (aggregation, stats::sd(&differences)) {
        // Items that never differ say nothing of how far they could.
        (Aggregation::Mean, Some(sd)) if sd > 0.0 => Some(stats::detectable_paired(sd, pairs.len())),
        _ => None,
    };
    Paired { difference, ci95, p: Some(p), test: Some(test), detectable }
}

/// Each item's score in every run; none when a file is missing or the runs scored different items.
fn items(samples: &[PathBuf], metric: &str, aggregation: Aggregation) -> Option<BTreeMap<Item, Score>> {
    let mut runs = samples.iter().map(|path| scores(path, metric));
    let mut all = runs.next()??;
    for run in runs {
        let run = run?;
        if !run.keys().eq(all.keys()) {
            return None;
        }
        all.values_mut().zip(run.into_values()).for_each(|(all, score)| all.values.extend(score.values));
    }
    if aggregation == Aggregation::Mean {
        all.values_mut().for_each(|score| score.values = vec![stats::mean(&score.values)]);
    }
    Some(all)
}

/// What makes two lines of sample files the same question, however it was asked.
type Item = (u64, String, String);

fn scores(path: &Path, metric: &str) -> Option<BTreeMap<Item, Score>> {
    BufReader::new(File::open(path).ok()?)
        .lines()
        .map(|line| {
            let sample: Value = serde_json::from_str(&line.ok()?).ok()?;
            let text = |name: &str| sample.get(name)?.as_str().map(str::to_owned);
            let item = (sample.get("doc_id")?.as_u64()?, text("doc_hash")?, text("target")?);
            // A score, or a log-likelihood and what it is of.
            let score = sample.get(metric)?;
            let score = score.as_f64().map(|score| (score, 1.0));
            let pair = || serde_json::from_value(sample.get(metric)?.clone()).ok();
            let (value, weight) = score.or_else(pair)?;
            Some((item, Score { values: vec![value], weight }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f64) -> Score {
        Score { values: vec![value], weight: 1.0 }
    }

    /// Two runs of two items each: the perplexities are e^2 and e^4, and e^1 and e^1; their means stand in
    /// the table, and not e^3.
    #[test]
    fn perplexities_are_averaged_over_runs_and_not_their_logarithms() {
        let item = |base: [f64; 2]| (Score { values: base.to_vec(), weight: 1.0 }, one(-1.0));
        let pairs = [item([-1.0, -4.0]), item([-3.0, -4.0])];
        let found = paired(&pairs, Aggregation::Perplexity, false);
        let expected = 1f64.exp() - (2f64.exp() + 4f64.exp()) / 2.0;
        assert!((found.difference.unwrap() - expected).abs() < 1e-9, "{found:?} {expected}");
        let overflowing = [item([-1000.0, -1.0]), item([-1000.0, -1.0])];
        let found = paired(&overflowing, Aggregation::Perplexity, false);
        assert_eq!(found.difference, Some(f64::NEG_INFINITY));
    }

    #[test]
    fn right_and_wrong_are_tested_exactly_and_averages_by_signs() {
        // 1 item lost, 7 gained, 12 equal.
        let pairs: Vec<(Score, Score)> = (0..20)
            .map(|place| match place {
                0 => (1.0, 0.0),
                1..=7 => (0.0, 1.0),
                _ => (1.0, 1.0),
            })
            .map(|(base, row)| (one(base), one(row)))
            .collect();
        let exact = paired(&pairs, Aggregation::Mean, true);
        assert_eq!(exact.test, Some("mcnemar"));
        assert!((exact.p.unwrap() - 0.0703125).abs() < 1e-12);
        assert!((exact.difference.unwrap() - 0.3).abs() < 1e-12);
        let signs = paired(&pairs, Aggregation::Mean, false);
        assert_eq!(signs.test, Some("sign-flip"));
        assert!((signs.p.unwrap() - 0.0703125).abs() < 0.01);
        let words = paired(&pairs, Aggregation::WeightedPerplexity, true);
        assert!(words.difference.unwrap() < 0.0 && words.detectable.is_none());
        assert!(paired(&[], Aggregation::Mean, true).p.is_none());
    }
}
