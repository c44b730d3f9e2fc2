//! A recipe's values with their places. Every later stage works on this tree, so that any of them
//! can point at the text.

use serde_json::{Map, Number, Value};

use super::source::Span;
use crate::params::REF_KEY;

/// A value and where it was written. A value that an expression made stands where the expression
/// stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) span: Span,
}

/// What YAML and expressions can hold.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    /// NaN or an infinity, which JSON cannot hold.
    NonFinite(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text. Keys are unique after loading.
    Map(Vec<Entry>),
    /// The artifact of a step (before binding: a step id; after: a node id).
    Step(String),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(data: Data, span: Span) -> Self {
        Self { data, span }
    }

    /// The entries of a mapping.
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.data {
            Data::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value under a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of a mapping.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// Adds what another mapping has and this one lacks, in mappings below too.
    pub(crate) fn fill_from(&mut self, other: &Node) {
        if let (Data::Map(own), Data::Map(more)) = (&mut self.data, &other.data) {
            more.iter().for_each(|entry| fill(own, entry));
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Names the value for a message, e.g. ``text `abc` ``.
    pub(crate) fn describe(&self) -> String {
        match &self.data {
            Data::Null => "nothing".to_owned(),
            Data::Bool(value) => format!("`{value}`"),
            Data::Number(value) => format!("number `{value}`"),
            Data::NonFinite(value) => format!("`{value}`"),
            Data::Text(text) => {
                let short: String = text.chars().take(40).collect();
                let dots = if short.len() < text.len() { "..." } else { "" };
                format!("text `{short}{dots}`")
            }
            Data::List(_) => "a list".to_owned(),
            Data::Map(_) => "a mapping".to_owned(),
            Data::Step(id) => format!("step `{id}`"),
        }
    }

    /// The value without its places.
    pub(crate) fn to_json(&self) -> Value {
        self.data.to_json()
    }

    /// Applies `change` to every span.
    pub(crate) fn map_spans(&mut self, change: &impl Fn(&mut Span)) {
        change(&mut self.span);
        match &mut self.data {
            Data::List(items) => items.iter_mut().for_each(|item| item.map_spans(change)),
            Data::Map(entries) => {
                for entry in entries {
                    change(&mut entry.key_span);
                    entry.value.map_spans(change);
                }
            }
            _ => {}
        }
    }
}

/// Adds an entry that a mapping lacks; where both hold mappings, what those lack.
pub(crate) fn fill(entries: &mut Vec<Entry>, more: &Entry) {
    match entries.iter_mut().find(|entry| entry.key == more.key) {
        None => entries.push(more.clone()),
        Some(entry) => entry.value.fill_from(&more.value),
    }
}

impl Data {
    /// The value without places; NaN and infinities become null.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Data::Null | Data::NonFinite(_) => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(value) => Value::Number(value.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Node::to_json).collect(),
            Data::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
            Data::Step(id) => {
                let mut map = Map::new();
                map.insert(REF_KEY.to_owned(), Value::String(id.clone()));
                Value::Object(map)
            }
        }
    }
}
