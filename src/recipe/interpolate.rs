//! Finds `${{ expression }}` in a text. Knows the brackets, not the expressions.

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'t> {
    /// Text as it is.
    Plain(&'t str),
    /// What stands between `${{` and `}}`.
    Expression(&'t str),
}

/// Why a text cannot be cut into pieces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unclosed;

/// Whether a text holds an expression.
pub(crate) fn has_expression(text: &str) -> bool {
    text.contains("${{")
}

/// Cuts a text into pieces.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Unclosed> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find("${{") {
        if open > 0 {
            pieces.push(Piece::Plain(&rest[..open]));
        }
        let inside = &rest[open + 3..];
        let end = close(inside).ok_or(Unclosed)?;
        pieces.push(Piece::Expression(&inside[..end]));
        rest = &inside[end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Plain(rest));
    }
    Ok(pieces)
}

/// The expression of a text that is nothing else (its value then keeps its type).
pub(crate) fn alone<'t>(pieces: &[Piece<'t>]) -> Option<&'t str> {
    let mut found = None;
    for piece in pieces {
        match piece {
            Piece::Plain(text) if text.trim().is_empty() => {}
            Piece::Expression(source) if found.is_none() => found = Some(*source),
            _ => return None,
        }
    }
    found
}

/// Where the `}}` is that ends an expression: not one inside quotes, and not one that closes two
/// mappings.
fn close(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'\'' | b'"')) => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cuts_at_brackets_outside_quotes_and_mappings() {
        assert_eq!(
            pieces("a ${{ x }} b${{ {'k': {'j': '}}'}} }}"),
            Ok(vec![
                Piece::Plain("a "),
                Piece::Expression(" x "),
                Piece::Plain(" b"),
                Piece::Expression(" {'k': {'j': '}}'}} "),
            ])
        );
        assert_eq!(pieces("${{ x }"), Err(Unclosed));
        assert_eq!(pieces("${{ 'x }}"), Err(Unclosed));
        assert_eq!(pieces("${HOME} }}"), Ok(vec![Piece::Plain("${HOME} }}")]));
    }

    #[test]
    fn a_lone_expression_may_have_space_around_it() {
        assert_eq!(alone(&pieces(" ${{ x }}\n").expect("closed")), Some(" x "));
        assert_eq!(alone(&pieces("${{ x }}${{ y }}").expect("closed")), None);
        assert_eq!(alone(&pieces("x").expect("closed")), None);
    }

    proptest! {
        #[test]
        fn pieces_give_the_text_back(text in "[ a${}'\"\\\\é]{0,40}") {
            if let Ok(pieces) = pieces(&text) {
                let back: String = pieces.iter().map(|piece| match piece {
                    Piece::Plain(text) => (*text).to_owned(),
                    Piece::Expression(source) => format!("${{{{{source}}}}}"),
                }).collect();
                prop_assert_eq!(back, text);
            }
        }
    }
}
