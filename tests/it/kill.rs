//! SIGKILL at random moments of a whole small job, then a plain run: the same bytes as undisturbed, nothing lost,
//! nothing left over.
//!
//!     EVERGRAFT_KILL_TRIALS=500 cargo test --release --test it -- kill:: --nocapture

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use evergraft::rng;
use serde_json::Value;
use walkdir::WalkDir;

use crate::space::Space;

/// Every kind of step but `pretrain`, `merge` and `adapter`, on the shipped tiny pair.
const RECIPE: &str = r#"
version: 1
name: kill
defaults: { device: flex, resources: { cpus: 1 } }
steps:
  old: { uses: base, with: { source: TINY/old } }
  new: { uses: base, with: { source: TINY/new } }
  first: { uses: command, with: { run: "echo first > a; cp a b", outputs: [a, b] } }
  second:
    uses: command
    matrix: { n: [1, 2, 3] }
    with: { run: "cat $STEP_FIRST/a > c; echo ${{ matrix.n }} >> c", steps: { first: "${{ steps.first }}" }, outputs: [c] }
  rows: { uses: dataset, with: { source: TINY/train.jsonl.gz, format: alpaca } }
  test_rows: { uses: dataset, with: { source: TINY/test.jsonl.gz, format: alpaca } }
  tokens: { uses: tokenize, with: { base: "${{ steps.old }}", dataset: "${{ steps.rows }}", prompt: plain, max_seq_length: 48 } }
  train:
    uses: train
    with:
      base: "${{ steps.old }}"
      tokens: "${{ steps.tokens }}"
      adapter: { type: lora, r: 4, lora_alpha: 8, lora_dropout: 0.05, target_modules: [q_proj, v_proj] }
      trans_peft: { pc: 0.2, pi: 0.1 }
      optimizer: { learning_rate: 1e-3, max_steps: 6, per_device_train_batch_size: 4, save_steps: 1, logging_steps: 1 }
  moved: { uses: swap, with: { adapter: "${{ steps.train }}", to: "${{ steps.new }}" } }
  score:
    uses: eval
    with:
      model: "${{ steps.moved }}"
      limit: 6
      tasks: [{ name: tiny, dataset: "${{ steps.test_rows }}", prompt: plain, labels: [forest, river, desert, swamp, cave, meadow, island, berries, grass, fish, seeds, roots, honey, leaves, red, blue, green, black, white, brown, golden, tiny, small, large, huge], max_new_tokens: 4 }]
  report: { uses: report, with: { results: ["${{ steps.score }}"] } }
"#;

/// Step to key and artifact, of the last run.
pub(crate) fn results(space: &Space) -> BTreeMap<String, [String; 2]> {
    let run: Value = serde_json::from_str(&space.read("outputs/kill/latest/run.json")).unwrap();
    let steps = run["steps"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    steps.map(|step| (text(&step["step"]), [text(&step["key"]), text(&step["artifact"])])).collect()
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> BTreeSet<String> {
    let all =
        WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|entry| !entry.file_type().is_dir());
    all.map(|entry| entry.path().strip_prefix(folder).unwrap().display().to_string()).collect()
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bytes() {
    let trials = std::env::var("EVERGRAFT_KILL_TRIALS").map_or(2, |text| text.parse().expect("a number"));
    let recipe = RECIPE.replace("TINY", concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny"));
    let undisturbed = Space::new(&recipe);
    let start = Instant::now();
    undisturbed.expect(0, &["run", "-q"]);
    let whole = start.elapsed();
    let (expected, expected_files) = (results(&undisturbed), files(&undisturbed.path().join("cache")));
    assert_eq!(expected.len(), 13);

    let (mut killed, mut in_time) = (0, 0);
    for trial in 0..trials {
        let mut random = rng::stream(trial, "kill", &[]);
        let space = Space::new(&recipe);
        // One, two or three kills, so that what goes on after a kill is killed too.
        for _ in 0..=trial % 3 {
            let mut run =
                space.command(&["run", "-q"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(random.unit_f64() * whole.as_secs_f64()));
            match run.try_wait().unwrap() {
                Some(status) => {
                    assert!(status.success(), "trial {trial}: {status}");
                    in_time += 1;
                }
                None => {
                    run.kill().unwrap();
                    run.wait().unwrap();
                    killed += 1;
                }
            }
        }
        space.expect(0, &["run", "-q"]);
        assert_eq!(results(&space), expected, "trial {trial}");
        assert_eq!(files(&space.path().join("cache")), expected_files, "trial {trial}");
        space.expect(0, &["cache", "verify"]);
    }
    println!("{trials} trials, {killed} kills, {in_time} runs that ended before their kill: no difference");
}
