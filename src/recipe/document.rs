//! Merges a recipe and the files that it includes into one tree. Knows the top-level keys, not
//! what stands below them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    source::{Sources, Span},
    tree::{Data, Entry, Node},
    yaml,
};
use crate::diagnostic::{Diagnostic, enough, suggest};

/// The keys of a recipe.
pub(crate) const TOP_KEYS: [&str; 7] =
    ["version", "name", "description", "include", "params", "defaults", "steps"];
/// The keys that are merged key by key.
const MERGED: [&str; 3] = ["params", "defaults", "steps"];
/// Keeps work that grows with the square of it short.
const MAX_ENTRIES: usize = 2_000;
const MAX_FILES: usize = 64;
const MAX_INCLUDE_DEPTH: usize = 16;

/// Reads `path` and everything it includes. The result has exactly the keys `params`, `defaults`
/// and `steps` (mappings), and `name` and `description` where given.
pub(crate) fn read(sources: &mut Sources, path: &Path, out: &mut Vec<Diagnostic>) -> Node {
    let mut merged = MERGED.map(|_| Vec::new());
    let mut own = Vec::new();
    let mut seen = BTreeSet::new();
    let mut reader = Reader { sources, out, seen: &mut seen };
    reader.file(path, None, 0, &mut merged, &mut own);
    for (key, entries) in MERGED.iter().zip(merged) {
        let span = Span { line: 1, column: 1, ..Span::default() };
        own.push(Entry {
            key: (*key).to_owned(),
            key_span: span,
            value: Node::new(Data::Map(entries), span),
        });
    }
    Node::new(Data::Map(own), Span::default())
}

struct Reader<'r> {
    sources: &'r mut Sources,
    out: &'r mut Vec<Diagnostic>,
    seen: &'r mut BTreeSet<PathBuf>,
}

