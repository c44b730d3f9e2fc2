//! Computes `params:`. Parameters may use each other in any order, without a circle.

use std::collections::BTreeMap;

use super::{
    expression::Evaluator,
    shape::check_name,
    source::Sources,
    tree::{Entry, Node},
};
use crate::diagnostic::Diagnostic;

/// Evaluates every parameter.
pub(crate) fn compute(
    evaluator: &Evaluator<'_>,
    sources: &Sources,
    entries: &[Entry],
    out: &mut Vec<Diagnostic>,
) -> Vec<(String, Node)> {
    let raw: BTreeMap<&str, &Entry> = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    // `None` marks a parameter that failed and was reported.
    let mut done: BTreeMap<&str, Option<Node>> = BTreeMap::new();
    for entry in entries {
        check_name(sources, entry, "parameter", out);
        // A parameter waits on the stack for those that it uses; no recursion, however long the chain.
        let mut stack = vec![entry.key.as_str()];
        while let Some(&name) = stack.last() {
            if done.contains_key(name) {
                stack.pop();
                continue;
            }
            let entry = raw[name];
            let known = done.iter().filter_map(|(name, node)| Some((*name, node.as_ref()?)));
            let scope = evaluator.scope(&[("params", evaluator.table("params", known))]);
            let mut problems = Vec::new();
            let (node, misses) = evaluator.resolve_noting(&entry.value, &scope, &mut problems);
            let waits = misses.iter().filter(|miss| miss.parent == "params");
            let waits: Vec<&str> = waits
                .filter_map(|miss| raw.get_key_value(miss.name.as_str()).map(|(name, _)| *name))
                .collect();
            if waits.iter().any(|name| matches!(done.get(name), Some(None))) {
                done.insert(name, None);
                continue;
            }
            match waits.iter().find(|name| !done.contains_key(*name)) {
                Some(next) => match stack.iter().position(|waiting| waiting == next) {
                    Some(at) => {
                        let circle: Vec<_> =
                            stack[at..].iter().chain([next]).map(|name| format!("`{name}`")).collect();
                        let message =
                            format!("parameters use each other in a circle: {}", circle.join(" -> "));
                        out.push(sources.at(raw[next].key_span, message));
                        for name in &stack[at..] {
                            done.insert(name, None);
                        }
                    }
                    None => stack.push(next),
                },
                None => {
                    out.extend(problems);
                    done.insert(name, node);
                }
            }
        }
    }
    entries
        .iter()
        .filter_map(|entry| Some((entry.key.clone(), done.get(entry.key.as_str())?.clone()?)))
        .collect()
}
