//! Whole messages: whenever a test runs the binary and it fails or warns, what it says is compared with
//! `tests/fixtures/messages/<module>/<test>.txt`; and `texts.txt` beside them lists every text of the sources.
//!
//! `EVERGRAFT_BLESS=1 cargo test` writes both; read the difference before committing it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use regex::Regex;

use crate::space::Ran;

thread_local! {
    /// What the test of this thread has shown so far.
    static SHOWN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/messages")
}

fn blesses() -> bool {
    std::env::var_os("EVERGRAFT_BLESS").is_some()
}

/// What differs from one run to the next.
static CHANGING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let temporary = format!(r"{}/\.tmp\w+", regex::escape(&std::env::temp_dir().display().to_string()));
    let repository = regex::escape(concat!(env!("CARGO_MANIFEST_DIR"), "/"));
    let rules = [
        (temporary.as_str(), "DIR"),
        (repository.as_str(), ""),
        (r"\d{8}T\d{9}Z-\d+", "RUN"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"\b[0-9a-f]{64}\b", "DIGEST"),
        (r"\b[0-9a-f]{12}-\w{6}/", "WORKSPACE/"),
        (r"127\.0\.0\.1:\d+", "HOST"),
        (r"\b\d+(\.\d+)? (ms|s|min)\b", "SECONDS"),
        // Files are fetched at the same time.
        (r"cannot fetch `[^`]*`", "cannot fetch `FILE`"),
        (r"the server has \d+ bytes", "the server has SOME bytes"),
        // What was measured, or computed in floating point.
        (r"\b\d+\.\d{3,}(e-?\d+)?\b", "NUMBER"),
        (r"\bprocess \d+( on `?[\w.-]+`?)?", "process PID"),
    ];
    rules.map(|(pattern, name)| (Regex::new(pattern).unwrap(), name)).into()
});

/// Lines that tell how far a run is.
static PROGRESS: LazyLock<Regex> = LazyLock::new(|| {
    let step = "(run|wait|done|retry|skipped|slowest)";
    Regex::new(&format!(r"^({step}\s|\S+: \d+ steps?$|\d+ run, |         )")).unwrap()
});

/// Compares what a failing or warning run of the binary said with what it said when the snapshot was made.
pub(crate) fn must_be_known(space: &Path, args: &[&str], ran: &Ran) {
    // `plan --check` tells by its code alone.
    if ran.code == 5 || ran.code == 0 && !ran.stderr.contains("warning") {
        return;
    }
    // What `cache verify` is asked for is what is wrong.
    let asked = ran.code != 0 && args.starts_with(&["cache", "verify"]);
    let answer = if asked { ran.stdout.as_str() } else { "" };
    // Steps at the same time tell in any order.
    let mut told: Vec<String> = Vec::new();
    for line in answer.lines().chain(ran.stderr.lines()).filter(|line| !PROGRESS.is_match(line)) {
        let line = format!("{}\n", line.trim_end());
        let begins = ["error: ", "warning: "].iter().any(|word| line.starts_with(word));
        match told.last_mut().filter(|_| !begins) {
            Some(last) => last.push_str(&line),
            None => told.push(line),
        }
    }
    told.sort();
    let said = told.concat();
    let section = format!("=== evergraft {} (exit code {})\n{said}", args.join(" "), ran.code);
    compare(same_each_time(&section.replace(&space.display().to_string(), "DIR")));
}

/// The text of a library call's error, after it was compared with what it was.
pub(crate) fn known(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    compare(format!("===\n{}\n", same_each_time(&with_hint(error)).trim_end()));
    text
}

/// An error as a user sees it, with its hint.
pub(crate) fn with_hint(error: &anyhow::Error) -> String {
    let hint = evergraft::error::hint_of(error).map(|hint| format!("\nhint: {hint}"));
    format!("{error:#}{}", hint.unwrap_or_default())
}

fn same_each_time(text: &str) -> String {
    CHANGING.iter().fold(text.to_owned(), |text, (rule, name)| rule.replace_all(&text, *name).into_owned())
}

pub(crate) fn compare(section: String) {
    // Another build has other devices.
    if cfg!(feature = "libtorch") {
        return;
    }
    let thread = std::thread::current();
    let Some(name) = thread.name().filter(|name| name.contains("::")) else { return };
    let path = folder().join(name.replace("::", "/")).with_extension("txt");
    SHOWN.with_borrow_mut(|shown| {
        shown.push(section);
        if blesses() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, shown.concat()).unwrap();
            return;
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        let so_far = shown.concat();
        assert!(known.starts_with(&so_far), "not as in `{}`:\n{so_far}", path.display());
    });
}

