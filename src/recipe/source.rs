//! The texts that a recipe is made of: read with a size limit, kept for excerpts. Knows files and
//! places, not YAML.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::diagnostic::{Diagnostic, suggest};

/// A recipe is written by hand; anything larger is a mistake.
const MAX_BYTES: u64 = 1 << 20;

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// Index into [`Sources`].
    pub(crate) file: u32,
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    /// In characters; 0 when not known.
    pub(crate) width: u32,
    /// Byte range of the raw text; empty when not known.
    pub(crate) start: u32,
    /// See `start`.
    pub(crate) end: u32,
}

/// One file, or one `--set` argument.
#[derive(Debug)]
struct SourceText {
    /// As the user named it.
    name: String,
    /// Relative paths in this text start here.
    folder: PathBuf,
    text: String,
}

/// All texts of one recipe.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    texts: Vec<SourceText>,
}

impl Sources {
    /// Takes in a text; its number goes into spans.
    pub(crate) fn add(&mut self, name: String, folder: PathBuf, text: String) -> u32 {
        self.texts.push(SourceText { name, folder, text });
        (self.texts.len() - 1) as u32
    }

    /// Reads a file.
    pub(crate) fn read(&mut self, path: &Path) -> Result<u32, Diagnostic> {
        let name = path.display().to_string();
        let text = read_limited(path, &name)?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(self.add(name, folder, text))
    }

    /// Whether not even one file could be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The whole text.
    pub(crate) fn text(&self, file: u32) -> &str {
        &self.texts[file as usize].text
    }

    /// Everything that was read, in order: the recipe, what it includes, the `--set` arguments. By
    /// file name: where a recipe lies changes nothing.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|source| {
            let name = Path::new(&source.name).file_name().and_then(|name| name.to_str());
            (name.unwrap_or(&source.name), source.text.as_str())
        })
    }

    /// Where relative paths start that are written at this place.
    pub(crate) fn folder(&self, span: Span) -> &Path {
        &self.texts[span.file as usize].folder
    }

    /// The path of a file that is named at this place, as short as the text itself was named.
    pub(crate) fn beside(&self, span: Span, written: &Path) -> PathBuf {
        let source = &self.texts[span.file as usize];
        let absolute = source.folder.join(written);
        let short = Path::new(&source.name).parent().unwrap_or(Path::new("")).join(written);
        // An argument of `--set` has a name that is no path.
        match std::path::absolute(&short) {
            Ok(same) if same == absolute => short,
            _ => absolute,
        }
    }

    /// The characters that a value was written with.
    pub(crate) fn raw(&self, span: Span) -> &str {
        self.text(span.file).get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    /// A diagnostic at a place.
    pub(crate) fn at(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        let source = &self.texts[span.file as usize];
        let excerpt = source.text.split('\n').nth((span.line as usize).saturating_sub(1)).unwrap_or_default();
        Diagnostic {
            line: span.line.max(1) as usize,
            column: span.column.max(1) as usize,
            width: span.width.max(1),
            ..Diagnostic::of_file(&source.name, message)
        }
        .excerpt_of(excerpt.trim_start_matches('\u{feff}').trim_end_matches('\r'))
    }

    /// `file:line`, for a second place in a message.
    pub(crate) fn place(&self, span: Span) -> String {
        format!("{}:{}", self.texts[span.file as usize].name, span.line)
    }
}

/// Names of the YAML files in the folder where a recipe was looked for.
fn recipes_beside(path: &Path) -> Vec<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".yaml") || name.ends_with(".yml")).collect();
    names.sort();
    names
}

/// Reads at most the limit, whatever the file claims to be (it may be a pipe or a device).
fn read_limited(path: &Path, name: &str) -> Result<String, Diagnostic> {
    let unreadable =
        |error: std::io::Error| {
            let diagnostic = Diagnostic::of_file(name, format!("cannot read the recipe: {error}"));
            if error.kind() == std::io::ErrorKind::NotFound {
                let there = recipes_beside(path);
                let known = suggest(
                    &path.file_name().unwrap_or_default().to_string_lossy(),
                    there.iter().map(String::as_str),
                );
                diagnostic.hint(known.unwrap_or_else(|| {
                    "give the path of a recipe, e.g. `recipes/quickstart.yaml`".to_owned()
                }))
            } else {
                diagnostic
            }
        };
    if path.is_dir() {
        return Err(Diagnostic::of_file(name, "the recipe is a folder").hint("give the path of a YAML file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Diagnostic::of_file(name, "the recipe is larger than 1 MiB").hint(
            "data belongs into files of its own, read by a `dataset` step; recipes can `include` each other",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let before = String::from_utf8_lossy(&bytes[..valid]).into_owned();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let excerpt = bytes[line_start..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        Diagnostic {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            width: 1,
            ..Diagnostic::of_file(name, "the recipe is not UTF-8 text")
        }
        .excerpt_of(&String::from_utf8_lossy(excerpt))
        .hint("save it as UTF-8")
    })
}
