//! Checks evaluated `with:` against the kind's type: every mistake at its place, paths absolute,
//! files present.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::{build::Builder, pin::slot};
use crate::{
    diagnostic::{Diagnostic, closest, suggest},
    params::{Address, Kind, Parsed, Problem, Remote, SHIPPED_TEMPLATES},
    recipe::{
        Step,
        source::Span,
        tree::{Data, Entry, Node},
    },
};

/// Stands in for NaN and infinities, which JSON cannot hold. It lies outside every range that
/// parameters have, so that the rule of the field itself objects to it.
const STAND_IN: f64 = -987654321.125;
/// One field cannot hold more mistakes than this; stops a loop that makes no progress.
const MAX_ROUNDS: usize = 100;

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
    let tree = Node::new(Data::Map(with), step.with_span);
    let mut checker = Checker { builder, step, tree, out, failed: false };
    checker.report_fields();
    let parsed = checker.parse()?;
    checker.problems(parsed.problems);
    let checked = checker.files(parsed.normalized, parsed.files, parsed.remotes);
    (!checker.failed).then_some(checked)
}

struct Checker<'c, 'r> {
    builder: &'c Builder<'r>,
    step: &'c Step,
    /// `with:`, references bound.
    tree: Node,
    out: &'c mut Vec<Diagnostic>,
    failed: bool,
}

/// A part of a field's path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Key(String),
    Index(usize),
}

