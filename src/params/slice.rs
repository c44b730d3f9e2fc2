//! Row slices as in Hugging Face datasets: `train[:1000]`, `[10:20]`, `[-50:]`, `[:10%]`.

use std::{ops::Range, str::FromStr};

/// A split name and a range of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Empty when only rows are given.
    pub name: String,
    start: Option<Bound>,
    end: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Row(i64),
    Percent(i64),
}

impl Split {
    /// The rows of a dataset of `total` rows that it selects.
    pub fn range(&self, total: usize) -> Range<usize> {
        let place = |bound: Bound| {
            let at = match bound {
                Bound::Row(row) => row,
                Bound::Percent(percent) => {
                    ((total as i128 * i128::from(percent)) as f64 / 100.0).round() as i64
                }
            };
            let from_end = if at < 0 { total as i64 + at } else { at };
            from_end.clamp(0, total as i64) as usize
        };
        let start = self.start.map_or(0, place);
        let end = self.end.map_or(total, place);
        start..end.max(start)
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a split: write `train`, `train[:1000]`, `[10:20]` or `[:10%]`");
        let (name, rows) = match text.split_once('[') {
            None => (text, None),
            Some((name, rest)) => (name, Some(rest.strip_suffix(']').ok_or_else(wrong)?)),
        };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Err(wrong());
        }
        let bound = |part: &str| -> Result<Option<Bound>, String> {
            let part = part.trim();
            if part.is_empty() {
                return Ok(None);
            }
            let (digits, percent) = match part.strip_suffix('%') {
                Some(digits) => (digits, true),
                None => (part, false),
            };
            let number: i64 = digits.parse().map_err(|_| wrong())?;
            if percent && !(-100..=100).contains(&number) {
                return Err(wrong());
            }
            Ok(Some(if percent { Bound::Percent(number) } else { Bound::Row(number) }))
        };
        let (start, end) = match rows {
            None => (None, None),
            Some(rows) => {
                let (start, end) = rows.split_once(':').ok_or_else(wrong)?;
                (bound(start)?, bound(end)?)
            }
        };
        Ok(Self { name: name.to_owned(), start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_as_in_hugging_face_datasets() {
        for (text, name, range) in [
            ("train", "train", 0..200),
            ("train[:10]", "train", 0..10),
            ("[10:20]", "", 10..20),
            ("test[-50:]", "test", 150..200),
            ("[:10%]", "", 0..20),
            ("[50%:]", "", 100..200),
            ("[-10%:]", "", 180..200),
            ("[:999]", "", 0..200),
            ("[20:10]", "", 20..20),
            ("[:]", "", 0..200),
        ] {
            let split: Split = text.parse().unwrap();
            assert_eq!((split.name.as_str(), split.range(200)), (name, range), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["train[", "train[1]", "train[a:]", "[:200%]", "../x", "train[:10]x", "[:1e3]"] {
            assert!(text.parse::<Split>().is_err(), "{text}");
        }
    }
}
