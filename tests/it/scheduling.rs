//! Which step runs when, and with what of the machine.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use evergraft::{
    cache::{Cache, LockOptions, Lookup},
    cancel::Cancel,
    exec::Keys,
    plan, recipe,
};
use serde_json::Value;

use crate::{
    processes::{signal, wait_until},
    space::{Ran, Space},
};

/// A command step that makes the file `x`.
fn step(name: &str, settings: &str, run: &str) -> String {
    format!(
        "  {name}: {{ uses: command, {settings} with: {{ run: ': {name}; {run}; touch x', outputs: [x] }} }}\n"
    )
}

fn space(steps: &[String]) -> Space {
    Space::new(&format!("version: 1\nname: slots\nsteps:\n{}", steps.concat()))
}

/// Only one step at a time can be between these two: the folder can be made once.
const ALONE: &str = "mkdir \"$PLACE/alone\"; sleep 0.1; rmdir \"$PLACE/alone\"";

/// Ends only when `n` steps run at the same time.
fn meet(n: usize) -> String {
    format!(
        "mktemp \"$PLACE/met.XXXXXX\"; until test $(ls \"$PLACE\" | grep -c met) -ge {n}; do sleep 0.02; done"
    )
}

fn run(space: &Space, args: &[&str]) -> Ran {
    let place = tempfile::tempdir().unwrap();
    space.ran(args, space.command(args).env("PLACE", place.path()).output().unwrap())
}

fn events(ran: &Ran, kind: &str) -> Vec<Value> {
    let lines = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|event: &Value| event["event"] == kind).collect()
}

