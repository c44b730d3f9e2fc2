//! [`build`]: the stages from a recipe to a plan, in order.

use std::collections::HashMap;

use minijinja::Value;
use petgraph::graph::{DiGraph, NodeIndex};

use super::{
    Plan,
    cells::Cell,
    cycle,
    draft::{self, Draft},
    links,
};
use crate::{
    diagnostic::{self, Diagnostic},
    error::Error,
    recipe::{
        Recipe,
        expression::{Evaluator, Scope},
        source::Sources,
    },
};

/// More nodes than any machine gets through; stops runaway matrices.
pub(super) const MAX_NODES: usize = 10_000;

/// What all stages share.
pub(super) struct Builder<'r> {
    pub(super) recipe: &'r Recipe,
    pub(super) sources: &'r Sources,
    pub(super) evaluator: Evaluator<'r>,
    params: Value,
    steps: Value,
    positions: HashMap<&'r str, usize>,
}

impl<'r> Builder<'r> {
    fn new(recipe: &'r Recipe) -> Self {
        let evaluator = Evaluator::new(&recipe.sources);
        let params =
            evaluator.table("params", recipe.params.iter().map(|(name, node)| (name.as_str(), node)));
        let steps = evaluator.step_table(recipe.step_ids());
        let positions = recipe.step_ids().enumerate().map(|(at, id)| (id, at)).collect();
        Self { recipe, sources: &recipe.sources, evaluator, params, steps, positions }
    }

    /// The step's place in the recipe.
    pub(super) fn position(&self, id: &str) -> Option<usize> {
        self.positions.get(id).copied()
    }

    /// The names that expressions of a cell may use.
    pub(super) fn scope(&self, cell: Option<&Cell>, steps: bool) -> Scope {
        let mut tables = vec![("params", self.params.clone())];
        if let Some(cell) = cell {
            tables.push(("matrix", self.evaluator.table("matrix", cell.entries())));
        }
        if steps {
            tables.push(("steps", self.steps.clone()));
        }
        self.evaluator.scope(&tables)
    }
}

/// Makes the plan of a recipe: matrix cells, edges, typed parameters.
///
/// # Errors
/// [`Error::Recipe`] with every mistake found, each at its place.
pub fn build(recipe: &Recipe) -> Result<Plan, Error> {
    let mut out = Vec::new();
    let drafts = drafts(recipe, &mut out);
    match drafts {
        Some(drafts) if out.is_empty() => Ok(assemble(recipe, drafts)),
        _ => Err(Error::Recipe(diagnostic::render(out))),
    }
}

fn drafts(recipe: &Recipe, out: &mut Vec<Diagnostic>) -> Option<Vec<Draft>> {
    let builder = Builder::new(recipe);
    let outlines: Vec<_> = recipe.steps.iter().map(|step| links::outline(&builder, step, out)).collect();
    let order = cycle::order(&outlines, builder.sources, out)?;
    Some(draft::nodes(&builder, &outlines, &order, out))
}

/// Numbers the nodes in the recipe's order and connects them.
fn assemble(recipe: &Recipe, drafts: Vec<Draft>) -> Plan {
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|at| (drafts[*at].step, *at));
    let mut place = vec![NodeIndex::default(); drafts.len()];
    for (new, old) in order.iter().enumerate() {
        place[*old] = NodeIndex::new(new);
    }
    let mut graph = DiGraph::with_capacity(drafts.len(), drafts.len());
    let mut edges = Vec::new();
    let mut nodes: Vec<_> = drafts.into_iter().map(Some).collect();
    for old in order {
        if let Some(draft) = nodes[old].take() {
            edges.extend(draft.after.iter().map(|before| (place[*before], place[old])));
            graph.add_node(draft.node);
        }
    }
    for (from, to) in edges {
        graph.add_edge(from, to, ());
    }
    Plan { recipe_name: recipe.name.clone(), recipe_path: recipe.path.clone(), graph }
}
