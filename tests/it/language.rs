//! `extends`, `exclude` and `include` of a matrix, secrets, `init`.

use std::process::Stdio;

use crate::{
    processes::signal,
    space::{Ran, Space},
};

fn ids(space: &Space, more: &[&str]) -> Vec<String> {
    let out = space.expect(0, &[&["graph", "--format", "json"], more].concat()).stdout;
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    plan["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_step_takes_what_it_does_not_say_from_another() {
    let space = Space::new(
        r#"version: 1
name: x
steps:
  first:
    uses: command
    when: false
    description: no more than a pattern
    retries: 2
    with: { run: "echo $A $B > o", outputs: [o], env: { A: one, B: two } }
  second: { extends: first, with: { env: { B: three } } }
  third: { extends: second, retries: 0, with: { env: { A: four } } }
"#,
    );
    assert_eq!(ids(&space, &[]), ["second", "third"]);
    space.counts(&[]);
    assert_eq!(space.read("outputs/x/latest/steps/second/artifact/o"), "one three\n");
    assert_eq!(space.read("outputs/x/latest/steps/third/artifact/o"), "four three\n");
    let plan: serde_json::Value =
        serde_json::from_str(&space.expect(0, &["graph", "--format", "json"]).stdout).unwrap();
    assert_eq!((&plan["nodes"][0]["retries"], &plan["nodes"][1]["retries"]), (&2.into(), &0.into()));
    // A change of the pattern reaches those that extend it.
    space.counts(&["--set", "steps.first.with.env.A=five"]);
    assert_eq!(space.read("outputs/x/latest/steps/second/artifact/o"), "five three\n");
}

#[test]
fn wrong_patterns_are_told_at_their_place() {
    let recipe = |extends: &str, other: &str| {
        format!(
            "version: 1\nsteps:\n  one: {{ {other}uses: command, with: {{ run: x, outputs: [o] }} }}\n  two: {{ extends: {extends} }}\n"
        )
    };
    for (text, words) in [
        (recipe("oen", ""), "unknown step `oen`\n --> recipe.yaml:4:19"),
        (recipe("oen", ""), "did you mean `one`?"),
        (recipe("[one]", ""), "`extends` names a step, found a list"),
        (recipe("one", "extends: two, "), "steps extend each other in a circle: `one` -> `two`"),
        (recipe("two", ""), "steps extend each other in a circle: `two`"),
    ] {
        let ran = Space::new(&text).expect(2, &["check"]);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("error:").count(), 1, "{}", ran.stderr);
    }
}

fn matrix(matrix: &str) -> Space {
    Space::new(&format!(
        "version: 1\nname: x\nparams: {{ slow: [{{ size: 2 }}] }}\nsteps:\n  a: {{ uses: command, matrix: {matrix}, with: {{ run: \"echo ${{{{ matrix }}}} > o\", outputs: [o] }} }}\n"
    ))
}

#[test]
fn a_matrix_leaves_cells_out_and_adds_some() {
    let space = matrix(
        "{ size: [1, 2], kind: [x, { name: y, v: 1 }], exclude: [{ size: 1, kind: y }, { size: 2, kind: x }], include: [{ kind: z, size: 3 }] }",
    );
    assert_eq!(ids(&space, &[]), ["a[size=1,kind=x]", "a[size=2,kind=y]", "a[size=3,kind=z]"]);
    let space = matrix("{ size: [1, 2, 3], exclude: \"${{ params.slow }}\" }");
    assert_eq!(ids(&space, &[]), ["a[size=1]", "a[size=3]"]);
    let space = matrix("{ include: [{ size: 1, kind: x }, { size: 2, kind: y }] }");
    assert_eq!(ids(&space, &[]), ["a[size=1,kind=x]", "a[size=2,kind=y]"]);
}

#[test]
fn wrong_cells_are_told_at_their_place() {
    for (text, words) in [
        ("{ size: [1], exclude: [{ size: 2 }] }", "the matrix of step `a` has no cell `size=2`"),
        ("{ size: [1], exclude: [{ sice: 1 }] }", "has no axis `sice`"),
        ("{ size: [1], exclude: [{ sice: 1 }] }", "did you mean `size`?"),
        ("{ size: [1], exclude: [{ size: 1 }] }", "`exclude` leaves no cell of step `a`"),
        ("{ size: [1], exclude: { size: 1 } }", "`exclude` must be a list of cells, found a mapping"),
        ("{ size: [1], include: [2] }", "a cell is a mapping from axes to values"),
        ("{ size: [1], kind: [x], include: [{ size: 2 }] }", "the cell has no value of the axis `kind`"),
        ("{ size: [1], include: [{ size: 1 }] }", "the cell `size=1` is there already"),
    ] {
        let ran = matrix(text).expect(2, &["check"]);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains("recipe.yaml:5:"), "{}", ran.stderr);
    }
}

/// Every file below a folder that holds some bytes.
fn holders(folder: &std::path::Path, words: &str) -> Vec<std::path::PathBuf> {
    let files = walkdir::WalkDir::new(folder).follow_links(true).into_iter().flatten();
    let files = files.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
    let holds = |path: &std::path::PathBuf| {
        std::fs::read(path).unwrap().windows(words.len()).any(|part| part == words.as_bytes())
    };
    files.filter(holds).collect()
}

