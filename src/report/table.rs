//! One table a task: runs that differ only in the averaged axis (the seed) are one row.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{eval::stats, params::MetricName, steps::Input};

/// All results of one task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskTable {
    /// Task name.
    pub task: String,
    /// lm-eval's name of the metric.
    pub metric: String,
    /// Version of the task.
    pub version: Value,
    /// Whether it is a share, shown in %.
    pub share: bool,
    /// In the order of the recipe's labels.
    pub rows: Vec<Row>,
}

/// Runs that differ only in the averaged axis.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name from `labels`, else the step's.
    pub label: String,
    /// Scores of the runs, in the order of the plan.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation; none for one run.
    pub sd: Option<f64>,
    /// Number of runs.
    pub n: usize,
    /// Scored items of each run.
    pub items: u64,
    /// 95 % interval of the mean; none where nothing tells it, as with one item's perplexity.
    pub ci95: Option<(f64, f64)>,
    /// `t` (over runs), `wilson` or `bootstrap` (over the items of the only run).
    pub ci_kind: &'static str,
    /// Generations without an answer, over all runs.
    pub unparsed: u64,
    /// Prompts cut to the context, over all runs.
    pub truncated: u64,
    /// Whether its mean is the best of the table: the highest share, the lowest perplexity.
    pub best: bool,
    /// Sample files of the runs.
    #[serde(skip)]
    pub samples: Vec<PathBuf>,
    /// The evaluations.
    #[serde(skip)]
    pub runs: Vec<Arc<Input>>,
}

/// A run's place in the tables.
struct Run {
    group: String,
    results: Value,
    input: Arc<Input>,
}

/// Groups the results into tables.
///
/// # Errors
/// When a results file is damaged or two groups would get one name.
pub(super) fn tables(
    inputs: &[Arc<Input>],
    over: &str,
    labels: &Map<String, Value>,
) -> anyhow::Result<Vec<TaskTable>> {
    let mut runs: Vec<(usize, String, Run)> = Vec::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for input in inputs {
        let group = without_axis(&input.node, over);
        let found = labels.get_key_value(&group).or_else(|| labels.get_key_value(&input.step));
        let label = found.and_then(|(_, label)| label.as_str()).unwrap_or(&group).to_owned();
        if let Some(other) = names.insert(label.clone(), group.clone())
            && other != group
        {
            bail!("`{other}` and `{group}` would both be called `{label}`; give each its own label");
        }
        let place = found.and_then(|(key, _)| labels.keys().position(|other| other == key));
        let path = input.path.join("results.json");
        let text = fs::read(&path).with_context(|| format!("cannot read the results of `{}`", input.node))?;
        let results: Value = serde_json::from_slice(&text)
            .with_context(|| format!("the results of `{}` are damaged", input.node))?;
        runs.push((place.unwrap_or(usize::MAX), label, Run { group, results, input: Arc::clone(input) }));
    }
    runs.sort_by_key(|(place, ..)| *place);
    let mut tables: Vec<TaskTable> = Vec::new();
    for (_, label, run) in &runs {
        let tasks = run.results["primary_metric"].as_object().cloned().unwrap_or_default();
        for (task, metric) in tasks {
            let metric = metric.as_str().unwrap_or_default();
            let scores = &run.results["results"][&task];
            let score = scores
                .get(metric)
                .and_then(number)
                .with_context(|| format!("the results of `{}` have no `{metric}` of `{task}`", run.group))?;
            let at = tables.iter().position(|table| table.task == task).unwrap_or_else(|| {
                let version = run.results["versions"][&task].clone();
                tables.push(TaskTable {
                    task: task.clone(),
                    metric: metric.to_owned(),
                    version,
                    share: MetricName::find(metric).is_none_or(MetricName::is_share),
                    rows: Vec::new(),
                });
                tables.len() - 1
            });
            let rows = &mut tables[at].rows;
            let row = rows.iter().position(|row| &row.label == label).unwrap_or_else(|| {
                rows.push(Row {
                    label: label.clone(),
                    values: Vec::new(),
                    mean: 0.0,
                    sd: None,
                    n: 0,
                    items: run.results["n-samples"][&task]["effective"].as_u64().unwrap_or(0),
                    ci95: item_interval(scores, metric),
                    ci_kind: "wilson",
                    unparsed: 0,
                    truncated: 0,
                    best: false,
                    samples: Vec::new(),
                    runs: Vec::new(),
                });
                rows.len() - 1
            });
            let row = &mut rows[row];
            let filter = metric.split_once(',').map_or(metric, |(_, filter)| filter);
            row.values.push(score);
            row.unparsed += run.results["unparsed"][&task][filter].as_u64().unwrap_or(0);
            row.truncated += run.results["truncated_prompts"][&task].as_u64().unwrap_or(0);
            row.samples.push(run.input.path.join(format!("samples_{task}.jsonl")));
            row.runs.push(Arc::clone(&run.input));
        }
    }
    for table in &mut tables {
        table.rows.iter_mut().for_each(|row| summarise(row, table.share));
        let means = table.rows.iter().map(|row| row.mean);
        let top = match table.share {
            true => means.fold(f64::NEG_INFINITY, f64::max),
            false => means.fold(f64::INFINITY, f64::min),
        };
        let all_equal = table.rows.iter().all(|row| row.mean == top);
        table.rows.iter_mut().for_each(|row| row.best = !all_equal && row.mean == top);
    }
    Ok(tables)
}

/// A number as results have it: JSON has none for what overflowed.
fn number(value: &Value) -> Option<f64> {
    if value.is_null() { Some(f64::INFINITY) } else { value.as_f64() }
}

