//! `--set path=value`: changes the tree before anything is evaluated. A value is YAML, so `0`,
//! `false` and `null` are themselves.

use super::{
    source::{Sources, Span},
    tree::{Data, Entry, Node},
    yaml,
};
use crate::diagnostic::{Diagnostic, closest, suggest};

/// Applies one argument to the merged recipe.
pub(crate) fn apply(root: &mut Node, sources: &mut Sources, argument: &str) -> Result<(), Diagnostic> {
    let file =
        sources.add("--set".to_owned(), sources.folder(Span::default()).to_owned(), argument.to_owned());
    let whole = Span { file, line: 1, column: 1, width: argument.chars().count() as u32, start: 0, end: 0 };
    let Some((path, _)) = argument.split_once('=') else {
        return Err(sources
            .at(whole, format!("expected `path=value`, found `{argument}`"))
            .hint("for example --set params.pc=0.2"));
    };
    let value = yaml::parse_part(sources, file, path.len() + 1)?;
    let mut segments = Vec::new();
    let mut column = 1;
    for name in path.split('.') {
        let width = name.chars().count() as u32;
        segments.push((name.trim(), Span { column, width, ..whole }));
        column += width + 1;
    }
    if let Some((_, span)) = segments.iter().find(|(name, _)| name.is_empty()) {
        return Err(sources.at(*span, "the path has an empty part").hint("for example --set params.pc=0.2"));
    }
    put(root, &segments, value, sources)
}

/// Keys may be added where a later check knows which ones exist; everywhere else a missing key is
/// a slip of the pen.
fn may_add(path: &[(&str, Span)]) -> bool {
    match path {
        [(key, _)] => ["name", "description"].contains(key),
        [("defaults", _), ..] => true,
        [("steps", _), _, _, ..] => true,
        _ => false,
    }
}

/// The keys of a parameter are the recipe's own; that they are no list of what is legal must be said.
fn only_what_is_there<'k>(path: &str, keys: impl Iterator<Item = &'k str>) -> String {
    let keys = keys.collect::<Vec<_>>().join(", ");
    format!(
        "`--set` changes what the recipe holds, and its `{path}` holds: {keys}; write a new key into the recipe"
    )
}

fn put(root: &mut Node, segments: &[(&str, Span)], value: Node, sources: &Sources) -> Result<(), Diagnostic> {
    let mut node = root;
    for (at, (name, span)) in segments.iter().enumerate() {
        let before = segments[..at].iter().map(|(name, _)| *name).collect::<Vec<_>>().join(".");
        if matches!(node.data, Data::Null) && may_add(&segments[..=at]) {
            node.data = Data::Map(Vec::new());
        }
        let found = node.describe();
        node = match &mut node.data {
            Data::Map(entries) => {
                if !entries.iter().any(|entry| entry.key == *name) {
                    if !may_add(&segments[..=at]) {
                        let what = match before.as_str() {
                            "" => format!("the recipe has no key `{name}`"),
                            "params" => format!("unknown parameter `{name}`"),
                            "steps" => format!("unknown step `{name}`"),
                            path => format!("`{path}` has no key `{name}`"),
                        };
                        let known = entries.iter().map(|entry| entry.key.as_str());
                        let hint =
                            match before.starts_with("params.") && closest(name, known.clone()).is_none() {
                                true => Some(only_what_is_there(&before, known)),
                                false => suggest(name, known),
                            };
                        return Err(sources.at(*span, what).maybe_hint(hint));
                    }
                    let value = Node::new(Data::Null, *span);
                    entries.push(Entry { key: (*name).to_owned(), key_span: *span, value });
                }
                let entry = entries.iter_mut().find(|entry| entry.key == *name);
                &mut entry.expect("present or just added").value
            }
            Data::List(items) => {
                let len = items.len();
                match name.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                    Some(item) => item,
                    None => {
                        return Err(sources
                            .at(*span, format!("`{before}` has no item `{name}`"))
                            .hint(format!("it is a list of {len}, counted from 0")));
                    }
                }
            }
            _ => return Err(sources.at(*span, format!("`{before}` is {found}, it has no key `{name}`"))),
        };
    }
    *node = value;
    Ok(())
}
