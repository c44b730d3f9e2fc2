//! What `plan` says of memory and disk before a step runs.

use std::path::Path;

use evergraft::{
    model::{ModelConfig, largest_matrix, parameter_count},
    train,
};
use serde_json::Value;

use crate::space::Space;

const ROWS: usize = 2;
const LONGEST: usize = 64;

/// Every kind of step that computes, on the shipped tiny base.
fn space() -> Space {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    let (tiny, optimizer) =
        (tiny.display(), format!("optimizer: {{ max_steps: 1, per_device_train_batch_size: {ROWS} }}"));
    Space::new(&format!(
        r#"version: 1
steps:
  old: {{ uses: base, with: {{ source: {tiny}/old }} }}
  rows: {{ uses: dataset, with: {{ source: {tiny}/train.jsonl.gz, format: alpaca, split: "[:8]" }} }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.old }}}}", dataset: "${{{{ steps.rows }}}}", prompt: plain, max_seq_length: {LONGEST} }} }}
  train: {{ uses: train, with: {{ base: "${{{{ steps.old }}}}", tokens: "${{{{ steps.tokens }}}}", adapter: {{ r: 4 }}, device: flex, {optimizer} }} }}
  half: {{ uses: train, with: {{ base: "${{{{ steps.old }}}}", tokens: "${{{{ steps.tokens }}}}", adapter: {{ r: 4 }}, device: flex, dtype: bf16, {optimizer} }} }}
  more: {{ uses: pretrain, with: {{ base: "${{{{ steps.old }}}}", tokens: "${{{{ steps.tokens }}}}", {optimizer} }} }}
"#
    ))
}

fn shape() -> ModelConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny/old/config.json");
    ModelConfig::from_json(&serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()).unwrap()
}

/// The most memory of each step, as the verb says.
fn memory(space: &Space, args: &[&str]) -> Vec<(String, Option<u64>)> {
    let ran = space.expect(0, &[args, &["--format", "json"]].concat());
    let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
    let steps = plan["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["step"].as_str().unwrap().to_owned(), step["memory_bytes"].as_u64())).collect()
}

fn of(steps: &[(String, Option<u64>)], name: &str) -> Option<u64> {
    steps.iter().find(|(step, _)| step == name).unwrap().1
}

#[test]
fn a_pretrain_step_holds_its_weights_once() {
    let (space, shape) = (space(), shape());
    let found = of(&memory(&space, &["plan", "recipe.yaml"]), "more").unwrap();
    let pass = train::pass_bytes(&shape, ROWS, LONGEST, 0, false);
    assert_eq!(found, train::state_bytes(parameter_count(&shape)) + pass);
}

#[test]
fn half_precision_on_flex_counts_the_widened_matrix() {
    let (space, shape) = (space(), shape());
    let steps = memory(&space, &["plan", "recipe.yaml"]);
    let [whole, half] = ["train", "half"].map(|step| of(&steps, step).unwrap());
    assert_eq!(half + 2 * parameter_count(&shape), whole + 4 * largest_matrix(&shape));
}

/// Weights, and what a pass takes: more for more beams, and the task that takes most counts.
#[test]
fn an_evaluation_holds_weights_and_a_pass() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    let evaluation = |more: &str, tasks: &[(&str, usize)]| {
        let space = space();
        let names: Vec<&str> = tasks.iter().map(|(name, _)| *name).collect();
        let recipe = space.read("recipe.yaml")
            + &format!(
                "  scores: {{ uses: eval, with: {{ model: \"${{{{ steps.old }}}}\", device: flex{more}, tasks: [{}] }} }}\n",
                names.join(", ")
            );
        space.write("recipe.yaml", recipe);
        for (name, beams) in tasks {
            let data = tiny.join("test.jsonl.gz").display().to_string();
            space.write(
                name,
                format!(
                    "task: t{beams}\ndataset_path: json\ndataset_kwargs: {{ data_files: {{ test: {data} }} }}\n\
                     test_split: test\noutput_type: generate_until\ndoc_to_text: instruction\ndoc_to_target: output\n\
                     generation_kwargs: {{ num_beams: {beams}, max_gen_toks: 16 }}\nmetadata: {{ version: 1 }}\n"
                ),
            );
        }
        of(&memory(&space, &["plan", "recipe.yaml"]), "scores").unwrap()
    };
    let (one, eight) = (("one.yaml", 1), ("eight.yaml", 8));
    let greedy = evaluation("", &[one]);
    let shape = shape();
    assert!(greedy > 4 * parameter_count(&shape));
    assert!(evaluation("", &[eight]) > greedy);
    assert_eq!(evaluation("", &[one, eight]), evaluation("", &[eight]));
    // `flex` reads weights in half precision as they are.
    assert_eq!(evaluation(", dtype: bf16", &[one]), greedy - 2 * parameter_count(&shape));
}

#[test]
fn a_selected_step_is_estimated_from_those_before_it() {
    let space = space();
    let all = memory(&space, &["plan", "recipe.yaml"]);
    let dry_run = ["run", "recipe.yaml", "--dry-run", "--only", "train"];
    assert_eq!(memory(&space, &dry_run), [("train".to_owned(), of(&all, "train"))]);
    assert!(of(&all, "train").is_some());

    // Cached rows are shorter than they may be.
    space.expect(0, &["run", "recipe.yaml", "--until", "tokens"]);
    let found = memory(&space, &dry_run);
    assert!(of(&found, "train").unwrap() < of(&all, "train").unwrap(), "{found:?}");
    assert_eq!(of(&memory(&space, &["plan", "recipe.yaml"]), "train"), of(&found, "train"));
}

#[test]
fn cached_steps_have_no_estimate() {
    let space = space();
    space.expect(0, &["run", "recipe.yaml", "--until", "train"]);
    let steps = memory(&space, &["plan", "recipe.yaml"]);
    assert_eq!(of(&steps, "train"), None);
    assert!(of(&steps, "more").is_some());
}

#[test]
fn absurd_numbers_are_bad_input() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    let tiny = tiny.display();
    let space = Space::new(&format!(
        r#"version: 1
steps:
  old: {{ uses: base, with: {{ source: {tiny}/old }} }}
  rows: {{ uses: dataset, with: {{ source: {tiny}/test.jsonl.gz, format: alpaca }} }}
  scores: {{ uses: eval, with: {{ model: "${{{{ steps.old }}}}", batch_size: 18446744073709551615, tasks: [{{ name: gsm8k, dataset: "${{{{ steps.rows }}}}", max_new_tokens: 18446744073709551615 }}] }} }}
"#
    ));
    let ran = space.expect(2, &["plan", "recipe.yaml"]);
    for words in
        ["must lie between 1 and 4294967296, found 18446744073709551615", "batch_size", "max_new_tokens"]
    {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}
