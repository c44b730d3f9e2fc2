//! Task files that an evaluation names: read, checked, and put into its parameters whole, so that what
//! they say counts in the step's key and where they lie does not.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    fields::{clean, neighbour},
    typed::{Part, Subject, Typed},
};
use crate::{
    diagnostic::Diagnostic,
    params::{TaskDefinition, task_schema},
    recipe::{
        self,
        source::{Sources, Span},
        tree::{Data, Entry, Node},
    },
};

/// Fields that only this module sets.
const HIDDEN: [&str; 3] = ["definition", "rows", "fewshot_rows"];
/// Rows that task files name, of all tasks.
const DATA: &str = "task_data";

/// What a task file came to.
struct Loaded {
    task: TaskDefinition,
    rows: Option<PathBuf>,
    fewshot_rows: Option<PathBuf>,
}

/// Replaces every task file in `tasks` of an evaluation by what it says.
pub(super) fn expand(typed: &mut Typed) {
    if let Some(span) = typed.tree.entry(DATA).map(|entry| entry.key_span) {
        typed.report(span, format!("unknown field `{DATA}`"), Some("rows are named by `dataset`".to_owned()));
    }
    let span = typed.tree.span;
    let mut data: Vec<PathBuf> = Vec::new();
    let Data::Map(entries) = &mut typed.tree.data else { return };
    entries.retain(|entry| entry.key != DATA);
    let Some(place) = entries.iter().position(|entry| entry.key == "tasks") else { return };
    let Data::List(tasks) = &mut entries[place].value.data else { return };
    let tasks = std::mem::take(tasks);
    let tasks =
        tasks.into_iter().enumerate().map(|(index, task)| one(typed, index, task, &mut data)).collect();
    let Data::Map(entries) = &mut typed.tree.data else { return };
    entries[place].value.data = Data::List(tasks);
    if !data.is_empty() {
        let files = data.iter().map(|file| text(&file.to_string_lossy(), span)).collect();
        entries.push(entry(DATA, Node::new(Data::List(files), span)));
    }
}

/// One entry of `tasks`.
fn one(typed: &mut Typed, index: usize, task: Node, data: &mut Vec<PathBuf>) -> Node {
    let span = task.span;
    let mut entries = match task.data {
        Data::Text(name) => vec![entry("task", text(&name, span))],
        Data::Map(entries) => entries,
        _ => return task,
    };
    for hidden in entries.iter().filter(|entry| HIDDEN.contains(&entry.key.as_str())) {
        let message = format!("unknown field `{}` in `tasks.{index}`", hidden.key);
        typed.report(hidden.key_span, message, Some("write a task file, and name it in `task`".to_owned()));
    }
    entries.retain(|entry| !HIDDEN.contains(&entry.key.as_str()));
    let named = entries.iter().position(|entry| entry.key == "task");
    let named = named.and_then(|place| Some((place, entries[place].value.text()?.to_owned())));
    let Some((place, name)) = named else { return Node::new(Data::Map(entries), span) };
    let mut own_name = name.clone();
    if is_path(&name) {
        let at = entries.remove(place).value.span;
        match load(typed, &name, at) {
            Some(loaded) => {
                own_name.clone_from(&loaded.task.task);
                let definition = serde_json::to_value(&loaded.task).expect("a task is plain data");
                entries.push(entry("definition", from_json(&definition, at)));
                for (field, file) in [("rows", loaded.rows), ("fewshot_rows", loaded.fewshot_rows)] {
                    let Some(file) = file else { continue };
                    let place = data.iter().position(|other| *other == file).unwrap_or_else(|| {
                        data.push(file);
                        data.len() - 1
                    });
                    entries.push(entry(field, Node::new(Data::Number(place.into()), at)));
                }
            }
            // It was reported; some task must stand here, so that nothing else is said about it.
            None => typed.failed = true,
        }
    }
    if !entries.iter().any(|entry| entry.key == "name") {
        entries.push(entry("name", text(&own_name, span)));
    }
    Node::new(Data::Map(entries), span)
}

fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml")
}

/// Reads and checks a task file.
fn load(typed: &mut Typed, written: &str, at: Span) -> Option<Loaded> {
    let path = clean(&typed.sources.beside(at, Path::new(written)));
    if !path.exists() {
        let hint = neighbour(&path, Path::new(written))
            .unwrap_or_else(|| "relative paths start at the recipe's folder".to_owned());
        typed.report(at, format!("no task file `{written}`"), Some(hint));
        return None;
    }
    let mut sources = Sources::default();
    let mut out = Vec::new();
    let loaded = read(&mut sources, &path, &mut out);
    let failed = !out.is_empty();
    typed.out.extend(out);
    if failed { None } else { loaded }
}

