//! Steps to nodes: joins cells, leaves out what `when` says, evaluates `with` and binds its
//! references to nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Resources, StepNode,
    build::{Builder, MAX_NODES},
    cells::Cell,
    fields,
    links::{Links, Outline},
    settings,
    states::{State, States},
};
use crate::{
    diagnostic::{Diagnostic, enough},
    recipe::{
        expression::Scope,
        source::Span,
        tree::{Data, Entry, Node},
    },
};

/// A node that is not in the graph yet.
pub(super) struct Draft {
    /// Its step's place in the recipe.
    pub(super) step: usize,
    pub(super) node: StepNode,
    /// Drafts that must be done first.
    pub(super) after: BTreeSet<usize>,
}

/// What became of the steps so far, by their place in the recipe.
struct Made {
    of: Vec<States>,
    /// Steps whose matrix is wrong; nobody complains about what refers to them.
    broken: Vec<bool>,
}

/// All nodes, each after those that it needs.
pub(super) fn nodes(
    builder: &Builder<'_>,
    outlines: &[Outline<'_>],
    order: &[usize],
    out: &mut Vec<Diagnostic>,
) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut made = Made {
        of: outlines.iter().map(|_| States::default()).collect(),
        broken: outlines.iter().map(|outline| outline.own.is_empty()).collect(),
    };
    for &at in order {
        let outline = &outlines[at];
        let mut ids = BTreeMap::new();
        for (own, links) in &outline.own {
            let Some(cells) = join(builder, outlines, &made, at, own, links, out) else {
                made.broken[at] = true;
                continue;
            };
            if drafts.len() + cells.len() > MAX_NODES {
                let message = format!("the plan has more than {MAX_NODES} nodes");
                out.push(builder.sources.at(outline.step.id_span, message));
                return drafts;
            }
            for (cell, left_out) in cells {
                if enough(out) {
                    return drafts;
                }
                let draft = if left_out {
                    None
                } else {
                    let node =
                        NodeBuilder { builder, made: &made, drafts: &drafts, at, outline, cell: &cell };
                    node.draft(links, out)
                };
                if let Some(draft) = &draft
                    && let Some(first) = ids.insert(draft.node.id.clone(), cell.label())
                {
                    let message =
                        format!("two cells of step `{}` are both called `{first}`", outline.step.id);
                    out.push(
                        builder
                            .sources
                            .at(outline.step.id_span, message)
                            .hint("give the values of an axis a `name` each"),
                    );
                }
                let number = draft.map(|draft| {
                    drafts.push(draft);
                    drafts.len() - 1
                });
                made.of[at].push(State { cell, draft: number });
            }
        }
    }
    drafts
}

