//! The subsets that a dataset's card (`README.md`) declares, and the files of their splits.

use anyhow::Context as _;
use serde_json::Value;

/// A subset (configuration) of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subset {
    pub(super) name: String,
    pub(super) default: bool,
    /// Folder that its files lie in, when no patterns are given.
    pub(super) folder: Option<String>,
    /// Splits and the patterns of their files, in the card's order; empty when files are found by
    /// their names.
    pub(super) splits: Vec<(String, Vec<String>)>,
}

/// The subsets of a card, none when it declares none.
///
/// # Errors
/// When the card's head is not YAML.
pub(super) fn subsets(card: &str) -> anyhow::Result<Vec<Subset>> {
    let Some(head) = head(card) else { return Ok(Vec::new()) };
    let head: Value = serde_saphyr::from_str(head).context("the head of the dataset's card is not YAML")?;
    let configs = match head.get("configs") {
        Some(Value::Array(configs)) => configs.as_slice(),
        _ => &[],
    };
    Ok(configs.iter().take(10_000).filter_map(subset).collect())
}

/// The text between the first two lines of `---`.
fn head(card: &str) -> Option<&str> {
    let rest = card.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'))?;
    rest.find("\n---").map(|end| &rest[..end])
}

fn subset(config: &Value) -> Option<Subset> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Subset {
        name: text("config_name").filter(|name| is_plain(name))?,
        default: config.get("default") == Some(&Value::Bool(true)),
        folder: text("data_dir")
            .filter(|folder| is_plain(folder))
            .map(|folder| folder.trim_matches('/').to_owned()),
        splits: config
            .get("data_files")
            .map(splits)
            .unwrap_or_default()
            .into_iter()
            .filter(|(split, _)| is_plain(split))
            .collect(),
    })
}

/// Names are shown to people: no control characters, which a terminal would obey.
fn is_plain(name: &str) -> bool {
    name.len() <= 200 && !name.chars().any(char::is_control)
}

/// `data_files` in all its forms: a pattern, a list of patterns, a list of `{split, path}`, or a
/// mapping of splits to patterns.
fn splits(files: &Value) -> Vec<(String, Vec<String>)> {
    match files {
        Value::Object(map) => map.iter().map(|(split, paths)| (split.clone(), patterns(paths))).collect(),
        Value::Array(items) if items.iter().any(Value::is_object) => items
            .iter()
            .filter_map(|item| Some((item.get("split")?.as_str()?.to_owned(), patterns(item.get("path")?))))
            .collect(),
        other => match patterns(other) {
            paths if paths.is_empty() => Vec::new(),
            paths => vec![("train".to_owned(), paths)],
        },
    }
}

fn patterns(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_data_files() {
        let card = "---\nlicense: mit\nconfigs:\n- config_name: main\n  default: true\n  data_files:\n  - split: train\n    path: main/train-*\n  - split: test\n    path: [main/a*, main/b*]\n- config_name: b\n  data_files: x.csv\n- config_name: c\n  data_files: {train: x.csv, dev: [y.csv]}\n- config_name: d\n  data_dir: d/\n---\n# Title\n";
        let all = subsets(card).unwrap();
        let names: Vec<_> = all.iter().map(|subset| subset.name.as_str()).collect();
        assert_eq!(names, ["main", "b", "c", "d"]);
        assert!(all[0].default && !all[1].default);
        assert_eq!(all[0].splits[1], ("test".to_owned(), vec!["main/a*".to_owned(), "main/b*".to_owned()]));
        assert_eq!(all[1].splits, [("train".to_owned(), vec!["x.csv".to_owned()])]);
        assert_eq!(all[2].splits[1].0, "dev");
        assert_eq!((all[3].folder.as_deref(), all[3].splits.len()), (Some("d"), 0));
    }

    #[test]
    fn cards_without_subsets() {
        for card in ["", "# Title", "---\nlicense: mit\n---\n", "---\nconfigs: 3\n---\n"] {
            assert!(subsets(card).unwrap().is_empty(), "{card:?}");
        }
        assert!(subsets("---\na: [\n---\n").is_err());
    }
}
