//! [`StepKey`]: the one serialisable preimage that decides whether a result can be used again.
//!
//! It is stored beside every result, and `plan` and `explain` compare two of them: there is no
//! second list of what matters.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    device,
    digest::Digest,
    params::{Address, REF_KEY, file_name},
    plan::StepNode,
    steps::Input,
};

/// Format of [`StepKey`]; bumped when its meaning changes. 1: the first.
const FORMAT: u32 = 1;

/// Everything that may change the bytes of a step's artifact, and nothing else: no paths, no
/// times, no step names (but for reports, which print them).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepKey {
    /// Format of this struct.
    pub format: u32,
    /// Step kind.
    pub kind: String,
    /// The kind's hand-bumped version.
    pub step_version: u32,
    /// Parameters with every default written out. A file stands as `{"$file": digest}`, another
    /// step's artifact as `{"$artifact": digest}`, a hub source as its address at a commit, the device
    /// as the class that computes.
    pub params: Value,
    /// Reports print where their numbers come from, so their names and keys count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub printed: Vec<Printed>,
}

/// What a report prints of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Printed {
    /// Node id.
    pub node: String,
    /// Digest of its key.
    pub key: Digest,
    /// Digest of its artifact.
    pub artifact: Digest,
}

impl StepKey {
    /// The key of a node, given the artifacts that its parameters name and the digests of its
    /// files.
    pub fn new(
        node: &StepNode,
        inputs: &BTreeMap<String, Arc<Input>>,
        files: &BTreeMap<&Path, Digest>,
    ) -> Self {
        let mut params = node.params.clone();
        // A base is its content; elsewhere the file's name can matter (its ending tells the format).
        let with_name = node.kind.name != "base";
        replace(&mut params, inputs, files, with_name);
        name_web_files(&mut params, node, with_name);
        let dtype = params.get("dtype").cloned();
        if let Some(device) = params.get_mut("device") {
            *device = json!(device_class(device, dtype));
        }
        node.kind.not_in_key.iter().for_each(|field| forget(&mut params, field));
        let mut printed = Vec::new();
        if node.kind.name == "report" {
            let mut seen = BTreeMap::new();
            for input in inputs.values() {
                collect(input, &mut seen);
            }
            printed = seen.into_values().collect();
        }
        Self {
            format: FORMAT,
            kind: node.kind.name.to_owned(),
            step_version: node.kind.version,
            params,
            printed,
        }
    }

    /// The digest that names the cache entry. Parameters come from typed structs, whose fields
    /// always serialise in one order, so equal keys have equal bytes.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&serde_json::to_vec(self).expect("a key is plain data"))
    }

    /// What differs from an earlier key, field by field.
    pub fn differences(&self, earlier: &Self) -> Vec<Difference> {
        let value = |key: &Self| serde_json::to_value(key).expect("a key is plain data");
        let mut out = Vec::new();
        compare("", &value(earlier), &value(self), &mut out);
        out
    }
}

/// One field of a key that changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Dotted path, e.g. `params.trans_peft.pc`.
    pub field: String,
    /// Value before; none when the field is new.
    pub before: Option<Value>,
    /// Value now; none when the field is gone.
    pub now: Option<Value>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Option<Value>| match value {
            None => "(nothing)".to_owned(),
            Some(Value::String(text)) if text.starts_with("blake3:") => text.chars().take(19).collect(),
            Some(value) => value.to_string(),
        };
        let (before, now) = (text(&self.before), text(&self.now));
        let same = before.chars().zip(now.chars()).take_while(|(a, b)| a == b).count();
        let show = |text: &str| shorten(text, same);
        let what = if self.field.ends_with(".$artifact") {
            "content of step "
        } else if self.field.ends_with(".$file") {
            "content of file "
        } else {
            ""
        };
        let name = self.field.trim_end_matches(".$artifact").trim_end_matches(".$file");
        let name = name.strip_prefix("params.").unwrap_or(name);
        write!(f, "{what}`{name}`: {} -> {}", show(&before), show(&now))
    }
}

/// At most 60 characters of a value, those around the first one that differs.
fn shorten(text: &str, differs_at: usize) -> String {
    const SHOWN: usize = 60;
    let length = text.chars().count();
    if length <= SHOWN {
        return text.to_owned();
    }
    let start = differs_at.saturating_sub(SHOWN / 3).min(length - SHOWN);
    let part: String = text.chars().skip(start).take(SHOWN).collect();
    let (before, after) = (if start > 0 { "…" } else { "" }, if start + SHOWN < length { "…" } else { "" });
    format!("{before}{part}{after}")
}

