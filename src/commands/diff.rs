//! `evergraft diff`.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::Value;

use super::shared::{open_cache, print, print_json};
use crate::{
    cli::{Cli, DiffArgs, Format},
    digest::Digest,
    error::Error,
    exec::PastRun,
    key::Difference,
};

/// The files of artifacts that hold results as numbers, and where in them.
const METRICS: [(&str, &str); 3] = [("results.json", "/results"), ("train.json", ""), ("swap.json", "")];

/// How one step differs.
#[derive(Debug, Serialize)]
struct StepDiff {
    step: String,
    /// `both`, `first` or `second`: the runs that have a result of it.
    of: &'static str,
    /// Fields of the key: parameters and the content of inputs.
    key: Vec<Difference>,
    metrics: Vec<MetricDiff>,
}

#[derive(Debug, Serialize)]
struct MetricDiff {
    metric: String,
    before: Option<f64>,
    now: Option<f64>,
}

pub(super) fn run(cli: &Cli, args: &DiffArgs) -> Result<(), Error> {
    let find = |run: &Path| PastRun::find(run, &args.outputs).map_err(Error::Usage);
    let (first, second) = (find(&args.first)?, find(&args.second)?);
    let (a, b) = (keys(&first)?, keys(&second)?);
    let cache = open_cache(cli)?;
    let mut diffs = Vec::new();
    for step in a.keys().chain(b.keys().filter(|step| !a.contains_key(*step))) {
        let (of, key) = match (a.get(step), b.get(step)) {
            (Some(before), Some(now)) if before == now => ("both", Vec::new()),
            (Some(before), Some(now)) => match (cache.key_of(before), cache.key_of(now)) {
                (Some(before), Some(now)) => ("both", now.differences(&before)),
                _ => {
                    let text = |digest: &Digest| Some(Value::String(digest.to_string()));
                    let field = "key (its fields are not in the cache any more)".to_owned();
                    ("both", vec![Difference { field, before: text(before), now: text(now) }])
                }
            },
            (Some(_), None) => ("first", Vec::new()),
            _ => ("second", Vec::new()),
        };
        let metrics =
            if of == "both" { compare(&metrics(&first, step), &metrics(&second, step)) } else { Vec::new() };
        if of != "both" || !key.is_empty() || !metrics.is_empty() {
            diffs.push(StepDiff { step: step.clone(), of, key, metrics });
        }
    }
    if args.format == Format::Json {
        return print_json(&diffs);
    }
    let mut text = String::new();
    for diff in &diffs {
        match diff.of {
            "both" => text.push_str(&format!("{}\n", diff.step)),
            of => text.push_str(&format!("{}: only the {of} run has a result of it\n", diff.step)),
        }
        diff.key.iter().for_each(|difference| text.push_str(&format!("  {difference}\n")));
        for metric in &diff.metrics {
            let show =
                |value: Option<f64>| value.map_or("(nothing)".to_owned(), |value| format!("{value:.6}"));
            let (before, now) = (show(metric.before), show(metric.now));
            let change = metric.before.zip(metric.now).map(|(a, b)| format!(" ({:+.6})", b - a));
            text.push_str(&format!("  {}: {before} -> {now}{}\n", metric.metric, change.unwrap_or_default()));
        }
    }
    if diffs.is_empty() {
        text.push_str("no difference\n");
    }
    print(&text)
}

fn keys(run: &PastRun) -> Result<BTreeMap<String, Digest>, Error> {
    let steps = run.summary().map_err(Error::Usage)?.steps;
    Ok(steps.into_iter().filter_map(|step| Some((step.step, step.key?))).collect())
}

/// Every number in the files of results, by its path.
fn metrics(run: &PastRun, step: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for (name, place) in METRICS {
        let bytes = std::fs::read(run.artifact(step).join(name)).unwrap_or_default();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(value) = value.pointer(place) {
            flatten("", value, &mut found);
        }
    }
    found
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, f64>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| flatten(&below(name), value, out)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(&below(&at.to_string()), value, out));
        }
        Value::Number(number) => out.extend(number.as_f64().map(|number| (path.to_owned(), number))),
        _ => {}
    }
}

fn compare(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> Vec<MetricDiff> {
    let names = before.keys().chain(now.keys().filter(|name| !before.contains_key(*name)));
    let both = names.map(|name| (name, before.get(name).copied(), now.get(name).copied()));
    both.filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| MetricDiff { metric: name.clone(), before, now })
        .collect()
}
