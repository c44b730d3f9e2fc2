//! GSM8K's three ways to read a number out of a generation: lm-evaluation-harness's `strict-match`
//! and `flexible-extract`, and the Trans-PEFT code's (`paper-compat`, trans-peft-facts.md 3.3).

use std::sync::LazyLock;

use regex::Regex;

/// Texts that end an answer in the reference's evaluation.
pub const STOP_STRINGS: [&str; 4] = ["Instruction:", "Instruction", "Response:", "Response"];

static STRICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (\-?[0-9\.\,]+)"));
static FLEXIBLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"));
/// Optional sign, digits, at most one of `. , /` and digits; `\d` takes every script's digits.
static PAPER: LazyLock<Regex> = LazyLock::new(|| pattern(r"[-+]?\d*[\.,/]?\d+"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant")
}

/// How the final number is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gsm8kFilter {
    /// lm-eval: the number behind the first `#### `.
    StrictMatch,
    /// lm-eval: the last number.
    FlexibleExtract,
    /// Trans-PEFT's code: behind the last `The answer is: `, with its tolerances.
    PaperCompat,
}

impl Gsm8kFilter {
    /// Every filter.
    pub const ALL: [Self; 3] = [Self::StrictMatch, Self::FlexibleExtract, Self::PaperCompat];

    /// lm-eval's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::StrictMatch => "strict-match",
            Self::FlexibleExtract => "flexible-extract",
            Self::PaperCompat => "paper-compat",
        }
    }

    /// The number that a generation gives as its answer.
    pub fn extract(self, generation: &str) -> Option<String> {
        match self {
            Self::StrictMatch => STRICT.captures(generation).map(|found| clean(&found[1])),
            Self::FlexibleExtract => FLEXIBLE.find_iter(generation).last().map(|found| clean(found.as_str())),
            Self::PaperCompat => {
                let (_, tail) = generation.rsplit_once("The answer is: ")?;
                paper_number(tail).map(|number| number.to_string())
            }
        }
    }

    /// Whether an extracted number is the row's.
    pub fn matches(self, extracted: &str, gold: &str) -> bool {
        match self {
            Self::StrictMatch | Self::FlexibleExtract => extracted == clean(gold),
            Self::PaperCompat => match (extracted.parse::<f64>(), gold.replace(',', "").parse::<f64>()) {
                (Ok(prediction), Ok(gold)) => paper_equal(prediction, gold),
                _ => false,
            },
        }
    }
}

/// lm-eval's `regexes_to_ignore` for GSM8K: commas, dollar signs and a final full stop.
fn clean(number: &str) -> String {
    let number = number.replace([',', '$'], "");
    number.strip_suffix('.').unwrap_or(&number).to_owned()
}

/// The reference's `extract_answer_number` on the text behind its marker: rounded to an integer,
/// half to even.
fn paper_number(text: &str) -> Option<f64> {
    let found = PAPER.find(text)?.as_str();
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

/// The reference accepts a hundredth, a hundredfold, and a relative error of 1e-4.
fn paper_equal(prediction: f64, gold: f64) -> bool {
    [gold / 100.0, gold, gold * 100.0]
        .iter()
        .any(|target| (prediction - target).abs() <= 1e-4 * prediction.abs().max(target.abs()))
}

/// What stands before the first stop string.
pub fn cut_at_stop_string(generation: &str) -> &str {
    let end = STOP_STRINGS.iter().filter_map(|stop| generation.find(stop)).min();
    &generation[..end.unwrap_or(generation.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(paper_number(text), expected, "{text}");
        }
        assert_eq!(paper_number(&"9".repeat(400)), None);
        let paper = Gsm8kFilter::PaperCompat;
        for wrong in ["The answer is 18", "The answer is:18", "the answer is: 18"] {
            assert_eq!(paper.extract(wrong), None, "{wrong}");
        }
        assert_eq!(paper.extract("The answer is: 1. The answer is: 2").as_deref(), Some("2"));
        for (prediction, gold, equal) in [
            ("500", "5", true),
            ("5", "500", true),
            ("100000", "100001", true),
            ("3", "4", false),
            ("0.0001", "0", false),
        ] {
            assert_eq!(paper.matches(prediction, gold), equal, "{prediction} {gold}");
        }
    }

    #[test]
    fn lm_eval_filters() {
        let text = "He has 3 apples and $1,200.50.\n#### 1,200\nand 7.";
        assert_eq!(Gsm8kFilter::StrictMatch.extract(text).as_deref(), Some("1200"));
        assert_eq!(Gsm8kFilter::FlexibleExtract.extract(text).as_deref(), Some("7"));
        assert!(Gsm8kFilter::StrictMatch.matches("1200", "1,200"));
        assert_eq!(Gsm8kFilter::StrictMatch.extract("The answer is 5"), None);
        assert_eq!(cut_at_stop_string("5\n### Instruction:\nmore"), "5\n### ");
        assert_eq!(cut_at_stop_string("5"), "5");
    }
}
