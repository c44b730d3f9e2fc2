//! Types shared by the parameters of several step kinds.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::address::RepoKind;

/// What every step kind's parameter type tells the planner.
pub trait StepParams: DeserializeOwned + Serialize + JsonSchema {
    /// The word after `uses:`.
    const KIND: &'static str;
    /// Bumped by hand whenever the step's output bytes change for the same inputs.
    const VERSION: u32;
    /// Fields that take a list of artifacts. A reference to a matrix step there means all its
    /// cells; in any other field the step inherits the matrix axes instead.
    const LIST_FIELDS: &'static [&'static str] = &[];
    /// One sentence for `evergraft schema` and the documentation.
    const ABOUT: &'static str;

    /// Dotted paths of fields that change no byte of the result, and so stay out of the key.
    const NOT_IN_KEY: &'static [&'static str] = &[];

    /// Which fields may hold addresses (`hf://`, `https://`) instead of paths.
    const REMOTE: Option<RemoteFields> = None;

    /// `revision:`, for hub addresses that name none.
    fn revision(&self) -> Option<&str> {
        None
    }

    /// `sha256:`, a digest for each web address.
    fn sha256(&self) -> &[String] {
        &[]
    }

    /// Files outside the cache that this step reads, with the field that names each.
    fn files(&self) -> Vec<(&'static str, &SourceFile)> {
        Vec::new()
    }

    /// Rules that the types alone cannot hold (ranges, fields that exclude each other).
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// Fields that may hold addresses.
#[derive(Debug, Clone, Copy)]
pub struct RemoteFields {
    /// Their names.
    pub fields: &'static [&'static str],
    /// What they get from the hub.
    pub kind: RepoKind,
}

/// A rule of [`StepParams::check`] that a value breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the offending field below `with`, e.g. `trans_peft.pc`.
    pub field: String,
    /// What is wrong, lower case, without a full stop.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), hint: None }
    }

    /// Adds the `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The artifact of another step, written `${{ steps.<id> }}` in a recipe.
///
/// After planning it stands for exactly one node of the plan and is stored as
/// `{"$step": "<node id>"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArtifactRef(pub String);

/// The key under which a reference travels through JSON.
pub const REF_KEY: &str = "$step";

impl Serialize for ArtifactRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(REF_KEY, &self.0)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for ArtifactRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RefVisitor;
        impl<'de> serde::de::Visitor<'de> for RefVisitor {
            type Value = ArtifactRef;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a step, written ${{ steps.<id> }}")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let wrong = || serde::de::Error::custom("expected a step, written ${{ steps.<id> }}");
                match map.next_entry::<String, String>()? {
                    Some((key, id)) if key == REF_KEY => Ok(ArtifactRef(id)),
                    _ => Err(wrong()),
                }
            }
        }
        deserializer.deserialize_map(RefVisitor)
    }
}

impl JsonSchema for ArtifactRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StepReference".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\$\{\{.*\}\}$",
            "description": "Another step's result, written ${{ steps.<id> }}."
        })
    }
}

/// A file or folder outside the cache, or, where the field says so, an address (`hf://org/name`,
/// `https://...`). Relative paths start at the recipe's folder; the planner makes them absolute.
/// Only the content enters a step's key, never the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SourceFile(pub PathBuf);

/// More steps, rows or tokens than any run has; larger numbers are slips of the pen.
pub(super) const MAX_COUNT: usize = 1 << 32;

/// A problem unless `value` lies between 1 and [`MAX_COUNT`].
pub(super) fn count(field: impl Into<String>, value: usize) -> Option<Problem> {
    let fits = (1..=MAX_COUNT).contains(&value);
    (!fits).then(|| Problem::new(field, format!("must lie between 1 and {MAX_COUNT}, found {value}")))
}

/// A problem unless `value` lies in [0, 1).
pub(super) fn below_one(field: &str, value: f64) -> Option<Problem> {
    (!(0.0..1.0).contains(&value)).then(|| Problem::new(field, format!("must lie in [0, 1), found {value}")))
}

/// Whether a path below a step's folder is empty, absolute or climbs out.
pub(super) fn leaves_its_folder(path: &str) -> bool {
    let inside = |part| matches!(part, std::path::Component::Normal(_));
    path.is_empty() || !std::path::Path::new(path).components().all(inside)
}

/// The number format of weights, in memory or on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    #[serde(rename = "f32", alias = "float32")]
    F32,
    /// bfloat16, rounded to nearest even.
    #[serde(rename = "bf16", alias = "bfloat16")]
    Bf16,
    /// IEEE half precision, rounded to nearest even.
    #[serde(rename = "f16", alias = "float16")]
    F16,
}

impl Dtype {
    /// torch's name, as it stands in a `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// One SHA-256 digest, or one for each of several files.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error;
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Ok(text),
        other => Err(D::Error::custom(format!("expected a text or a list of texts, found {other}"))),
    };
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Array(items) => items.into_iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

/// The schema of [`one_or_many`].
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}