/// A text in the sources, and the calls and macros around it.
struct Literal {
    text: String,
    inside: Vec<String>,
}

/// The texts between quotes, without those of comments.
fn literals(source: &str) -> Vec<Literal> {
    let mut out = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = source;
    let mut word = String::new();
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            let (text, after) = raw.split_once("\"#").unwrap();
            out.push(Literal { text: text.to_owned(), inside: open.clone() });
            rest = after;
        } else if let Some(raw) = rest.strip_prefix("r\"").filter(|_| word.is_empty()) {
            let (text, after) = raw.split_once('"').unwrap();
            out.push(Literal { text: text.to_owned(), inside: open.clone() });
            rest = after;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = quoted.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let (text, after) = quoted.split_at(end.unwrap());
            out.push(Literal { text: text.to_owned(), inside: open.clone() });
            rest = &after[1..];
        } else if let Some(quoted) = CHARACTER.find(rest) {
            rest = &rest[quoted.end()..];
        } else {
            match next {
                '(' | '[' | '{' => open.push(std::mem::take(&mut word)),
                ')' | ']' | '}' => drop(open.pop()),
                _ => {}
            }
            match next {
                _ if next.is_alphanumeric() || "_:!".contains(next) => word.push(next),
                _ => word.clear(),
            }
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

static CHARACTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^'(\\[^']+|\\'|[^'\\])'").unwrap());
static BREAK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\\\n\s*").unwrap());
static HOLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{[^{}]*\}").unwrap());

/// What users never see, but for a defect.
const INTERNAL: &[&str] = &["expect", "panic!", "unreachable!", "assert!", "assert_eq!", "debug_assert!"];

/// Every text of a source file that has words in it.
fn texts(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let shown = literals(source)
        .into_iter()
        .filter(|literal| !literal.inside.iter().any(|call| INTERNAL.contains(&call.as_str())))
        .map(|literal| BREAK.replace_all(&literal.text, "").into_owned())
        .filter(|text| {
            text.split_whitespace().filter(|word| word.chars().any(char::is_lowercase)).count() > 1
        });
    shown.collect()
}

/// The longest part of a format that is shown as it is.
fn constant_part(text: &str) -> String {
    let longest = HOLE.split(text).max_by_key(|part| part.len()).unwrap_or_default();
    longest.replace("\\n", "\n").replace("\\\"", "\"").replace("{{", "{").replace("}}", "}").trim().to_owned()
}

/// Lists every text of the sources, so that no wording changes unseen, and tells which ones a test provokes: `+` stands
/// before those that a fixture or a test holds, `-` before the others.
#[test]
fn every_text_is_listed_with_whether_a_test_shows_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = folder().join("texts.txt");
    let mut shown = String::new();
    for path in crate::space::files_below(&root.join("tests")) {
        let read = ["rs", "txt"].iter().any(|ending| path.extension().is_some_and(|found| found == *ending));
        if read && path != list {
            shown += &BREAK.replace_all(&fs::read_to_string(path).unwrap(), "");
        }
    }
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in crate::space::files_below(&root.join("src")) {
        let source = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if let Some((_, tests)) = source.split_once("#[cfg(test)]") {
            shown += &BREAK.replace_all(tests, "");
        }
        if path.extension().is_some_and(|ending| ending == "rs") && !name.ends_with("tests.rs") {
            by_file.insert(name, texts(&source));
        }
    }
    let mut found = String::new();
    for (name, texts) in by_file.iter().filter(|(_, texts)| !texts.is_empty()) {
        writeln!(found, "=== {name}").unwrap();
        for text in texts {
            let is_shown = shown.contains(&constant_part(text)) || shown.contains(text);
            let sign = if is_shown { '+' } else { '-' };
            writeln!(found, "{sign} {}", text.replace('\n', "\\n")).unwrap();
        }
    }
    if blesses() {
        fs::write(&list, found).unwrap();
    } else {
        let known = fs::read_to_string(&list).unwrap();
        let new: Vec<&str> = found.lines().filter(|line| !known.contains(line)).collect();
        let gone: Vec<&str> = known.lines().filter(|line| !found.contains(line)).collect();
        assert!(found == known, "not in `{}`: {new:#?}\nonly there: {gone:#?}", list.display());
    }
}
