//! `extends:`: a step takes what it does not say from another step.

use std::collections::BTreeMap;

use super::{
    source::Sources,
    tree::{Data, Entry, Node},
};
use crate::diagnostic::{Diagnostic, suggest};

/// What a step has for itself alone.
const NOT_TAKEN: [&str; 3] = ["extends", "when", "description"];

/// Writes out every step that extends another one.
pub(crate) fn apply(root: &mut Node, sources: &Sources, out: &mut Vec<Diagnostic>) {
    let Data::Map(top) = &mut root.data else { return };
    let Some(Entry { value: Node { data: Data::Map(steps), .. }, .. }) =
        top.iter_mut().find(|entry| entry.key == "steps")
    else {
        return;
    };
    let places: BTreeMap<String, usize> =
        steps.iter().enumerate().map(|(at, step)| (step.key.clone(), at)).collect();
    let mut done = vec![false; steps.len()];
    for start in 0..steps.len() {
        // The steps from this one to one that is whole already; no recursion, however long the chain.
        let mut chain = Vec::new();
        let mut next = Some(start);
        while let Some(at) = next.filter(|at| !done[*at]) {
            if chain.contains(&at) {
                let names: Vec<_> = chain.iter().map(|at| format!("`{}`", steps[*at].key)).collect();
                let message = format!("steps extend each other in a circle: {}", names.join(" -> "));
                out.push(sources.at(steps[at].key_span, message));
                break;
            }
            chain.push(at);
            next = base_of(&steps[at], &places, sources, out);
        }
        while let Some(at) = chain.pop() {
            done[at] = true;
            let base = steps[at].value.get("extends").and_then(Node::text).and_then(|id| places.get(id));
            let taken = base.and_then(|base| steps[*base].value.entries()).unwrap_or_default().to_vec();
            if let Data::Map(own) = &mut steps[at].value.data {
                take(own, taken);
            }
        }
    }
}

/// The place of the step that this one extends.
fn base_of(
    step: &Entry,
    places: &BTreeMap<String, usize>,
    sources: &Sources,
    out: &mut Vec<Diagnostic>,
) -> Option<usize> {
    let extends = step.value.get("extends")?;
    let Some(id) = extends.text() else {
        let message = format!("`extends` names a step, found {}", extends.describe());
        out.push(sources.at(extends.span, message));
        return None;
    };
    let found = places.get(id).copied();
    if found.is_none() {
        let hint = suggest(id, places.keys().map(String::as_str));
        out.push(sources.at(extends.span, format!("unknown step `{id}`")).maybe_hint(hint));
    }
    found
}

fn take(own: &mut Vec<Entry>, taken: Vec<Entry>) {
    for entry in taken.into_iter().filter(|entry| !NOT_TAKEN.contains(&entry.key.as_str())) {
        match own.iter_mut().find(|mine| mine.key == entry.key) {
            Some(mine) if entry.key == "with" => mine.value.fill_from(&entry.value),
            Some(_) => {}
            None => own.push(entry),
        }
    }
}
