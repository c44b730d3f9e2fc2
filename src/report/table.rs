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
    /// 95 % interval of the mean.
    pub ci95: (f64, f64),
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
            let score = run.results["results"][&task][metric]
                .as_f64()
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
                    ci95: item_interval(&run.results["results"][&task], metric).unwrap_or((score, score)),
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

/// The 95 % interval over items that an evaluation wrote beside a score.
fn item_interval(scores: &Value, metric: &str) -> Option<(f64, f64)> {
    let (name, filter) = metric.split_once(',')?;
    serde_json::from_value(scores.get(format!("{name}_ci95,{filter}"))?.clone()).ok()
}

fn summarise(row: &mut Row, share: bool) {
    row.n = row.values.len();
    row.mean = stats::mean(&row.values);
    row.sd = stats::sd(&row.values);
    match stats::t_interval(&row.values) {
        Some((low, high)) if share => (row.ci95, row.ci_kind) = ((low.max(0.0), high.min(1.0)), "t"),
        Some((low, high)) => (row.ci95, row.ci_kind) = ((low.max(0.0), high), "t"),
        None => row.ci_kind = if share { "wilson" } else { "bootstrap" },
    }
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
    use super::*;

    #[test]
    fn an_axis_is_taken_out_of_a_node_id() {
        assert_eq!(without_axis("a[method=lora,seed=1]", "seed"), "a[method=lora]");
        assert_eq!(without_axis("a[seed=1]", "seed"), "a");
        assert_eq!(without_axis("a", "seed"), "a");
        assert_eq!(without_axis("a[seed2=1]", "seed"), "a[seed2=1]");
    }
}
