//! The registry of step kinds: one row per parameter type.

use std::path::PathBuf;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::{
    BaseParams, CommandParams, DatasetParams, EvalParams, PretrainParams, Problem, ReportParams, StepParams,
    SwapParams, TokenizeParams, TrainParams,
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
    /// Broken rules; empty when the step may run.
    pub problems: Vec<Problem>,
}

const fn kind<P: StepParams>() -> Kind {
    Kind {
        name: P::KIND,
        version: P::VERSION,
        about: P::ABOUT,
        list_fields: P::LIST_FIELDS,
        schema: |generator| generator.subschema_for::<P>(),
        parse: |value| {
            let params: P = serde_path_to_error::deserialize(value)?;
            Ok(Parsed {
                normalized: serde_json::to_value(&params).expect("parameters are plain data"),
                files: params.files().into_iter().map(|(field, file)| (field, file.0.clone())).collect(),
                problems: params.check(),
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
    kind::<SwapParams>(),
    kind::<EvalParams>(),
    kind::<ReportParams>(),
    kind::<CommandParams>(),
];

impl Kind {
    /// The kind called `name`.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}
