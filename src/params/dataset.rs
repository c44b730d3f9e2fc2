//! `uses: dataset`: read rows from files or a hub dataset into one canonical JSONL.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address::{Address, RepoKind},
    common::{
        ArtifactRef, OneOrMany, Problem, RemoteFields, SourceFile, StepParams, leaves_its_folder, one_or_many,
    },
    slice::Split,
};

/// Parameters of a `dataset` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetParams {
    /// A `.json` (array of objects), `.jsonl`, `.csv` or `.txt` file, plain or gzipped, or a
    /// `.parquet` file; or a list of them, joined in order; or a folder with one file per split; or
    /// `hf://datasets/org/name[@revision]`; or an `https://` address of one file with its `sha256`.
    pub source: Sources,
    /// Branch, tag or commit of an `hf://` source that names none [default: main]. The commit that
    /// it means is pinned into the recipe's `.lock` file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 digest of each `https://` source: a text, or a list in the order of the sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub sha256: Vec<String>,
    /// Which subset (configuration) of an `hf://` dataset that has several, e.g. `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// What the rows look like.
    pub format: DatasetFormat,
    /// Rows to keep, e.g. `train[:1000]`, `[:1000]`, `[100:200]`, `[-50:]`, `[:10%]`. A split
    /// name selects `<split>.json[l][.gz]` of a folder source, or the split of an `hf://` dataset
    /// (`train` unless given); in a single file it selects nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Source field for each canonical field, e.g. `{instruction: question, output: answer}`.
    /// Canonical fields: `instruction`, `input`, `output`, `answer` (alpaca); `instruction`,
    /// `output`, `answer` (meta_math); `instruction`, `output` (gsm8k); `text` (text).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// Shuffle the rows with this seed before slicing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle_seed: Option<u64>,
}

/// One file or several, or files that a `command` step made.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Sources {
    /// One file or folder.
    File(SourceFile),
    /// Several files, joined in order.
    Files(Vec<SourceFile>),
    /// A file below another step's artifact.
    Step(ArtifactFile),
}

/// A file inside another step's artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// The step that made it.
    pub step: ArtifactRef,
    /// Its path inside the artifact.
    pub path: String,
}

impl<'de> Deserialize<'de> for Sources {
    // By hand, since derived untagged enums lose the message of the failing variant.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(path) => Ok(Self::File(SourceFile(path.into()))),
            value @ serde_json::Value::Array(_) => {
                serde_json::from_value(value).map(Self::Files).map_err(D::Error::custom)
            }
            value @ serde_json::Value::Object(_) => {
                serde_json::from_value(value).map(Self::Step).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!(
                "expected a path, a list of paths or {{step, path}}, found {other}"
            ))),
        }
    }
}

/// The shape of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    /// `instruction`, optional `input`, `output`, optional `answer` (LLM-Adapters, Alpaca).
    Alpaca,
    /// MetaMath: `query` is split at its first newline into instruction and input; `response`.
    MetaMath,
    /// GSM8K: `question`, `answer`.
    Gsm8k,
    /// MATH: `problem`, `solution`, which holds the answer as `\boxed{...}`.
    Math,
    /// Plain documents in a `text` field (or one `.txt` file, split at blank lines).
    Text,
    /// The rows as they are, for tasks whose templates read other fields.
    Raw,
}

/// Words that file names use for each split.
const SPLIT_WORDS: [&[&str]; 3] = [&["train"], &["test"], &["validation", "valid", "val", "dev"]];

/// Endings of files with rows.
const ENDINGS: [&str; 5] = ["json", "jsonl", "csv", "txt", "parquet"];

