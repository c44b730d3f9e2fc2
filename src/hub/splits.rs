//! Which files belong to a split, by their names: the rules of Hugging Face `datasets`.

use std::collections::BTreeSet;

use regex::Regex;

/// Words that stand for a split in the names of files and folders.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Kinds of files with rows, the best first.
const KINDS: [&str; 6] = ["parquet", "jsonl", "ndjson", "json", "csv", "txt"];
/// Files that describe a dataset and hold no rows.
const NOT_ROWS: [&str; 5] =
    ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"];

/// The kind of a file with rows; none for any other file.
pub(super) fn kind(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let hidden = path
        .split('/')
        .any(|part| part.starts_with('_') || (part.starts_with('.') && ![".", ".."].contains(&part)));
    if hidden || NOT_ROWS.contains(&name) {
        return None;
    }
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let ending = plain.rsplit_once('.')?.1;
    let kind = KINDS.into_iter().find(|kind| *kind == ending)?;
    (kind != "parquet" || plain == name).then_some(kind)
}

/// A dataset may hold the same rows in several kinds of files; only the most frequent counts.
pub(super) fn of_one_kind(paths: Vec<&str>) -> Vec<&str> {
    let count = |wanted: &str| paths.iter().filter(|path| kind(path) == Some(wanted)).count();
    // The first of the best wins; `max_by_key` would take the last.
    let best = KINDS.into_iter().rev().max_by_key(|wanted| count(wanted)).unwrap_or_default();
    paths.into_iter().filter(|path| kind(path) == Some(best)).collect()
}

/// The files of a split, sorted; `Err` with the splits that there are when it has none.
pub(super) fn of_split<'p>(paths: &[&'p str], split: &str) -> Result<Vec<&'p str>, Vec<String>> {
    let rows: Vec<&str> = paths.iter().copied().filter(|path| kind(path).is_some()).collect();
    let numbered = numbered(&rows);
    let mut found = if numbered.is_empty() {
        match by_words(&rows, split) {
            Ok(found) => found,
            // Files without any split's name are all for training.
            Err(known) if split == "train" && known.is_empty() && !rows.is_empty() => rows,
            Err(known) => return Err(known),
        }
    } else {
        // Such names are exact: `validation_matched` is not `validation`.
        let found: Vec<&str> =
            numbered.iter().filter(|(name, _)| *name == split).map(|(_, path)| *path).collect();
        if found.is_empty() {
            let mut known: Vec<String> = Vec::new();
            for (name, _) in numbered {
                if !known.iter().any(|other| other == name) {
                    known.push(name.to_owned());
                }
            }
            return Err(known);
        }
        found
    };
    found.sort_unstable();
    Ok(of_one_kind(found))
}

/// Files like `train-00000-of-00003.parquet`, with the split that they name.
fn numbered<'p>(rows: &[&'p str]) -> Vec<(&'p str, &'p str)> {
    let pattern = Regex::new(r"(?:^|/)([^/]+)-\d{5}-of-\d{5}[^/]*$").expect("a fixed pattern");
    let name = |path: &'p str| Some((pattern.captures(path)?.get(1)?.as_str(), path));
    rows.iter().copied().filter_map(name).collect()
}

/// The folders of numbered files: more than one means several subsets.
pub(super) fn folders<'p>(paths: &[&'p str]) -> BTreeSet<&'p str> {
    let folder = |(_, path): (_, &'p str)| path.rsplit_once('/').map_or("", |(folder, _)| folder);
    numbered(paths).into_iter().map(folder).collect()
}

/// Files with a word of this split in their name, else in their folder's; `Err` with the splits
/// that there are.
fn by_words<'p>(rows: &[&'p str], split: &str) -> Result<Vec<&'p str>, Vec<String>> {
    let own = [split];
    let words = KEYWORDS.iter().find(|(name, _)| *name == split).map_or(&own[..], |(_, words)| words);
    let name = |path: &'p str| path.rsplit('/').next().unwrap_or(path);
    let folder = |path: &'p str| path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let with = |part: &dyn Fn(&'p str) -> &'p str| -> Vec<&'p str> {
        rows.iter().copied().filter(|path| words.iter().any(|word| has_word(part(path), word))).collect()
    };
    let found = Some(with(&name)).filter(|found| !found.is_empty()).unwrap_or_else(|| with(&folder));
    if !found.is_empty() {
        return Ok(found);
    }
    let there = |words: &[&str]| rows.iter().any(|path| words.iter().any(|word| has_word(path, word)));
    Err(KEYWORDS.iter().filter(|(_, words)| there(words)).map(|(name, _)| (*name).to_owned()).collect())
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| "-._ /".contains(c) || c.is_ascii_digit()).any(|part| part == word)
        || text.split('/').any(|part| part == word || part.split('.').next() == Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_found_by_name() {
        let repo = [
            "README.md",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
            "data/validation_matched-00000-of-00001.parquet",
            "dataset_infos.json",
        ];
        assert_eq!(of_split(&repo, "train").unwrap().len(), 2);
        assert_eq!(of_split(&repo, "validation_matched").unwrap().len(), 1);
        assert!(of_split(&repo, "validation").is_err(), "another split than `validation_matched`");
        assert_eq!(of_split(&repo, "dev").unwrap_err(), ["train", "test", "validation_matched"]);
        for (paths, split, expected) in [
            (&["my-train.jsonl", "my-dev.jsonl", "trained.jsonl"][..], "train", &["my-train.jsonl"][..]),
            (&["my-train.jsonl", "my-dev.jsonl"], "validation", &["my-dev.jsonl"]),
            (&["train/a.csv", "test/a.csv"], "test", &["test/a.csv"]),
            (&["b.json", "a.json"], "train", &["a.json", "b.json"]),
            (&["train.csv", "train.parquet"], "train", &["train.parquet"]),
            (&[".cache/train.json", "_x/train.json", "train.json.gz"], "train", &["train.json.gz"]),
            (&["x/challenge.json", "x/y.json"], "challenge", &["x/challenge.json"]),
        ] {
            assert_eq!(of_split(paths, split).unwrap(), expected, "{split} of {paths:?}");
        }
        assert!(of_split(&["model.bin"], "train").unwrap_err().is_empty());
    }
}
