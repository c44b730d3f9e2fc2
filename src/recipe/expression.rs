//! Evaluates the expressions in a tree. Work and size are bounded, undefined names are errors, and
//! every error points into the expression. The only place that evaluates recipe text.

use std::cell::Cell;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, value::ValueKind};
use serde_json::Number;

use super::{
    interpolate::{self, Piece},
    scope::{Miss, Misses, StepMark, Table, to_value},
    source::{Sources, Span},
    tree::{Data, Entry, Node},
    yaml::MAX_DEPTH,
};
use crate::diagnostic::{Diagnostic, closest, enough, suggest};

/// Longest expression. The template engine's parser recurses into operators (`----1`), so that a
/// long enough expression would overflow the stack.
const MAX_SOURCE: usize = 1_000;
/// Instructions and allocations of one expression.
const FUEL: u64 = 100_000;
/// Values and kibibytes of text that all expressions of one recipe may make together; stops
/// parameters that double each other.
const MAX_WORK: u64 = 4_000_000;
/// The same for one expression.
const MAX_RESULT: u64 = 100_000;

/// Names that one parameter may ask for in vain before those that it needs are computed.
const MAX_NOTED: usize = 5_000;

/// The outermost names of an expression.
#[derive(Debug, Clone)]
pub(crate) struct Scope(Value);

/// What may be said about a step before anything is bound.
pub(crate) struct Probe {
    /// The value, when it could be computed.
    pub(crate) value: Option<Node>,
    /// Ids of steps that the text names, whether or not they were reached.
    pub(crate) named: Vec<String>,
}

/// Evaluates expressions of one recipe.
pub(crate) struct Evaluator<'s> {
    env: Environment<'static>,
    sources: &'s Sources,
    misses: Misses,
    work: Cell<u64>,
}

impl<'s> Evaluator<'s> {
    pub(crate) fn new(sources: &'s Sources) -> Self {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_fuel(Some(FUEL));
        env.set_debug(true);
        env.remove_global("debug");
        Self { env, sources, misses: Misses::default(), work: Cell::new(0) }
    }