/// Whether a data file is called after another split than `name`, and not after `name`.
fn is_of_another_split(file: &str, name: &str) -> bool {
    // A folder has a file for each split, whatever it is called.
    let Some((stem, ending)) = file.split_once('.') else { return false };
    if name.is_empty()
        || !ENDINGS.contains(&ending.trim_end_matches(".gz").rsplit('.').next().unwrap_or_default())
    {
        return false;
    }
    let words = |text: &str| -> Vec<String> {
        text.to_ascii_lowercase().split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
    };
    let (in_file, asked) = (words(stem), words(name));
    let splits =
        |words: &[String]| SPLIT_WORDS.map(|split| split.iter().any(|word| words.iter().any(|w| w == word)));
    let (found, wanted) = (splits(&in_file), splits(&asked));
    let shared = (0..3).any(|i| found[i] && wanted[i]) || asked.iter().any(|word| in_file.contains(word));
    found.contains(&true) && !shared
}

impl StepParams for DatasetParams {
    const KIND: &'static str = "dataset";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Read rows from json, jsonl, csv, parquet or text, here or on the hub, into one canonical JSONL file.";
    const REMOTE: Option<RemoteFields> = Some(RemoteFields { fields: &["source"], kind: RepoKind::Dataset });

    fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    fn sha256(&self) -> &[String] {
        &self.sha256
    }

    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        match &self.source {
            Sources::File(file) => vec![("source", file)],
            Sources::Files(files) => files.iter().map(|file| ("source", file)).collect(),
            Sources::Step(_) => Vec::new(),
        }
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.unknown_fields();
        let on_hub = |(_, file): (&str, &SourceFile)| {
            matches!(file.0.to_str().and_then(Address::accepted), Some(Address::Hub(_)))
        };
        problems.extend(self.other_split());
        if self.subset.is_some() && !self.files().into_iter().any(on_hub) {
            problems.push(Problem::new("subset", "is only for `hf://` sources"));
        }
        problems
    }
}

impl DatasetParams {
    /// A split's name selects nothing in a single file; one that is called after another split is
    /// not the file that was meant.
    fn other_split(&self) -> Option<Problem> {
        let name = self.split.as_ref()?.parse::<Split>().ok()?.name;
        let files = self.files().into_iter().filter_map(|(_, file)| match file.0.to_str() {
            Some(text) if matches!(Address::accepted(text), Some(Address::Hub(_))) => None,
            Some(text) => text.split(['?', '#']).next()?.rsplit('/').next(),
            None => None,
        });
        let inside = match &self.source {
            Sources::Step(file) => file.path.rsplit('/').next(),
            _ => None,
        };
        let file = files.chain(inside).find(|file| is_of_another_split(file, &name))?;
        let message = format!("`{name}` selects nothing in a single file, and this one is called `{file}`");
        let hint = format!("name the file that holds `{name}`, or give rows alone, as `[:1000]`");
        Some(Problem::new("split", message).hint(hint))
    }

    fn unknown_fields(&self) -> Vec<Problem> {
        let known: &[&str] = match self.format {
            DatasetFormat::Text => &["text"],
            DatasetFormat::Alpaca => &["instruction", "input", "output", "answer"],
            DatasetFormat::MetaMath => &["instruction", "output", "answer"],
            DatasetFormat::Gsm8k | DatasetFormat::Math => &["instruction", "output"],
            DatasetFormat::Raw => &[],
        };
        let fields = self.fields.keys().filter(|key| !known.contains(&key.as_str())).map(|key| {
            Problem::new(format!("fields.{key}"), format!("`{key}` is no field of this format")).hint(
                match known {
                    [] => "this format takes rows as they are".to_owned(),
                    known => format!("one of: {}", known.join(", ")),
                },
            )
        });
        let split =
            self.split.iter().filter_map(|split| Some(Problem::new("split", split.parse::<Split>().err()?)));
        let path = match &self.source {
            Sources::Step(file) if leaves_its_folder(&file.path) => Some(
                Problem::new("source.path", format!("`{}` leaves the step's folder", file.path))
                    .hint("give a relative path without `..`"),
            ),
            _ => None,
        };
        fields.chain(split).chain(path).collect()
    }
}
