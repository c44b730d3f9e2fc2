//! Matrix cells: axes, their values and how they are written in a node id.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    digest::Digest,
    recipe::tree::{Data, Node},
};

/// Longest value in a node id; ids name folders.
const MAX_LABEL: usize = 40;

/// One value of one axis.
#[derive(Debug)]
pub(super) struct AxisValue {
    pub(super) node: Node,
    /// How ids show it.
    pub(super) label: String,
    /// Equal for equal values.
    pub(super) identity: Arc<str>,
}

/// Axis names and values, in the order of the id.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell(pub(super) Vec<(Arc<str>, Arc<AxisValue>)>);

impl AxisValue {
    pub(super) fn new(node: Node) -> Self {
        let label = label(&node);
        let identity = node.to_json().to_string().into();
        Self { node, label, identity }
    }
}

impl Cell {
    pub(super) fn get(&self, axis: &str) -> Option<&Arc<AxisValue>> {
        self.0.iter().find(|(name, _)| &**name == axis).map(|(_, value)| value)
    }

    /// Whether both have the same value on every axis that they share.
    pub(super) fn agrees(&self, other: &Cell) -> bool {
        self.0.iter().all(|(axis, value)| other.get(axis).is_none_or(|its| its.identity == value.identity))
    }

    /// Whether it has every value of another cell, or one of that name.
    pub(super) fn has(&self, other: &Cell) -> bool {
        other.0.iter().all(|(axis, wanted)| {
            self.get(axis)
                .is_some_and(|value| value.identity == wanted.identity || value.label == wanted.label)
        })
    }

    /// This cell with the other's further axes.
    pub(super) fn joined(&self, other: &Cell) -> Cell {
        let new = other.0.iter().filter(|(axis, _)| self.get(axis).is_none());
        Cell(self.0.iter().chain(new).cloned().collect())
    }

    /// `axis=value,axis=value`.
    pub(super) fn label(&self) -> String {
        self.0.iter().map(|(axis, value)| format!("{axis}={}", value.label)).collect::<Vec<_>>().join(",")
    }

    /// The node id of a step in this cell.
    pub(super) fn id(&self, step: &str) -> String {
        if self.0.is_empty() { step.to_owned() } else { format!("{step}[{}]", self.label()) }
    }

    /// The values; a step stands as its id.
    pub(super) fn to_json(&self) -> BTreeMap<String, Value> {
        let value = |value: &AxisValue| match &value.node.data {
            Data::Step(id) => Value::String(id.clone()),
            _ => value.node.to_json(),
        };
        self.0.iter().map(|(axis, axis_value)| (axis.to_string(), value(axis_value))).collect()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(axis, value)| (&**axis, &value.node))
    }
}

/// A value as part of an id: short, and safe as a part of a file name.
fn label(node: &Node) -> String {
    let text = words(node);
    let fits = |c: char| c.is_alphanumeric() || "._+=-".contains(c);
    let safe: String = text.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if safe.chars().count() <= MAX_LABEL {
        return safe;
    }
    let digest = Digest::of_bytes(text.as_bytes());
    format!("{}-{}", safe.chars().take(MAX_LABEL - 9).collect::<String>(), &digest.short()[..8])
}

fn words(node: &Node) -> String {
    match &node.data {
        Data::Null => "null".to_owned(),
        Data::Bool(value) => value.to_string(),
        Data::Number(value) => value.to_string(),
        Data::NonFinite(value) => value.to_string(),
        Data::Text(text) if text.is_empty() => "_".to_owned(),
        Data::Text(text) => text.clone(),
        Data::Step(id) => id.clone(),
        Data::List(items) if items.is_empty() => "none".to_owned(),
        Data::List(items) => items.iter().map(words).collect::<Vec<_>>().join("+"),
        Data::Map(entries) => {
            match entries.iter().find(|entry| entry.key == "name" && entry.value.text().is_some()) {
                Some(name) => words(&name.value),
                None => entries
                    .iter()
                    .map(|entry| format!("{}={}", entry.key, words(&entry.value)))
                    .collect::<Vec<_>>()
                    .join("+"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::source::{Sources, Span};

    fn value(yaml: &str) -> AxisValue {
        let mut sources = Sources::default();
        let file = sources.add("r".to_owned(), "/".into(), yaml.to_owned());
        AxisValue::new(crate::recipe::parse(&sources, file).expect("valid YAML"))
    }

    #[test]
    fn labels_are_short_and_safe() {
        assert_eq!(value("{pc: 0.2, pi: 0.1}").label, "pc=0.2+pi=0.1");
        assert_eq!(value("{name: lora, pc: 0}").label, "lora");
        assert_eq!(value("../a b").label, ".._a_b");
        assert_eq!(value("[1, 2]").label, "1+2");
        let long = value(&"x".repeat(500)).label;
        assert_eq!(long.len(), MAX_LABEL);
        assert_ne!(long, value(&"x".repeat(501)).label);
    }

    #[test]
    fn cells_agree_on_shared_axes_only() {
        let cell = |pairs: &[(&str, &str)]| {
            Cell(pairs.iter().map(|(axis, yaml)| (Arc::from(*axis), Arc::new(value(yaml)))).collect())
        };
        let a = cell(&[("seed", "1"), ("method", "lora")]);
        assert!(a.agrees(&cell(&[("seed", "1"), ("task", "x")])));
        assert!(!a.agrees(&cell(&[("seed", "2")])));
        assert!(a.agrees(&Cell(vec![(
            Arc::from("method"),
            Arc::new(AxisValue::new(Node::new(
                Data::Text("lora".to_owned()),
                Span { line: 9, ..Span::default() }
            )))
        )])));
        assert_eq!(a.joined(&cell(&[("seed", "1"), ("task", "x")])).label(), "seed=1,method=lora,task=x");
    }
}
