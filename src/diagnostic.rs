//! How a mistake in a recipe is shown: message, place, source line, caret and hint. Knows text and
//! places only, nothing of what a recipe means.

use std::fmt;

/// Longest piece of a source line that is shown.
const EXCERPT_CHARS: usize = 110;
/// More diagnostics than this help nobody.
const MOST_SHOWN: usize = 50;
/// Where a search for mistakes stops: each may cost as much as the recipe is long.
const ENOUGH: usize = 1_000;

/// One mistake and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as the user named it.
    pub file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters the caret line marks.
    pub width: u32,
    /// The source line, or the part of it around the place.
    pub excerpt: String,
    /// Characters of the line before the excerpt.
    pub cut: u32,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A mistake of a file as a whole.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            width: 0,
            excerpt: String::new(),
            cut: 0,
            message: message.into(),
            hint: None,
        }
    }

    /// Takes the part around the place of a line that may be as long as a recipe.
    #[must_use]
    pub(crate) fn excerpt_of(mut self, line: &str) -> Self {
        if line.len() > 4 * EXCERPT_CHARS {
            self.cut = self.column.saturating_sub(2 * EXCERPT_CHARS) as u32;
        }
        self.excerpt = line.chars().skip(self.cut as usize).take(4 * EXCERPT_CHARS).collect();
        self
    }

    /// Adds the `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the `hint:` line when there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", printable(&self.message))?;
        if self.line == 0 {
            write!(f, "\n --> {}", self.file)?;
        } else {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            let (excerpt, indent, width) = crop(
                &self.excerpt,
                (self.column.max(1) - 1).saturating_sub(self.cut as usize),
                self.width.max(1) as usize,
            );
            write!(f, "\n{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
            write!(f, "\n{gutter} |\n{number} | {excerpt}")?;
            write!(f, "\n{gutter} | {}{}", " ".repeat(indent), "^".repeat(width))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", printable(hint)),
            None => Ok(()),
        }
    }
}

/// Control characters become spaces: a recipe must not steer the terminal, and the caret must stay
/// aligned.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The part of a line that is shown, with the caret's indent and width in it.
fn crop(line: &str, column: usize, width: usize) -> (String, usize, usize) {
    let chars: Vec<char> = printable(line).chars().collect();
    let start = if chars.len() <= EXCERPT_CHARS { 0 } else { column.saturating_sub(EXCERPT_CHARS / 2) };
    let end = chars.len().min(start + EXCERPT_CHARS);
    let mut shown: String = chars.get(start..end).unwrap_or_default().iter().collect();
    let mut indent = column - start;
    if start > 0 {
        shown.insert(0, '…');
        indent += 1;
    }
    if end < chars.len() {
        shown.push('…');
    }
    let shown = shown.trim_end().to_owned();
    let room = shown.chars().count().saturating_sub(indent).max(1);
    (shown, indent, width.min(room))
}

/// Whether so many mistakes were found that looking for more is no use.
pub(crate) fn enough(found: &[Diagnostic]) -> bool {
    found.len() >= ENOUGH
}

/// Renders diagnostics in the order of their places, each one once.
pub fn render(mut diagnostics: Vec<Diagnostic>) -> String {
    diagnostics.sort_by(|a, b| {
        (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message))
    });
    diagnostics
        .dedup_by(|a, b| (&a.file, a.line, a.column, &a.message) == (&b.file, b.line, b.column, &b.message));
    let hidden = diagnostics.len().saturating_sub(MOST_SHOWN);
    diagnostics.truncate(MOST_SHOWN);
    let mut text = diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n");
    if hidden > 0 {
        text.push_str(&format!("\n\n... and {hidden} more"));
    }
    text
}

/// The candidate that `name` was probably meant to be.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Distances cost the product of both lengths; nobody mistypes a name this long.
    if name.len() > 100 {
        return None;
    }
    let lower = name.to_lowercase();
    let allowed = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 100)
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean ...?`, or the list of what there is.
pub fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(close) = closest(name, known.iter().copied()) {
        return Some(format!("did you mean `{close}`?"));
    }
    match known.len() {
        0 => None,
        1..=24 => Some(format!("known: {}", known.join(", "))),
        many => Some(format!("known: {}, ... ({many} in all)", known[..24].join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize, excerpt: &str) -> Diagnostic {
        Diagnostic {
            line,
            column,
            width: 3,
            excerpt: excerpt.to_owned(),
            ..Diagnostic::of_file("r.yaml", format!("problem {line}"))
        }
    }

    #[test]
    fn shows_place_line_caret_and_hint() {
        let text = at(12, 3, "a b\tc").hint("do").to_string();
        assert_eq!(text, "error: problem 12\n  --> r.yaml:12:3\n   |\n12 | a b c\n   |   ^^^\nhint: do");
    }

    #[test]
    fn long_lines_are_cropped_around_the_caret() {
        let line = "x".repeat(100_000);
        let text = at(1, 5001, &line).to_string();
        assert!(text.len() < 500, "{text}");
        for column in [1, 60, 300, 5001, 99_900, 100_000] {
            let whole = at(1, column, &line);
            assert_eq!(whole.clone().excerpt_of(&line).to_string(), whole.to_string(), "column {column}");
        }
        let caret = text.lines().last().expect("a caret line");
        let shown = text.lines().rev().nth(1).expect("a source line");
        assert!(caret.chars().count() < shown.chars().count());
    }

    #[test]
    fn report_is_sorted_and_each_mistake_stands_once() {
        let text = render(vec![at(9, 1, "z"), at(2, 1, "a"), at(9, 1, "z")]);
        assert_eq!(text.matches("error:").count(), 2);
        assert!(text.find("problem 2") < text.find("problem 9"));
    }

    #[test]
    fn a_recipe_cannot_steer_the_terminal() {
        let mut diagnostic = at(1, 1, "\u{1b}[2Jx");
        diagnostic.message = "unknown key `\u{1b}[31m`".to_owned();
        assert!(!diagnostic.hint("\u{7}").to_string().contains(['\u{1b}', '\u{7}']));
    }

    #[test]
    fn suggests_only_what_is_close() {
        assert_eq!(closest("stpes", ["steps", "params"]), Some("steps"));
        assert_eq!(closest("Steps", ["steps"]), Some("steps"));
        assert_eq!(closest("pc", ["seeds", "name"]), None);
        assert_eq!(suggest("zzz", ["a", "b"]).as_deref(), Some("known: a, b"));
        assert_eq!(suggest("zzz", []), None);
    }
}
