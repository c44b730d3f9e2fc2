//! File patterns as dataset cards write them: `*`, `**`, `?`, `[...]` and `{a,b}`.

use anyhow::Context as _;
use regex::Regex;

/// Longest pattern that is read.
const MAX_PATTERN: usize = 1000;

/// The expression that matches what a pattern matches.
///
/// # Errors
/// When it is too long or not a pattern.
pub(super) fn compile(pattern: &str) -> anyhow::Result<Regex> {
    anyhow::ensure!(pattern.len() <= MAX_PATTERN, "a pattern is longer than {MAX_PATTERN} bytes");
    let mut out = String::from("^");
    let mut rest = pattern.trim_start_matches("./");
    let mut depth = 0;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**/") {
            out.push_str("(?:.*/)?");
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix("**") {
            out.push_str(".*");
            rest = after;
            continue;
        }
        if c == '['
            && let Some(end) = rest.find(']').filter(|end| *end > 1)
        {
            let (class, negated) = match rest[1..end].strip_prefix('!') {
                Some(class) => (class, "^"),
                None => (&rest[1..end], ""),
            };
            out.push_str(&format!(
                "[{negated}{}]",
                class.replace('\\', r"\\").replace('[', r"\[").replace('^', r"\^")
            ));
            rest = &rest[end + 1..];
            continue;
        }
        match c {
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '{' => {
                depth += 1;
                out.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                out.push(')');
            }
            ',' if depth > 0 => out.push('|'),
            other => out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
        rest = &rest[c.len_utf8()..];
    }
    out.push('$');
    Regex::new(&out).with_context(|| format!("`{pattern}` is not a file pattern"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_cards() {
        for (pattern, yes, no) in [
            ("data/train-*", "data/train-00000-of-00001.parquet", "data/sub/train-0"),
            ("**/*.parquet", "a/b/c.parquet", "a.csv"),
            ("**/*.parquet", "c.parquet", "parquet"),
            ("main/*.{json,csv}", "main/a.csv", "main/a.txt"),
            ("a[0-9].json", "a1.json", "ab.json"),
            ("a.json", "a.json", "axjson"),
            ("**", "a/b", "\n"),
        ] {
            let compiled = compile(pattern).unwrap();
            assert!(compiled.is_match(yes), "{pattern} {yes}");
            assert!(!compiled.is_match(no), "{pattern} {no}");
        }
    }
}