#[test]
fn a_planted_secret_is_seen_nowhere() {
    const SECRET: &str = "planted-5ecret";
    let space = Space::new(
        r#"version: 1
name: x
steps:
  good: { uses: command, with: { run: "echo \"warning: it is $TOKEN\"; printf '%s' \"$TOKEN\" | wc -c > o; env", secrets: [TOKEN], outputs: [o] } }
  bad: { uses: command, with: { run: "echo with $TOKEN >&2; exit 1", secrets: [TOKEN], outputs: [o] } }
  leak: { uses: command, with: { run: "mkdir d; echo $TOKEN > d/o", secrets: [TOKEN], outputs: [d] } }
"#,
    );
    let run = |args: &[&str], value: Option<&str>| {
        let mut command = space.command(args);
        match value {
            Some(value) => command.env("TOKEN", value),
            None => command.env_remove("TOKEN"),
        };
        Ran::from(command.output().unwrap())
    };
    let ran = run(&["run", "-k", "--format", "json"], Some(SECRET));
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("it is ***") && ran.stdout.contains("with ***"), "{}", ran.stdout);
    assert!(ran.stdout.contains("the output `d/o` holds the secret `TOKEN`"), "{}", ran.stdout);
    let ran = run(&["run", "-k"], Some(SECRET));
    let printed = [&["explain", "good"][..], &["log", "good"], &["plan"], &["status"], &["ls"]]
        .map(|verb| run(verb, Some(SECRET)).stdout);
    assert!(printed[1].contains("TOKEN=***"), "{}", printed[1]);
    for text in printed.iter().chain([&ran.stdout, &ran.stderr]) {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert_eq!(holders(&space.path().join("cache"), SECRET), Vec::<std::path::PathBuf>::new());
    assert_eq!(holders(&space.path().join("outputs"), SECRET), Vec::<std::path::PathBuf>::new());
    assert_eq!(space.read("outputs/x/latest/steps/good/artifact/o").trim(), SECRET.len().to_string());
    // Another value is no other key.
    let plan = run(&["plan", "--only", "good", "--check"], Some("another-value"));
    assert_eq!(plan.code, 0, "{}", plan.stdout);
    let ran = run(&["run", "--only", "leak"], None);
    assert!(ran.stderr.contains("the secret `TOKEN` is not set"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: set TOKEN in the environment"), "{}", ran.stderr);
}

/// What leaves its process group holds the pipe of the words that are masked.
#[test]
fn a_daemon_of_a_command_with_secrets_is_not_waited_for() {
    let space = Space::new(
        r#"version: 1
name: x
steps:
  a: { uses: command, with: { run: "setsid sh -c 'echo $$ > pid; exec sleep 600' & while [ ! -s pid ]; do sleep 0.1; done; echo last", secrets: [TOKEN], outputs: [pid] } }
"#,
    );
    let mut command = space.command(&["run"]);
    let ran = Ran::from(command.env("TOKEN", "planted-5ecret").stdin(Stdio::null()).output().unwrap());
    let daemon = space.read("outputs/x/latest/steps/a/artifact/pid").trim().parse().unwrap();
    // Fails where it has ended, which is what the run would have waited for.
    signal(daemon, "KILL");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("something that the command started goes on"), "{}", ran.stderr);
    assert!(space.expect(0, &["log", "a"]).stdout.contains("last"));
}

#[test]
fn secrets_are_names_not_values() {
    let check = |secrets: &str| {
        let recipe = format!(
            "version: 1\nsteps:\n  a: {{ uses: command, with: {{ run: x, outputs: [o], env: {{ KEY: v }}, secrets: {secrets} }} }}\n"
        );
        Space::new(&recipe).expect(2, &["check"]).stderr
    };
    assert!(check("[\"a b=c\"]").contains("give the name of the variable, never its value"));
    assert!(check("[KEY]").contains("`KEY` stands under `env` too"));
}

#[test]
fn init_writes_a_recipe_that_passes_check() {
    let space = Space::new("");
    space.expect(0, &["init", "mine.yaml"]);
    let ran = space.expect(0, &["check", "mine.yaml"]);
    assert!(ran.stdout.contains("`mine.yaml` is right: 18 steps"), "{}", ran.stdout);
    let text = space.read("mine.yaml");
    assert!(text.starts_with("# yaml-language-server: $schema=recipe.schema.json\n"));
    let schema: serde_json::Value = serde_json::from_str(&space.read("recipe.schema.json")).unwrap();
    assert_eq!(schema["title"], "Evergraft recipe");
    let ran = space.expect(2, &["init", "mine.yaml"]);
    assert!(ran.stderr.contains("`mine.yaml` is there already"), "{}", ran.stderr);
    assert_eq!(space.read("mine.yaml"), text);
}

#[test]
fn shipped_recipes_name_the_schema() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("recipes")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let schema =
                text.lines().next().unwrap().strip_prefix("# yaml-language-server: $schema=").unwrap();
            assert!(path.parent().unwrap().join(schema).is_file(), "{}", path.display());
        }
    }
}
