//! The JSON Schema of recipes. `EVERGRAFT_BLESS=1 cargo test schema` writes the committed copy.

use std::path::Path;

use evergraft::{
    params::{KINDS, shipped_tasks, task_schema},
    recipe::json_schema,
};
use serde_json::Value;

#[test]
fn the_committed_schemas_are_current() {
    for (name, schema) in [("recipe", json_schema()), ("task", task_schema())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schema/{name}.schema.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("EVERGRAFT_BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "run `EVERGRAFT_BLESS=1 cargo test schema` and commit {}", path.display());
    }
}

#[test]
fn every_field_of_a_task_is_described() {
    let schema = task_schema();
    let definitions = schema["$defs"].as_object().unwrap().values();
    for object in definitions.chain([&schema]) {
        for (name, field) in object["properties"].as_object().into_iter().flatten() {
            assert!(field["description"].is_string(), "{name} has no description");
        }
    }
    // What a shipped task says is what the schema knows.
    for task in shipped_tasks() {
        let fields = serde_json::to_value(task).unwrap();
        for name in fields.as_object().unwrap().keys() {
            assert!(schema["properties"].get(name).is_some(), "{name}");
        }
    }
}

#[test]
fn every_kind_and_field_is_described() {
    let schema = json_schema();
    let step = &schema["$defs"]["Step"];
    for (at, kind) in KINDS.iter().enumerate() {
        assert_eq!(step["properties"]["uses"]["enum"][at], kind.name);
        let rule = &step["allOf"][at];
        assert_eq!(rule["if"]["properties"]["uses"]["const"], kind.name);
        let with = &rule["then"]["properties"]["with"]["$ref"];
        let with = schema.pointer(with.as_str().unwrap().trim_start_matches('#')).unwrap();
        assert_eq!(with["additionalProperties"], Value::Bool(false), "{}", kind.name);
        for field in kind.fields() {
            let property = &with["properties"][field];
            assert!(property["description"].is_string(), "{}.{field} has no description", kind.name);
            let open = property["anyOf"]
                .as_array()
                .is_some_and(|options| options.iter().any(|option| option["$ref"] == "#/$defs/Expression"));
            assert!(open, "{}.{field} takes no expression", kind.name);
        }
    }
}

#[test]
fn every_reference_of_the_schema_resolves() {
    fn walk(value: &Value, root: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(path)) = map.get("$ref") {
                    assert!(root.pointer(path.trim_start_matches('#')).is_some(), "{path}");
                }
                map.values().for_each(|value| walk(value, root));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, root)),
            _ => {}
        }
    }
    for schema in [json_schema(), task_schema()] {
        walk(&schema, &schema);
    }
}
