//! YAML text to [`Node`]: input budgets and error messages. The only place that knows the YAML
//! library.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;
use serde_saphyr::{
    Location, Options, Spanned,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

use super::{
    source::{Sources, Span},
    tree::{Data, Entry, Node},
};
use crate::diagnostic::Diagnostic;

/// Deeper nesting than any recipe needs, and shallow enough for every recursion over the tree: an
/// unoptimized build takes 50 kB of stack for a level, and threads may have only 2 MB.
pub(crate) const MAX_DEPTH: usize = 24;

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_nodes: 200_000,
            max_aliases: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // Duplicates are reported by us, with both places.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        emit_comments: false,
        with_snippet: false,
    }
}

/// Parses one source text.
pub(crate) fn parse(sources: &Sources, file: u32) -> Result<Node, Diagnostic> {
    let parsed: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(sources.text(file), options());
    match parsed {
        Ok(raw) => {
            let mut node = Node::new(raw.value.0, span(raw.defined));
            node.map_spans(&|span| span.file = file);
            Ok(node)
        }
        Err(error) => Err(explain(sources, file, &error)),
    }
}

/// Parses the value of a `--set` argument, which begins at byte `offset` of its source text.
pub(crate) fn parse_part(sources: &Sources, file: u32, offset: usize) -> Result<Node, Diagnostic> {
    let (before, text) = sources.text(file).split_at(offset);
    let columns = before.chars().count() as u32;
    let shift = |span: &mut Span| {
        span.file = file;
        if span.line <= 1 {
            span.line = 1;
            span.column = span.column.max(1) + columns;
        }
        span.start += offset as u32;
        span.end += offset as u32;
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options()) {
        Ok(raw) => {
            let mut node = Node::new(raw.value.0, span(raw.defined));
            node.map_spans(&shift);
            Ok(node)
        }
        Err(error) => {
            let mut diagnostic = explain(sources, file, &error);
            if diagnostic.line <= 1 {
                diagnostic.column += columns as usize;
            }
            Err(diagnostic)
        }
    }
}

fn span(location: Location) -> Span {
    let raw = location.span();
    let start = raw.byte_offset().unwrap_or(0) as u32;
    Span {
        file: 0,
        line: location.line() as u32,
        column: location.column() as u32,
        width: raw.len() as u32,
        start,
        end: start + raw.byte_len().unwrap_or(0) as u32,
    }
}

/// Turns the library's error into ours.
fn explain(sources: &Sources, file: u32, error: &serde_saphyr::Error) -> Diagnostic {
    use serde_saphyr::Error as Yaml;
    let place = error.location().map(span).unwrap_or_default();
    let place = Span { file, ..place };
    let full = error.without_snippet().to_string();
    let text = full.split(" at line ").next().unwrap_or_default();
    let (message, hint) = match error.without_snippet() {
        Yaml::Budget { breach: BudgetBreach::Depth { .. }, .. } => (too_deep(), None),
        Yaml::Budget { breach: BudgetBreach::Documents { .. }, .. } | Yaml::MultipleDocuments { .. } => (
            "a recipe is one YAML document, found a second one".to_owned(),
            Some("remove the `---` line".to_owned()),
        ),
        // An error inside an alias arrives wrapped, with only its text left.
        _ if ["alias replay", "alias expansion", "budget breached"]
            .iter()
            .any(|start| text.starts_with(start)) =>
        {
            (
                "the recipe holds too many values, counting what aliases (`*name`) repeat".to_owned(),
                Some("use `params` and `matrix` instead of nested aliases".to_owned()),
            )
        }
        Yaml::RecursiveReferencesRequireWeakTypes { .. } => {
            ("an alias (`*name`) stands inside the value that it repeats".to_owned(), None)
        }
        Yaml::NullIntoString { .. } => {
            ("a key must be a text".to_owned(), Some("put it in quotes".to_owned()))
        }
        Yaml::UnsupportedTag { .. } => ("YAML tags (`!name`) have no meaning in a recipe".to_owned(), None),
        _ if text.contains("recursion limit exceeded") => (too_deep(), None),
        _ => (format!("not valid YAML: {text}"), yaml_hint(sources, place, text)),
    };
    sources.at(place, message).maybe_hint(hint)
}

fn too_deep() -> String {
    format!("values are nested more than {MAX_DEPTH} levels deep")
}

/// What people most often get wrong.
fn yaml_hint(sources: &Sources, place: Span, text: &str) -> Option<String> {
    let line = sources.text(place.file).lines().nth((place.line as usize).saturating_sub(1))?;
    // A value that begins with an expression and not with a quote.
    let bare = line.match_indices("${{").any(|(at, _)| {
        line[..at].trim_end().chars().next_back().is_some_and(|c| [':', ',', '[', '{', '-'].contains(&c))
    });
    if bare {
        Some("put the expression in quotes: \"${{ ... }}\"".to_owned())
    } else if text.contains("mapping values are not allowed") {
        Some("put a text that holds `: ` in quotes, or check the indentation".to_owned())
    } else if text.contains("unexpected character") {
        Some("put the text in quotes".to_owned())
    } else if line.starts_with('\t') || line.trim_start_matches(' ').starts_with('\t') {
        Some("indent with spaces; YAML forbids tabs".to_owned())
    } else {
        None
    }
}

/// [`Data`] as the deserializer makes it.
struct Raw(Data);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor).map(Raw)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Data, E> {
        Ok(Data::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Data, E> {
        Ok(Data::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Data, E> {
        Ok(Data::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Data, E> {
        Ok(Number::from_f64(value).map_or(Data::NonFinite(value), Data::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Data, E> {
        Ok(Data::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Data, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Raw>>()? {
            list.push(Node::new(item.value.0, span(item.defined)));
        }
        Ok(Data::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if key.value == crate::params::REF_KEY {
                return Err(A::Error::custom(format!("the key `{}` is reserved", key.value)));
            }
            let value = map.next_value::<Spanned<Raw>>()?;
            entries.push(Entry {
                key: key.value,
                key_span: span(key.defined),
                value: Node::new(value.value.0, span(value.defined)),
            });
        }
        Ok(Data::Map(entries))
    }
}
