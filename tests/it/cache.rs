//! The cache beyond one run: modes, repair, pruning, kept runs, stores of others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use crate::space::{Space, files_below};

const TWO: &str = r#"version: 1
name: two
params: { word: one }
steps:
  a: { uses: command, with: { run: "head -c 5000 /dev/zero > a", outputs: [a] } }
  b: { uses: command, with: { run: "echo ${{ params.word }} > b", outputs: [b] } }
"#;

fn files(space: &Space, below: &str) -> Vec<PathBuf> {
    files_below(&space.path().join("cache/steps-v1").join(below))
}

/// The record of a node.
fn record(space: &Space, node: &str) -> PathBuf {
    let named = |path: &PathBuf| fs::read_to_string(path).unwrap().contains(&format!("\"node\": \"{node}\""));
    files(space, "records").into_iter().find(named).unwrap()
}

fn was_used(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 86_400);
    fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn modes_say_what_the_cache_is_used_for() {
    let space = Space::new(TWO);
    assert_eq!(space.counts(&["--cache-mode", "off"]), (2, 0));
    assert!(!space.path().join("cache").exists());
    assert_eq!(space.read("outputs/two/latest/steps/b/artifact/b"), "one\n");
    assert_eq!(space.counts(&["--cache-mode", "read"]), (2, 0));
    assert!(!space.path().join("cache").exists());
    assert_eq!(space.counts(&["--cache-mode", "write"]), (2, 0));
    assert_eq!(space.counts(&["--cache-mode", "write"]), (2, 0));
    assert_eq!(space.counts(&["--cache-mode", "read"]), (0, 2));
    assert_eq!(space.counts(&[]), (0, 2));
    // What is new in a run that only reads lies in the run's folder.
    assert_eq!(space.counts(&["--cache-mode", "read", "--set", "params.word=two"]), (1, 1));
    assert_eq!(space.read("outputs/two/latest/steps/b/artifact/b"), "two\n");
    assert_eq!(files(&space, "records").len(), 2);
    let plan = space.expect(5, &["plan", "--check", "--cache-mode", "write"]).stdout;
    assert!(plan.contains("--cache-mode write uses no results"), "{plan}");
    space.expect(0, &["plan", "--check", "--cache-mode", "read"]);
}

