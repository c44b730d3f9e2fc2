//! The names that an expression may use, as minijinja objects. They note every name that was asked
//! for in vain, so that the message can say which one and what was meant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};

use super::tree::{Data, Node};

/// A name that was not there.
#[derive(Debug, Clone)]
pub(crate) struct Miss {
    /// Dotted path of the table, e.g. `params.method`; empty for the outermost names.
    pub(crate) parent: String,
    /// The name asked for.
    pub(crate) name: String,
    /// What the table holds.
    pub(crate) known: Arc<[String]>,
}

impl Miss {
    /// The path as it was written.
    pub(crate) fn path(&self) -> String {
        if self.parent.is_empty() { self.name.clone() } else { format!("{}.{}", self.parent, self.name) }
    }
}

/// Names asked for in vain since the last [`Misses::take`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Misses(Arc<Mutex<Vec<Miss>>>);

impl Misses {
    fn note(&self, miss: Miss) {
        if let Ok(mut misses) = self.0.lock() {
            misses.push(miss);
        }
    }

    /// Empties the list.
    pub(crate) fn take(&self) -> Vec<Miss> {
        self.0.lock().map(|mut misses| std::mem::take(&mut *misses)).unwrap_or_default()
    }
}

/// A mapping that notes misses.
#[derive(Debug)]
pub(crate) struct Table {
    path: String,
    values: Vec<Value>,
    names: Arc<[String]>,
    index: HashMap<String, usize>,
    misses: Misses,
}

impl Table {
    /// A table called `path` in messages.
    pub(crate) fn new(path: &str, entries: Vec<(String, Value)>, misses: &Misses) -> Self {
        let (names, values): (Vec<String>, Vec<_>) = entries.into_iter().unzip();
        let index = names.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        Self { path: path.to_owned(), values, names: names.into(), index, misses: misses.clone() }
    }

    /// The same as a value.
    pub(crate) fn value(path: &str, entries: Vec<(String, Value)>, misses: &Misses) -> Value {
        Value::from_object(Self::new(path, entries, misses))
    }
}

impl Object for Table {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let found = self.index.get(key).map(|at| self.values[*at].clone());
        if found.is_none() {
            let (parent, name) = (self.path.clone(), key.to_owned());
            self.misses.note(Miss { parent, name, known: Arc::clone(&self.names) });
        }
        found
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.names.iter().map(Value::from).collect())
    }
}

/// What `steps.<id>` stands for.
#[derive(Debug)]
pub(crate) struct StepMark {
    /// The step's id.
    pub(crate) id: String,
    misses: Misses,
}

impl StepMark {
    /// The mark as a value.
    pub(crate) fn value(id: &str, misses: &Misses) -> Value {
        Value::from_object(Self { id: id.to_owned(), misses: misses.clone() })
    }
}

impl Object for StepMark {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let parent = format!("steps.{}", self.id);
        self.misses.note(Miss { parent, name: key.to_string(), known: Arc::default() });
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Recipe data as an expression sees it.
pub(crate) fn to_value(node: &Node, path: &str, misses: &Misses) -> Value {
    match &node.data {
        Data::Null => Value::from(()),
        Data::Bool(value) => Value::from(*value),
        Data::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Value::from(value),
            (_, Some(value), _) => Value::from(value),
            (_, _, value) => Value::from(value.unwrap_or(f64::NAN)),
        },
        Data::NonFinite(value) => Value::from(*value),
        Data::Text(text) => Value::from(text.as_str()),
        Data::List(items) => items.iter().map(|item| to_value(item, path, misses)).collect(),
        Data::Map(entries) => {
            let inner = entries
                .iter()
                .map(|entry| {
                    let path = format!("{path}.{}", entry.key);
                    (entry.key.clone(), to_value(&entry.value, &path, misses))
                })
                .collect();
            Table::value(path, inner, misses)
        }
        Data::Step(id) => StepMark::value(id, misses),
    }
}
