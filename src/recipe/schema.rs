//! JSON Schema of a recipe, from the types that parse it, for editors.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::{document::TOP_KEYS, shape::STEP_KEYS};
use crate::params::KINDS;

/// The pattern of a text that is one expression.
const EXPRESSION: &str = "Expression";

/// JSON Schema (draft 2020-12) of a whole recipe.
pub fn json_schema() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut names = Vec::new();
    for kind in KINDS {
        let reference = (kind.schema)(&mut generator).to_value();
        let path = reference.get("$ref").and_then(Value::as_str).unwrap_or_default();
        names.push(path.rsplit('/').next().unwrap_or_default().to_owned());
    }
    let mut definitions = generator.take_definitions(true);
    for schema in definitions.values_mut() {
        open(schema);
    }
    for name in &names {
        // `defaults` may supply any field of `with`.
        if let Some(schema) = definitions.get_mut(name).and_then(Value::as_object_mut) {
            schema.remove("required");
        }
    }
    definitions.insert(
        EXPRESSION.to_owned(),
        json!({ "type": "string", "pattern": r"\$\{\{", "description": "An expression, written ${{ ... }}." }),
    );
    definitions.insert("Resources".to_owned(), resources());
    definitions.insert("Step".to_owned(), step(&names));
    recipe(definitions)
}

/// Lets an expression stand for every field and item.
fn open(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(or_expression),
            ("items" | "additionalProperties", value @ Value::Object(_)) => or_expression(value),
            ("anyOf" | "oneOf" | "allOf", Value::Array(options)) => options.iter_mut().for_each(open),
            _ => {}
        }
    }
}

fn or_expression(schema: &mut Value) {
    open(schema);
    let mut inner = schema.take();
    let mut outer = Map::new();
    if let Some(object) = inner.as_object_mut() {
        for key in ["description", "default"] {
            if let Some(value) = object.shift_remove(key) {
                outer.insert(key.to_owned(), value);
            }
        }
    }
    outer.insert("anyOf".to_owned(), json!([inner, reference(EXPRESSION)]));
    *schema = Value::Object(outer);
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn resources() -> Value {
    json!({
        "type": "object",
        "description": "What a step asks of the machine.",
        "additionalProperties": false,
        "properties": {
            "cpus": { "description": "Processor cores.",
                "anyOf": [{ "type": "integer", "minimum": 1 }, reference(EXPRESSION)] },
            "mem": { "description": "Memory: bytes, or a text such as `16G`.",
                "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }] },
            "gpu": { "description": "Graphics cards.",
                "anyOf": [{ "type": "integer", "minimum": 0 }, reference(EXPRESSION)] },
        }
    })
}

fn cells(description: &str) -> Value {
    let cell = json!({ "type": "object", "minProperties": 1 });
    json!({
        "description": description,
        "anyOf": [{ "type": "array", "items": cell }, reference(EXPRESSION), { "type": "null" }],
    })
}

fn step(parameters: &[String]) -> Value {
    let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let by_kind: Vec<Value> = KINDS
        .iter()
        .zip(parameters)
        .map(|(kind, parameters)| {
            json!({
                "if": { "properties": { "uses": { "const": kind.name } }, "required": ["uses"] },
                "then": {
                    "description": kind.about,
                    "properties": { "with": reference(parameters) },
                },
            })
        })
        .collect();
    let about = KINDS.iter().map(|kind| format!("`{}`: {}", kind.name, kind.about));
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "anyOf": [{ "required": ["uses"] }, { "required": ["extends"] }],
        "properties": {
            "uses": { "enum": kinds, "description": about.collect::<Vec<_>>().join("\n") },
            "extends": {
                "type": "string",
                "description": "A step whose keys this one takes unless it has its own; `with` is merged key \
                    by key, `when` and `description` are not taken.",
            },
            "with": { "type": "object", "description": "Parameters of the step kind." },
            "needs": {
                "description": "Steps that must be done first although no data comes from them.",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "matrix": {
                "description": "One node for each combination of the axes' values. A step that refers to \
                    this one inherits the axes; in a field that takes a list it gets all cells.",
                "anyOf": [
                    {
                        "type": "object",
                        "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                        "properties": {
                            "exclude": cells("Cells to leave out: those that have all values of an item."),
                            "include": cells("Cells to add, each with a value of every axis."),
                        },
                        "additionalProperties": {
                            "anyOf": [{ "type": "array", "minItems": 1 }, reference(EXPRESSION)],
                        },
                    },
                    reference(EXPRESSION),
                    { "type": "null" },
                ],
            },
            "when": {
                "description": "The step is left out where this is false; brackets may be left out.",
                "type": ["boolean", "string"],
            },
            "resources": { "anyOf": [reference("Resources"), reference(EXPRESSION), { "type": "null" }] },
            "timeout": {
                "description": "Longest run time: seconds, or a text such as `30m`.",
                "anyOf": [{ "type": "number", "exclusiveMinimum": 0 }, { "type": ["string", "null"] }],
            },
            "retries": {
                "description": "How often a failed run is repeated.",
                "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 100 }, reference(EXPRESSION),
                    { "type": "null" }],
            },
            "description": { "type": "string", "description": "For people." },
        },
        "allOf": by_kind,
    });
    debug_assert!(STEP_KEYS.iter().all(|key| schema["properties"].get(key).is_some()));
    schema["description"] = json!("One step of the pipeline.");
    schema
}

fn recipe(definitions: Map<String, Value>) -> Value {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evergraft recipe",
        "type": "object",
        "additionalProperties": false,
        "required": ["version"],
        "properties": {
            "version": { "const": 1, "description": "Version of the recipe language." },
            "name": { "type": "string", "pattern": "^[\\w-][\\w.-]{0,63}$",
                "description": "Names the run folders; by default the file's name." },
            "description": { "type": ["string", "null"], "description": "For people." },
            "include": {
                "description": "Recipe files whose params, defaults and steps are taken over; this file's \
                    params and defaults win.",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "params": {
                "description": "Values for `${{ params.<name> }}`; `--set params.<name>=value` changes them.",
                "type": ["object", "null"],
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            },
            "defaults": {
                "description": "Values for every step whose kind has the field, and for `resources`, \
                    `timeout` and `retries`.",
                "type": ["object", "null"],
                "propertyNames": { "enum": default_names() },
            },
            "steps": {
                "description": "The pipeline. `${{ steps.<id> }}` stands for a step's result.",
                "type": ["object", "null"],
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": reference("Step"),
            },
        },
        "$defs": definitions,
    });
    debug_assert!(TOP_KEYS.iter().all(|key| schema["properties"].get(key).is_some()));
    schema
}

fn default_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for name in KINDS.iter().flat_map(crate::params::Kind::fields).chain(super::shape::STEP_DEFAULTS) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
