//! Answers of the MATH problems, two ways: `strict` as the benchmark's own grader, and
//! `paper-compat` as the Trans-PEFT code's, with its slack and its defect (trans-peft-facts.md 3.4
//! and 3.5).

mod equal;
mod expression;
mod normalize;

use normalize::{Slash, normalize};

use crate::params::MathMode;

/// Whether a prediction is the gold answer.
pub fn is_math_equal(mode: MathMode, prediction: &str, gold: &str) -> bool {
    match mode {
        MathMode::Strict => match (normalize(prediction, Slash::Kept), normalize(gold, Slash::Kept)) {
            (Some(prediction), Some(gold)) => prediction == gold,
            _ => prediction == gold,
        },
        MathMode::PaperCompat => {
            match (normalize(prediction, Slash::Raises), normalize(gold, Slash::Raises)) {
                (Some(prediction), Some(gold)) => equal::math_equal(&prediction, &gold) || prediction == gold,
                // The reference's handler compares the prediction with itself.
                _ => true,
            }
        }
    }
}

/// The reference's reading of a generation: behind its last `The answer is: `, up to a full stop that
/// ends a line or the text.
pub(super) fn paper_answer(generation: &str) -> Option<&str> {
    let (_, tail) = generation.rsplit_once("The answer is: ")?;
    let line = tail.split(".\n").next().unwrap_or_default().trim();
    Some(line.strip_suffix('.').unwrap_or(line).trim())
}

#[cfg(test)]
mod tests {
    use super::{
        MathMode::{PaperCompat, Strict},
        *,
    };

    fn paper(prediction: &str, gold: &str) -> bool {
        is_math_equal(PaperCompat, prediction, gold)
    }

    fn strict(prediction: &str, gold: &str) -> bool {
        is_math_equal(Strict, prediction, gold)
    }

    /// trans-peft-facts.md 5.5: a generation's end against a gold answer.
    #[test]
    fn a_prediction_stands_behind_the_marker() {
        for (tail, gold, right) in [
            ("5.", "5", true),
            ("5.\nfoo", "5", true),
            ("5\nfoo", "5", false),
            ("$5$", "5", false),
            (r"\boxed{5}", "5", false),
            ("", "5", false),
            ("3. The answer is: 4", "4", true),
        ] {
            let generation = format!("So. The answer is: {tail}");
            let found = paper_answer(&generation).is_some_and(|found| paper(found, gold));
            assert_eq!(found, right, "{tail:?}");
        }
        for text in ["The answer is 5", "the answer is: 5", "The answer is:5", "5"] {
            assert_eq!(paper_answer(text), None);
        }
    }

    /// trans-peft-facts.md 5.7.
    #[test]
    fn what_counts_as_equal() {
        for (prediction, gold) in [
            ("700", "7"),
            ("0.07", "7"),
            ("7.0001", "7"),
            (r"\frac{1}{2}", "0.5"),
            ("1/2", r"\frac12"),
            ("(1,2)", "(1, 2)"),
            ("{1,2}", "1,2"),
            ("1000", "1,000"),
            ("1,0", "10"),
            ("1e2", "100"),
            ("nan", "nan"),
            (r"10\%", "0.1"),
            ("(2,3)", "(2,300)"),
            ("(1)(2)", "12"),
            (r"\frac{12}{3}", r"\frac{1}{23}"),
            ("y=x+1", "x+1"),
            (r"2\sqrt{3}", r"2\sqrt3"),
            // By the expression's value only.
            ("x+1", "1+x"),
            ("2*x", "x*2"),
            ("2**3", "8"),
            ("1+2", "3"),
            ("6-3", "3"),
            ("pi", "3.14159"),
        ] {
            assert!(paper(prediction, gold), "{prediction} {gold}");
        }
        for (prediction, gold) in [
            ("7.001", "7"),
            ("0.50", r"\frac12"),
            ("[1,2]", "(1,2)"),
            ("(1,2)", "[1,2]"),
            ("2,1", "1,2"),
            ("2x", "2*x"),
            ("x^2", "x*x"),
            (r"\text{east}", "east"),
            ("5 cm", "5"),
            (r"\frac{3}{4}", "0.75"),
            ("3/4", ".75"),
            ("sqrt(2)", r"\sqrt{2}"),
            (r"\pi", "pi"),
            (r"-\frac{1}{2}", "-0.5"),
            (r"\frac{-1}{2}", r"-\frac{1}{2}"),
            (r"3\frac{1}{2}", r"\frac{7}{2}"),
            ("$5$", "5"),
            ("A", "A."),
            ("", "7"),
        ] {
            assert!(!paper(prediction, gold), "{prediction} {gold}");
            assert!(!strict(prediction, gold), "{prediction} {gold}");
        }
        // The reference's defect, under its own name only.
        for (prediction, gold) in [("x/2", "5"), ("km/h", "7"), (r"\frac", "5"), (r"\sqrt", "5")] {
            assert!(paper(prediction, gold), "{prediction} {gold}");
            assert!(!strict(prediction, gold), "{prediction} {gold}");
        }
        for (prediction, gold) in [("700", "7"), ("0.07", "7"), ("7.0001", "7"), ("(2,3)", "(2,300)")] {
            assert!(!strict(prediction, gold), "{prediction} {gold}");
        }
        for (prediction, gold) in [(r"\frac12", "1/2"), ("x/2", "x/2"), (r"\frac", r"\frac"), ("0.5", ".5")] {
            assert!(strict(prediction, gold), "{prediction} {gold}");
        }
    }
}
