//! What became of the cells of a step, found by the values of their axes: of thousands of cells, most
//! steps ask for the one that is like their own.

use std::{collections::HashMap, sync::Arc};

use super::cells::Cell;

/// One cell of a step after joining.
pub(super) struct State {
    pub(super) cell: Cell,
    /// `None` when `when` left it out, or something that it needs.
    pub(super) draft: Option<usize>,
}

/// The cells of a step so far.
#[derive(Default)]
pub(super) struct States {
    all: Vec<State>,
    axes: HashMap<Arc<str>, Axis>,
}

/// Who has which value of an axis, by place in [`States::all`].
#[derive(Default)]
struct Axis {
    cells: usize,
    having: HashMap<Arc<str>, Vec<usize>>,
}

impl States {
    pub(super) fn push(&mut self, state: State) {
        for (name, value) in &state.cell.0 {
            let axis = self.axes.entry(Arc::clone(name)).or_default();
            axis.cells += 1;
            axis.having.entry(Arc::clone(&value.identity)).or_default().push(self.all.len());
        }
        self.all.push(state);
    }

    pub(super) fn first(&self) -> Option<&State> {
        self.all.first()
    }

    /// Those that agree with a cell, in their order.
    pub(super) fn agreeing<'s>(&'s self, cell: &'s Cell) -> impl Iterator<Item = &'s State> {
        // An axis that some cells lack does not rule those out.
        let shared = cell.0.iter().filter_map(|(name, value)| {
            let axis = self.axes.get(name).filter(|axis| axis.cells == self.all.len())?;
            Some(axis.having.get(&value.identity).map_or(&[][..], Vec::as_slice))
        });
        let narrowed = shared.min_by_key(|places| places.len());
        let count = narrowed.map_or(self.all.len(), <[usize]>::len);
        let candidates = (0..count).map(move |at| &self.all[narrowed.map_or(at, |places| places[at])]);
        candidates.filter(|state| state.cell.agrees(cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::cells::AxisValue,
        recipe::{
            source::Span,
            tree::{Data, Node},
        },
    };

    fn cell(values: &[(&str, u64)]) -> Cell {
        let value =
            |value: u64| Arc::new(AxisValue::new(Node::new(Data::Number(value.into()), Span::default())));
        Cell(values.iter().map(|(axis, number)| (Arc::from(*axis), value(*number))).collect())
    }

    #[test]
    fn the_index_finds_what_a_look_at_every_cell_finds() {
        let mut states = States::default();
        let mut cells: Vec<Cell> =
            (0..3).flat_map(|x| (0..3).map(move |y| cell(&[("x", x), ("y", y)]))).collect();
        let queries =
            [cell(&[]), cell(&[("x", 1)]), cell(&[("x", 1), ("y", 2)]), cell(&[("z", 1)]), cell(&[("x", 9)])];
        // The last one lacks an axis that the others have.
        cells.push(cell(&[("y", 2)]));
        for (number, new) in cells.into_iter().enumerate() {
            states.push(State { cell: new, draft: Some(number) });
            for query in &queries {
                let found: Vec<_> = states.agreeing(query).map(|state| state.draft).collect();
                let all = states.all.iter().filter(|state| state.cell.agrees(query));
                assert_eq!(found, all.map(|state| state.draft).collect::<Vec<_>>());
            }
        }
    }
}
