//! The Trans-PEFT code's reading of a GSM8K answer (trans-peft-facts.md 3.3).

use std::sync::LazyLock;

use regex::Regex;

/// Optional sign, digits, at most one of `. , /` and digits; `\d` takes every script's digits.
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[-+]?\d*[\.,/]?\d+").expect("the pattern is a constant"));

/// The number that a generation gives as its answer: behind its last `The answer is: `, rounded to an
/// integer.
pub(super) fn paper_number(generation: &str) -> Option<f64> {
    number(generation.rsplit_once("The answer is: ")?.1)
}

/// The reference's `extract_answer_number` on the text behind its marker, half to even.
fn number(text: &str) -> Option<f64> {
    let found = NUMBER.find(text)?.as_str();
    let number = match found.split_once('/') {
        Some((numerator, denominator)) => {
            let numerator = digits(numerator)?;
            if denominator == "0" { numerator } else { numerator / digits(denominator)? }
        }
        None => digits(&found.replace(',', ""))?,
    };
    // Adding zero turns -0 into 0.
    number.is_finite().then(|| number.round_ties_even() + 0.0)
}

/// Python's `float` on sign, digits of any script and at most one full stop.
fn digits(text: &str) -> Option<f64> {
    let ascii: Option<String> = text
        .chars()
        .map(|c| if "+-.".contains(c) { Some(c) } else { digit_value(c).map(|v| (b'0' + v) as char) })
        .collect();
    ascii?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A decimal digit's value. The digits of every script stand in blocks of ten that begin at a
/// multiple of the block's zero; ASCII and full-width forms are what generations hold.
fn digit_value(c: char) -> Option<u8> {
    match c {
        '0'..='9' => Some(c as u8 - b'0'),
        '０'..='９' => Some((c as u32 - '０' as u32) as u8),
        '٠'..='٩' => Some((c as u32 - '٠' as u32) as u8),
        '०'..='९' => Some((c as u32 - '०' as u32) as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{eval::is_math_equal, params::MathMode};

    /// trans-peft-facts.md 5.4.
    #[test]
    fn paper_compat_extraction() {
        for (text, expected) in [
            ("18", Some(18.0)),
            ("$18", Some(18.0)),
            ("18.", Some(18.0)),
            ("1,234", Some(1234.0)),
            ("1,234,567", Some(1234.0)),
            ("12.5", Some(12.0)),
            ("13.5", Some(14.0)),
            ("2.5", Some(2.0)),
            ("3.5", Some(4.0)),
            ("0.5", Some(0.0)),
            (".5", Some(0.0)),
            ("1/2", Some(0.0)),
            ("3/4", Some(1.0)),
            ("7/2", Some(4.0)),
            ("3/0", Some(3.0)),
            ("0/0", Some(0.0)),
            ("/5", None),
            (",5", Some(5.0)),
            ("-5", Some(-5.0)),
            ("+3", Some(3.0)),
            ("1.5/2", Some(2.0)),
            ("1,5/2", Some(15.0)),
            ("-1/2", Some(0.0)),
            ("2/3/4", Some(1.0)),
            ("1e3", Some(1.0)),
            ("10-5", Some(10.0)),
            ("$1,000.50", Some(1000.0)),
            ("1 000", Some(1.0)),
            ("x=7", Some(7.0)),
            (r"\boxed{42}", Some(42.0)),
            ("１２", Some(12.0)),
            ("abc", None),
            ("", None),
            ("5%", Some(5.0)),
            ("5/0.0", Some(5.0)),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
        assert_eq!(number(&"9".repeat(400)), None);
        for wrong in ["The answer is 18", "The answer is:18", "the answer is: 18"] {
            assert_eq!(paper_number(wrong), None, "{wrong}");
        }
        assert_eq!(paper_number("The answer is: 1. The answer is: 2"), Some(2.0));
        for (prediction, gold, equal) in [
            ("500", "5", true),
            ("5", "500", true),
            ("100000", "100001", true),
            ("3", "4", false),
            ("0.0001", "0", false),
        ] {
            let found = is_math_equal(MathMode::PaperCompat, prediction, gold);
            assert_eq!(found, equal, "{prediction} {gold}");
        }
    }
}
