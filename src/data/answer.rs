//! The final number of a GSM8K solution.

/// What stands after the last `#### `, without thousands separators.
pub fn gsm8k_answer(solution: &str) -> Option<String> {
    let (_, tail) = solution.rsplit_once("#### ")?;
    let number = tail.trim().replace(',', "");
    (!number.is_empty()).then_some(number)
}
