//! The registry of step kinds: one row per parameter type.

use std::{path::PathBuf, sync::LazyLock};

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::{
    BaseParams, CommandParams, DatasetParams, EvalParams, ImportParams, MergeParams, PretrainParams, Problem,
    Remote, ReportParams, StepParams, SwapParams, TokenizeParams, TrainParams, remote,
};

/// What the planner knows of a step kind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The word after `uses:`.
    pub name: &'static str,
    /// See [`StepParams::VERSION`].
    pub version: u32,
    /// One sentence.
    pub about: &'static str,
    /// See [`StepParams::LIST_FIELDS`].
    pub list_fields: &'static [&'static str],
    /// See [`StepParams::NOT_IN_KEY`].
    pub not_in_key: &'static [&'static str],
    /// JSON Schema of `with:`.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads resolved parameters (references as `{"$step": id}`).
    pub parse: fn(Value) -> Result<Parsed, serde_path_to_error::Error<serde_json::Error>>,
}

/// Parameters that fit their type.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The same parameters with every default written out.
    pub normalized: Value,
    /// Files outside the cache, with the field that names each.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Those of them that lie elsewhere.
    pub remotes: Vec<Remote>,
    /// Broken rules; empty when the step may run.
    pub problems: Vec<Problem>,
}

const fn kind<P: StepParams>() -> Kind {
    Kind {
        name: P::KIND,
        version: P::VERSION,
        about: P::ABOUT,
        list_fields: P::LIST_FIELDS,
        not_in_key: P::NOT_IN_KEY,
        schema: |generator| generator.subschema_for::<P>(),
        parse: |value| {
            let params: P = serde_path_to_error::deserialize(value)?;
            let (remotes, mut problems) = remote::remotes(&params);
            problems.extend(params.check());
            Ok(Parsed {
                normalized: serde_json::to_value(&params).expect("parameters are plain data"),
                files: params.files().into_iter().map(|(field, file)| (field, file.0.clone())).collect(),
                remotes,
                problems,
            })
        },
    }
}

/// Every step kind, in the order of a pipeline.
pub const KINDS: &[Kind] = &[
    kind::<BaseParams>(),
    kind::<DatasetParams>(),
    kind::<TokenizeParams>(),
    kind::<PretrainParams>(),
    kind::<TrainParams>(),
    kind::<ImportParams>(),
    kind::<SwapParams>(),
    kind::<MergeParams>(),
    kind::<EvalParams>(),
    kind::<ReportParams>(),
    kind::<CommandParams>(),
];

impl Kind {
    /// Fields that may stand under `with:`.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> + use<> {
        static FIELDS: LazyLock<Vec<(&str, Vec<String>)>> = LazyLock::new(|| {
            let names = |kind: &Kind| {
                let schema = kind.full_schema();
                let properties = schema.get("properties").and_then(Value::as_object);
                properties.map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
            };
            KINDS.iter().map(|kind| (kind.name, names(kind))).collect()
        });
        let row = FIELDS.iter().find(|(name, _)| *name == self.name);
        row.into_iter().flat_map(|(_, fields)| fields.iter().map(String::as_str))
    }

    /// Whether `name` may stand under `with:`.
    pub fn has_field(&self, name: &str) -> bool {
        self.fields().any(|field| field == name)
    }

    /// JSON Schema of `with:` with everything it refers to under `$defs`.
    pub fn full_schema(&self) -> Value {
        let mut generator = SchemaGenerator::default();
        let reference = (self.schema)(&mut generator).to_value();
        let mut definitions = generator.take_definitions(true);
        let name = reference.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
        let mut schema = name.and_then(|name| definitions.remove(name)).unwrap_or(reference);
        if let Some(object) = schema.as_object_mut() {
            object.insert("$defs".to_owned(), Value::Object(definitions));
        }
        schema
    }

    /// Step kinds that a reference in this field may name; `None` for any. `field` is a dotted
    /// path with `*` for list indexes and free names.
    pub fn referable(&self, field: &str) -> Option<&'static [&'static str]> {
        Some(match (self.name, field) {
            (_, "base") | ("swap", "to") => &["base", "pretrain", "merge"],
            (_, "tokens" | "eval_tokens") => &["tokenize"],
            (_, "dataset")
            | ("eval", "tasks.*.dataset" | "tasks.*.fewshot_dataset")
            | ("base", "init.tokenizer.text") => &["dataset"],
            ("swap", "adapter") => &["train", "adapter"],
            ("merge", "adapter") => &["train", "swap", "adapter"],
            ("eval", "model") => &["base", "pretrain", "train", "swap", "merge", "adapter"],
            ("report", "results.*" | "results") => &["eval"],
            _ => return None,
        })
    }

    /// The kind called `name`.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}
