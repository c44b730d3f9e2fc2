//! Running recipes with the real binary: what runs, what is cached, what survives.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    processes::wait_until_a_log_says,
    space::{Ran, Space},
};

const CHAIN: &str = r#"version: 1
name: chain
params: { word: one }
steps:
  a: { uses: command, with: { run: "cat \"$INPUT_1\" > a.txt", inputs: [in.txt], outputs: [a.txt] } }
  b: { uses: command, with: { run: "head -c 3 \"$STEP_A/a.txt\" > b.txt", steps: { a: "${{ steps.a }}" }, outputs: [b.txt] } }
  c: { uses: command, with: { run: "cat \"$STEP_B/b.txt\" > c.txt; echo ${{ params.word }} >> c.txt", steps: { b: "${{ steps.b }}" }, outputs: [c.txt] } }
"#;

fn chain() -> Space {
    let space = Space::new(CHAIN);
    space.write("in.txt", "abc-first");
    space
}

fn artifact(space: &Space, step: &str, file: &str) -> String {
    space.read(&format!("outputs/chain/latest/steps/{step}/artifact/{file}"))
}

#[test]
fn a_run_is_about_the_results_that_it_uses_too() {
    let space = chain();
    space.counts(&[]);
    let ran = space.expect(0, &["run", "--format", "json", "--only", "c", "--force=c"]);
    let first: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["steps"]), (&"run_started".into(), &3.into()), "{}", ran.stdout);
    assert!(ran.stdout.lines().last().unwrap().contains("\"executed\":1,\"cached\":2"), "{}", ran.stdout);
}

#[test]
fn the_second_run_executes_nothing() {
    let space = chain();
    assert_eq!(space.counts(&[]), (3, 0));
    assert_eq!(artifact(&space, "c", "c.txt"), "abcone\n");
    assert_eq!(space.counts(&[]), (0, 3));
    space.expect(0, &["plan", "--check"]);
    assert_eq!(space.counts(&["--force=b"]), (1, 2));
}

#[test]
fn an_upstream_step_that_makes_the_same_bytes_stops_the_cascade() {
    let space = chain();
    space.counts(&[]);
    space.write("in.txt", "abc-second");
    let plan = space.expect(5, &["plan", "--check"]);
    assert!(plan.stdout.contains("changed: content of file `inputs.0`"), "{}", plan.stdout);
    assert!(plan.stdout.contains("`a` runs first"), "{}", plan.stdout);
    // `a` and `b` run; `b`'s bytes are the old ones, so `c` is found.
    assert_eq!(space.counts(&[]), (2, 1));
}

#[test]
fn explain_names_the_field() {
    let space = chain();
    space.counts(&[]);
    let ran = space.expect(0, &["explain", "c", "--set", "params.word=two"]);
    assert!(ran.stdout.contains("c: would run"), "{}", ran.stdout);
    assert!(ran.stdout.contains("`run`: "), "{}", ran.stdout);
    let ran = space.expect(0, &["explain", "c"]);
    assert!(ran.stdout.starts_with("c: cached"), "{}", ran.stdout);
    assert_eq!(
        space.expect(4, &["explain", "d"]).stderr.lines().next(),
        Some("error: no step is called `d`")
    );
}

#[test]
fn a_moved_recipe_is_still_cached() {
    let space = chain();
    space.counts(&[]);
    let other = Space::new(CHAIN);
    other.write("in.txt", "abc-first");
    let mut command = other.command(&["plan", "--check"]);
    let ran = Ran::from(command.env("EVERGRAFT_CACHE_DIR", space.path().join("cache")).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stdout);
}

