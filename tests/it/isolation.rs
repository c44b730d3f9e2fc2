//! A step's process and the runner's: each may end in any way, and the other deals with it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    processes::{end, insist, kill, of_space, signal, wait_until, wait_until_a_log_says, workers},
    space::{Ran, Space},
};

/// A training that goes on for ever, and a step that comes after it where steps go one by one.
fn recipe(more: &str) -> String {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
    let tiny = tiny.display();
    format!(
        r#"version: 1
name: alone
steps:
  old: {{ uses: base, with: {{ source: {tiny}/old }} }}
  rows: {{ uses: dataset, with: {{ source: {tiny}/train.jsonl.gz, format: alpaca, split: "[:20]" }} }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.old }}}}", dataset: "${{{{ steps.rows }}}}", prompt: plain, max_seq_length: 64 }} }}
  train:
    uses: train
    resources: {{ cpus: 1 }}
    {more}
    with:
      base: "${{{{ steps.old }}}}"
      tokens: "${{{{ steps.tokens }}}}"
      adapter: {{ r: 2 }}
      optimizer: {{ max_steps: 1000000, per_device_train_batch_size: 2, save_steps: 0 }}
  after: {{ uses: command, needs: [train], with: {{ run: "touch x", outputs: [x] }} }}
  free: {{ uses: dataset, with: {{ source: {tiny}/test.jsonl.gz, format: alpaca, split: "[:5]" }} }}
"#
    )
}

const TRAINING: &str = "step 1/1000000";

#[test]
fn a_step_whose_process_is_killed_fails_and_others_go_on() {
    let space = Space::new(&recipe(""));
    let ends = [
        ("KILL", "its process was killed by SIGKILL: evergraft did not do that, so most likely the system"),
        ("SEGV", "its process crashed with SIGSEGV: a fault of evergraft or of a library below it\n"),
        ("TERM", "its process was ended by SIGTERM: evergraft did not do that\n"),
    ];
    for (name, words) in ends {
        let args = ["run", "-k", "-j", "1", "--force=free"];
        let child = space.command(&args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        wait_until_a_log_says(&space, TRAINING);
        let [worker] = workers(&space)[..] else { panic!("one step at a time needs one process") };
        end(worker, name);
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("error: step `train` failed: {words}")), "{}", ran.stderr);
        // The end of the log stands below, and a way out.
        assert!(ran.stderr.contains(&format!("\n{TRAINING}: loss")), "{}", ran.stderr);
        assert!(ran.stderr.contains("\nhint: "), "{}", ran.stderr);
        assert!(ran.stderr.contains("done     free"), "{}", ran.stderr);
        assert!(ran.stderr.contains("skipped  after  (train)"), "{}", ran.stderr);
        assert!(space.read("outputs/alone/latest/steps/train/log.txt").contains(TRAINING));
        assert_eq!(of_space(&space), [0; 0], "nothing is left");
    }
}

