//! Which steps a step refers to, cell by cell, before anything is bound. This is what orders the
//! steps and decides which axes a step inherits.

use std::sync::Arc;

use super::{
    build::{Builder, MAX_NODES},
    cells::{AxisValue, Cell},
};
use crate::{
    diagnostic::{Diagnostic, enough, suggest},
    recipe::{
        Step,
        expression::texts,
        source::Span,
        tree::{Data, Entry, Node},
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
    let own = own_cells(builder, step, out);
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

fn fill(entries: &mut Vec<Entry>, default: &Entry) {
    match entries.iter_mut().find(|entry| entry.key == default.key) {
        None => entries.push(default.clone()),
        Some(entry) => {
            if let (Data::Map(own), Data::Map(more)) = (&mut entry.value.data, &default.value.data) {
                more.iter().for_each(|default| fill(own, default));
            }
        }
    }
}

/// The cartesian product of the step's axes, the last one running fastest.
fn own_cells(builder: &Builder<'_>, step: &Step, out: &mut Vec<Diagnostic>) -> Vec<Cell> {
    let Some(matrix) = &step.matrix else { return vec![Cell::default()] };
    let scope = builder.scope(None, true);
    let Some(matrix) = builder.evaluator.resolve(matrix, &scope, out) else { return Vec::new() };
    let entries = match &matrix.data {
        Data::Null => return vec![Cell::default()],
        Data::Map(entries) => entries,
        _ => {
            let message = format!("`matrix` must be a mapping, found {}", matrix.describe());
            out.push(builder.sources.at(matrix.span, message).hint("for example { seed: [1, 2, 3] }"));
            return Vec::new();
        }
    };
    let mut cells = vec![Cell::default()];
    for entry in entries {
        if !crate::recipe::is_name(&entry.key) {
            out.push(
                builder
                    .sources
                    .at(entry.key_span, format!("`{}` cannot name a matrix axis", entry.key))
                    .hint("use letters, digits and `_`, a letter first"),
            );
            return Vec::new();
        }
        let values = match &entry.value.data {
            Data::List(values) if !values.is_empty() => values,
            _ => {
                let found = match &entry.value.data {
                    Data::List(_) => "an empty list".to_owned(),
                    _ => entry.value.describe(),
                };
                let message = format!("axis `{}` must be a list of values, found {found}", entry.key);
                out.push(builder.sources.at(entry.value.span, message));
                return Vec::new();
            }
        };
        if cells.len().saturating_mul(values.len()) > MAX_NODES {
            let message = format!("the matrix of step `{}` has more than {MAX_NODES} cells", step.id);
            out.push(builder.sources.at(entry.key_span, message));
            return Vec::new();
        }
        let axis: Arc<str> = Arc::from(entry.key.as_str());
        let values: Vec<_> = values.iter().map(|value| Arc::new(AxisValue::new(value.clone()))).collect();
        for (at, value) in values.iter().enumerate() {
            if let Some(first) = values[..at].iter().find(|first| first.label == value.label) {
                let line = builder.sources.place(first.node.span);
                out.push(
                    builder
                        .sources
                        .at(value.node.span, format!("axis `{axis}` has two values called `{}`", value.label))
                        .hint(format!(
                            "the first one is at {line}; a mapping can tell itself apart with `name`"
                        )),
                );
                return Vec::new();
            }
        }
        cells = cells
            .iter()
            .flat_map(|cell| {
                let axis = &axis;
                values.iter().map(move |value| {
                    let mut cell = cell.clone();
                    cell.0.push((Arc::clone(axis), Arc::clone(value)));
                    cell
                })
            })
            .collect();
    }
    cells
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