#[test]
fn failures_are_told_and_never_cached() {
    let recipe = r#"version: 1
name: chain
steps:
  bad: { uses: command, with: { run: "echo to the log; test -f ../../../../go; touch x", outputs: [x] } }
  missing: { uses: command, with: { run: "true", outputs: [y] } }
  after: { uses: command, with: { run: "touch z", steps: { a: "${{ steps.bad }}" }, outputs: [z] } }
  free: { uses: command, with: { run: "touch w", outputs: [w] } }
"#;
    let space = Space::new(recipe);
    let ran = space.expect(1, &["run", "-k"]);
    assert!(
        ran.stderr.contains("error: step `bad` failed: the command ended with exit status: 1\nto the log"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("step `missing` failed: the command did not make its output `y`"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("hint: write it below the folder"), "{}", ran.stderr);
    assert!(ran.stderr.contains("skipped  after  (bad)"), "{}", ran.stderr);
    assert_eq!(space.read("outputs/chain/latest/steps/bad/log.txt"), "to the log\n");
    let ran = space.expect(1, &["run", "-k"]);
    assert!(ran.stderr.contains("run      bad") && !ran.stderr.contains("run      free"), "{}", ran.stderr);
    assert!(std::fs::read_dir(space.path().join("cache/steps-v1/tmp")).unwrap().next().is_none());
}

#[test]
fn an_output_that_can_be_run_stays_so_and_counts_as_content() {
    let recipe = |mode: &str| {
        format!(
            "version: 1\nname: chain\nsteps:\n  a: {{ uses: command, with: {{ run: \"mkdir d; printf '#!/bin/sh\\necho hi\\n' > d/tool; chmod {mode} d/tool; chmod 0555 d\", outputs: [d/tool] }} }}\n  b: {{ uses: command, with: {{ run: \"\\\"$STEP_A/d/tool\\\" > o || echo no > o\", steps: {{ a: \"${{{{ steps.a }}}}\" }}, outputs: [o] }} }}\n"
        )
    };
    let space = Space::new(&recipe("755"));
    space.counts(&[]);
    assert_eq!(artifact(&space, "b", "o"), "hi\n");
    space.write("recipe.yaml", recipe("644"));
    assert_eq!(space.counts(&[]), (2, 0));
    assert_eq!(artifact(&space, "b", "o"), "no\n");
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn a_dry_run_knows_what_is_forced_and_selected() {
    let space = chain();
    space.counts(&[]);
    let ran = space.expect(0, &["run", "-n", "--force=b", "--until", "b"]);
    assert!(ran.stdout.contains("1 cached, 1 to run, 0 after them"), "{}", ran.stdout);
    assert!(ran.stdout.contains("forced"), "{}", ran.stdout);
}

#[test]
fn undeclared_files_are_no_part_of_a_result() {
    let space = Space::new(
        "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"mkdir -p d/e; touch d/keep d/drop drop2 d/e/drop3\", outputs: [d/keep] } }\n",
    );
    space.counts(&[]);
    let folder = space.path().join("outputs/chain/latest/steps/a/artifact");
    let files: Vec<_> = walkdir::WalkDir::new(folder.canonicalize().unwrap())
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, ["keep"]);
}

#[test]
fn every_damage_to_a_record_is_a_miss() {
    let space = Space::new(
        "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo x > x\", outputs: [x] } }\n",
    );
    space.counts(&[]);
    let records = space.path().join("cache/steps-v1/records");
    let record = walkdir::WalkDir::new(&records)
        .into_iter()
        .map(Result::unwrap)
        .find(|entry| entry.file_type().is_file())
        .unwrap()
        .into_path();
    let whole = std::fs::read(&record).unwrap();
    let digest = format!("blake3:{}", record.file_name().unwrap().to_str().unwrap()).parse().unwrap();
    let cache = evergraft::cache::Cache::open(&space.path().join("cache"), Default::default()).unwrap();
    assert!(cache.peek(&digest).is_ok());
    for at in 0..whole.len() {
        std::fs::write(&record, &whole[..at]).unwrap();
        assert!(cache.peek(&digest).is_err(), "cut at {at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&record, &flipped).unwrap();
        assert!(cache.peek(&digest).is_err(), "flipped at {at}");
    }
    let ran = space.expect(6, &["cache", "verify"]);
    assert!(ran.stdout.contains("the record is damaged"), "{}", ran.stdout);
    let ran = space.expect(0, &["run"]);
    assert!(ran.stderr.contains("warning: a: its cache record is damaged"), "{}", ran.stderr);
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn a_changed_artifact_is_made_anew() {
    let space = chain();
    space.counts(&[]);
    let file =
        space.path().join("outputs/chain/latest/steps/a/artifact").canonicalize().unwrap().join("a.txt");
    let mut permissions = std::fs::metadata(&file).unwrap().permissions();
    assert!(permissions.readonly(), "artifacts are write-protected");
    #[allow(clippy::permissions_set_readonly_false, reason = "a test breaks things")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&file, permissions).unwrap();
    std::fs::write(&file, "abc-hacked").unwrap();
    assert_eq!(space.expect(6, &["cache", "verify"]).code, 6);
    let ran = space.expect(0, &["run"]);
    assert!(ran.stderr.contains("`a.txt` was changed"), "{}", ran.stderr);
    assert_eq!(artifact(&space, "a", "a.txt"), "abc-first");
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn a_killed_runner_loses_only_the_step_that_ran() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo x > x\", outputs: [x] } }\n  b: { uses: command, with: { run: \"echo half > y; echo begun; sleep 1; cat \\\"$STEP_A/x\\\" > y\", steps: { a: \"${{ steps.a }}\" }, outputs: [y] } }\n";
    let space = Space::new(recipe);
    let tmp = space.path().join("cache/steps-v1/tmp");
    let mut child = space.command(&["run", "-q"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until_a_log_says(&space, "begun");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(space.run(&["plan"]).stdout.contains("1 cached, 1 to run"));
    assert_eq!(space.counts(&[]), (1, 1));
    assert_eq!(artifact(&space, "b", "y"), "x\n");
    assert!(std::fs::read_dir(&tmp).unwrap().next().is_none(), "what the killed run left is gone");
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn ctrl_c_stops_the_step_and_keeps_what_is_done() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo x > x\", outputs: [x] } }\n  b: { uses: command, with: { run: \"echo begun; sleep 60; echo y > y\", steps: { a: \"${{ steps.a }}\" }, outputs: [y] } }\n";
    let space = Space::new(recipe);
    let tmp = space.path().join("cache/steps-v1/tmp");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = space.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        wait_until_a_log_says(&space, "begun");
        let pid = child.id().to_string();
        std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(start.elapsed() < Duration::from_secs(30), "the sleeping command was not ended");
        assert!(std::fs::read_dir(&tmp).unwrap().next().is_none(), "nothing half-written stays");
    }
    let plan = space.run(&["plan"]).stdout;
    assert!(plan.contains("1 cached, 1 to run"), "{plan}");
}

#[test]
fn a_timeout_ends_a_step() {
    let space = Space::new(
        "version: 1\nname: chain\nsteps:\n  a: { uses: command, timeout: 0.3, with: { run: \"sleep 60\", outputs: [x] } }\n",
    );
    let start = Instant::now();
    let ran = space.expect(1, &["run"]);
    assert!(ran.stderr.contains("it took longer than its timeout of 0.3 s"), "{}", ran.stderr);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_disk_that_is_full_at_the_commit_leaves_nothing() {
    // A limit on file sizes makes writes fail as a full disk does; SIGXFSZ is ignored.
    let space = Space::new(
        "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"head -c 100 /dev/zero > x\", outputs: [x] } }\n",
    );
    let binary = env!("CARGO_BIN_EXE_evergraft");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" run", binary])
        .current_dir(space.path())
        .env("EVERGRAFT_CACHE_DIR", space.path().join("cache"));
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot save the result"), "{}", ran.stderr);
    let cache = space.path().join("cache/steps-v1");
    assert!(std::fs::read_dir(cache.join("tmp")).unwrap().next().is_none());
    assert!(
        !walkdir::WalkDir::new(cache.join("records")).into_iter().flatten().any(|e| e.file_type().is_file())
    );
    assert_eq!(space.counts(&[]), (1, 0));
}

#[test]
fn a_disk_that_is_really_full_fails_the_step_and_nothing_else() {
    let space = Space::new(
        "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo x > x\", outputs: [x] } }\n  b: { uses: command, needs: [a], with: { run: \"head -c 3000000 /dev/zero > y\", outputs: [y] } }\n",
    );
    let disk = space.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&disk)
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a small disk can only be mounted by root");
        return;
    }
    let cache = ["--cache-dir", "disk/cache"];
    let ran = space.run(&["run", cache[0], cache[1]]);
    let plan = space.run(&["plan", cache[0], cache[1]]).stdout;
    let left = std::fs::read_dir(disk.join("cache/steps-v1/tmp")).unwrap().count();
    let verified = space.run(&["cache", "verify", cache[0], cache[1]]).code;
    std::process::Command::new("umount").arg(&disk).status().unwrap();
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    // What `head` complained of is lost: the log lies on the full disk too.
    assert!(ran.stderr.contains("error: step `b` failed: the command ended with"), "{}", ran.stderr);
    assert!(plan.contains("1 cached, 1 to run"), "{plan}");
    assert_eq!((left, verified), (0, 0));
}

#[test]
fn an_unusable_cache_folder_is_named() {
    let space = chain();
    space.write("file", "");
    let ran = space.expect(2, &["run", "--cache-dir", "file"]);
    assert!(ran.stderr.contains("cannot use the cache folder"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("hint: choose another with --cache-dir or EVERGRAFT_CACHE_DIR"),
        "{}",
        ran.stderr
    );
}

#[test]
fn two_runners_share_the_work() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"sleep 0.5; echo run >> \\\"$COUNT\\\"; echo x > x\", outputs: [x] } }\n";
    let space = Space::new(recipe);
    let count = space.path().join("count");
    let children: Vec<_> = (0..4)
        .map(|_| space.command(&["run", "-q"]).env("COUNT", &count).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(std::fs::read_to_string(count).unwrap(), "run\n");
}

#[test]
fn a_lock_that_is_held_too_long_is_exit_code_3() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"touch \\\"$BEGUN\\\"; sleep 5; touch x\", outputs: [x] } }\n";
    let space = Space::new(recipe);
    let begun = space.path().join("begun");
    let mut first = space.command(&["run", "-q"]).env("BEGUN", &begun).spawn().unwrap();
    while !Path::new(&begun).exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = space.expect(3, &["run", "--lock-timeout", "0"]);
    assert!(ran.stderr.contains(&format!("process {}", first.id())), "{}", ran.stderr);
    assert_eq!(first.wait().unwrap().code(), Some(0));
}

#[test]
fn results_go_to_stdout_and_verbs_agree() {
    let space = chain();
    assert!(space.expect(0, &["check"]).stdout.contains("3 steps"));
    assert!(space.expect(0, &["graph"]).stdout.starts_with("flowchart TD"));
    assert!(space.expect(0, &["graph", "--format", "dot"]).stdout.starts_with("digraph"));
    assert!(space.expect(0, &["schema"]).stdout.contains("\"$schema\""));
    let ran = space.expect(2, &["log", "a"]);
    assert!(ran.stderr.contains("has no result"), "{}", ran.stderr);
    space.counts(&[]);
    space.expect(0, &["log", "a"]);
    let list = space.expect(0, &["ls"]).stdout;
    let folder = list.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    assert_eq!(std::fs::read_to_string(Path::new(&folder).join("a.txt")).unwrap(), "abc-first");
    assert!(space.expect(0, &["cache", "dir"]).stdout.trim().ends_with("cache"));
    assert!(space.expect(0, &["cache", "size"]).stdout.starts_with("3 results"));
    assert!(space.expect(0, &["cache", "clean"]).stdout.starts_with("removed 3 results"));
    assert_eq!(space.counts(&["--until", "b"]), (2, 0));
    let ran = space.expect(2, &["run", "nothing.yaml"]);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("nothing.yaml"), "{}", ran.stderr);
    assert_eq!(space.expect(2, &["frobnicate"]).code, 2);
}
