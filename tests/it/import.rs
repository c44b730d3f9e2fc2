//! `uses: adapter`: adapters that PEFT wrote, in a recipe.

use std::path::{Path, PathBuf};

use evergraft::model::{SafetensorsWeights, WeightSource as _};
use serde_json::Value;

use crate::{parity::fixture, space::Space};

fn space(base: &str, adapter: &Path) -> Space {
    let (base, adapter) = (fixture(base).display().to_string(), adapter.display());
    Space::new(&format!(
        r#"version: 1
name: import
steps:
  old: {{ uses: base, with: {{ source: {base} }} }}
  theirs: {{ uses: adapter, with: {{ source: {adapter}, base: "${{{{ steps.old }}}}" }} }}
  merged: {{ uses: merge, with: {{ adapter: "${{{{ steps.theirs }}}}" }} }}
  moved: {{ uses: swap, with: {{ adapter: "${{{{ steps.theirs }}}}", to: "${{{{ steps.merged }}}}" }} }}
"#
    ))
}

/// Folder of a step's artifact.
fn artifact(space: &Space, step: &str) -> PathBuf {
    let plan: Value =
        serde_json::from_str(&space.expect(0, &["plan", "recipe.yaml", "--format", "json"]).stdout).unwrap();
    let steps = plan["steps"].as_array().unwrap();
    steps.iter().find(|found| found["step"] == step).unwrap()["path"].as_str().unwrap().into()
}

#[test]
fn an_adapter_of_peft_can_be_merged_and_moved() {
    let space = space("llama", &fixture("llama-lora"));
    space.expect(0, &["run", "recipe.yaml"]);
    let taken = artifact(&space, "theirs");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let theirs = std::fs::read(fixture("llama-lora").join(name)).unwrap();
        assert_eq!(std::fs::read(taken.join(name)).unwrap(), theirs, "{name}");
    }
    let lineage: Value =
        serde_json::from_slice(&std::fs::read(taken.join("evergraft.json")).unwrap()).unwrap();
    assert_eq!(lineage["imported"], true);
    let name = "model.layers.0.self_attn.q_proj.weight";
    let weights = |folder: &Path| {
        SafetensorsWeights::open_file(&folder.join("model.safetensors")).unwrap().load(name).unwrap()
    };
    assert_ne!(weights(&artifact(&space, "merged")), weights(&fixture("llama")));
    assert!(artifact(&space, "moved").join("swap.json").is_file());
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let space = space("qwen3", &fixture("llama-lora"));
    let ran = space.expect(1, &["run", "recipe.yaml"]);
    assert!(ran.stderr.contains("does not fit the base `old`"), "{}", ran.stderr);
}

#[test]
fn a_folder_without_an_adapter_is_named() {
    let ran = space("llama", &fixture("llama")).expect(1, &["run", "recipe.yaml"]);
    assert!(ran.stderr.contains("adapter_config.json"), "{}", ran.stderr);
}