#[test]
fn a_store_of_a_newer_version_is_only_read() {
    let space = Space::new(TWO);
    space.counts(&[]);
    let format = space.path().join("cache/steps-v1/format");
    assert_eq!(fs::read_to_string(&format).unwrap(), "1\n");
    fs::write(&format, "2\n").unwrap();
    let before = (files(&space, ""), fs::read_dir(space.path().join("cache/steps-v1")).unwrap().count());
    let ran = space.expect(0, &["run", "--set", "params.word=two"]);
    assert!(ran.stderr.contains("was written by a newer evergraft (format 2"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 run, 1 cached"), "{}", ran.stderr);
    let after = (files(&space, ""), fs::read_dir(space.path().join("cache/steps-v1")).unwrap().count());
    assert_eq!(before, after);
    for verb in
        [&["cache", "clean"][..], &["cache", "prune", "--unreachable"], &["cache", "verify", "--repair"]]
    {
        let ran = space.expect(2, verb);
        assert!(ran.stderr.contains("is only read"), "{}", ran.stderr);
    }
}

#[test]
fn repair_moves_damage_away() {
    let space = Space::new(TWO);
    space.counts(&[]);
    let torn = record(&space, "a");
    fs::write(&torn, "blake3:torn").unwrap();
    let artifact = fs::canonicalize(space.path().join("outputs/two/latest/steps/b/artifact/b")).unwrap();
    fs::remove_file(&artifact).unwrap();
    space.expect(6, &["cache", "verify"]);
    let ran = space.expect(0, &["cache", "verify", "--repair"]);
    assert!(ran.stdout.contains("2 results checked, 2 damaged"), "{}", ran.stdout);
    space.expect(0, &["cache", "verify"]);
    // Plain misses now: no warning.
    let ran = space.expect(0, &["run"]);
    assert!(ran.stderr.contains("2 run, 0 cached") && !ran.stderr.contains("warning"), "{}", ran.stderr);
    assert!(!files(&space, "damaged").is_empty());
    space.expect(0, &["cache", "prune", "--unreachable"]);
    assert!(files(&space, "damaged").is_empty());
    space.expect(0, &["plan", "--check"]);
}

/// Anything may stand where an artifact should, e.g. after a file system was repaired.
#[test]
fn what_cannot_be_read_is_replaced() {
    let space = Space::new(TWO);
    space.counts(&[]);
    let artifact = fs::canonicalize(space.path().join("outputs/two/latest/steps/b/artifact")).unwrap();
    fs::remove_dir_all(&artifact).unwrap();
    fs::write(&artifact, "no folder").unwrap();
    assert_eq!(space.counts(&[]), (1, 1));
    assert_eq!(fs::read_to_string(artifact.join("b")).unwrap(), "one\n");
    assert!(fs::read_dir(space.path().join("cache/steps-v1/tmp")).unwrap().next().is_none());
}

/// A run shows what it made, also when a later one made other bytes of the same step.
#[test]
fn runs_show_their_own_results() {
    let space = Space::new(
        r#"version: 1
name: own
steps:
  a: { uses: command, with: { run: "date +%s%N > a", outputs: [a] } }
  m: { uses: command, matrix: { x: [p/q] }, with: { run: "echo ${{ matrix.x }} | tee m", outputs: [m] } }
"#,
    );
    let run = || fs::canonicalize(space.path().join("outputs/own/latest")).unwrap();
    let made = |run: &Path| fs::read_to_string(run.join("steps/a/artifact/a")).unwrap();
    assert_eq!(space.counts(&[]), (2, 0));
    let first = run();
    let before = made(&first);
    assert_eq!(space.counts(&["--force=a"]), (1, 1));
    let second = run();
    assert!(made(&first) == before && made(&second) != before);
    assert_eq!(space.counts(&[]), (0, 2));
    assert_eq!(made(&run()), made(&second));
    assert_eq!(fs::read_to_string(run().join("steps/m[x=p_q]/artifact/m")).unwrap(), "p/q\n");
    assert_eq!(fs::read_to_string(run().join("steps/m[x=p_q]/log.txt")).unwrap(), "p/q\n");
    // What it is shown by is made again, and goes with its result.
    let shown = space.path().join("cache/steps-v1/shown");
    let count = || {
        walkdir::WalkDir::new(&shown).into_iter().flatten().filter(|entry| entry.path_is_symlink()).count()
    };
    assert_eq!(count(), 6);
    fs::remove_dir_all(&shown).unwrap();
    assert_eq!(space.counts(&[]), (0, 2));
    assert_eq!((made(&run()), count()), (made(&second), 4));
    space.expect(0, &["cache", "prune", "--max-size", "0"]);
    assert_eq!(count(), 0);
}

/// A run may be killed after its commit and before it has removed what it would have gone on from.
#[test]
fn checkpoints_of_what_is_done_go() {
    let space = Space::new(TWO);
    space.counts(&[]);
    let folder = |key: &str| space.path().join("cache/steps-v1/checkpoints").join(key);
    let done = record(&space, "a").file_name().unwrap().to_str().unwrap().to_owned();
    let open = "0".repeat(64);
    for key in [&done, &open] {
        fs::create_dir_all(folder(key).join("step-1")).unwrap();
        for below in ["step-1", ""] {
            let then = SystemTime::now() - Duration::from_secs(60);
            fs::File::open(folder(key).join(below)).unwrap().set_modified(then).unwrap();
        }
    }
    assert_eq!(space.counts(&[]), (0, 2));
    assert!(!folder(&done).exists() && folder(&open).join("step-1").exists());
    // With `--cache-mode write`, a step that is done runs again; it goes on from what is newer than its result.
    fs::create_dir_all(folder(&done).join("step-2")).unwrap();
    let later = SystemTime::now() + Duration::from_secs(60);
    fs::File::open(folder(&done).join("step-2")).unwrap().set_modified(later).unwrap();
    assert_eq!(space.counts(&[]), (0, 2));
    assert!(folder(&done).join("step-2").exists());
}

#[test]
fn prune_goes_by_last_use() {
    let space = Space::new(TWO);
    space.counts(&[]);
    was_used(&record(&space, "a"), 40);
    was_used(&record(&space, "b"), 20);
    let ran = space.expect(0, &["cache", "prune", "--older-than", "30d", "--dry-run"]);
    assert!(
        ran.stdout.contains("would remove 1 thing") && ran.stdout.contains("40.0 days"),
        "{}",
        ran.stdout
    );
    assert_eq!(files(&space, "records").len(), 2);
    // A run that finds them uses them.
    space.counts(&[]);
    let ran = space.expect(0, &["cache", "prune", "--older-than", "30d"]);
    assert!(ran.stdout.contains("removed 0 things"), "{}", ran.stdout);
    was_used(&record(&space, "a"), 40);
    space.expect(0, &["cache", "prune", "--older-than", "30d"]);
    assert_eq!(
        (files(&space, "records").len(), files(&space, "artifacts").len(), files(&space, "logs").len()),
        (1, 1, 1)
    );
    space.expect(0, &["cache", "verify"]);
    assert_eq!(space.counts(&[]), (1, 1));
    space.expect(2, &["cache", "prune"]);
    let ran = space.expect(2, &["cache", "prune", "--older-than", "soon"]);
    assert!(ran.stderr.contains("expected a time such as `30d`"), "{}", ran.stderr);
}

#[test]
fn prune_to_a_size_removes_the_least_recently_used() {
    let space = Space::new(TWO);
    space.counts(&[]);
    was_used(&record(&space, "a"), 2);
    was_used(&record(&space, "b"), 5);
    space.expect(0, &["cache", "prune", "--max-size", "1G"]);
    assert_eq!(files(&space, "records").len(), 2);
    let size = space.expect(0, &["cache", "size", "--format", "json"]).stdout;
    let size: serde_json::Value = serde_json::from_str(&size).unwrap();
    let all_but_a_little = (size["bytes"].as_u64().unwrap() - 1).to_string();
    space.expect(0, &["cache", "prune", "--max-size", &all_but_a_little]);
    assert!(files(&space, "records").len() == 1 && record(&space, "a").exists(), "`b` was used before `a`");
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn a_kept_run_outlives_every_pruning() {
    let space = Space::new(TWO);
    space.counts(&[]);
    let ran = space.expect(0, &["cache", "keep", "two/latest"]);
    assert!(ran.stdout.starts_with("kept the 2 results of"), "{}", ran.stdout);
    assert_eq!(space.counts(&["--set", "params.word=two"]), (1, 1));
    files(&space, "records").iter().for_each(|record| was_used(record, 100));
    space.expect(0, &["cache", "prune", "--older-than", "30d", "--max-size", "0", "--unreachable"]);
    space.expect(0, &["plan", "--check"]);
    space.expect(5, &["plan", "--check", "--set", "params.word=two"]);
    let kept = space.expect(0, &["cache", "keep"]).stdout;
    assert_eq!(kept.lines().count(), 1, "{kept}");
    fs::remove_dir_all(space.path().join("outputs")).unwrap();
    space.expect(0, &["cache", "unkeep", kept.trim()]);
    assert!(space.expect(2, &["cache", "unkeep", kept.trim()]).stderr.contains("is not kept"));
    space.expect(0, &["cache", "prune", "--max-size", "0"]);
    assert!(files(&space, "records").is_empty());
    assert!(space.expect(2, &["cache", "keep", "nothing"]).stderr.contains("is no folder of a run"));
}

#[test]
fn nothing_is_pruned_where_nobody_can_tell_what_is_kept() {
    let space = Space::new(TWO);
    space.counts(&[]);
    space.write("cache/steps-v1/kept", "no folder");
    let ran = space.expect(1, &["cache", "prune", "--max-size", "0", "--unreachable"]);
    assert!(ran.stderr.contains("cannot tell which runs are kept"), "{}", ran.stderr);
    space.expect(0, &["plan", "--check"]);
}

/// Python writes what it compiled beside what it imports, and that would be a change of the result.
#[test]
fn an_import_out_of_a_result_does_not_damage_it() {
    let space = Space::new(
        "version: 1\nname: py\nsteps:\n  a: { uses: command, with: { run: 'mkdir mod; echo x = 1 > mod/foo.py', outputs: [mod] } }\n  b: { uses: command, with: { run: 'echo \"$PYTHONDONTWRITEBYTECODE\" > o; PYTHONPATH=$STEP_A/mod python3 -c \"import foo\"', steps: { a: '${{ steps.a }}' }, outputs: [o] } }\n",
    );
    space.expect(0, &["run"]);
    assert_eq!(space.read("outputs/py/latest/steps/b/artifact/o"), "1\n");
    space.expect(0, &["plan", "--check"]);
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn what_a_kept_run_lacks_is_told() {
    let space = Space::new(TWO);
    space.counts(&[]);
    let (a, b) = (record(&space, "a"), record(&space, "b"));
    fs::remove_file(&a).unwrap();
    let ran = space.expect(0, &["cache", "keep", "two/latest"]);
    assert!(ran.stdout.starts_with("kept the 1 result of"), "{}", ran.stdout);
    assert!(ran.stderr.contains("warning: the cache lacks 1 result of that run"), "{}", ran.stderr);
    // What a damaged record leads to is not known, so everything stays.
    let whole = fs::read(&b).unwrap();
    fs::write(&b, &whole[..100]).unwrap();
    let ran = space.expect(1, &["cache", "prune", "--unreachable"]);
    assert!(ran.stderr.contains("a record that a kept run needs cannot be read"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: `evergraft cache verify --repair`"), "{}", ran.stderr);
    fs::write(&b, &whole).unwrap();
    space.expect(0, &["cache", "prune", "--unreachable", "--max-size", "0"]);
    assert_eq!(files(&space, "records"), std::slice::from_ref(&b));
    fs::remove_file(&b).unwrap();
    let ran = space.expect(2, &["cache", "keep", "two/latest"]);
    assert!(ran.stderr.contains("the cache holds no result of"), "{}", ran.stderr);
}

#[test]
fn unreachable_is_what_no_record_leads_to() {
    let space = Space::new(TWO);
    space.counts(&[]);
    fs::remove_file(record(&space, "a")).unwrap();
    fs::create_dir(space.path().join("cache/steps-v1/tmp/left")).unwrap();
    let ran = space.expect(0, &["cache", "prune", "--unreachable", "--format", "json"]);
    let pruned: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(pruned["items"].as_array().unwrap().len(), 3, "{}", ran.stdout);
    assert!(pruned["bytes"].as_u64().unwrap() >= 5000);
    assert_eq!((files(&space, "artifacts").len(), files(&space, "logs").len()), (1, 1));
    let shown = walkdir::WalkDir::new(space.path().join("cache/steps-v1/shown")).min_depth(2).max_depth(2);
    assert_eq!(shown.into_iter().count(), 1);
    assert_eq!(space.counts(&[]), (1, 1));
}

/// Pruning takes the cache alone, so it waits for those who use it, and says for whom.
#[test]
fn prune_waits_for_runs_and_names_them() {
    let recipe = "version: 1\nname: slow\nsteps:\n  a: { uses: command, with: { run: \"touch \\\"$BEGUN\\\"; while ! test -e \\\"$GO\\\"; do sleep 0.05; done; touch x\", outputs: [x] } }\n";
    let space = Space::new(recipe);
    let (begun, go) = (space.path().join("begun"), space.path().join("go"));
    let mut command = space.command(&["run", "-q"]);
    let mut run = command.env("BEGUN", &begun).env("GO", &go).stderr(Stdio::null()).spawn().unwrap();
    while !begun.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = space.expect(3, &["cache", "prune", "--unreachable", "--lock-timeout", "0"]);
    assert!(ran.stderr.contains(&format!("process {} on ", run.id())), "{}", ran.stderr);
    assert!(ran.stderr.contains(" since 20"), "{}", ran.stderr);
    // The log of a running step, and what the run is at.
    let status = space.expect(0, &["status"]).stdout;
    assert!(status.contains("runs now") && status.contains("running  a"), "{status}");
    fs::write(&go, "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    space.expect(0, &["cache", "prune", "--unreachable", "--lock-timeout", "0"]);
    assert!(space.expect(0, &["status"]).stdout.contains("has finished"));
}

#[test]
fn results_may_be_read_by_whom_the_umask_lets() {
    use std::os::unix::fs::PermissionsExt as _;
    for (umask, file, folder) in [("002", 0o444, 0o775), ("077", 0o400, 0o700)] {
        let space = Space::new(TWO);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$0\" run"), env!("CARGO_BIN_EXE_evergraft")]);
        command.current_dir(space.path()).env("EVERGRAFT_CACHE_DIR", space.path().join("cache"));
        assert!(command.output().unwrap().status.success());
        let artifact = fs::canonicalize(space.path().join("outputs/two/latest/steps/a/artifact")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&artifact.join("a")), mode(&artifact)), (file, folder), "umask {umask}");
        assert_eq!(mode(&space.path().join("cache/steps-v1/records")), folder);
    }
}

#[test]
fn whatever_is_wrong_with_a_cache_is_told() {
    let step = |name: &str| {
        format!("  {name}: {{ uses: command, with: {{ run: 'echo {name} > o', outputs: [o] }} }}\n")
    };
    let names = ["cut", "other", "changed", "gone", "more"];
    let space = Space::new(&format!("version: 1\nname: x\nsteps:\n{}", names.map(step).concat()));
    space.expect(0, &["run"]);
    let bucket = space.path().join("cache/steps-v1");
    let artifact = |name: &str| space.path().join(format!("outputs/x/latest/steps/{name}/artifact"));
    let (cut, other) = (record(&space, "cut"), record(&space, "other"));
    fs::write(&cut, &fs::read(&cut).unwrap()[..100]).unwrap();
    fs::copy(record(&space, "gone"), other).unwrap();
    let folder = |name: &str| fs::canonicalize(artifact(name)).unwrap();
    let o = folder("changed").join("o");
    fs::remove_file(&o).unwrap();
    fs::write(&o, "CHANGED").unwrap();
    fs::write(folder("more").join("p"), "").unwrap();
    fs::remove_dir_all(folder("gone")).unwrap();
    space.expect(6, &["cache", "verify"]);
    space.expect(5, &["plan", "--check"]);
    space.expect(0, &["cache", "verify", "--repair"]);
    space.expect(0, &["cache", "verify"]);
    // What nothing names.
    fs::create_dir(bucket.join("tmp/0123456789ab-killed")).unwrap();
    let told = space.expect(0, &["cache", "prune", "--unreachable", "--dry-run"]).stdout;
    for why in [
        "left by a killed run",
        "set aside by `verify --repair`",
        "files without a record",
        "a log without a record",
    ] {
        assert!(told.contains(why), "{told}");
    }
    space.expect(0, &["cache", "prune", "--unreachable"]);
    assert_eq!(fs::read_dir(bucket.join("tmp")).unwrap().count(), 0);
    assert_eq!(space.counts(&[]), (5, 0));
}