/// The 95 % interval over items that an evaluation wrote beside a score.
fn item_interval(scores: &Value, metric: &str) -> Option<(f64, f64)> {
    let (name, filter) = metric.split_once(',')?;
    match scores.get(format!("{name}_ci95,{filter}"))?.as_array()?.as_slice() {
        [low, high] => number(low).zip(number(high)),
        _ => None,
    }
}

fn summarise(row: &mut Row, share: bool) {
    row.n = row.values.len();
    row.mean = stats::mean(&row.values);
    row.sd = stats::sd(&row.values).filter(|sd| sd.is_finite());
    if row.n == 1 {
        row.ci_kind = if share { "wilson" } else { "bootstrap" };
        return;
    }
    let most = if share { 1.0 } else { f64::INFINITY };
    let interval = stats::t_interval(&row.values).filter(|(low, high)| (high - low).is_finite());
    row.ci95 = interval.map(|(low, high)| (low.max(0.0), high.min(most)));
    row.ci_kind = "t";
}

/// A node id without one axis: `a[method=lora,seed=1]` without `seed` is `a[method=lora]`.
pub(crate) fn without_axis(node: &str, axis: &str) -> String {
    let Some((step, cell)) = node.split_once('[') else { return node.to_owned() };
    let prefix = format!("{axis}=");
    let kept: Vec<&str> =
        cell.trim_end_matches(']').split(',').filter(|part| !part.starts_with(&prefix)).collect();
    if kept.is_empty() { step.to_owned() } else { format!("{step}[{}]", kept.join(",")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::digest::Digest;

    /// An evaluation with one score, `null` for one that is too large.
    fn evaluation(folder: &Path, node: &str, metric: &str, score: Value, ci95: Value) -> Arc<Input> {
        let path = folder.join(node);
        fs::create_dir(&path).unwrap();
        let (name, filter) = metric.split_once(',').unwrap();
        let results = json!({
            "results": { "t": { metric: score, format!("{name}_ci95,{filter}"): ci95 } },
            "primary_metric": { "t": metric }, "versions": { "t": 1 },
            "n-samples": { "t": { "effective": 5 } },
        });
        fs::write(path.join("results.json"), results.to_string()).unwrap();
        Arc::new(Input {
            node: node.to_owned(),
            step: without_axis(node, "seed"),
            kind: "eval".to_owned(),
            cell: BTreeMap::new(),
            params: Value::Null,
            key: Digest::of_bytes(b"key"),
            digest: Digest::of_bytes(node.as_bytes()),
            path,
            inputs: Vec::new(),
        })
    }

    fn rows_of(metric: &str, runs: &[(&str, Value, Value)]) -> Vec<Row> {
        let dir = tempfile::tempdir().unwrap();
        let inputs: Vec<_> = runs
            .iter()
            .map(|(node, score, ci95)| evaluation(dir.path(), node, metric, score.clone(), ci95.clone()))
            .collect();
        tables(&inputs, "seed", &Map::new()).unwrap().remove(0).rows
    }

    /// scipy: t(0.975, 2) = 4.302652729911275, times 2 / sqrt(3).
    #[test]
    fn seeds_of_perplexities_and_bits_are_averaged_as_they_are() {
        for metric in
            ["perplexity,none", "word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"]
        {
            let run = |seed: &str, score: f64| (format!("a[seed={seed}]"), json!(score), json!([1.0, 99.0]));
            let runs = [run("1", 10.0), run("2", 12.0), run("3", 14.0)];
            let mut runs: Vec<(&str, Value, Value)> =
                runs.iter().map(|(node, score, ci95)| (node.as_str(), score.clone(), ci95.clone())).collect();
            runs.push(("b", json!(11.5), json!([9.0, 15.0])));
            let rows = rows_of(metric, &runs);
            let (seeds, one) = (&rows[0], &rows[1]);
            assert_eq!((seeds.n, seeds.mean, seeds.sd, seeds.ci_kind), (3, 12.0, Some(2.0), "t"));
            let (low, high) = seeds.ci95.unwrap();
            let half = 4.302_652_729_911_275 * 2.0 / 3f64.sqrt();
            assert!((low - (12.0 - half)).abs() < 1e-9 && (high - (12.0 + half)).abs() < 1e-9);
            assert_eq!((one.sd, one.ci95, one.ci_kind), (None, Some((9.0, 15.0)), "bootstrap"));
            // Lower is better.
            assert!(one.best && !seeds.best);
        }
    }

    #[test]
    fn what_is_too_large_for_a_number_is_infinite() {
        let nothing = Value::Null;
        let rows = rows_of(
            "perplexity,none",
            &[
                ("a[seed=1]", nothing.clone(), nothing.clone()),
                ("a[seed=2]", json!(3.0), json!([2.0, 4.0])),
                ("b", nothing.clone(), json!([5.0, null])),
                ("c", json!(7.0), nothing),
            ],
        );
        assert_eq!((rows[0].mean, rows[0].sd, rows[0].ci95), (f64::INFINITY, None, None));
        assert_eq!((rows[1].mean, rows[1].ci95), (f64::INFINITY, Some((5.0, f64::INFINITY))));
        // One item: its own score is no interval.
        assert_eq!((rows[2].mean, rows[2].ci95, rows[2].best), (7.0, None, true));
    }

    #[test]
    fn an_axis_is_taken_out_of_a_node_id() {
        assert_eq!(without_axis("a[method=lora,seed=1]", "seed"), "a[method=lora]");
        assert_eq!(without_axis("a[seed=1]", "seed"), "a");
        assert_eq!(without_axis("a", "seed"), "a");
        assert_eq!(without_axis("a[seed2=1]", "seed"), "a[seed2=1]");
    }
}
