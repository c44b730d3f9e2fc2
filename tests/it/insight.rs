//! Telling why and what: `plan`, `explain`, `status`, `diff`, `log --follow`.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    time::Duration,
};

use proptest::prelude::*;

use crate::space::Space;

const CHAIN: &str = r#"version: 1
name: chain
params: { word: one }
steps:
  a: { uses: command, with: { run: "cat \"$INPUT_1\" > a.txt", inputs: [in.txt], outputs: [a.txt] } }
  b: { uses: command, with: { run: "cat \"$STEP_A/a.txt\" > b.txt", steps: { a: "${{ steps.a }}" }, outputs: [b.txt] } }
  c: { uses: command, with: { run: "cat \"$STEP_B/b.txt\" > c.txt; echo ${{ params.word }} >> c.txt", steps: { b: "${{ steps.b }}" }, outputs: [c.txt] } }
"#;

fn chain() -> Space {
    let space = Space::new(CHAIN);
    space.write("in.txt", "first");
    space
}

#[test]
fn explain_follows_causes_to_the_root() {
    let space = chain();
    space.counts(&[]);
    space.write("in.txt", "second");
    // Nothing before `c` has run yet.
    let told = space.expect(0, &["explain", "c"]).stdout;
    let at = |words: &str| told.find(words).unwrap_or_else(|| panic!("{words}: {told}"));
    assert!(
        told.starts_with("c: would run, or be cached if the steps before it make the same bytes"),
        "{told}"
    );
    assert!(at("because of b: `a` runs first") < at("because of a: changed"), "{told}");
    assert!(at("content of file `inputs.0`") > at("because of a"), "{told}");
    // Now they have, and `c` alone is left: its key differs by `b`, whose key differed by `a`.
    space.counts(&["--until", "b"]);
    let told = space.expect(0, &["explain", "c"]).stdout;
    let at = |words: &str| told.find(words).unwrap_or_else(|| panic!("{words}: {told}"));
    assert!(at("content of step `steps.b`") < at("because of b: it made other bytes"), "{told}");
    assert!(at("content of step `steps.a`") < at("because of a: it made other bytes"), "{told}");
    assert!(told.rfind("content of file `inputs.0`").unwrap() > at("because of a"), "{told}");
    let json = space.expect(0, &["explain", "c", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["causes"][1]["step"], "a", "{json}");
}

#[test]
fn a_cached_step_has_nothing_to_explain() {
    let space = chain();
    space.counts(&[]);
    space.counts(&["--set", "params.word=two"]);
    // Its last key is that of the other word, but its result is there.
    let told = space.expect(0, &["explain", "c"]).stdout;
    assert!(told.starts_with("c: cached (same key)\n  key blake3:"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn every_verb_takes_the_recipe_alike() {
    let space = chain();
    std::fs::rename(space.path().join("recipe.yaml"), space.path().join("other.yaml")).unwrap();
    space.counts(&["other.yaml"]);
    for verb in [
        &["plan", "other.yaml"][..],
        &["ls", "other.yaml"],
        &["explain", "a", "other.yaml"],
        &["log", "a", "other.yaml"],
        &["status", "other.yaml"],
        &["plan", "other.yaml", "--set", "params.word=two"],
    ] {
        space.expect(0, verb);
    }
}

#[test]
fn plan_is_about_the_selected_steps() {
    let space = chain();
    let rows = |args: &[&str]| -> Vec<String> {
        let out = space.expect(0, &[&["plan"], args].concat()).stdout;
        let steps = out.lines().filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned));
        steps.filter(|step| ["a", "b", "c"].contains(&step.as_str())).collect()
    };
    assert_eq!(rows(&["--until", "b"]), ["a", "b"]);
    assert_eq!(rows(&["--from", "b"]), ["b", "c"]);
    assert_eq!(rows(&["--only", "c"]), ["c"]);
    space.expect(4, &["plan", "--only", "d"]);
    space.counts(&[]);
    space.expect(5, &["plan", "--check", "--force=a"]);
}

#[test]
fn status_tells_how_a_run_ended() {
    let recipe = "version: 1\nname: chain\nsteps:\n  good: { uses: command, with: { run: \"touch x\", outputs: [x] } }\n  bad: { uses: command, with: { run: \"false\", outputs: [y] } }\n  after: { uses: command, with: { run: \"touch z\", steps: { bad: \"${{ steps.bad }}\" }, outputs: [z] } }\n";
    let space = Space::new(recipe);
    let ran = space.expect(2, &["status"]);
    assert!(ran.stderr.contains("is no folder of a run"), "{}", ran.stderr);
    space.expect(1, &["run", "-k"]);
    let told = space.expect(0, &["status"]).stdout;
    for words in [
        "has finished",
        "executed  good   in 0.",
        "failed    bad    the command ended",
        "skipped   after  bad",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let json = space.expect(0, &["status", "--run", "outputs/chain/latest", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["state"].as_str(), json["steps"][1]["state"].as_str()),
        (Some("finished"), Some("failed"))
    );
}

#[test]
fn a_killed_run_is_seen() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo begun; sleep 60; touch x\", outputs: [x] } }\n";
    let space = Space::new(recipe);
    let mut run = space.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    told.find(|line| line.starts_with("run      a")).unwrap();
    while !space.run(&["status"]).stdout.contains("running  a") {
        std::thread::sleep(Duration::from_millis(20));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let told = space.expect(0, &["status"]).stdout;
    assert!(told.contains("was killed before its end") && told.contains("killed  a"), "{told}");
    assert!(space.expect(2, &["diff", "chain", "chain"]).stderr.contains("has not come to its end"));
}

#[test]
fn a_log_is_followed_to_its_end() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo first; while ! test -e \\\"$GO\\\"; do sleep 0.05; done; echo last; touch x\", outputs: [x] } }\n";
    let space = Space::new(recipe);
    let ran = space.expect(2, &["log", "a", "--follow"]);
    assert!(ran.stderr.contains("does not run now"), "{}", ran.stderr);
    let go = space.path().join("go");
    let mut run = space.command(&["run", "-q"]).env("GO", &go).stderr(Stdio::null()).spawn().unwrap();
    let mut follower = loop {
        let mut follower = space
            .command(&["log", "a", "--follow"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut lines = BufReader::new(follower.stdout.take().unwrap());
        lines.read_line(&mut first).unwrap();
        if first == "first\n" {
            break (follower, lines);
        }
        follower.wait().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    };
    std::fs::write(&go, "").unwrap();
    let rest: Vec<String> = follower.1.by_ref().lines().map(Result::unwrap).collect();
    assert_eq!(rest, ["last"]);
    assert_eq!(follower.0.wait().unwrap().code(), Some(0));
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(space.expect(0, &["log", "a", "--follow"]).stdout, "first\nlast\n");
}

#[test]
fn diff_tells_parameters_inputs_and_metrics() {
    let recipe = r#"version: 1
name: chain
params: { score: 0.25 }
steps:
  a: { uses: command, with: { run: "printf '{\"results\":{\"task\":{\"acc\":${{ params.score }}}}}' > results.json; cat \"$INPUT_1\" > a", inputs: [in.txt], outputs: [results.json, a] } }
  b: { uses: command, with: { run: "wc -c < \"$STEP_A/a\" > b", steps: { a: "${{ steps.a }}" }, outputs: [b] } }
"#;
    let space = Space::new(recipe);
    space.write("in.txt", "one");
    space.counts(&[]);
    let first = space.path().join("outputs/chain/latest").canonicalize().unwrap();
    let first = first.to_str().unwrap();
    space.counts(&[]);
    assert_eq!(space.expect(0, &["diff", first, "chain/latest"]).stdout, "no difference\n");
    space.write("in.txt", "other");
    space.counts(&["--set", "params.score=0.5"]);
    let told = space.expect(0, &["diff", first, "chain/latest"]).stdout;
    for words in [
        "a\n",
        "`run`: ",
        "content of file `inputs.0`",
        "task.acc: 0.250000 -> 0.500000 (+0.250000)",
        "b\n  content of step `steps.a`",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    space.counts(&["--until", "a", "--set", "params.score=0.5"]);
    let told = space.expect(0, &["diff", first, "chain/latest"]).stdout;
    assert!(told.contains("b: only the first run has a result of it"), "{told}");
    let json = space.expect(0, &["diff", first, "chain/latest", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["metrics"][0]["now"], 0.5, "{json}");
}

/// A random graph of steps: which of those before it each step reads, and its constant.
fn graphs() -> impl Strategy<Value = Vec<(Vec<bool>, u8)>> {
    prop::collection::vec((prop::collection::vec(any::<bool>(), 6), 0_u8..3), 1..6)
}

fn write_graph(space: &Space, graph: &[(Vec<bool>, u8)]) {
    let mut recipe = "version: 1\nname: graph\nsteps:\n".to_owned();
    for (at, (reads, constant)) in graph.iter().enumerate() {
        let before: Vec<usize> = (0..at).filter(|before| reads[*before]).collect();
        let steps: String = before.iter().map(|b| format!("s{b}: \"${{{{ steps.s{b} }}}}\", ")).collect();
        let cats: String = before.iter().map(|b| format!("head -c 1 \\\"$STEP_S{b}/o\\\" >> o; ")).collect();
        recipe.push_str(&format!(
            "  s{at}: {{ uses: command, with: {{ run: \"printf {constant} > o; {cats}: s{at}\", steps: {{ {steps} }}, outputs: [o] }} }}\n"
        ));
    }
    space.write("recipe.yaml", recipe);
}

#[test]
fn of_steps_with_the_same_key_one_runs() {
    let step = "{ uses: command, with: { run: \"echo x > o\", outputs: [o] } }";
    let space = Space::new(&format!("version: 1\nname: twins\nsteps:\n  a: {step}\n  b: {step}\n"));
    let plan = space.expect(0, &["plan"]).stdout;
    assert!(plan.contains("`a` has the same key") && plan.contains("1 to run, 1 after"), "{plan}");
    assert_eq!(space.counts(&[]), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// What `plan` calls cached is cached, what it calls `run` runs, and only what it calls `run?` may be
    /// either. One cache sees all graphs, so there is something to find.
    #[test]
    fn plan_and_run_agree(graphs in prop::collection::vec((graphs(), 0_usize..6), 2..4)) {
        let space = Space::new("");
        for (graph, until) in graphs {
            write_graph(&space, &graph);
            let until = format!("s{}", until % graph.len());
            let plan = space.expect(0, &["plan", "--format", "json", "--until", &until]).stdout;
            let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
            let events = space.expect(0, &["run", "--format", "json", "--until", &until]).stdout;
            let mut ran = std::collections::BTreeMap::new();
            for line in events.lines() {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                if let Some(step) = event["step"].as_str()
                    && ["step_cached", "step_finished"].contains(&event["event"].as_str().unwrap())
                {
                    ran.insert(step.to_owned(), event["event"] == "step_finished");
                }
            }
            let steps = plan["steps"].as_array().unwrap();
            prop_assert_eq!(steps.len(), ran.len());
            for step in steps {
                let executed = ran[step["step"].as_str().unwrap()];
                match step["state"].as_str().unwrap() {
                    "cached" => prop_assert!(!executed, "{}", step),
                    "run" => prop_assert!(executed, "{}", step),
                    _ => {}
                }
            }
            prop_assert_eq!(space.expect(0, &["plan", "--check", "--until", &until]).code, 0);
        }
    }
}