/// The cells that a cell of the step's own matrix becomes once it inherits the axes of what it
/// refers to, and whether each is left out. `None` after an error.
fn join(
    builder: &Builder<'_>,
    outlines: &[Outline<'_>],
    made: &Made,
    at: usize,
    own: &Cell,
    links: &Links,
    out: &mut Vec<Diagnostic>,
) -> Option<Vec<(Cell, bool)>> {
    let mut joined = vec![(own.clone(), false)];
    for (step, span) in &links.single {
        if made.broken[*step] {
            return None;
        }
        let mut next = Vec::new();
        for (cell, left_out) in &joined {
            let before = next.len();
            for state in made.of[*step].agreeing(cell) {
                next.push((cell.joined(&state.cell), *left_out || state.draft.is_none()));
            }
            if next.len() == before {
                let shared: Vec<_> = made.of[*step].first().map_or_else(Vec::new, |state| {
                    let shared = cell.0.iter().filter(|(axis, _)| state.cell.get(axis).is_some());
                    shared.map(|(axis, value)| format!("{axis}={}", value.label)).collect()
                });
                let (id, other) = (&outlines[at].step.id, &outlines[*step].step.id);
                let message = format!("step `{other}` has no cell `{}` for `{id}`", shared.join(","));
                out.push(
                    builder
                        .sources
                        .at(*span, message)
                        .hint("an axis of the same name must have the same values in both steps"),
                );
                return None;
            }
            if next.len() > MAX_NODES {
                let message = format!("the plan has more than {MAX_NODES} nodes");
                out.push(builder.sources.at(*span, message));
                return None;
            }
        }
        joined = next;
    }
    Some(joined)
}

/// Makes one node.
struct NodeBuilder<'n, 'r> {
    builder: &'n Builder<'r>,
    made: &'n Made,
    drafts: &'n [Draft],
    at: usize,
    outline: &'n Outline<'r>,
    cell: &'n Cell,
}

/// How binding a value ended.
enum Bound {
    Value(Node),
    /// It refers to something that `when` left out.
    LeftOut,
    /// It was reported.
    Failed,
}

impl NodeBuilder<'_, '_> {
    /// `None` when the node is left out.
    fn draft(&self, links: &Links, out: &mut Vec<Diagnostic>) -> Option<Draft> {
        let step = self.outline.step;
        let scope = self.builder.scope(Some(self.cell), false);
        if !self.wanted(&scope, out) {
            return None;
        }
        let with_steps = self.builder.scope(Some(self.cell), true);
        let mut after = BTreeSet::new();
        let mut with = Vec::new();
        let mut whole = true;
        for entry in &self.outline.with {
            let Some(value) = self.builder.evaluator.resolve(&entry.value, &with_steps, out) else {
                whole = false;
                continue;
            };
            let list = step.kind.list_fields.contains(&entry.key.as_str());
            match self.bind(value, &entry.key, list, &mut after, out) {
                Bound::Value(value) => with.push(Entry { value, ..entry.clone() }),
                Bound::LeftOut => return None,
                Bound::Failed => whole = false,
            }
        }
        let checked = if whole { fields::check(self.builder, step, with, out) } else { None };
        let fields::Checked { params, files, remotes } = checked.unwrap_or_default();
        let mut resources = Resources::default();
        for node in [&self.builder.recipe.defaults.resources, &step.resources].into_iter().flatten() {
            if let Some(node) = self.builder.evaluator.resolve(node, &scope, out) {
                settings::resources(self.builder.sources, &node, &mut resources, out);
            }
        }
        let defaults = &self.builder.recipe.defaults;
        let setting = |own: &Option<Node>, default: &Option<Node>, out: &mut Vec<Diagnostic>| {
            let node = own.as_ref().or(default.as_ref())?;
            self.builder.evaluator.resolve(node, &scope, out)
        };
        let timeout = setting(&step.timeout, &defaults.timeout, out)
            .and_then(|node| settings::timeout(self.builder.sources, &node, out));
        let retries = setting(&step.retries, &defaults.retries, out)
            .map_or(0, |node| settings::retries(self.builder.sources, &node, out));
        let mut needs = Vec::new();
        for (other, _) in &links.needs {
            for draft in self.made.of[*other].agreeing(self.cell).filter_map(|state| state.draft) {
                after.insert(draft);
                needs.push(self.drafts[draft].node.id.clone());
            }
        }
        let node = StepNode {
            id: self.cell.id(&step.id),
            step: step.id.clone(),
            kind: step.kind,
            cell: self.cell.to_json(),
            params,
            files,
            remotes,
            resources,
            timeout,
            retries,
            needs,
        };
        Some(Draft { step: self.at, node, after })
    }

    /// `when:`.
    fn wanted(&self, scope: &Scope, out: &mut Vec<Diagnostic>) -> bool {
        let Some(when) = &self.outline.step.when else { return true };
        let value = match when.text() {
            // As in GitHub Actions, the brackets may be left out.
            Some(text) if !crate::recipe::has_expression(text) => self
                .builder
                .evaluator
                .bare(text, when.span, scope)
                .map_err(|diagnostic| out.push(diagnostic))
                .ok(),
            _ => self.builder.evaluator.resolve(when, scope, out),
        };
        match value.map(|node| (node.describe(), node.data)) {
            Some((_, Data::Bool(wanted))) => wanted,
            Some((found, _)) => {
                let message = format!("`when` must be true or false, found {found}");
                out.push(
                    self.builder
                        .sources
                        .at(when.span, message)
                        .hint("compare: \"${{ params.scale == 'full' }}\""),
                );
                true
            }
            None => true,
        }
    }

    /// Replaces steps by nodes.
    fn bind(
        &self,
        node: Node,
        path: &str,
        list: bool,
        after: &mut BTreeSet<usize>,
        out: &mut Vec<Diagnostic>,
    ) -> Bound {
        let span = node.span;
        let data = match node.data {
            Data::Step(id) if list => {
                let Some(found) = self.cells_of(&id, path, span, out) else { return Bound::Failed };
                let nodes = found.into_iter().map(|draft| self.take(draft, span, after));
                Data::List(nodes.collect())
            }
            Data::Step(id) => {
                let Some(at) = self.allowed(&id, path, span, out) else { return Bound::Failed };
                let mut found = self.made.of[at].agreeing(self.cell);
                match (found.next().map(|state| state.draft), found.next()) {
                    (Some(None), None) => return Bound::LeftOut,
                    (Some(Some(draft)), None) => return Bound::Value(self.take(draft, span, after)),
                    _ => {
                        let message = format!("it is not clear which cell of step `{id}` is meant");
                        let hint = format!("write `${{{{ steps.{id} }}}}` in this field");
                        out.push(self.builder.sources.at(span, message).hint(hint));
                        return Bound::Failed;
                    }
                }
            }
            Data::List(items) => {
                let mut bound = Vec::new();
                let mut failed = false;
                let path = format!("{path}.*");
                for item in items {
                    // A list of steps in a list field becomes one flat list.
                    if let (Data::Step(id), true) = (&item.data, list) {
                        match self.cells_of(id, &path, item.span, out) {
                            Some(found) => {
                                bound.extend(
                                    found.into_iter().map(|draft| self.take(draft, item.span, after)),
                                );
                            }
                            None => failed = true,
                        }
                        continue;
                    }
                    match self.bind(item, &path, list, after, out) {
                        Bound::Value(item) => bound.push(item),
                        Bound::LeftOut => return Bound::LeftOut,
                        Bound::Failed => failed = true,
                    }
                }
                if failed {
                    return Bound::Failed;
                }
                Data::List(bound)
            }
            Data::Map(entries) => {
                let mut bound = Vec::new();
                let mut failed = false;
                for entry in entries {
                    match self.bind(entry.value, &format!("{path}.{}", entry.key), false, after, out) {
                        Bound::Value(value) => {
                            bound.push(Entry { key: entry.key, key_span: entry.key_span, value });
                        }
                        Bound::LeftOut => return Bound::LeftOut,
                        Bound::Failed => failed = true,
                    }
                }
                if failed {
                    return Bound::Failed;
                }
                Data::Map(bound)
            }
            data => data,
        };
        Bound::Value(Node::new(data, span))
    }

    /// The nodes of a step that a list field takes.
    fn cells_of(&self, id: &str, path: &str, span: Span, out: &mut Vec<Diagnostic>) -> Option<Vec<usize>> {
        let at = self.allowed(id, path, span, out)?;
        Some(self.made.of[at].agreeing(self.cell).filter_map(|state| state.draft).collect())
    }

    /// The step's place, when this field may refer to its kind.
    fn allowed(&self, id: &str, path: &str, span: Span, out: &mut Vec<Diagnostic>) -> Option<usize> {
        let at = self.builder.position(id)?;
        let kind = self.builder.recipe.steps[at].kind;
        let kinds = self.outline.step.kind.referable(path);
        if kinds.is_some_and(|kinds| !kinds.contains(&kind.name)) {
            let wanted: Vec<_> = kinds.unwrap_or_default().iter().map(|kind| format!("`{kind}`")).collect();
            let message = format!(
                "`{path}` must be a step of kind {}, but `{id}` is of kind `{}`",
                match wanted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => wanted.concat(),
                },
                kind.name
            );
            let fitting = self.builder.recipe.steps.iter();
            let fitting: Vec<_> = fitting
                .filter(|step| {
                    kinds.unwrap_or_default().contains(&step.kind.name) && step.id != self.outline.step.id
                })
                .map(|step| format!("`steps.{}`", step.id))
                .take(8)
                .collect();
            let hint = (!fitting.is_empty()).then(|| format!("steps that fit: {}", fitting.join(", ")));
            out.push(self.builder.sources.at(span, message.replace(".*", "")).maybe_hint(hint));
            return None;
        }
        Some(at)
    }

    fn take(&self, draft: usize, span: Span, after: &mut BTreeSet<usize>) -> Node {
        after.insert(draft);
        Node::new(Data::Step(self.drafts[draft].node.id.clone()), span)
    }
}