/// A web file is its digest, wherever it lies; a hub source is its address at a commit, as it stands.
fn name_web_files(params: &mut Value, node: &StepNode, with_name: bool) {
    for remote in &node.remotes {
        let (Address::Web(url), Some(digest)) = (&remote.address, &remote.sha256) else { continue };
        let slot = match params.get_mut(remote.field) {
            Some(Value::Array(items)) => items.get_mut(remote.index),
            other => other,
        };
        if let Some(slot) = slot {
            *slot = json!({ "$file": format!("sha256:{digest}") });
            if with_name {
                slot["name"] = json!(file_name(url));
            }
        }
    }
}

/// Removes the field at a dotted path.
fn forget(params: &mut Value, path: &str) {
    let (folder, name) = path.rsplit_once('.').unwrap_or(("", path));
    let mut folders = folder.split('.').filter(|part| !part.is_empty());
    let parent = folders.try_fold(params, |value, part| value.get_mut(part));
    if let Some(Value::Object(fields)) = parent {
        fields.shift_remove(name);
    }
}

fn device_class(name: &Value, dtype: Option<Value>) -> &'static str {
    let name = serde_json::from_value(name.clone()).expect("`check` has read the name");
    device::class(name, dtype.and_then(|dtype| serde_json::from_value(dtype).ok()).unwrap_or_default())
}

fn replace(
    value: &mut Value,
    inputs: &BTreeMap<String, Arc<Input>>,
    files: &BTreeMap<&Path, Digest>,
    with_name: bool,
) {
    match value {
        Value::String(text) => {
            let path = Path::new(text.as_str());
            if let Some(digest) = files.get(path) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                *value = if with_name {
                    json!({ "$file": digest, "name": name })
                } else {
                    json!({ "$file": digest })
                };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, inputs, files, with_name)),
        Value::Object(map) => {
            let reference = map.get(REF_KEY).and_then(Value::as_str);
            if let Some(input) = reference.and_then(|id| inputs.get(id)) {
                *value = json!({ "$artifact": input.digest });
            } else {
                map.values_mut().for_each(|item| replace(item, inputs, files, with_name));
            }
        }
        _ => {}
    }
}

fn collect(input: &Arc<Input>, seen: &mut BTreeMap<String, Printed>) {
    if seen.contains_key(&input.node) {
        return;
    }
    let printed =
        Printed { node: input.node.clone(), key: input.key.clone(), artifact: input.digest.clone() };
    seen.insert(input.node.clone(), printed);
    input.inputs.iter().for_each(|input| collect(input, seen));
}

fn compare(field: &str, before: &Value, now: &Value, out: &mut Vec<Difference>) {
    let difference =
        || Difference { field: field.to_owned(), before: Some(before.clone()), now: Some(now.clone()) };
    let below = |name: &str| if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            // Order counts where the user writes the names, as in `rank_pattern`.
            if a == b && !a.keys().eq(b.keys()) {
                out.push(difference());
            }
            let gone = a.keys().filter(|name| !b.contains_key(*name));
            for name in b.keys().chain(gone) {
                match (a.get(name), b.get(name)) {
                    (Some(x), Some(y)) => compare(&below(name), x, y, out),
                    (x, y) => {
                        out.push(Difference { field: below(name), before: x.cloned(), now: y.cloned() });
                    }
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&below(&index.to_string()), x, y, out);
            }
        }
        _ if before == now => {}
        _ => out.push(difference()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_is_a_difference() {
        let mut found = Vec::new();
        let [before, now] = [r#"{"r": {"a": 1, "b": 2}}"#, r#"{"r": {"b": 2, "a": 1}}"#]
            .map(|text| serde_json::from_str(text).unwrap());
        compare("", &before, &now, &mut found);
        let [Difference { field, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(field, "r");
    }

    #[test]
    fn a_difference_shows_the_part_that_differs() {
        let long = |end: &str| Some(json!(format!("{}{end}", "x".repeat(100))));
        let difference = Difference { field: "params.run".to_owned(), before: long("old"), now: long("new") };
        let text = difference.to_string();
        assert!(text.contains("xxxold\"") && text.contains("xxxnew\""), "{text}");
        assert!(text.len() < 200, "{text}");
    }
}
