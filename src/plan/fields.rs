//! Checks evaluated `with:` against the kind's type: every mistake at its place, paths absolute,
//! files present.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{
    build::Builder,
    pin::slot,
    task_files,
    typed::{Part, Subject, Typed},
};
use crate::{
    diagnostic::{Diagnostic, closest, suggest},
    params::{Address, Remote, SHIPPED_TEMPLATES},
    recipe::{
        Step,
        tree::{Data, Entry, Node},
    },
};

/// Typed, normalized parameters and what they name outside the cache.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) params: Value,
    pub(super) files: Vec<(&'static str, PathBuf)>,
    pub(super) remotes: Vec<Remote>,
}

/// Checks the evaluated `with:` of a step; `None` after a mistake.
pub(super) fn check(
    builder: &Builder<'_>,
    step: &Step,
    with: Vec<Entry>,
    out: &mut Vec<Diagnostic>,
) -> Option<Checked> {
    let kind = step.kind;
    let subject = Subject {
        name: format!("step `{}` (`uses: {}`)", step.id, kind.name),
        under: " under `with`",
        of: format!("for `uses: {}`", kind.name),
        whole: "with",
        schema: &|| kind.full_schema(),
        step_ids: builder.recipe.step_ids().collect(),
    };
    let tree = Node::new(Data::Map(with), step.with_span);
    let typed = Typed { subject, sources: builder.sources, tree, out, failed: false };
    let mut checker = Checker { builder, step, typed };
    match kind.name {
        "report" => checker.report_fields(),
        "eval" => task_files::expand(&mut checker.typed),
        _ => {}
    }
    let parsed = checker.typed.parse(kind.parse)?;
    checker.typed.problems(parsed.problems);
    let checked = checker.files(parsed.normalized, parsed.files, parsed.remotes);
    (!checker.typed.failed).then_some(checked)
}

struct Checker<'c, 'r> {
    builder: &'c Builder<'r>,
    step: &'c Step,
    /// `with:`, references bound.
    typed: Typed<'c, 'c>,
}

impl Checker<'_, '_> {
    /// A report's `template` is a shipped name or a path, and it shows the recipe's text.
    fn report_fields(&mut self) {
        let hidden = [
            ("template_file", "give the path as `template`"),
            ("recipe", "a report knows its recipe; values of your own go under `vars`"),
        ];
        for (name, hint) in hidden {
            if let Some(entry) = self.typed.tree.entry(name) {
                let span = entry.key_span;
                self.typed.report(span, format!("unknown field `{name}`"), Some(hint.to_owned()));
            }
        }
        if let Data::Map(entries) = &mut self.typed.tree.data {
            entries.retain(|entry| hidden.iter().all(|(name, _)| entry.key != *name));
        }
        let span = self.step.with_span;
        let text = |text: &str| Node::new(Data::Text(text.to_owned()), span);
        let entry = |key: &str, value: Node| Entry { key: key.to_owned(), key_span: span, value };
        let texts = self.builder.sources.written().map(|(name, written)| {
            Node::new(Data::Map(vec![entry("name", text(name)), entry("text", text(written))]), span)
        });
        let recipe = entry("recipe", Node::new(Data::List(texts.collect()), span));
        if let Data::Map(entries) = &mut self.typed.tree.data {
            entries.push(recipe);
        }
        let Some((text, span)) =
            self.typed.tree.get("template").and_then(|node| Some((node.text()?, node.span)))
        else {
            return;
        };
        if text.contains('/') || text.ends_with(".j2") {
            let value = Node::new(Data::Text(text.to_owned()), span);
            if let Data::Map(entries) = &mut self.typed.tree.data {
                entries.push(Entry { key: "template_file".to_owned(), key_span: span, value });
            }
        } else if !SHIPPED_TEMPLATES.contains(&text) {
            let message = format!("unknown template `{text}`");
            let hint = suggest(text, SHIPPED_TEMPLATES.iter().copied())
                .map(|hint| format!("{hint} (the path of a template of your own ends in `.j2`)"));
            self.typed.report(span, message, hint);
        }
    }

    /// Makes paths absolute and checks that something is there. Addresses get their revision.
    fn files(
        &mut self,
        mut normalized: Value,
        files: Vec<(&'static str, PathBuf)>,
        remotes: Vec<Remote>,
    ) -> Checked {
        let mut seen: Vec<&str> = Vec::new();
        let mut found = Vec::new();
        for (field, path) in files {
            let index = seen.iter().filter(|name| **name == field).count();
            seen.push(field);
            let text = match remotes.iter().find(|remote| (remote.field, remote.index) == (field, index)) {
                Some(remote) => remote.resolved().to_string(),
                None if path.to_str().is_some_and(|path| Address::parse(path).is_some()) => continue,
                None => {
                    let absolute = self.local(field, index, &path);
                    let text = absolute.to_string_lossy().into_owned();
                    found.push((field, absolute));
                    text
                }
            };
            if let Some(slot) = slot(&mut normalized, field, index) {
                *slot = Value::String(text);
            }
        }
        if let Some(map) = normalized.as_object_mut().filter(|_| !remotes.is_empty()) {
            // It stands in the addresses now.
            map.shift_remove("revision");
        }
        Checked { params: normalized, files: found, remotes }
    }

    /// The absolute path of a file that must be there.
    fn local(&mut self, field: &'static str, index: usize, path: &Path) -> PathBuf {
        let at = match self.typed.tree.get(field).map(|node| &node.data) {
            Some(Data::List(_)) => vec![Part::Key(field.to_owned()), Part::Index(index)],
            _ => vec![Part::Key(field.to_owned())],
        };
        let (span, _) = self.typed.locate(&at);
        let absolute = clean(&self.builder.sources.folder(span).join(path));
        if !absolute.exists() {
            let shown = path.display();
            let hint = neighbour(&absolute, path).or_else(|| {
                path.is_relative().then(|| "relative paths start at the recipe's folder".to_owned())
            });
            self.typed.report(span, format!("no file or folder `{shown}`"), hint);
        }
        absolute
    }
}

/// Drops `.` parts; `..` stays, since a link may stand before it.
pub(super) fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// What may be meant: mostly a file beside the missing one with nearly its name.
pub(super) fn neighbour(absolute: &Path, written: &Path) -> Option<String> {
    let name = absolute.file_name()?.to_string_lossy().into_owned();
    let entries = std::fs::read_dir(absolute.parent()?).ok()?;
    let names: Vec<String> = entries
        .take(1000)
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    let close = closest(&name, names.iter().map(String::as_str))?;
    Some(format!("did you mean `{}`?", written.with_file_name(close).display()))
}
