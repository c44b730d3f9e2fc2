//! Which steps a step refers to, cell by cell, before anything is bound. This is what orders the
//! steps and decides which axes a step inherits.

use super::{build::Builder, cells::Cell, matrix};
use crate::{
    diagnostic::{Diagnostic, enough, suggest},
    recipe::{
        Step,
        expression::texts,
        source::Span,
        tree::{Data, Entry, Node, fill},
    },
};

/// References of one cell to other steps (by their place in the recipe).
#[derive(Debug, Default)]
pub(super) struct Links {
    /// In fields that take one artifact: the axes of these steps are inherited.
    pub(super) single: Vec<(usize, Span)>,
    /// In fields that take a list.
    pub(super) list: Vec<(usize, Span)>,
    /// Under `needs`.
    pub(super) needs: Vec<(usize, Span)>,
}

/// A step with its own matrix written out.
pub(super) struct Outline<'r> {
    pub(super) step: &'r Step,
    /// `with` after `defaults`.
    pub(super) with: Vec<Entry>,
    /// One for each cell of the step's own matrix.
    pub(super) own: Vec<(Cell, Links)>,
}

impl Links {
    pub(super) fn all(&self) -> impl Iterator<Item = &(usize, Span)> {
        self.single.iter().chain(&self.list).chain(&self.needs)
    }
}

/// Writes out one step.
pub(super) fn outline<'r>(builder: &Builder<'r>, step: &'r Step, out: &mut Vec<Diagnostic>) -> Outline<'r> {
    let with = with_defaults(builder, step);
    let own = matrix::cells(builder, step, out);
    let own = own
        .into_iter()
        .map(|cell| {
            let links = links(builder, step, &with, &cell, out);
            (cell, links)
        })
        .collect();
    Outline { step, with, own }
}

/// Adds what `defaults` gives for fields that this kind has; mappings are merged key by key.
fn with_defaults(builder: &Builder<'_>, step: &Step) -> Vec<Entry> {
    let mut with = step.with.clone();
    for default in builder.recipe.defaults.with.iter().filter(|default| step.kind.has_field(&default.key)) {
        fill(&mut with, default);
    }
    with
}

fn links(
    builder: &Builder<'_>,
    step: &Step,
    with: &[Entry],
    cell: &Cell,
    out: &mut Vec<Diagnostic>,
) -> Links {
    let scope = builder.scope(Some(cell), true);
    let mut links = Links::default();
    let mut leaves = Vec::new();
    for entry in with {
        texts(&entry.value, &mut leaves);
        let into = if step.kind.list_fields.contains(&entry.key.as_str()) {
            &mut links.list
        } else {
            &mut links.single
        };
        for (text, span) in leaves.drain(..).filter(|(text, _)| crate::recipe::has_expression(text)) {
            let probe = builder.evaluator.probe(text, span, &scope);
            if let Some(node) = &probe.value {
                marks(node, &mut |id, span| add(builder, into, id, span));
            }
            probe.named.iter().for_each(|id| add(builder, into, id, span));
        }
    }
    if let Some(needs) = &step.needs
        && let Some(needs) = builder.evaluator.resolve(needs, &scope, out)
    {
        let items = match &needs.data {
            Data::List(items) => items.as_slice(),
            Data::Null => &[],
            _ => std::slice::from_ref(&needs),
        };
        for item in items {
            if enough(out) {
                break;
            }
            match &item.data {
                Data::Step(id) | Data::Text(id) if builder.position(id).is_some() => {
                    add(builder, &mut links.needs, id, item.span);
                }
                Data::Text(id) => {
                    let known = builder.recipe.step_ids();
                    let hint = suggest(id, known);
                    out.push(builder.sources.at(item.span, format!("unknown step `{id}`")).maybe_hint(hint));
                }
                _ => {
                    let message = format!("`needs` lists step ids, found {}", item.describe());
                    out.push(builder.sources.at(item.span, message));
                }
            }
        }
    }
    links
}

fn add(builder: &Builder<'_>, into: &mut Vec<(usize, Span)>, id: &str, span: Span) {
    if let Some(at) = builder.position(id)
        && into.iter().all(|(known, _)| *known != at)
    {
        into.push((at, span));
    }
}

/// Calls `found` for every step that a value holds.
pub(super) fn marks(node: &Node, found: &mut impl FnMut(&str, Span)) {
    match &node.data {
        Data::Step(id) => found(id, node.span),
        Data::List(items) => items.iter().for_each(|item| marks(item, found)),
        Data::Map(entries) => entries.iter().for_each(|entry| marks(&entry.value, found)),
        _ => {}
    }
}
