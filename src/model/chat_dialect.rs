//! What Python's Jinja and transformers offer a chat template beyond minijinja: functions, `tojson`
//! and methods of strings. Each pays with the template's fuel for the text that it works on.

use std::fmt::Write as _;

use chrono::{NaiveDate, format::StrftimeItems};
use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, from_args},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::python_json::{Style, dumps};

/// What a template's `strftime_now` sees, and the date that Llama's own templates fall back on: a
/// result must not depend on the day it is made.
const TODAY: Option<NaiveDate> = NaiveDate::from_ymd_opt(2024, 7, 26);

/// What a template says with `raise_exception`, before its message.
pub(crate) const REFUSAL: &str = "the template refuses the conversation: ";

/// Adds the functions, filters and methods.
pub(crate) fn extend(env: &mut Environment<'_>) {
    env.add_function("raise_exception", |message: &str| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
    });
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", tojson);
    env.add_filter("trim", |text: &Value, chars: Option<&str>| trim(&text.to_string(), chars, true, true));
    env.set_unknown_method_callback(method);
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let wrong =
        || Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a date format of strftime"));
    let items = StrftimeItems::new(format).parse().map_err(|_| wrong())?;
    let now = TODAY.and_then(|today| today.and_hms_opt(0, 0, 0)).ok_or_else(wrong)?;
    let mut text = String::new();
    // Formatting fails for what a date without a time zone does not have.
    write!(text, "{}", now.format_with_items(items.iter())).map_err(|_| wrong())?;
    Ok(text)
}

fn tojson(state: &State, value: &Value, args: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let separators: Option<Vec<String>> = args.get("separators")?;
    let separators = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "`separators` of `tojson` must be two texts",
            ));
        }
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let style = Style {
        ensure_ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators,
    };
    args.assert_all_used()?;
    dumps(state, value, &style)
}

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
        if let Some(result) = string_method(text, name, args)? {
            return Ok(result);
        }
    }
    unknown_method_callback(state, value, name, args)
}

/// Methods that minijinja's own compatibility layer lacks, or does otherwise than Python.
fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(trim(text, chars, name != "rstrip", name != "lstrip"))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let cut = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(cut.unwrap_or(text))
        }
        "rsplit" => {
            let (separator, most): (&str, Option<usize>) = from_args(args)?;
            let mut parts: Vec<&str> =
                text.rsplitn(most.map_or(usize::MAX, |most| most.saturating_add(1)), separator).collect();
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            split_lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect()
        }
        // Its widths are paid for only when the text is made.
        "format" if has_wide_number(text) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "a width in `format` is too large"));
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Five digits in a row.
fn has_wide_number(text: &str) -> bool {
    text.as_bytes().windows(5).any(|run| run.iter().all(u8::is_ascii_digit))
}

/// White space as Python's `str.strip` sees it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn trim(text: &str, chars: Option<&str>, start: bool, end: bool) -> String {
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(cut) } else { text };
    (if end { text.trim_end_matches(cut) } else { text }).to_owned()
}

/// Lines as Python's `str.splitlines` cuts them.
fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = match &rest[at..] {
            tail if tail.starts_with("\r\n") => at + 2,
            tail => at + tail.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}