fn read(sources: &mut Sources, path: &Path, out: &mut Vec<Diagnostic>) -> Option<Loaded> {
    // The reader of recipes calls every file one.
    let named = |mut diagnostic: Diagnostic| {
        diagnostic.message = diagnostic.message.replace("recipe", "task file");
        diagnostic.hint =
            diagnostic.hint.filter(|hint| !hint.contains("recipe") && !hint.contains("`params`"));
        if diagnostic.hint.is_none() && diagnostic.excerpt.contains("{{") {
            diagnostic.hint = Some("put a template in quotes: \"{{ ... }}\"".to_owned());
        }
        diagnostic
    };
    let file = sources.read(path).map_err(|diagnostic| out.push(named(diagnostic))).ok()?;
    let tree = recipe::parse(sources, file).map_err(|diagnostic| out.push(named(diagnostic))).ok()?;
    if !matches!(tree.data, Data::Map(_)) {
        let message = format!("a task file is a mapping, found {}", tree.describe());
        out.push(sources.at(tree.span, message).hint("start with `task: <name>`"));
        return None;
    }
    duplicates(sources, &tree, out);
    if !out.is_empty() {
        return None;
    }
    let subject = Subject {
        name: "a task file".to_owned(),
        under: "",
        of: "in a task file".to_owned(),
        whole: "the task",
        schema: &task_schema,
        step_ids: Vec::new(),
    };
    let mut typed = Typed { subject, sources: &*sources, tree, out, failed: false };
    let task = typed.parse(serde_path_to_error::deserialize::<_, TaskDefinition>)?;
    typed.problems(task.check());
    let (rows, fewshot_rows) = task.data_files();
    let mut found = |file: Option<&PathBuf>| file.and_then(|file| data_file(&mut typed, &task, file));
    let (rows, fewshot_rows) = (found(rows), found(fewshot_rows));
    (!typed.failed).then_some(Loaded { task, rows, fewshot_rows })
}

/// The absolute path of a file of rows, which must be there.
fn data_file(typed: &mut Typed, task: &TaskDefinition, file: &PathBuf) -> Option<PathBuf> {
    let files = &task.dataset_kwargs.as_ref()?.data_files;
    let split = files.iter().find(|(_, other)| *other == file).map(|(split, _)| split.clone())?;
    let at = ["dataset_kwargs", "data_files", &split].map(|part| Part::Key(part.to_owned()));
    let (span, _) = typed.locate(&at);
    let absolute = clean(&typed.sources.folder(span).join(file));
    if absolute.is_file() {
        return Some(absolute);
    }
    if absolute.exists() {
        typed.report(span, format!("`{}` is not a file with rows", file.display()), None);
        return None;
    }
    let hint = neighbour(&absolute, file)
        .unwrap_or_else(|| "relative paths start at the task file's folder".to_owned());
    typed.report(span, format!("no file `{}`", file.display()), Some(hint));
    None
}

/// Reports keys given twice, with both places.
fn duplicates(sources: &Sources, node: &Node, out: &mut Vec<Diagnostic>) {
    match &node.data {
        Data::List(items) => items.iter().for_each(|item| duplicates(sources, item, out)),
        Data::Map(entries) => {
            let mut first = std::collections::HashMap::new();
            for entry in entries {
                if let Some(span) = first.insert(entry.key.as_str(), entry.key_span) {
                    let hint = format!("the first one is at {}; remove one of them", sources.place(span));
                    let message = format!("key `{}` is given twice", entry.key);
                    out.push(sources.at(entry.key_span, message).hint(hint));
                }
                duplicates(sources, &entry.value, out);
            }
        }
        _ => {}
    }
}

fn entry(key: &str, value: Node) -> Entry {
    Entry { key: key.to_owned(), key_span: value.span, value }
}

fn text(text: &str, span: Span) -> Node {
    Node::new(Data::Text(text.to_owned()), span)
}

/// A value whose every part stands at one place.
fn from_json(value: &Value, span: Span) -> Node {
    let data = match value {
        Value::Null => Data::Null,
        Value::Bool(value) => Data::Bool(*value),
        Value::Number(value) => Data::Number(value.clone()),
        Value::String(text) => Data::Text(text.clone()),
        Value::Array(items) => Data::List(items.iter().map(|item| from_json(item, span)).collect()),
        Value::Object(fields) => {
            Data::Map(fields.iter().map(|(key, value)| entry(key, from_json(value, span))).collect())
        }
    };
    Node::new(data, span)
}
