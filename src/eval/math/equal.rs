//! The Trans-PEFT code's comparison of two normal forms (trans-peft-facts.md 3.5).

use super::expression;

/// Numbers may differ by this much of the larger.
const NUMBERS: f64 = 1e-4;

/// Lists in lists deeper than this are no answers.
const MAX_NESTED: usize = 16;

/// Whether a prediction counts as the gold answer.
pub(super) fn math_equal(prediction: &str, gold: &str) -> bool {
    equal_within(prediction, gold, MAX_NESTED)
}

fn equal_within(prediction: &str, gold: &str, nested: usize) -> bool {
    if let (Some(prediction), Some(gold)) = (python_float(prediction), python_float(gold)) {
        // Percent or not is not asked.
        return [gold / 100.0, gold, gold * 100.0].iter().any(|gold| is_close(prediction, *gold, NUMBERS));
    }
    !prediction.is_empty()
        && (same_text(prediction, gold)
            || nested > 0 && same_parts(prediction, gold, nested - 1)
            || expression::are_equal(prediction, gold))
}

/// Python's `math.isclose`.
pub(super) fn is_close(a: f64, b: f64, relative: f64) -> bool {
    a == b || (a - b).is_finite() && (a - b).abs() <= relative * a.abs().max(b.abs())
}

/// Python's `float` of a text, commas left out.
fn python_float(text: &str) -> Option<f64> {
    let text = text.replace(',', "");
    let text = text.trim();
    // Underscores may stand between digits.
    let digit = |at: Option<usize>| at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
    let misplaced =
        text.match_indices('_').any(|(at, _)| !(digit(at.checked_sub(1)) && digit(at.checked_add(1))));
    if misplaced { None } else { text.replace('_', "").parse().ok() }
}

/// The same but for braces and brackets.
fn same_text(prediction: &str, gold: &str) -> bool {
    let bracketed = is_within(prediction, '[', ']') && !gold.starts_with('(')
        || is_within(prediction, '(', ')') && !gold.starts_with('[');
    let bare = |text: &str| -> String {
        let text = if bracketed { text.trim_matches(['[', ']', '(', ')']) } else { text };
        text.chars().filter(|c| !"{}()".contains(*c)).collect()
    };
    bare(prediction) == bare(gold)
}

/// Two lists in brackets of one kind, part by part.
fn same_parts(prediction: &str, gold: &str, nested: usize) -> bool {
    let alike = [('[', ']'), ('(', ')')]
        .iter()
        .any(|(open, close)| is_within(prediction, *open, *close) && is_within(gold, *open, *close));
    if !alike {
        return false;
    }
    let parts = |text: &str| -> Vec<String> {
        text[1..text.len() - 1].split(',').map(|part| part.trim().to_owned()).collect()
    };
    let (prediction, gold) = (parts(prediction), parts(gold));
    prediction.len() == gold.len() && prediction.iter().zip(&gold).all(|(a, b)| equal_within(a, b, nested))
}

fn is_within(text: &str, open: char, close: char) -> bool {
    text.len() > 1 && text.starts_with(open) && text.ends_with(close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (text, value) in [
            ("1,000", 1000.0),
            ("1e2", 100.0),
            (" 5. ", 5.0),
            (".5", 0.5),
            ("1_0", 10.0),
            ("-inf", f64::NEG_INFINITY),
        ] {
            assert_eq!(python_float(text), Some(value), "{text}");
        }
        for text in ["", "_1", "1_", "1__0", "0x1", "1.5.2", "e2"] {
            assert_eq!(python_float(text), None, "{text}");
        }
        assert!(math_equal("0", "0") && !math_equal("0.0001", "0") && !math_equal("nan", "nan"));
        assert!(math_equal("inf", "inf") && !math_equal("inf", "5"));
    }

    #[test]
    fn nested_brackets_end() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(math_equal(&deep, &deep));
        assert!(!math_equal(&deep, &deep.replace('1', "2")));
    }
}
