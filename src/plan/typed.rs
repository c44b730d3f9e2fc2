//! Reads a typed value out of a tree: every mistake at its place.

use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::{
    diagnostic::{Diagnostic, closest, suggest},
    params::Problem,
    recipe::{
        source::{Sources, Span},
        tree::{Data, Node},
    },
};

/// Stands in for NaN and infinities, which JSON cannot hold. It lies outside every range that
/// parameters have, so that the rule of the field itself objects to it.
const STAND_IN: f64 = -987654321.125;
/// One field cannot hold more mistakes than this; stops a loop that makes no progress.
const MAX_ROUNDS: usize = 100;

/// What messages call the value.
pub(super) struct Subject<'s> {
    /// Who lacks a field: "step `a` (`uses: eval`)".
    pub(super) name: String,
    /// Where the field belongs: " under `with`".
    pub(super) under: &'static str,
    /// Behind an unknown field: "for `uses: eval`".
    pub(super) of: String,
    /// The whole value.
    pub(super) whole: &'static str,
    /// Its JSON Schema.
    pub(super) schema: &'s dyn Fn() -> Value,
    /// Steps that a field may mean.
    pub(super) step_ids: Vec<&'s str>,
}

/// A tree on its way to a typed value.
pub(super) struct Typed<'t, 's> {
    pub(super) subject: Subject<'s>,
    pub(super) sources: &'t Sources,
    /// Its span is where a missing field is reported.
    pub(super) tree: Node,
    pub(super) out: &'t mut Vec<Diagnostic>,
    /// Whether anything was reported.
    pub(super) failed: bool,
}

/// A part of a field's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Key(String),
    Index(usize),
}

impl Typed<'_, '_> {
    pub(super) fn report(&mut self, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.failed = true;
        self.out.push(self.sources.at(span, message).maybe_hint(hint));
    }

    /// Deserializes, taking out what is wrong and trying again, so that all mistakes are found.
    pub(super) fn parse<T>(
        &mut self,
        read: impl Fn(Value) -> Result<T, serde_path_to_error::Error<serde_json::Error>>,
    ) -> Option<T> {
        let mut json = to_json(&self.tree);
        let mut removed: Vec<Vec<Part>> = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let error = match read(json.clone()) {
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
                // What lacks it goes as a whole, so that mistakes behind it are found.
                let mut whole = path;
                while !take_out(&mut json, &whole) {
                    whole.pop()?;
                }
                removed.push(whole);
                continue;
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
        let schema = (self.subject.schema)();
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
        let list = match missing.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
            None => String::new(),
        };
        let message = format!("{} needs {list}{}", self.subject.name, self.subject.under);
        self.report(self.tree.span, message, None);
    }

    fn unknown(&mut self, path: &[Part], text: &str) {
        let name = match path.last() {
            Some(Part::Key(key)) => key.clone(),
            _ => text.split('`').nth(1).unwrap_or_default().to_owned(),
        };
        let (_, key_span) = self.locate(path);
        let parent = &path[..path.len().saturating_sub(1)];
        let message = if parent.is_empty() {
            format!("unknown field `{name}` {}", self.subject.of)
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
        let schema = (self.subject.schema)();
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
        let field = if path.is_empty() { self.subject.whole.to_owned() } else { dotted(path) };
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
                    let known = self.subject.step_ids.iter().copied();
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
    pub(super) fn problems(&mut self, problems: Vec<Problem>) {
        let mut odd = Vec::new();
        non_finite(&self.tree, &mut Vec::new(), &mut odd);
        for problem in problems {
            let path = parts(&problem.field);
            let (span, _) = self.locate(&path);
            let span = if path.is_empty() { self.tree.span } else { span };
            let mut message = problem.message;
            if let Some((_, value)) = odd.iter().find(|(odd, _)| *odd == path) {
                message = message.replace(&STAND_IN.to_string(), &value.to_string());
            }
            odd.retain(|(odd, _)| *odd != path);
            // "must be ..." needs a subject; whole sentences stand alone.
            let verb =
                ["must ", "is ", "has ", "names ", "lists "].iter().any(|verb| message.starts_with(verb));
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

    fn node(&self, path: &[Part]) -> Option<&Node> {
        path.iter().try_fold(&self.tree, |node, part| match (part, &node.data) {
            (Part::Key(key), _) => node.get(key),
            (Part::Index(index), Data::List(items)) => items.get(*index),
            _ => None,
        })
    }

    /// The places of a field's value and of its key, or of what is nearest to it.
    pub(super) fn locate(&self, path: &[Part]) -> (Span, Span) {
        let mut node = &self.tree;
        let mut key_span = self.tree.span;
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
