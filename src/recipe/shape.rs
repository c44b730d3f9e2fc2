//! Checks the keys of steps and defaults and makes [`Step`]s. Values are checked by the planner,
//! after expressions are evaluated.

use super::{
    Defaults, Step,
    source::{Sources, Span},
    tree::{Data, Entry, Node},
};
use crate::{
    diagnostic::{Diagnostic, enough, suggest},
    params::{KINDS, Kind, REF_KEY},
};

/// The keys of a step.
pub(crate) const STEP_KEYS: [&str; 10] =
    ["uses", "extends", "with", "needs", "matrix", "when", "resources", "timeout", "retries", "description"];
/// The keys of `defaults` that are not fields of `with`.
pub(crate) const STEP_DEFAULTS: [&str; 3] = ["resources", "timeout", "retries"];

/// Whether expressions can name it: `steps.<id>`, `params.<name>`, `matrix.<axis>`.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 64
        && text != REF_KEY
}

/// Checks that an entry's key can be named by expressions.
pub(crate) fn check_name(sources: &Sources, entry: &Entry, what: &str, out: &mut Vec<Diagnostic>) {
    if !is_name(&entry.key) {
        out.push(
            sources
                .at(entry.key_span, format!("`{}` cannot name a {what}", entry.key))
                .hint("use letters, digits and `_`, a letter first, at most 64 in all"),
        );
    }
}

/// `defaults:`.
pub(crate) fn defaults(sources: &Sources, root: &Node, out: &mut Vec<Diagnostic>) -> Defaults {
    let mut defaults = Defaults::default();
    for entry in root.get("defaults").and_then(Node::entries).unwrap_or_default() {
        if enough(out) {
            break;
        }
        match entry.key.as_str() {
            "resources" => defaults.resources = Some(entry.value.clone()),
            "timeout" => defaults.timeout = Some(entry.value.clone()),
            "retries" => defaults.retries = Some(entry.value.clone()),
            key if KINDS.iter().any(|kind| kind.has_field(key)) => defaults.with.push(entry.clone()),
            key => {
                let mut known: Vec<&str> = KINDS.iter().flat_map(Kind::fields).collect();
                known.extend(STEP_DEFAULTS);
                known.sort_unstable();
                known.dedup();
                let message = format!("no step kind has a field `{key}`");
                out.push(sources.at(entry.key_span, message).maybe_hint(suggest(key, known)));
            }
        }
    }
    defaults
}

/// `steps:`.
pub(crate) fn steps(sources: &Sources, root: &Node, out: &mut Vec<Diagnostic>) -> Vec<Step> {
    let entries = root.get("steps").and_then(Node::entries).unwrap_or_default();
    if entries.is_empty() {
        let place = Span { line: 1, column: 1, ..Span::default() };
        out.push(
            sources
                .at(place, "the recipe has no steps")
                .hint("for example `steps: { old: { uses: base, with: { source: path/to/model } } }`"),
        );
    }
    entries.iter().filter_map(|entry| step(sources, entry, out)).collect()
}

fn step(sources: &Sources, entry: &Entry, out: &mut Vec<Diagnostic>) -> Option<Step> {
    check_name(sources, entry, "step", out);
    let id = &entry.key;
    let Some(keys) = entry.value.entries() else {
        let message = format!("step `{id}` must be a mapping, found {}", entry.value.describe());
        let place = if matches!(entry.value.data, Data::Null) { entry.key_span } else { entry.value.span };
        out.push(sources.at(place, message).hint("for example `{ uses: base, with: { source: path } }`"));
        return None;
    };
    let value = |key: &str| keys.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let kind = value("uses").and_then(|node| kind(sources, node, out));
    // What is wrong with `extends` has been told.
    if value("uses").is_none() && value("extends").is_none() {
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        out.push(
            sources
                .at(entry.key_span, format!("step `{id}` has no `uses`"))
                .hint(format!("one of: {}", kinds.join(", "))),
        );
    }
    for unknown in keys.iter().filter(|key| !STEP_KEYS.contains(&key.key.as_str())) {
        if enough(out) {
            return None;
        }
        let name = unknown.key.as_str();
        let hint = match kind.filter(|kind| kind.has_field(name)) {
            Some(_) => Some(format!("`{name}` belongs under `with`")),
            None => suggest(name, STEP_KEYS),
        };
        let message = format!("unknown key `{name}` in step `{id}`");
        out.push(sources.at(unknown.key_span, message).maybe_hint(hint));
    }
    let (with, with_span) = match keys.iter().find(|entry| entry.key == "with") {
        None => (Vec::new(), entry.key_span),
        Some(Entry { value: Node { data: Data::Map(with), .. }, key_span, .. }) => (with.clone(), *key_span),
        Some(Entry { value: Node { data: Data::Null, .. }, key_span, .. }) => (Vec::new(), *key_span),
        Some(other) => {
            let message = format!("`with` must be a mapping, found {}", other.value.describe());
            out.push(sources.at(other.value.span, message));
            return None;
        }
    };
    Some(Step {
        id: id.clone(),
        id_span: entry.key_span,
        kind: kind?,
        with,
        with_span,
        needs: value("needs").cloned(),
        matrix: value("matrix").cloned(),
        when: value("when").cloned(),
        resources: value("resources").cloned(),
        timeout: value("timeout").cloned(),
        retries: value("retries").cloned(),
    })
}

fn kind(sources: &Sources, node: &Node, out: &mut Vec<Diagnostic>) -> Option<&'static Kind> {
    let kinds = || KINDS.iter().map(|kind| kind.name);
    let Some(name) = node.text() else {
        let message = format!("`uses` must name a step kind, found {}", node.describe());
        let hint = format!("one of: {}", kinds().collect::<Vec<_>>().join(", "));
        out.push(sources.at(node.span, message).hint(hint));
        return None;
    };
    let found = Kind::find(name);
    if found.is_none() {
        let message = format!("unknown step kind `{name}`");
        out.push(sources.at(node.span, message).maybe_hint(suggest(name, kinds())));
    }
    found
}