/// The steps in the order in which they began.
fn order(ran: &Ran) -> Vec<String> {
    events(ran, "step_started").iter().map(|event| event["step"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn memory_is_handed_out() {
    let steps = |run: &str| ["a", "b", "c"].map(|name| step(name, "resources: { mem: 30G },", run));
    let args = |mem: &'static str| ["run", "-j", "4", "--resources", mem];
    // Not even two fit.
    let ran = run(&space(&steps(ALONE)), &args("cpus=8,mem=40G"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = run(&space(&steps(&meet(3))), &args("cpus=8,mem=90G"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn cores_are_handed_out() {
    let steps = |run: &str| ["a", "b", "c"].map(|name| step(name, "resources: { cpus: 2 },", run));
    let ran = run(&space(&steps(ALONE)), &["run", "-j", "4", "--resources", "cpus=3"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = run(&space(&steps(&meet(3))), &["run", "-j", "4", "--resources", "cpus=6"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_step_that_wants_more_than_there_is_runs_alone_and_is_told_so() {
    let steps = |run: &str| {
        [step("a", "", run), step("huge", "resources: { mem: 80G, cpus: 9 },", run), step("b", "", run)]
    };
    let ran = run(&space(&steps(ALONE)[..2]), &["run", "-j", "4", "--resources", "cpus=4,mem=40G"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let words = "warning: huge: it asks for 9 processor cores, of which there are 4, and 80.0 GiB of memory, \
                 of which there are 40.0 GiB; it runs alone\n";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    let ran = run(&space(&steps(&meet(3))), &["run", "-j", "4", "--resources", "cpus=11,mem=90G"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("alone"), "{}", ran.stderr);
}

#[test]
fn cards_are_handed_out_one_by_one() {
    let on_card = "mkdir \"$PLACE/$CUDA_VISIBLE_DEVICES\"; sleep 0.1; rmdir \"$PLACE/$CUDA_VISIBLE_DEVICES\"; echo \"card $CUDA_VISIBLE_DEVICES\"";
    let mut steps: Vec<String> =
        (0..5).map(|n| step(&format!("one{n}"), "resources: { gpu: 1 },", on_card)).collect();
    steps.push(step("both", "resources: { gpu: 2 },", on_card));
    steps.push(step("none", "", "echo \"cards ${CUDA_VISIBLE_DEVICES-unset}\""));
    let space = space(&steps);
    let args = ["run", "-j", "8", "--resources", "gpu=2,cpus=8", "--format", "json"];
    let place = tempfile::tempdir().unwrap();
    let mut command = space.command(&args);
    let ran =
        Ran::from(command.env("PLACE", place.path()).env_remove("CUDA_VISIBLE_DEVICES").output().unwrap());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for event in events(&ran, "step_started") {
        let step = event["step"].as_str().unwrap();
        let log = space.read(&format!("outputs/slots/latest/steps/{step}/log.txt"));
        match step {
            "none" => assert_eq!((log.as_str(), &event["gpus"]), ("cards unset\n", &Value::Null)),
            "both" => {
                assert_eq!((log.as_str(), &event["gpus"]), ("card 0,1\n", &serde_json::json!(["0", "1"])))
            }
            _ => assert_eq!(log, format!("card {}\n", event["gpus"][0].as_str().unwrap())),
        }
    }
    // Those that the environment names are handed out under their names.
    let mut command = space.command(&["run", "--force", "-j", "8", "--resources", "cpus=8"]);
    let ran = Ran::from(
        command.env("PLACE", place.path()).env("CUDA_VISIBLE_DEVICES", "GPU-5,7").output().unwrap(),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(space.read("outputs/slots/latest/steps/both/log.txt"), "card GPU-5,7\n");
    assert!(ran.stderr.contains("run      both  (forced; gpu GPU-5,7)"), "{}", ran.stderr);
}

#[test]
fn a_step_that_can_never_have_its_cards_is_an_error_before_anything_runs() {
    let steps = [step("a", "", "true"), step("b", "needs: [a], resources: { gpu: 3 },", "true")];
    let space = space(&steps);
    let ran = run(&space, &["run", "--resources", "gpu=2"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(
        ran.stderr,
        "error: step `b` asks for `gpu: 3`, and there are 2\n\
         hint: ask for fewer, or say what there is: `--resources gpu=3`\n"
    );
    assert!(!space.path().join("outputs").exists());
    // A result that is there needs no card.
    assert_eq!(run(&space, &["run", "--resources", "gpu=3"]).code, 0);
    assert_eq!(run(&space, &["run", "--resources", "gpu=0"]).code, 0);
    let ran = run(&space, &["run", "--resources", "gpus=3"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("`gpus` is none of cpus, mem and gpu"), "{}", ran.stderr);
}

#[test]
fn the_longest_way_to_the_end_goes_first() {
    let chain = [
        step("short", "", "true"),
        step("head", "", "true"),
        step("middle", "needs: [head],", "true"),
        step("tail", "needs: [middle],", "true"),
        step("other", "", "true"),
    ];
    let space = space(&chain);
    let one_by_one = ["run", "-j", "1", "--force", "--format", "json"];
    // Nothing has run yet: every command counts the same.
    assert_eq!(order(&run(&space, &one_by_one)), ["head", "middle", "short", "tail", "other"]);
    remember(&space, &[("short", 1), ("head", 5), ("middle", 5), ("tail", 5), ("other", 60)]);
    assert_eq!(order(&run(&space, &one_by_one)), ["other", "head", "middle", "tail", "short"]);
    remember(&space, &[("short", 100), ("head", 1), ("middle", 99), ("tail", 1), ("other", 2)]);
    assert_eq!(order(&run(&space, &one_by_one)), ["head", "short", "middle", "other", "tail"]);
}

/// Commits a result of each step that took so many seconds.
fn remember(space: &Space, seconds: &[(&str, u64)]) {
    let plan = plan::build(&recipe::load(&space.path().join("recipe.yaml"), &[]).unwrap()).unwrap();
    let cache = Cache::open(&space.path().join("cache"), Default::default()).unwrap();
    let keys = Keys::new(&cache);
    let cancel = Cancel::default();
    let options = LockOptions { timeout: None, cancel: &cancel, on_wait: &|_| {} };
    for (name, seconds) in seconds {
        let node = &plan.graph[plan.find(name).unwrap()];
        let key = keys.key(node, &BTreeMap::new()).unwrap();
        let Ok(Lookup::Miss(_, lock)) = cache.lookup(&key.digest(), true, &options) else { panic!() };
        let workspace = cache.workspace(&lock).unwrap();
        std::fs::write(Path::new(&workspace.out()).join("x"), "").unwrap();
        let time = Duration::from_secs(*seconds);
        cache.commit(&lock, workspace, key.clone(), name, time, Vec::new()).unwrap();
        cache.remember("slots", name, &key);
    }
}

#[test]
fn a_failed_step_is_tried_again_as_often_as_it_says() {
    let third_time = "echo try >> \"$PLACE/tries\"; test $(wc -l < \"$PLACE/tries\") -ge 2";
    let space = space(&[step("a", "retries: 1,", third_time)]);
    let ran = run(&space, &["run", "--format", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let [retried] = &events(&ran, "step_retried")[..] else { panic!("{}", ran.stdout) };
    assert_eq!((&retried["attempt"], &retried["step"]), (&2.into(), &"a".into()));
    assert!(retried["error"].as_str().unwrap().starts_with("the command ended with exit status: 1"));
    space.write("recipe.yaml", space.read("recipe.yaml").replace("retries: 1", "retries: 0"));
    let ran = run(&space, &["run", "--force", "--format", "json"]);
    assert_eq!((ran.code, events(&ran, "step_retried").len()), (1, 0), "{}", ran.stdout);
}

#[test]
fn the_end_says_what_was_slow_and_where_the_results_are() {
    let space = space(&["a", "b", "c", "d"].map(|name| step(name, "", "true")));
    let ran = run(&space, &["run"]);
    let lines: Vec<&str> = ran.stderr.lines().rev().take(2).collect();
    assert!(lines[0].starts_with("4 run, 0 cached in ") && lines[0].contains("outputs/slots/"), "{lines:?}");
    assert!(lines[1].starts_with("slowest  ") && lines[1].matches(" s").count() == 3, "{lines:?}");
    let ran = run(&space, &["run"]);
    assert!(!ran.stderr.contains("slowest"), "{}", ran.stderr);
}

/// A result that takes a moment to save, with the moment in which that begins: its step makes `ran` last.
fn slow_to_save() -> String {
    step("big", "", "head -c 200000000 /dev/zero > x; touch \"$PLACE/ran\"")
}

#[test]
fn a_failure_or_a_signal_leaves_what_is_being_saved_whole() {
    let until_it_ran = "until test -e \"$PLACE/ran\"; do sleep 0.01; done";
    let bad = step("bad", "", &format!("{until_it_ran}; test -e \"$PLACE/mended\""));
    let next = step("next", "needs: [big],", "test -e \"$PLACE/mended\" || sleep 100");
    for (other, code) in [(bad, 1), (next, 130)] {
        let space = space(&[slow_to_save(), other]);
        let place = tempfile::tempdir().unwrap();
        let start = || {
            let mut command = space.command(&["run", "-j", "2"]);
            command.env("PLACE", place.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let child = start();
        wait_until("the step has run", || place.path().join("ran").exists());
        if code == 130 {
            signal(child.id(), "INT");
        }
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{}", ran.stderr);
        space.expect(0, &["cache", "verify"]);
        std::fs::write(place.path().join("mended"), "").unwrap();
        let again = Ran::from(start().wait_with_output().unwrap());
        assert!(again.stderr.contains("1 run, 1 cached"), "{}", again.stderr);
        assert_eq!(std::fs::read_dir(space.path().join("cache/steps-v1/tmp")).unwrap().count(), 0);
    }
}
