//! The final number of a GSM8K solution.

/// What stands after the last `#### `, without thousands separators.
pub fn gsm8k_answer(solution: &str) -> Option<String> {
    let (_, tail) = solution.rsplit_once("#### ")?;
    let number = tail.trim().replace(',', "");
    (!number.is_empty()).then_some(number)
}

/// MATH's final answer: what the last `\boxed{...}` of a solution holds; none without a closing brace,
/// or where the last box is of another form (`\boxed 5`, `\fbox{5}`).
pub fn last_boxed(solution: &str) -> Option<&str> {
    let start = solution.rfind(r"\boxed")?;
    let inside = solution[start..].strip_prefix(r"\boxed{")?;
    let mut depth = 1usize;
    let end = inside.char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })?;
    Some(&inside[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// trans-peft-facts.md 5.5.
    #[test]
    fn the_last_box_counts() {
        for (solution, answer) in [
            (r"a \boxed{5} b", Some("5")),
            (r"\boxed{\frac{1}{2}}", Some(r"\frac{1}{2}")),
            (r"\boxed{1} and \boxed{2}", Some("2")),
            (r"\boxed{a}\fbox{b}", Some("a")),
            (r"\fbox{3}", None),
            (r"\boxed 5", None),
            (r"\boxed {5}", None),
            (r"\boxed{5", None),
            ("", None),
        ] {
            assert_eq!(last_boxed(solution), answer, "{solution}");
        }
    }
}
