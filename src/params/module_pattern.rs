//! Regular expressions for the paths of linear layers, as PEFT's configs hold them.

use regex::{Error, Regex, RegexBuilder, RegexSet};

use crate::error::excerpt;

/// Longest pattern, and longest sum of patterns: parsing takes memory in proportion.
const MAX_PATTERN: usize = 1 << 18;

/// An expression for whole paths.
///
/// # Errors
/// When it is wrong, or uses what only Python's engine knows.
pub(crate) fn whole_path(pattern: &str) -> Result<Regex, String> {
    check_length(pattern.len())?;
    check_alone(pattern)?;
    Regex::new(&format!("^(?:{pattern})$")).map_err(|why| not_read(pattern, &why))
}

/// Expressions for the ends of paths, in one set: the limit on a compiled expression then holds for
/// all of them together.
///
/// # Errors
/// When one is wrong, or they are too long together.
pub(crate) fn path_ends<'p>(patterns: impl Iterator<Item = &'p String> + Clone) -> Result<RegexSet, String> {
    check_length(patterns.clone().map(String::len).sum())?;
    patterns.clone().try_for_each(|pattern| check_alone(pattern))?;
    RegexSet::new(patterns.map(|pattern| format!(r"^(?:.*\.)?(?:{pattern})$")))
        .map_err(|why| format!("the patterns cannot be read together: {}", explain(&why)))
}

fn not_read(pattern: &str, why: &Error) -> String {
    format!("`{}` is not a regular expression that is understood: {}", excerpt(pattern), explain(why))
}

/// The library's message without the pattern, which may be long.
fn explain(error: &Error) -> String {
    match error {
        Error::Syntax(text) => {
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
        Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes when compiled"),
        other => other.to_string(),
    }
}

/// What is no expression by itself may close the group that is put around it.
fn check_alone(pattern: &str) -> Result<(), String> {
    // Syntax is checked before size.
    match RegexBuilder::new(pattern).size_limit(0).build() {
        Err(why @ Error::Syntax(_)) => Err(not_read(pattern, &why)),
        _ => Ok(()),
    }
}

fn check_length(length: usize) -> Result<(), String> {
    match length <= MAX_PATTERN {
        true => Ok(()),
        false => Err(format!("patterns of {length} bytes are above the limit of {MAX_PATTERN}")),
    }
}