impl Reader<'_> {
    fn file(
        &mut self,
        path: &Path,
        from: Option<Span>,
        depth: usize,
        merged: &mut [Vec<Entry>; 3],
        own: &mut Vec<Entry>,
    ) {
        // A file that two others include counts once.
        if !self.seen.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) {
            return;
        }
        if let Some(span) = from
            && (depth > MAX_INCLUDE_DEPTH || self.seen.len() > MAX_FILES)
        {
            self.out.push(self.sources.at(span, "recipes include each other too often"));
            return;
        }
        let file = match self.sources.read(path) {
            Ok(file) => file,
            Err(diagnostic) => {
                self.out.push(match from {
                    Some(span) => {
                        let message = diagnostic.message.replace("the recipe", "the included recipe");
                        let hint = "the path starts at the folder of the recipe that includes it";
                        self.sources.at(span, message).hint(hint)
                    }
                    None => diagnostic,
                });
                return;
            }
        };
        let node = match yaml::parse(self.sources, file) {
            Ok(node) => node,
            Err(diagnostic) => {
                self.out.push(diagnostic);
                return;
            }
        };
        let entries = match node.data {
            Data::Map(entries) => entries,
            Data::Null => {
                let name = path.display().to_string();
                self.out.push(
                    Diagnostic::of_file(name, "the recipe is empty")
                        .hint("start with `version: 1` and `steps:`; `evergraft schema` tells every key"),
                );
                return;
            }
            _ => {
                let message = format!("a recipe is a mapping, found {}", node.describe());
                self.out.push(self.sources.at(node.span, message).hint("start with `version: 1`"));
                return;
            }
        };
        self.duplicates(&entries, &mut Vec::new());
        self.version(&entries, from.is_none(), file);
        let main = from.is_none();
        if let Some(include) = entries.iter().find(|entry| entry.key == "include") {
            self.includes(path, &include.value, depth, merged, own);
        }
        for entry in entries {
            if enough(self.out) {
                return;
            }
            match (entry.key.as_str(), MERGED.iter().position(|key| *key == entry.key)) {
                (_, Some(at)) => self.merge(&entry, &mut merged[at]),
                ("name" | "description", _) if main => own.push(entry),
                ("name" | "description" | "version" | "include", _) => {}
                (key, _) => {
                    let message = format!("unknown key `{key}`");
                    self.out
                        .push(self.sources.at(entry.key_span, message).maybe_hint(suggest(key, TOP_KEYS)));
                }
            }
        }
    }

    fn includes(
        &mut self,
        path: &Path,
        value: &Node,
        depth: usize,
        merged: &mut [Vec<Entry>; 3],
        own: &mut Vec<Entry>,
    ) {
        let items = match &value.data {
            Data::List(items) => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        for item in items {
            if enough(self.out) {
                return;
            }
            match item.text() {
                Some(name) => {
                    let target = path.parent().unwrap_or(Path::new("")).join(name);
                    self.file(&target, Some(item.span), depth + 1, merged, own);
                }
                None => {
                    let message = format!("`include` lists recipe files, found {}", item.describe());
                    self.out.push(self.sources.at(item.span, message));
                }
            }
        }
    }

    /// Adds the entries of a top-level mapping. The including file wins over an included one,
    /// except that two steps of the same name are a mistake.
    fn merge(&mut self, entry: &Entry, into: &mut Vec<Entry>) {
        let entries = match &entry.value.data {
            Data::Map(entries) => entries,
            Data::Null => return,
            _ => {
                let message = format!("`{}` must be a mapping, found {}", entry.key, entry.value.describe());
                self.out.push(self.sources.at(entry.value.span, message));
                return;
            }
        };
        if into.len() + entries.len() > MAX_ENTRIES {
            let message = format!("`{}` has more than {MAX_ENTRIES} entries", entry.key);
            self.out.push(self.sources.at(entry.key_span, message));
            return;
        }
        for new in entries {
            if enough(self.out) {
                return;
            }
            match into.iter_mut().find(|old| old.key == new.key) {
                Some(old) if old.key_span.file == new.key_span.file => {}
                Some(old) if entry.key == "steps" => {
                    let first = self.sources.place(old.key_span);
                    self.out.push(
                        self.sources
                            .at(new.key_span, format!("step `{}` is defined twice", new.key))
                            .hint(format!("the first one is at {first}; rename one of them")),
                    );
                }
                Some(old) => *old = new.clone(),
                None => into.push(new.clone()),
            }
        }
    }

    fn version(&mut self, entries: &[Entry], required: bool, file: u32) {
        match entries.iter().find(|entry| entry.key == "version") {
            Some(entry) => {
                let one = matches!(&entry.value.data, Data::Number(number) if number.as_u64() == Some(1));
                if !one {
                    let message = format!("`version` must be 1, found {}", entry.value.describe());
                    self.out.push(self.sources.at(entry.value.span, message));
                }
            }
            None if required => {
                let span = entries.first().map_or(Span { file, ..Span::default() }, |entry| entry.key_span);
                self.out.push(
                    self.sources.at(span, "`version` is missing").hint("start the recipe with `version: 1`"),
                );
            }
            None => {}
        }
    }

    /// Reports keys given twice, with both places.
    fn duplicates<'n>(&mut self, entries: &'n [Entry], path: &mut Vec<&'n str>) {
        let mut first: std::collections::HashMap<&str, Span> = std::collections::HashMap::new();
        for entry in entries {
            if enough(self.out) {
                return;
            }
            match first.get(entry.key.as_str()) {
                Some(span) => {
                    let what = if path.as_slice() == ["steps"] {
                        format!("step `{}` is defined twice", entry.key)
                    } else {
                        format!("key `{}` is given twice", entry.key)
                    };
                    let first = self.sources.place(*span);
                    self.out.push(
                        self.sources
                            .at(entry.key_span, what)
                            .hint(format!("the first one is at {first}; rename or remove one of them")),
                    );
                }
                None => {
                    first.insert(&entry.key, entry.key_span);
                }
            }
            path.push(&entry.key);
            self.duplicates_in(&entry.value, path);
            path.pop();
        }
    }

    fn duplicates_in<'n>(&mut self, node: &'n Node, path: &mut Vec<&'n str>) {
        match &node.data {
            Data::Map(entries) => self.duplicates(entries, path),
            Data::List(items) => items.iter().for_each(|item| self.duplicates_in(item, path)),
            _ => {}
        }
    }
}
