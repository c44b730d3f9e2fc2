//! `matrix:` of a step: the product of its axes, without what `exclude` names, and with what `include`
//! adds.

use std::{collections::HashMap, sync::Arc};

use super::{
    build::{Builder, MAX_NODES},
    cells::{AxisValue, Cell},
};
use crate::{
    diagnostic::{Diagnostic, suggest},
    recipe::{
        Step,
        tree::{Data, Entry, Node},
    },
};

/// The keys of a matrix that are no axes.
const CHANGES: [&str; 2] = ["exclude", "include"];

/// The cells of the step's own matrix; none after a mistake.
pub(super) fn cells(builder: &Builder<'_>, step: &Step, out: &mut Vec<Diagnostic>) -> Vec<Cell> {
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
    let written = Matrix { builder, step };
    let axes: Vec<&Entry> = entries.iter().filter(|entry| !CHANGES.contains(&entry.key.as_str())).collect();
    let change = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let made = written.product(&axes).and_then(|cells| {
        let cells = written.without(cells, change("exclude"))?;
        written.with(cells, change("include"))
    });
    made.unwrap_or_else(|mistake| {
        out.push(*mistake);
        Vec::new()
    })
}

type Made<T> = Result<T, Box<Diagnostic>>;

struct Matrix<'m, 'r> {
    builder: &'m Builder<'r>,
    step: &'m Step,
}

impl Matrix<'_, '_> {
    /// The last axis runs fastest.
    fn product(&self, axes: &[&Entry]) -> Made<Vec<Cell>> {
        let sources = self.builder.sources;
        let mut cells = vec![Cell::default()];
        for entry in axes {
            self.check_name(entry)?;
            let values = match &entry.value.data {
                Data::List(values) if !values.is_empty() => values,
                _ => {
                    let found = match &entry.value.data {
                        Data::List(_) => "an empty list".to_owned(),
                        _ => entry.value.describe(),
                    };
                    let message = format!("axis `{}` must be a list of values, found {found}", entry.key);
                    return Err(Box::new(sources.at(entry.value.span, message)));
                }
            };
            if cells.len().saturating_mul(values.len()) > MAX_NODES {
                let message =
                    format!("the matrix of step `{}` has more than {MAX_NODES} cells", self.step.id);
                return Err(Box::new(sources.at(entry.key_span, message)));
            }
            let axis: Arc<str> = Arc::from(entry.key.as_str());
            let values: Vec<_> = values.iter().map(|value| Arc::new(AxisValue::new(value.clone()))).collect();
            let mut labels: HashMap<&str, &AxisValue> = HashMap::with_capacity(values.len());
            for value in &values {
                if let Some(first) = labels.insert(&value.label, value) {
                    let line = sources.place(first.node.span);
                    let message = format!("axis `{axis}` has two values called `{}`", value.label);
                    return Err(Box::new(sources.at(value.node.span, message).hint(format!(
                        "the first one is at {line}; a mapping can tell itself apart with `name`"
                    ))));
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
        Ok(cells)
    }

    /// Leaves out the cells that have all values of an item of `exclude`.
    fn without(&self, mut cells: Vec<Cell>, exclude: Option<&Node>) -> Made<Vec<Cell>> {
        for item in self.items("exclude", exclude)? {
            let wanted = self.cell(item)?;
            for (axis, _) in &wanted.0 {
                self.check_axis(&cells, axis, item)?;
            }
            let before = cells.len();
            cells.retain(|cell| !cell.has(&wanted));
            if cells.len() == before {
                let message =
                    format!("the matrix of step `{}` has no cell `{}`", self.step.id, wanted.label());
                return Err(Box::new(self.builder.sources.at(item.span, message)));
            }
        }
        if cells.is_empty() {
            let message = format!("`exclude` leaves no cell of step `{}`", self.step.id);
            return Err(Box::new(self.builder.sources.at(self.step.id_span, message)));
        }
        Ok(cells)
    }

    /// Adds cells; without axes, they are all there is.
    fn with(&self, mut cells: Vec<Cell>, include: Option<&Node>) -> Made<Vec<Cell>> {
        for item in self.items("include", include)? {
            let cell = self.cell(item)?;
            if cells.iter().all(|cell| cell.0.is_empty()) {
                cells.clear();
            }
            for (axis, _) in &cell.0 {
                self.check_axis(&cells, axis, item)?;
            }
            let missing =
                cells.first().and_then(|first| first.0.iter().find(|(axis, _)| cell.get(axis).is_none()));
            if let Some((axis, _)) = missing {
                let message = format!("the cell has no value of the axis `{axis}`");
                return Err(Box::new(self.builder.sources.at(item.span, message)));
            }
            // In the order of the axes: ids are written in it.
            let ordered = match cells.first() {
                Some(first) => {
                    let axes = first.0.iter();
                    Cell(
                        axes.filter_map(|(axis, _)| Some((Arc::clone(axis), Arc::clone(cell.get(axis)?))))
                            .collect(),
                    )
                }
                None => cell,
            };
            if cells.iter().any(|cell| cell.label() == ordered.label()) {
                let message = format!("the cell `{}` is there already", ordered.label());
                return Err(Box::new(self.builder.sources.at(item.span, message)));
            }
            cells.push(ordered);
        }
        Ok(cells)
    }

    fn items<'n>(&self, key: &str, list: Option<&'n Node>) -> Made<&'n [Node]> {
        match list.map(|node| (node, &node.data)) {
            None | Some((_, Data::Null)) => Ok(&[]),
            Some((_, Data::List(items))) => Ok(items),
            Some((node, _)) => {
                let message = format!("`{key}` must be a list of cells, found {}", node.describe());
                let hint = format!("for example {key}: [{{ seed: 1 }}]");
                Err(Box::new(self.builder.sources.at(node.span, message).hint(hint)))
            }
        }
    }

    fn cell(&self, item: &Node) -> Made<Cell> {
        let entries = item.entries().filter(|entries| !entries.is_empty()).ok_or_else(|| {
            let message = format!("a cell is a mapping from axes to values, found {}", item.describe());
            Box::new(self.builder.sources.at(item.span, message).hint("for example { seed: 1 }"))
        })?;
        let mut cell = Cell::default();
        for entry in entries {
            self.check_name(entry)?;
            cell.0.push((Arc::from(entry.key.as_str()), Arc::new(AxisValue::new(entry.value.clone()))));
        }
        Ok(cell)
    }

    fn check_name(&self, entry: &Entry) -> Made<()> {
        if crate::recipe::is_name(&entry.key) {
            return Ok(());
        }
        let message = format!("`{}` cannot name a matrix axis", entry.key);
        Err(Box::new(
            self.builder
                .sources
                .at(entry.key_span, message)
                .hint("use letters, digits and `_`, a letter first"),
        ))
    }

    fn check_axis(&self, cells: &[Cell], axis: &str, item: &Node) -> Made<()> {
        let Some(first) = cells.first().filter(|first| first.get(axis).is_none()) else { return Ok(()) };
        let message = format!("the matrix of step `{}` has no axis `{axis}`", self.step.id);
        let hint = suggest(axis, first.0.iter().map(|(axis, _)| &**axis));
        Err(Box::new(
            self.builder
                .sources
                .at(item.entry(axis).map_or(item.span, |entry| entry.key_span), message)
                .maybe_hint(hint),
        ))
    }
}
