//! MATH's normalisation of an answer's LaTeX (trans-peft-facts.md 3.4 and 5.6).

use std::sync::LazyLock;

use regex::Regex;

/// What becomes of one `/` between sides that are not both whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slash {
    /// It stays (MATH's own grader).
    Kept,
    /// The text cannot be normalised (the Trans-PEFT code's).
    Raises,
}

/// Removed one after the other, so that what closes up by a removal may go by a later one.
const BEFORE_UNITS: [(&str, &str); 10] = [
    ("\n", ""),
    (r"\!", ""),
    (r"\\", r"\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    (r"\$", ""),
];
const AFTER_UNITS: [(&str, &str); 3] = [(r"\%", ""), (" .", " 0."), ("{.", "{0.")];
/// With its space: what follows is a unit.
const UNIT: &str = r"\text{ ";

/// The normal form; none where the reference's code raises an exception.
pub(super) fn normalize(answer: &str, slash: Slash) -> Option<String> {
    let mut text = replace_all(answer.to_owned(), &BEFORE_UNITS);
    if let Some((value, rest)) = text.split_once(UNIT) {
        if rest.contains(UNIT) {
            return None;
        }
        text = value.to_owned();
    }
    text = replace_all(text, &AFTER_UNITS);
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    // `x=5`: a short name of what the answer is.
    if let Some((name, value)) = text.split_once('=')
        && !value.contains('=')
        && name.chars().count() <= 2
    {
        text = value.to_owned();
    }
    text = brace_roots(&text)?.replace(' ', "");
    text = brace_fractions(text)?;
    if text == "0.5" {
        return Some(r"\frac{1}{2}".to_owned());
    }
    slash_to_fraction(text, slash)
}

fn replace_all(text: String, rules: &[(&str, &str)]) -> String {
    rules.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// `\sqrt3` to `\sqrt{3}`: one character is the whole argument.
fn brace_roots(text: &str) -> Option<String> {
    const ROOT: &str = r"\sqrt";
    let mut parts = text.split(ROOT);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(ROOT);
        match part.chars().next()? {
            '{' => out.push_str(part),
            argument => {
                out.extend(['{', argument, '}']);
                out.push_str(&part[argument.len_utf8()..]);
            }
        }
    }
    Some(out)
}

/// `\frac12` and `\frac1{72}` to `\frac{1}{2}` and `\frac{1}{72}`. A fraction that begins with a brace
/// stays as it is.
fn brace_fractions(text: String) -> Option<String> {
    const FRACTION: &str = r"\frac";
    let mut parts = text.split(FRACTION);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(FRACTION);
        let mut rest = part.chars();
        match (rest.next()?, rest.next()) {
            ('{', _) => out.push_str(part),
            // One character cannot be a fraction: nothing of the text is changed then.
            (_, None) => return Some(text),
            (numerator, Some('{')) => {
                out.extend(['{', numerator, '}', '{']);
                out.push_str(rest.as_str());
            }
            (numerator, Some(denominator)) => {
                out.extend(['{', numerator, '}', '{', denominator, '}']);
                out.push_str(rest.as_str());
            }
        }
    }
    Some(out)
}

/// `1/2` to `\frac{1}{2}`, when both sides are whole numbers as one writes them (not `01/2`).
fn slash_to_fraction(text: String, slash: Slash) -> Option<String> {
    // What Python's `int` reads.
    static WHOLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[-+]?\d(_?\d)*$"));
    static PLAIN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(0|-?[1-9][0-9]*)$"));
    match text.split_once('/') {
        Some((numerator, denominator)) if !denominator.contains('/') => {
            if [numerator, denominator].iter().all(|side| PLAIN.is_match(side)) {
                return Some(format!(r"\frac{{{numerator}}}{{{denominator}}}"));
            }
            let whole = [numerator, denominator].iter().all(|side| WHOLE.is_match(side));
            (whole || slash == Slash::Kept).then_some(text)
        }
        _ => Some(text),
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// trans-peft-facts.md 5.6.
    #[test]
    fn normal_forms() {
        for (answer, normal) in [
            ("1 /2", r"\frac{1}{2}"),
            ("1/2", r"\frac{1}{2}"),
            ("0.5", r"\frac{1}{2}"),
            (".5", r"\frac{1}{2}"),
            (" .5", r"\frac{1}{2}"),
            (r"\frac12", r"\frac{1}{2}"),
            ("-.5", "-.5"),
            (r"\frac1{72}", r"\frac{1}{72}"),
            (r"\frac{72}1", r"\frac{72}1"),
            (r"\dfrac{3}{4}", r"\frac{3}{4}"),
            (r"\tfrac34", r"\frac{3}{4}"),
            (r"\sqrt3", r"\sqrt{3}"),
            ("x=5", "5"),
            ("xy=5", "5"),
            ("abc=5", "abc=5"),
            (r"50\%", "50"),
            (r"\$5", "5"),
            (r"5^\circ", "5"),
            (r"5^{\circ}", "5"),
            (r"5\text{ cm}", "5"),
            (r"\left(1,2\right)", "(1,2)"),
            (r"1\!000", "1000"),
            ("1,000", "1,000"),
            ("{.5}", "{0.5}"),
            ("2/4", r"\frac{2}{4}"),
            ("-1/2", r"\frac{-1}{2}"),
            ("1/-2", r"\frac{1}{-2}"),
            ("1/2/3", "1/2/3"),
            ("01/2", "01/2"),
            ("1.50", "1.50"),
            ("$5$", "$5$"),
            ("5.", "5."),
            (r"\frac 1 2", r"\frac{1}{2}"),
            (r"\frac1", r"\frac1"),
            (r"\sqrtπ", r"\sqrt{π}"),
        ] {
            for slash in [Slash::Kept, Slash::Raises] {
                assert_eq!(normalize(answer, slash).as_deref(), Some(normal), "{answer}");
            }
        }
        for answer in ["x/2", "x/y", "3x/4", "km/h"] {
            assert_eq!(normalize(answer, Slash::Raises), None, "{answer}");
            assert_eq!(normalize(answer, Slash::Kept).as_deref(), Some(answer));
        }
        for answer in [r"5\frac", r"5\sqrt", r"5\text{ m}6\text{ s}"] {
            for slash in [Slash::Kept, Slash::Raises] {
                assert_eq!(normalize(answer, slash), None, "{answer}");
            }
        }
    }
}
