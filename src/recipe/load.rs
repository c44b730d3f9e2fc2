//! [`load`]: the road from a file's name to a [`Recipe`].

use std::path::Path;

use super::{
    Recipe, document,
    expression::Evaluator,
    extends, overrides, params, shape,
    source::Sources,
    tree::{Data, Node},
};
use crate::{
    diagnostic::{self, Diagnostic},
    error::Error,
};

/// Reads a recipe, what it includes and the `--set` arguments.
///
/// # Errors
/// [`Error::Recipe`] with every mistake found, each at its place.
pub fn load(path: &Path, sets: &[String]) -> Result<Recipe, Error> {
    let mut out = Vec::new();
    let recipe = read(path, sets, &mut out);
    match recipe {
        Some(recipe) if out.is_empty() => Ok(recipe),
        _ => Err(Error::Recipe(diagnostic::render(out))),
    }
}

fn read(path: &Path, sets: &[String], out: &mut Vec<Diagnostic>) -> Option<Recipe> {
    let mut sources = Sources::default();
    let mut root = document::read(&mut sources, path, out);
    if sources.is_empty() || !out.is_empty() && root.get("steps").and_then(Node::entries)?.is_empty() {
        return None;
    }
    for argument in sets {
        if let Err(diagnostic) = overrides::apply(&mut root, &mut sources, argument) {
            out.push(diagnostic);
        }
    }
    for key in ["params", "defaults", "steps"] {
        let value = root.get(key)?;
        if !matches!(value.data, Data::Map(_)) {
            out.push(
                sources.at(value.span, format!("`{key}` must be a mapping, found {}", value.describe())),
            );
        }
    }
    extends::apply(&mut root, &sources, out);
    let defaults = shape::defaults(&sources, &root, out);
    let steps = shape::steps(&sources, &root, out);
    let evaluator = Evaluator::new(&sources);
    let entries = root.get("params").and_then(Node::entries).unwrap_or_default();
    let params = params::compute(&evaluator, &sources, entries, out);
    let name = name(&sources, &root, path, out);
    let description = match root.get("description").map(|node| (node, &node.data)) {
        None | Some((_, Data::Null)) => None,
        Some((_, Data::Text(text))) => Some(text.clone()),
        Some((node, _)) => {
            let message = format!("`description` must be a text, found {}", node.describe());
            out.push(sources.at(node.span, message));
            None
        }
    };
    drop(evaluator);
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Some(Recipe { name, description, path, sources, params, defaults, steps })
}

/// `name:` or the file's name, safe as the name of a folder.
fn name(sources: &Sources, root: &Node, path: &Path, out: &mut Vec<Diagnostic>) -> String {
    let fits = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let stem = || {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let safe: String = stem.chars().map(|c| if fits(c) { c } else { '_' }).take(64).collect();
        if safe.trim_start_matches('.').is_empty() { "recipe".to_owned() } else { safe }
    };
    match root.get("name") {
        None => stem(),
        Some(node) => match node.text() {
            Some(text)
                if !text.is_empty()
                    && text.chars().all(fits)
                    && !text.starts_with('.')
                    && text.chars().count() <= 64 =>
            {
                text.to_owned()
            }
            _ => {
                let message =
                    format!("`name` must be a text that can name a folder, found {}", node.describe());
                out.push(
                    sources
                        .at(node.span, message)
                        .hint("use letters, digits, `_`, `-` and `.`, at most 64, not beginning with `.`"),
                );
                stem()
            }
        },
    }
}