impl Checker<'_, '_> {
    fn kind(&self) -> &'static Kind {
        self.step.kind
    }

    fn report(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.failed = true;
        self.out.push(self.builder.sources.at(span, message).maybe_hint(hint));
    }

    /// A report's `template` is a shipped name or a path, and it shows the recipe's text.
    fn report_fields(&mut self) {
        if self.kind().name != "report" {
            return;
        }
        let hidden = [
            ("template_file", "give the path as `template`"),
            ("recipe", "a report knows its recipe; values of your own go under `vars`"),
        ];
        for (name, hint) in hidden {
            if let Some(entry) = self.tree.entry(name) {
                let span = entry.key_span;
                self.report(span, format!("unknown field `{name}`"), Some(hint.to_owned()));
            }
        }
        if let Data::Map(entries) = &mut self.tree.data {
            entries.retain(|entry| hidden.iter().all(|(name, _)| entry.key != *name));
        }
        let span = self.step.with_span;
        let text = |text: &str| Node::new(Data::Text(text.to_owned()), span);
        let entry = |key: &str, value: Node| Entry { key: key.to_owned(), key_span: span, value };
        let texts = self.builder.sources.written().map(|(name, written)| {
            Node::new(Data::Map(vec![entry("name", text(name)), entry("text", text(written))]), span)
        });
        let recipe = entry("recipe", Node::new(Data::List(texts.collect()), span));
        if let Data::Map(entries) = &mut self.tree.data {
            entries.push(recipe);
        }
        let Some((text, span)) = self.tree.get("template").and_then(|node| Some((node.text()?, node.span)))
        else {
            return;
        };
        if text.contains('/') || text.ends_with(".j2") {
            let value = Node::new(Data::Text(text.to_owned()), span);
            if let Data::Map(entries) = &mut self.tree.data {
                entries.push(Entry { key: "template_file".to_owned(), key_span: span, value });
            }
        } else if !SHIPPED_TEMPLATES.contains(&text) {
            let message = format!("unknown template `{text}`");
            let hint = suggest(text, SHIPPED_TEMPLATES.iter().copied())
                .map(|hint| format!("{hint} (the path of a template of your own ends in `.j2`)"));
            self.report(span, message, hint);
        }
    }

    /// Deserializes, taking out what is wrong and trying again, so that all mistakes are found.
    fn parse(&mut self) -> Option<Parsed> {
        let mut json = to_json(&self.tree);
        let mut removed: Vec<Vec<Part>> = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let error = match (self.kind().parse)(json.clone()) {
                Ok(parsed) => return (!self.failed).then_some(parsed),
                Err(error) => error,
            };
            let path: Vec<Part> = error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Map { key } => Some(Part::Key(key.clone())),
                    Segment::Seq { index } => Some(Part::Index(*index)),
                    _ => None,
                })
                .collect();
            let text = error.inner().to_string();
            if let Some(field) = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())
            {
                let mut full = path.clone();
                full.push(Part::Key(field.to_owned()));
                // A required field that was taken out is not missing.
                if !removed.contains(&full) {
                    self.missing(&path, field);
                }
                return None;
            }
            if text.starts_with("unknown field `") {
                self.unknown(&path, &text);
            } else {
                self.mistyped(&path, &text);
            }
            if !take_out(&mut json, &path) {
                return None;
            }
            removed.push(path);
        }
        None
    }

    fn missing(&mut self, path: &[Part], field: &str) {
        if !path.is_empty() {
            let (span, _) = self.locate(path);
            self.report(span, format!("`{}` has no `{field}`", dotted(path)), None);
            return;
        }
        let schema = self.kind().full_schema();
        let required = schema.get("required").and_then(Value::as_array);
        let mut missing: Vec<String> = required
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|name| self.tree.get(name).is_none())
            .map(|name| format!("`{name}`"))
            .collect();
        if missing.is_empty() {
            missing.push(format!("`{field}`"));
        }
        let kind = self.kind().name;
        let list = match missing.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
            None => String::new(),
        };
        let message = format!("step `{}` (`uses: {kind}`) needs {list} under `with`", self.step.id);
        self.report(self.step.with_span, message, None);
    }

    fn unknown(&mut self, path: &[Part], text: &str) {
        let name = match path.last() {
            Some(Part::Key(key)) => key.clone(),
            _ => text.split('`').nth(1).unwrap_or_default().to_owned(),
        };
        let (_, key_span) = self.locate(path);
        let parent = &path[..path.len().saturating_sub(1)];
        let message = if parent.is_empty() {
            format!("unknown field `{name}` for `uses: {}`", self.kind().name)
        } else {
            format!("unknown field `{name}` in `{}`", dotted(parent))
        };
        let known: Vec<&str> = text.split('`').skip(3).step_by(2).collect();
        let hint = match (closest(&name, known.iter().copied()), self.elsewhere(&name)) {
            (None, Some(path)) => Some(format!("did you mean `{path}`?")),
            _ => suggest(&name, known),
        };
        self.report(key_span, message, hint);
    }

    /// Where a field of this name stands in another mapping of the same kind.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let schema = self.kind().full_schema();
        let properties = schema.get("properties")?.as_object()?;
        if properties.contains_key(name) {
            return Some(name.to_owned());
        }
        properties.iter().find_map(|(field, property)| {
            let target = property.get("$ref")?.as_str()?.rsplit('/').next()?;
            let inner = schema.get("$defs")?.get(target)?.get("properties")?;
            inner.get(name).map(|_| format!("{field}.{name}"))
        })
    }

    fn mistyped(&mut self, path: &[Part], text: &str) {
        let (span, _) = self.locate(path);
        let node = self.node(path);
        let found = node.map(Node::describe);
        let field = if path.is_empty() { "with".to_owned() } else { dotted(path) };
        let (message, hint) = if let Some(rest) = text.strip_prefix("unknown variant `") {
            let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
            let name = rest.split('`').next().unwrap_or_default();
            let hint = closest(name, known.iter().copied()).map(|close| format!("did you mean `{close}`?"));
            (format!("`{field}` must be one of: {}; found text `{name}`", known.join(", ")), hint)
        } else if let (Some((_, expected)), Some(found), true) =
            (text.split_once(", expected "), found, text.starts_with("invalid "))
        {
            let expected = expected.split(" at line ").next().unwrap_or(expected);
            let hint = match node.map(|node| &node.data) {
                Some(Data::Text(id)) if expected.starts_with("a step") => {
                    let known = self.builder.recipe.step_ids();
                    closest(id.trim(), known).map(|id| format!("write \"${{{{ steps.{id} }}}}\""))
                }
                _ => None,
            };
            (format!("`{field}` must be {}, found {found}", plain(expected)), hint)
        } else {
            (format!("`{field}`: {}", text.split(" at line ").next().unwrap_or(text)), None)
        };
        self.report(span, message, hint);
    }

    /// The rules that the type itself checks.
    fn problems(&mut self, problems: Vec<Problem>) {
        let mut odd = Vec::new();
        non_finite(&self.tree, &mut Vec::new(), &mut odd);
        for problem in problems {
            let path = parts(&problem.field);
            let (span, _) = self.locate(&path);
            let span = if path.is_empty() { self.step.with_span } else { span };
            let mut message = problem.message;
            if let Some((_, value)) = odd.iter().find(|(odd, _)| *odd == path) {
                message = message.replace(&STAND_IN.to_string(), &value.to_string());
            }
            odd.retain(|(odd, _)| *odd != path);
            // "must be ..." needs a subject; whole sentences stand alone.
            let verb = ["must ", "is ", "names ", "lists "].iter().any(|verb| message.starts_with(verb));
            if verb && !path.is_empty() {
                message = format!("`{}` {message}", problem.field);
            }
            self.report(span, message, problem.hint);
        }
        for (path, value) in odd {
            let (span, _) = self.locate(&path);
            self.report(span, format!("`{}` must be a finite number, found {value}", dotted(&path)), None);
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
        let at = match self.tree.get(field).map(|node| &node.data) {
            Some(Data::List(_)) => vec![Part::Key(field.to_owned()), Part::Index(index)],
            _ => vec![Part::Key(field.to_owned())],
        };
        let (span, _) = self.locate(&at);
        let absolute = clean(&self.builder.sources.folder(span).join(path));
        if !absolute.exists() {
            let shown = path.display();
            let hint = neighbour(&absolute, path).or_else(|| {
                path.is_relative().then(|| "relative paths start at the recipe's folder".to_owned())
            });
            self.report(span, format!("no file or folder `{shown}`"), hint);
        }
        absolute
    }

    fn node(&self, path: &[Part]) -> Option<&Node> {
        path.iter().try_fold(&self.tree, |node, part| match (part, &node.data) {
            (Part::Key(key), _) => node.get(key),
            (Part::Index(index), Data::List(items)) => items.get(*index),
            _ => None,
        })
    }

    /// The places of a field's value and of its key, or of what is nearest to it.
    fn locate(&self, path: &[Part]) -> (Span, Span) {
        let mut node = &self.tree;
        let mut key_span = self.step.with_span;
        for part in path {
            let next = match (part, &node.data) {
                (Part::Key(key), _) => node.entry(key).map(|entry| {
                    key_span = entry.key_span;
                    &entry.value
                }),
                (Part::Index(index), Data::List(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        (node.span, key_span)
    }
}

fn to_json(node: &Node) -> Value {
    match &node.data {
        Data::NonFinite(_) => Value::from(STAND_IN),
        Data::List(items) => items.iter().map(to_json).collect(),
        Data::Map(entries) => Value::Object(
            entries.iter().map(|entry| (entry.key.clone(), to_json(&entry.value))).collect::<Map<_, _>>(),
        ),
        data => data.to_json(),
    }
}

fn non_finite(node: &Node, path: &mut Vec<Part>, out: &mut Vec<(Vec<Part>, f64)>) {
    match &node.data {
        Data::NonFinite(value) => out.push((path.clone(), *value)),
        Data::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Part::Index(index));
                non_finite(item, path, out);
                path.pop();
            }
        }
        Data::Map(entries) => {
            for entry in entries {
                path.push(Part::Key(entry.key.clone()));
                non_finite(&entry.value, path, out);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Takes a mapping's entry out. List items stay: the places of those after them would shift.
fn take_out(json: &mut Value, path: &[Part]) -> bool {
    let Some((Part::Key(last), parents)) = path.split_last() else { return false };
    let parent = parents.iter().try_fold(json, |value, part| match part {
        Part::Key(key) => value.get_mut(key),
        Part::Index(index) => value.get_mut(*index),
    });
    parent.and_then(Value::as_object_mut).is_some_and(|map| map.shift_remove(last).is_some())
}

fn parts(field: &str) -> Vec<Part> {
    let part = |part: &str| part.parse().map_or_else(|_| Part::Key(part.to_owned()), Part::Index);
    field.split('.').filter(|part| !part.is_empty()).map(part).collect()
}

fn dotted(path: &[Part]) -> String {
    let part = |part: &Part| match part {
        Part::Key(key) => key.clone(),
        Part::Index(index) => index.to_string(),
    };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}

/// Serde's words for types in everyday ones.
fn plain(expected: &str) -> String {
    match expected {
        "f64" | "f32" => "a number".to_owned(),
        "u64" | "u32" | "u16" | "u8" | "usize" => "a whole number, 0 or more".to_owned(),
        "i64" | "i32" | "isize" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" | "a borrowed string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other if other.starts_with("string or map") => "a text".to_owned(),
        other => other.to_owned(),
    }
}

/// Drops `.` parts; `..` stays, since a link may stand before it.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// What may be meant: mostly a file beside the missing one with nearly its name.
fn neighbour(absolute: &Path, written: &Path) -> Option<String> {
    let name = absolute.file_name()?.to_string_lossy().into_owned();
    let entries = std::fs::read_dir(absolute.parent()?).ok()?;
    let names: Vec<String> = entries
        .take(1000)
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    let close = closest(&name, names.iter().map(String::as_str))?;
    Some(format!("did you mean `{}`?", written.with_file_name(close).display()))
}
