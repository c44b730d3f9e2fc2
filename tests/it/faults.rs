//! The commit protocol killed at each of its stages (`src/fault.rs`), then a plain run: the same bytes as
//! undisturbed, nothing lost, nothing left over. Only a debug build has the fault points.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt as _, path::Path};

use crate::{
    kill::{files, results},
    space::Space,
};

/// Two steps, so that what the first one committed lies beside what the second one was killed in.
const STEPS: &str = r#"version: 1
name: kill
steps:
  a: { uses: command, with: { run: "mkdir d; echo x > d/x; echo y > y", outputs: [d/x, y] } }
  b: { uses: command, with: { run: "cat $STEP_A/d/x > z", steps: { a: "${{ steps.a }}" }, outputs: [z] } }
"#;

/// Every place that the sources name, with the file that does.
fn places() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(&source).sort_by_file_name().into_iter().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let names = text.split("fault::point(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
            let file = entry.path().strip_prefix(&source).unwrap().display().to_string();
            found.extend(names.map(|name| (file.clone(), name.to_owned())));
        }
    }
    found
}

fn cache_files(space: &Space) -> BTreeSet<String> {
    files(&space.path().join("cache"))
}

/// Kills a run at the n-th time that it comes to a place, for every n; gives their number. Every trial
/// begins as `prepare` says.
fn kill_at_every(
    place: &str,
    recipe: &str,
    args: &[&str],
    prepare: &dyn Fn(&Space),
    killed: &dyn Fn(std::process::ExitStatus) -> bool,
) -> usize {
    let undisturbed = Space::new(recipe);
    prepare(&undisturbed);
    undisturbed.expect(0, args);
    for n in 1.. {
        let space = Space::new(recipe);
        prepare(&space);
        let mut run = space.command(args);
        let status = run.env("EVERGRAFT_FAULT", format!("{place}:{n}")).output().unwrap().status;
        if status.success() {
            return n - 1;
        }
        assert!(killed(status), "{place}:{n}: {status}");
        space.expect(0, args);
        assert_eq!(results(&space), results(&undisturbed), "{place}:{n}");
        assert_eq!(cache_files(&space), cache_files(&undisturbed), "{place}:{n}");
        space.expect(0, &["cache", "verify"]);
    }
    unreachable!("a run comes to a place so often only")
}

const RUN: &[&str] = &["run", "-q", "-j", "1"];

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no fault points")]
fn a_commit_that_is_killed_at_any_stage_is_made_again() {
    let mut trials = 0;
    for (file, place) in places() {
        if file == "train/checkpoint.rs" || place == "damaged artifact moved" {
            continue;
        }
        let times = kill_at_every(&place, STEPS, RUN, &|_| (), &|status| status.signal() == Some(9));
        assert!(times > 0, "`{place}` is never reached");
        trials += times;
    }
    println!("{trials} kills");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no fault points")]
fn a_repair_that_is_killed_is_made_again() {
    // The files of `a` are not what its record says.
    let damage = |space: &Space| {
        space.expect(0, RUN);
        let artifact = space.path().join("outputs/kill/latest/steps/a/artifact").canonicalize().unwrap();
        std::fs::remove_file(artifact.join("y")).unwrap();
    };
    let mut trials = 0;
    for place in ["damaged artifact moved", "artifact renamed", "artifact placed", "file renamed"] {
        let times = kill_at_every(place, STEPS, RUN, &damage, &|status| status.signal() == Some(9));
        assert!(times > 0, "`{place}` is never reached");
        trials += times;
    }
    println!("{trials} kills");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no fault points")]
fn a_checkpoint_that_is_killed_at_any_stage_is_not_in_the_way() {
    let recipe = r#"version: 1
name: kill
defaults: { device: flex, resources: { cpus: 1 } }
steps:
  old: { uses: base, with: { source: TINY/old } }
  rows: { uses: dataset, with: { source: TINY/train.jsonl.gz, format: alpaca, split: "[:20]" } }
  tokens: { uses: tokenize, with: { base: "${{ steps.old }}", dataset: "${{ steps.rows }}", prompt: plain, max_seq_length: 48 } }
  train:
    uses: train
    with:
      base: "${{ steps.old }}"
      tokens: "${{ steps.tokens }}"
      adapter: { type: lora, r: 2, lora_alpha: 8, lora_dropout: 0.05, target_modules: [q_proj] }
      trans_peft: { pc: 0.2, pi: 0.1 }
      optimizer: { learning_rate: 1e-3, max_steps: 2, per_device_train_batch_size: 2, save_steps: 1, logging_steps: 1 }
"#;
    let recipe = recipe.replace("TINY", concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny"));
    let places = places().into_iter().filter(|(file, _)| file == "train/checkpoint.rs");
    let mut trials = 0;
    for (_, place) in places {
        // The process of the step is killed, not the runner.
        let times = kill_at_every(&place, &recipe, RUN, &|_| (), &|status| status.code() == Some(1));
        assert!(times > 0, "`{place}` is never reached");
        trials += times;
    }
    println!("{trials} kills");
}
