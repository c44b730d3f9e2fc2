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
use crate::{digest::Digest, eval::stats};

const RESAMPLES: usize = 10_000;

/// One row against the baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Task name.
    pub task: String,
    /// The row.
    pub label: String,
    /// Its mean minus the baseline's: over the items that both have, or of all when there are none.
    pub difference: f64,
    /// 95 % interval of the difference: paired bootstrap over items, each item's score averaged
    /// over the runs. It holds the item sampling, not the spread between seeds.
    pub ci95: Option<(f64, f64)>,
    /// Items that both have: the same place, prompt and target.
    pub items: usize,
}

/// Every other row of every table against the row called `baseline`.
pub(super) fn compare(tables: &[TaskTable], baseline: &str) -> Vec<Comparison> {
    let mut out = Vec::new();
    for table in tables {
        let Some(base) = table.rows.iter().find(|row| row.label == baseline) else { continue };
        let base_items = items(&base.samples, &table.metric);
        for row in table.rows.iter().filter(|row| row.label != baseline) {
            let other = items(&row.samples, &table.metric);
            let paired: Vec<f64> = match (&base_items, &other) {
                (Some(a), Some(b)) => a.iter().filter_map(|(id, a)| Some(b.get(id)? - a)).collect(),
                _ => Vec::new(),
            };
            out.push(Comparison {
                task: table.task.clone(),
                label: row.label.clone(),
                difference: if paired.is_empty() { row.mean - base.mean } else { stats::mean(&paired) },
                ci95: stats::bootstrap(&paired, RESAMPLES),
                items: paired.len(),
            });
        }
    }
    out
}

/// Each item's score, averaged over the runs; none when a file is missing or the
/// runs scored different items.
fn items(samples: &[PathBuf], metric: &str) -> Option<BTreeMap<Item, f64>> {
    let mut runs = samples.iter().map(|path| scores(path, metric));
    let mut sum = runs.next()??;
    for run in runs {
        let run = run?;
        if !run.keys().eq(sum.keys()) {
            return None;
        }
        sum.iter_mut().zip(run.values()).for_each(|((_, sum), score)| *sum += score);
    }
    sum.values_mut().for_each(|score| *score /= samples.len() as f64);
    Some(sum)
}

/// What makes two lines of sample files the same question.
type Item = (u64, Digest);

fn scores(path: &Path, metric: &str) -> Option<BTreeMap<Item, f64>> {
    BufReader::new(File::open(path).ok()?)
        .lines()
        .map(|line| {
            let sample: Value = serde_json::from_str(&line.ok()?).ok()?;
            let asked = serde_json::to_vec(&[sample.get("prompt")?, sample.get("target")?]).ok()?;
            let item = (sample.get("doc_id")?.as_u64()?, Digest::of_bytes(&asked));
            Some((item, sample.get(metric)?.as_f64()?))
        })
        .collect()
}
