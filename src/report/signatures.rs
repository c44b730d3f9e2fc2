//! Signs in the scores that the paper says to look for: runs that differ much between seeds, and an
//! adapter that lost most of what it had when it moved.

use std::collections::BTreeSet;

use super::{TaskTable, table::Row};
use crate::{digest::Digest, steps::Input};

/// Sample standard deviation between runs above which a mean says little.
const SPREAD: f64 = 0.05;
/// A moved adapter that keeps less than this part of its score dropped catastrophically.
const KEPT: f64 = 0.5;

/// A line for each sign.
pub(super) fn signatures(tables: &[TaskTable]) -> Vec<String> {
    let mut out = Vec::new();
    // Shares only: how far is far for a perplexity, nobody knows.
    for TaskTable { task, rows, .. } in tables.iter().filter(|table| table.share) {
        for row in rows {
            if let Some(sd) = row.sd.filter(|sd| *sd > SPREAD) {
                out.push(format!(
                    "{task}: the {} runs of `{}` differ by {:.1} points (standard deviation), so their \
                     mean says little; run more seeds",
                    row.n,
                    row.label,
                    sd * 100.0
                ));
            }
        }
        for moved in rows {
            let adapters = adapters(moved, true);
            let home = rows.iter().find(|row| !adapters.is_empty() && self::adapters(row, false) == adapters);
            let Some(home) = home else { continue };
            // Not by chance: the intervals lie apart.
            let apart = moved.ci95.zip(home.ci95).is_some_and(|(moved, home)| moved.1 < home.0);
            if moved.mean < KEPT * home.mean && apart {
                out.push(format!(
                    "{task}: `{}` fell from {:.1} to {:.1} on its way from `{}`: this adapter does not survive \
                     the update; train with higher `pc` and `pi`, or re-tune",
                    moved.label,
                    home.mean * 100.0,
                    moved.mean * 100.0,
                    home.label
                ));
            }
        }
    }
    out
}

/// The trained adapters that a row's runs evaluate: moved ones, or those where they were trained.
fn adapters(row: &Row, moved: bool) -> BTreeSet<&Digest> {
    let of_kind = |input: &'_ Input, kind: &str| input.inputs.iter().position(|input| input.kind == kind);
    let trained = row.runs.iter().filter_map(|run| {
        let holder = if moved { &run.inputs[of_kind(run, "swap")?] } else { run };
        Some(&holder.inputs[of_kind(holder, "train")?].digest)
    });
    trained.collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::Value;

    use super::*;

    fn input(kind: &str, content: &str, inputs: Vec<Arc<Input>>) -> Arc<Input> {
        Arc::new(Input {
            node: content.to_owned(),
            step: content.to_owned(),
            kind: kind.to_owned(),
            cell: BTreeMap::new(),
            params: Value::Null,
            key: Digest::of_bytes(b"key"),
            digest: Digest::of_bytes(content.as_bytes()),
            path: "x".into(),
            inputs,
        })
    }

    fn row(label: &str, mean: f64, sd: f64, run: Arc<Input>) -> Row {
        Row {
            label: label.to_owned(),
            values: vec![mean; 3],
            mean,
            sd: Some(sd),
            n: 3,
            items: 100,
            ci95: Some((mean - 0.05, mean + 0.05)),
            ci_kind: "t",
            unparsed: 0,
            truncated: 0,
            best: false,
            samples: Vec::new(),
            runs: vec![run],
        }
    }

    #[test]
    fn a_wide_spread_and_a_fall_are_told() {
        let trained = |name| input("train", name, Vec::new());
        let at_home = |name| input("eval", "home", vec![trained(name)]);
        let after = |name| input("eval", "after", vec![input("swap", "moved", vec![trained(name)])]);
        let rows = vec![
            row("home a", 0.6, 0.01, at_home("a")),
            row("home b", 0.6, 0.08, at_home("b")),
            row("moved a", 0.2, 0.01, after("a")),
            row("moved b", 0.5, 0.02, after("b")),
            row("moved c", 0.1, 0.02, after("c")),
        ];
        let table = TaskTable {
            task: "t".to_owned(),
            metric: "acc".to_owned(),
            version: Value::from(1),
            share: true,
            rows,
        };
        let signs = signatures(&[table]);
        assert_eq!(signs.len(), 2, "{signs:?}");
        assert!(signs[0].starts_with("t: the 3 runs of `home b` differ by 8.0 points"), "{}", signs[0]);
        assert!(signs[1].starts_with("t: `moved a` fell from 60.0 to 20.0 on its way from `home a`"));
    }
}