#[test]
fn a_killed_process_is_tried_again_where_the_recipe_says_so() {
    let space = Space::new(&recipe("retries: 1"));
    let mut command = space.command(&["run", "-j", "1"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until_a_log_says(&space, TRAINING);
    let [first] = workers(&space)[..] else { panic!("one step at a time needs one process") };
    end(first, "KILL");
    wait_until("another process trains", || workers(&space).iter().any(|worker| *worker != first));
    wait_until_a_log_says(&space, TRAINING);
    insist(&mut child, "INT");
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.stderr.contains("warning: train: its process was killed by SIGKILL"), "{}", ran.stderr);
    assert!(ran.stderr.contains("retry    train  (try 2)"), "{}", ran.stderr);
}

/// A command that no polite signal ends, with a process in the background.
const STUBBORN: &str = "trap '' TERM INT HUP; echo begun; sleep 1000 & while :; do sleep 1; done";

#[test]
fn a_killed_runner_leaves_no_process() {
    let stubborn =
        format!("  stubborn: {{ uses: command, with: {{ run: \"{STUBBORN}\", outputs: [x] }} }}\n");
    let space = Space::new(&(recipe("") + &stubborn));
    let args = ["run", "-q", "-j", "4", "--resources", "cpus=4"];
    let mut child = space.command(&args).stderr(Stdio::null()).spawn().unwrap();
    wait_until_a_log_says(&space, TRAINING);
    wait_until_a_log_says(&space, "begun");
    // The runner, the training's process, that of commands, the shell, and what it started.
    assert!(of_space(&space).len() >= 5 && workers(&space).len() >= 2);
    kill(&mut child, &space);
}

#[test]
fn commands_end_with_the_process_that_starts_them() {
    let stubborn = format!(
        "version: 1\nname: alone\nsteps:\n  a: {{ uses: command, with: {{ run: \"{STUBBORN}\", outputs: [x] }} }}\n"
    );
    let space = Space::new(&stubborn);
    let child = space.command(&["run"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until_a_log_says(&space, "begun");
    let [worker] = workers(&space)[..] else { panic!("commands share one process") };
    end(worker, "KILL");
    let ran = space.ran(&["run"], child.wait_with_output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    wait_until("all processes are gone", || of_space(&space).is_empty());
}

/// As `killall -9` does: nobody is left to end what they started but the next run.
#[test]
fn the_next_run_ends_what_runner_and_worker_left_when_both_were_killed() {
    let space = Space::new(
        "version: 1\nname: alone\nsteps:\n  a: { uses: command, with: { run: 'echo begun; if [ -z \"$GO\" ]; then sleep 1000; fi; touch x', outputs: [x] } }\n",
    );
    let mut runner = space.command(&["run"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until_a_log_says(&space, "begun");
    let [worker] = workers(&space)[..] else { panic!("commands share one process") };
    let both = [runner.id().to_string(), worker.to_string()];
    assert!(Command::new("kill").arg("-STOP").args(&both).status().unwrap().success());
    assert!(Command::new("kill").arg("-KILL").args(&both).status().unwrap().success());
    runner.wait().unwrap();
    wait_until("the shell and its child are alone", || of_space(&space).len() == 2);
    let ran = space.ran(&["run"], space.command(&["run"]).env("GO", "1").output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("a killed run had left its program running"), "{}", ran.stderr);
    wait_until("all processes are gone", || of_space(&space).is_empty());
}

#[test]
fn a_hangup_that_nohup_ignores_stops_nothing() {
    let space = Space::new(
        "version: 1\nname: alone\nsteps:\n  a: { uses: command, with: { run: 'echo begun; while ! test -e \"$GO\"; do sleep 0.05; done; touch x', outputs: [x] } }\n",
    );
    let go = space.path().join("go");
    for (trap, code) in [("''", 0), ("-", 129)] {
        let run = space.command(&["run", "--force"]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("trap {trap} HUP; exec \"$0\" run --force")).arg(run.get_program());
        shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("GO", &go);
        let mut child = shell.current_dir(space.path()).stderr(Stdio::null()).spawn().unwrap();
        wait_until_a_log_says(&space, "begun");
        signal(child.id(), "HUP");
        if code == 0 {
            std::thread::sleep(Duration::from_millis(300));
            assert!(child.try_wait().unwrap().is_none(), "it goes on");
            std::fs::write(&go, "").unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let _ = std::fs::remove_file(&go);
    }
}

#[test]
fn a_second_ctrl_c_ends_everything_at_once() {
    let stubborn =
        format!("  stubborn: {{ uses: command, with: {{ run: \"{STUBBORN}\", outputs: [x] }} }}\n");
    let space = Space::new(&(recipe("") + &stubborn));
    let args = ["run", "-q", "-j", "4", "--resources", "cpus=4"];
    let mut command = space.command(&args);
    let mut child = command.env("EVERGRAFT_STOP_GRACE", "100000").stderr(Stdio::null()).spawn().unwrap();
    wait_until_a_log_says(&space, TRAINING);
    wait_until_a_log_says(&space, "begun");
    assert_eq!(insist(&mut child, "INT"), Some(130));
    wait_until("all processes are gone", || of_space(&space).is_empty());
}

#[test]
fn a_timeout_ends_a_command_that_ignores_the_signal() {
    let space = Space::new(&format!(
        "version: 1\nname: alone\nsteps:\n  a: {{ uses: command, timeout: 0.3, with: {{ run: \"{STUBBORN}\", outputs: [x] }} }}\n"
    ));
    let ran =
        space.ran(&["run"], space.command(&["run"]).env("EVERGRAFT_STOP_GRACE", "0.2").output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("it took longer than its timeout of 0.3 s\nbegun"), "{}", ran.stderr);
    wait_until("all processes are gone", || of_space(&space).is_empty());
}

/// Either it hears that it should stop, or it does not and is killed: the words are the same.
#[test]
fn a_timeout_ends_a_process_that_hears_nothing() {
    let space = Space::new(&recipe("timeout: 2"));
    let mut command = space.command(&["run"]);
    command.env("EVERGRAFT_STOP_GRACE", "0.2").stderr(Stdio::piped()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    wait_until_a_log_says(&space, "trainable parameters");
    for worker in workers(&space) {
        signal(worker, "STOP");
    }
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let words = "error: step `train` failed: it took longer than its timeout of 2 s\n";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    assert_eq!(of_space(&space), [0; 0], "nothing is left");
}

#[test]
fn the_hidden_verb_is_for_the_runner_alone() {
    let space = Space::new("version: 1\n");
    let mut command = space.command(&["__step-worker"]);
    let mut child =
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\n").unwrap();
    let ran = space.ran(&["__step-worker"], child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("this verb takes orders of `evergraft run` only"), "{}", ran.stderr);
    assert!(!space.expect(0, &["--help"]).stdout.contains("step-worker"));
}