    /// A table of names, e.g. all `params`.
    pub(crate) fn table<'n>(&self, path: &str, entries: impl Iterator<Item = (&'n str, &'n Node)>) -> Value {
        let entries = entries
            .map(|(name, node)| (name.to_owned(), to_value(node, &format!("{path}.{name}"), &self.misses)));
        Table::value(path, entries.collect(), &self.misses)
    }

    /// The table `steps`.
    pub(crate) fn step_table<'i>(&self, ids: impl Iterator<Item = &'i str>) -> Value {
        let marks = ids.map(|id| (id.to_owned(), StepMark::value(id, &self.misses))).collect();
        Table::value("steps", marks, &self.misses)
    }

    /// The outermost names.
    pub(crate) fn scope(&self, tables: &[(&str, Value)]) -> Scope {
        let tables = tables.iter().map(|(name, table)| ((*name).to_owned(), table.clone()));
        Scope(Table::value("", tables.collect(), &self.misses))
    }

    /// Evaluates every expression in a tree; `None` when one of them failed.
    pub(crate) fn resolve(&self, node: &Node, scope: &Scope, out: &mut Vec<Diagnostic>) -> Option<Node> {
        if enough(out) {
            return None;
        }
        let data = match &node.data {
            Data::Text(text) if interpolate::has_expression(text) => {
                match self.text(text, node.span, scope) {
                    Ok(data) => data,
                    Err(diagnostic) => {
                        out.push(diagnostic);
                        return None;
                    }
                }
            }
            Data::List(items) => {
                let items: Vec<_> = items.iter().map(|item| self.resolve(item, scope, out)).collect();
                Data::List(items.into_iter().collect::<Option<_>>()?)
            }
            Data::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|entry| {
                        let value = self.resolve(&entry.value, scope, out)?;
                        Some(Entry { key: entry.key.clone(), key_span: entry.key_span, value })
                    })
                    .collect();
                Data::Map(entries.into_iter().collect::<Option<_>>()?)
            }
            data => data.clone(),
        };
        Some(Node::new(data, node.span))
    }

    /// [`Self::resolve`] that also says which names were asked for in vain, even where a
    /// `default(...)` made up for them.
    pub(crate) fn resolve_noting(
        &self,
        node: &Node,
        scope: &Scope,
        out: &mut Vec<Diagnostic>,
    ) -> (Option<Node>, Vec<Miss>) {
        let mut all = Vec::new();
        let mut leaves = Vec::new();
        texts(node, &mut leaves);
        for (text, span) in leaves {
            if all.len() > MAX_NOTED {
                break;
            }
            let _ = self.text_noting(text, span, scope, &mut all);
        }
        (self.resolve(node, scope, out), all)
    }

    /// Evaluates the expressions of one text with names that may not all be known yet. When a
    /// name is missing the value is not to be trusted, and the steps that the text names count.
    pub(crate) fn probe(&self, text: &str, span: Span, scope: &Scope) -> Probe {
        let mut misses = Vec::new();
        let value = self.text_noting(text, span, scope, &mut misses);
        if let (Ok(data), true) = (value, misses.is_empty()) {
            return Probe { value: Some(Node::new(data, span)), named: Vec::new() };
        }
        let mut named = Vec::new();
        for piece in interpolate::pieces(text).unwrap_or_default() {
            if let Piece::Expression(source) = piece
                && source.len() <= MAX_SOURCE
                && let Ok(expression) = self.env.compile_expression(source.trim())
            {
                let names = expression.undeclared_variables(true);
                let steps = names.iter().filter_map(|name| name.strip_prefix("steps."));
                named.extend(steps.map(|rest| rest.split('.').next().unwrap_or(rest).to_owned()));
            }
        }
        named.sort();
        named.dedup();
        Probe { value: None, named }
    }

    /// Evaluates a bare expression, written without brackets.
    pub(crate) fn bare(&self, source: &str, span: Span, scope: &Scope) -> Result<Node, Diagnostic> {
        let mut misses = Vec::new();
        self.expression(source, 0, span, scope, &mut misses).map(|data| Node::new(data, span))
    }

    fn text(&self, text: &str, span: Span, scope: &Scope) -> Result<Data, Diagnostic> {
        self.text_noting(text, span, scope, &mut Vec::new())
    }

    fn text_noting(
        &self,
        text: &str,
        span: Span,
        scope: &Scope,
        misses: &mut Vec<Miss>,
    ) -> Result<Data, Diagnostic> {
        let Ok(pieces) = interpolate::pieces(text) else {
            let place = self.inside(span, 0, "${{", "${{");
            return Err(self
                .sources
                .at(place, "this `${{` is not closed")
                .hint("end the expression with `}}`"));
        };
        if let Some(source) = interpolate::alone(&pieces) {
            return self.expression(source, 0, span, scope, misses);
        }
        let mut rendered = String::new();
        let mut number = 0;
        for piece in pieces {
            match piece {
                Piece::Plain(plain) => rendered.push_str(plain),
                Piece::Expression(source) => {
                    let data = self.expression(source, number, span, scope, misses)?;
                    number += 1;
                    if let Data::Step(id) = &data {
                        let place = self.inside(span, number - 1, source, source.trim());
                        return Err(self
                            .sources
                            .at(place, format!("step `{id}` cannot be part of a text"))
                            .hint("a step's result is only known when it has run; let the expression stand alone"));
                    }
                    match &data {
                        Data::Text(text) => rendered.push_str(text),
                        Data::NonFinite(value) => rendered.push_str(&value.to_string()),
                        other => rendered.push_str(&other.to_json().to_string()),
                    }
                    self.charge(&mut (rendered.len() as u64 / 1024), span)?;
                }
            }
        }
        self.charge(&mut (rendered.len() as u64 / 64), span)?;
        Ok(Data::Text(rendered))
    }

    /// Evaluates the expression that is the `number`th of its text.
    fn expression(
        &self,
        source: &str,
        number: usize,
        span: Span,
        scope: &Scope,
        misses: &mut Vec<Miss>,
    ) -> Result<Data, Diagnostic> {
        let trimmed = source.trim();
        let range = |from: usize, to: usize| {
            let part = trimmed.get(from..to).filter(|part| !part.is_empty()).unwrap_or(trimmed);
            self.inside_at(span, number, source, source.len() - source.trim_start().len() + from, part)
        };
        let whole = || range(0, trimmed.len());
        if trimmed.is_empty() {
            return Err(self.sources.at(span, "the expression is empty"));
        }
        if trimmed.len() > MAX_SOURCE {
            let message = format!("the expression is longer than {MAX_SOURCE} characters");
            return Err(self.sources.at(span, message));
        }
        let place_of = |error: &minijinja::Error| error.range().map_or_else(whole, |r| range(r.start, r.end));
        let compiled = self.env.compile_expression(trimmed).map_err(|error| {
            let detail = error.detail().unwrap_or("it cannot be read").to_owned();
            self.sources.at(place_of(&error), format!("bad expression: {detail}"))
        })?;
        self.misses.take();
        let result = compiled.eval(scope.0.clone());
        // Functions are looked up among the names first; those are no misses.
        let globals: Vec<&str> = self.env.globals().map(|(name, _)| name).collect();
        let mut new = self.misses.take();
        new.retain(|miss| !(miss.parent.is_empty() && globals.contains(&miss.name.as_str())));
        let last = new.last().cloned();
        misses.extend(new);
        let undefined = |place: Span| match &last {
            Some(miss) => {
                let path = miss.path();
                let place = trimmed.find(&path).map_or(place, |at| range(at, at + path.len()));
                self.unknown(miss, place)
            }
            None => self.sources.at(place, "the expression has no value"),
        };
        match result {
            Ok(value) if value.is_undefined() => Err(undefined(whole())),
            Ok(value) => {
                let mut budget = MAX_RESULT;
                self.data(&value, 0, &mut budget, whole())
            }
            Err(error) => {
                let place = place_of(&error);
                Err(match error.kind() {
                    ErrorKind::UndefinedError if last.is_some() => undefined(place),
                    ErrorKind::OutOfFuel => self
                        .sources
                        .at(place, "the expression takes too much work")
                        .hint("expressions choose and combine values; leave computing to steps"),
                    kind => {
                        let detail = error.detail().map_or_else(|| kind.to_string(), str::to_owned);
                        self.sources.at(place, format!("bad expression: {detail}"))
                    }
                })
            }
        }
    }

    /// The message for a missing name.
    fn unknown(&self, miss: &Miss, place: Span) -> Diagnostic {
        let name = &miss.name;
        let known = || miss.known.iter().map(String::as_str);
        let (message, hint) = match miss.parent.as_str() {
            "" => {
                let hint = if name == "steps" {
                    Some("steps can be referred to under `with` and `matrix` only".to_owned())
                } else if name == "matrix" {
                    Some("this step has no `matrix`".to_owned())
                } else {
                    suggest(name, known())
                };
                (format!("unknown name `{name}`"), hint)
            }
            "params" => (format!("unknown parameter `{name}`"), suggest(name, known())),
            "matrix" => {
                let none = "this step has no `matrix` and inherits none".to_owned();
                (format!("unknown matrix axis `{name}`"), suggest(name, known()).or(Some(none)))
            }
            "steps" => (format!("unknown step `{name}`"), suggest(name, known())),
            parent if parent.starts_with("steps.") => {
                let hint = format!("`${{{{ {parent} }}}}` stands for the step's whole result");
                (format!("`{parent}` has no field `{name}`"), Some(hint))
            }
            parent => (format!("`{parent}` has no field `{name}`"), suggest(name, known())),
        };
        let hint = match closest(name, known()) {
            Some(close) if !miss.parent.is_empty() => {
                Some(format!("did you mean `{}.{close}`?", miss.parent))
            }
            _ => hint,
        };
        self.sources.at(place, message).maybe_hint(hint)
    }

    /// Back from minijinja, within bounds.
    fn data(&self, value: &Value, depth: usize, budget: &mut u64, place: Span) -> Result<Data, Diagnostic> {
        let wrong = |what: &str| self.sources.at(place, format!("bad expression: {what}"));
        if depth > MAX_DEPTH {
            return Err(wrong("its value is nested too deeply"));
        }
        let weight = 1 + value.as_str().map_or(0, |text| text.len() as u64 / 64);
        self.charge(&mut weight.clone(), place)?;
        *budget = budget.checked_sub(weight).ok_or_else(|| wrong("its value is too large"))?;
        if let Some(mark) = value.downcast_object_ref::<StepMark>() {
            return Ok(Data::Step(mark.id.clone()));
        }
        Ok(match value.kind() {
            ValueKind::None => Data::Null,
            ValueKind::Bool => Data::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => match (value.as_i64(), u64::try_from(value.clone())) {
                (Some(number), _) => Data::Number(number.into()),
                (None, Ok(number)) => Data::Number(number.into()),
                _ => return Err(wrong("the number is too large")),
            },
            ValueKind::Number => {
                let number = f64::try_from(value.clone()).map_err(|_| wrong("not a number"))?;
                Number::from_f64(number).map_or(Data::NonFinite(number), Data::Number)
            }
            ValueKind::String => Data::Text(value.as_str().unwrap_or_default().to_owned()),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut list = Vec::new();
                for item in value.try_iter().map_err(|error| wrong(&error.to_string()))? {
                    list.push(Node::new(self.data(&item, depth + 1, budget, place)?, place));
                }
                Data::List(list)
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter().map_err(|error| wrong(&error.to_string()))? {
                    let item = value.get_item(&key).map_err(|error| wrong(&error.to_string()))?;
                    let data = self.data(&item, depth + 1, budget, place)?;
                    let key = key.to_string();
                    if key == crate::params::REF_KEY {
                        return Err(wrong("the key `$step` is reserved"));
                    }
                    entries.push(Entry { key, key_span: place, value: Node::new(data, place) });
                }
                Data::Map(entries)
            }
            ValueKind::Undefined => return Err(wrong("a part of its value is undefined")),
            other => {
                return Err(wrong(&format!("its value is of kind `{other}`, which a recipe cannot hold")));
            }
        })
    }

    /// Counts work over the whole recipe.
    fn charge(&self, amount: &mut u64, place: Span) -> Result<(), Diagnostic> {
        let total = self.work.get().saturating_add(*amount);
        self.work.set(total);
        if total > MAX_WORK {
            return Err(self.sources.at(place, "the expressions of this recipe make too many values"));
        }
        Ok(())
    }

    /// The place of `part` inside the `number`th expression `source` of the text at `span`.
    fn inside(&self, span: Span, number: usize, source: &str, part: &str) -> Span {
        let offset = source.find(part).unwrap_or(0);
        self.inside_at(span, number, source, offset, part)
    }

    /// The same, `offset` bytes into the expression. Falls back to the whole value where YAML
    /// wrote the expression differently (escapes, folding).
    fn inside_at(&self, span: Span, number: usize, source: &str, offset: usize, part: &str) -> Span {
        let raw = self.sources.raw(span);
        let found = match raw.match_indices("${{").nth(number) {
            Some((at, _)) if source == "${{" => Some(at),
            Some((at, _)) if raw[at + 3..].starts_with(source) => Some(at + 3 + offset),
            None if raw.trim_matches(['"', '\'']) == source => raw.find(source).map(|at| at + offset),
            _ => None,
        };
        let Some(at) = found.filter(|at| raw.is_char_boundary(*at)) else { return span };
        let before = &raw[..at];
        let (line, column) = match before.rfind('\n') {
            Some(newline) => (
                span.line + before.matches('\n').count() as u32,
                before[newline + 1..].chars().count() as u32 + 1,
            ),
            None => (span.line, span.column + before.chars().count() as u32),
        };
        let width = part.lines().next().unwrap_or_default().chars().count() as u32;
        Span { line, column, width, start: span.start + at as u32, ..span }
    }
}

/// All texts of a tree.
pub(crate) fn texts<'n>(node: &'n Node, out: &mut Vec<(&'n str, Span)>) {
    match &node.data {
        Data::Text(text) => out.push((text, node.span)),
        Data::List(items) => items.iter().for_each(|item| texts(item, out)),
        Data::Map(entries) => entries.iter().for_each(|entry| texts(&entry.value, out)),
        _ => {}
    }
}
