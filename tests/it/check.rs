//! Wrong recipes: the whole text of every diagnostic.
//!
//! `tests/fixtures/diagnostics.txt` holds cases as `=== name | --set arguments`, the recipe, `---`
//! and the expected text. `EVERGRAFT_BLESS=1 cargo test check` writes what comes out; read the
//! difference before committing it.

use std::{fmt::Write as _, path::Path};

use evergraft::{error::Error, plan, recipe};
use proptest::prelude::*;
use tempfile::TempDir;

/// A folder with files that the recipes of the cases name.
pub(crate) fn space() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["old", "new", "data"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("data/train.json"), "[]").unwrap();
    std::fs::write(dir.path().join("data/test.json"), "[]").unwrap();
    dir
}

/// The plan of a recipe text, or the diagnostics without the folder's path.
pub(crate) fn check(dir: &Path, text: impl AsRef<[u8]>, sets: &[&str]) -> Result<plan::Plan, String> {
    let path = dir.join("recipe.yaml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let plan = recipe::load(&path, &sets).and_then(|recipe| plan::build(&recipe));
    plan.map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        assert!(matches!(error, Error::Recipe(_)));
        error.to_string().replace(&format!("{}/", dir.display()), "")
    })
}

#[test]
fn every_wrong_recipe_gets_its_diagnostics() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diagnostics.txt");
    let cases = std::fs::read_to_string(&file).unwrap();
    let (preface, cases) = cases.split_once("=== ").unwrap();
    let dir = space();
    std::fs::write(dir.path().join("common.yaml"), "params: { pc: 0.1 }\nsteps: { old: { uses: base } }\n")
        .unwrap();
    std::fs::create_dir(dir.path().join("tasks")).unwrap();
    for entry in std::fs::read_dir(file.with_file_name("tasks")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), dir.path().join("tasks").join(entry.file_name())).unwrap();
    }
    let mut blessed = preface.to_owned();
    let mut wrong = String::new();
    for case in cases.split("\n=== ") {
        let (head, rest) = case.split_once('\n').unwrap();
        let (text, expected) = rest.split_once("---\n").unwrap();
        let sets: Vec<&str> =
            head.split_once(" | ").map_or(Vec::new(), |(_, sets)| sets.split(' ').collect());
        let found = match check(dir.path(), text, &sets) {
            Ok(_) => "ok".to_owned(),
            Err(found) => found,
        };
        if found.trim_end() != expected.trim_end() {
            writeln!(wrong, "\n=== {head}\nexpected:\n{expected}\nfound:\n{found}").unwrap();
        }
        writeln!(blessed, "=== {head}\n{text}---\n{found}").unwrap();
        blessed.push('\n');
    }
    if std::env::var_os("EVERGRAFT_BLESS").is_some() {
        std::fs::write(&file, format!("{}\n", blessed.trim_end())).unwrap();
    } else {
        assert!(wrong.is_empty(), "{wrong}");
    }
}

#[test]
fn a_huge_recipe_is_refused_without_reading_it() {
    let dir = space();
    let path = dir.path().join("huge.yaml");
    let file = std::fs::File::create(&path).unwrap();
    // Sparse: reading it whole would take a while, refusing must not.
    file.set_len(4 << 30).unwrap();
    let error = recipe::load(&path, &[]).unwrap_err().to_string();
    let error = error.replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(
        error,
        "error: the recipe is larger than 1 MiB\n --> huge.yaml\nhint: data belongs into files of its own, \
         read by a `dataset` step; recipes can `include` each other"
    );
}

#[test]
fn unreadable_recipes_are_named() {
    let dir = space();
    let missing = recipe::load(&dir.path().join("none.yaml"), &[]).unwrap_err().to_string();
    assert!(missing.starts_with("error: cannot read the recipe: No such file"), "{missing}");
    let folder = recipe::load(dir.path(), &[]).unwrap_err().to_string();
    assert!(folder.starts_with("error: the recipe is a folder"), "{folder}");
}

#[test]
fn not_utf8_is_placed() {
    let error = check(space().path(), b"version: 1\nname: caf\xe9\n", &[]).unwrap_err();
    assert_eq!(
        error,
        "error: the recipe is not UTF-8 text\n --> recipe.yaml:2:10\n  |\n2 | name: caf\u{fffd}\n  |          ^\n\
         hint: save it as UTF-8"
    );
}

#[test]
fn alias_bomb_is_refused() {
    let mut bomb = "version: 1\nparams:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "  a{level}: &a{level} [{items}]").unwrap();
    }
    let error = check(space().path(), bomb, &[]).unwrap_err();
    assert!(error.starts_with("error: the recipe holds too many values, counting what aliases"), "{error}");
    assert!(error.contains(" --> recipe.yaml:"), "{error}");
}

#[test]
fn parameters_that_double_each_other_are_refused() {
    for start in ["[1, 2, 3]", "xxxxxxxxxxxxxxxx"] {
        let mut text = format!("version: 1\nparams:\n  p0: {start}\n");
        for level in 1..200 {
            let before = level - 1;
            let value = if start.starts_with('[') {
                format!("${{{{ [params.p{before}, params.p{before}] }}}}")
            } else {
                format!("${{{{ params.p{before} }}}}${{{{ params.p{before} }}}}")
            };
            writeln!(text, "  p{level}: \"{value}\"").unwrap();
        }
        let error = check(space().path(), text, &[]).unwrap_err();
        assert!(error.contains("too") && error.contains(" --> recipe.yaml:"), "{error}");
    }
}

#[test]
fn deep_nesting_is_refused_without_overflow() {
    let block: String = (0..700).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let shapes = ["[".repeat(10_000), "{a: ".repeat(10_000), "- ".repeat(10_000), "? ".repeat(10_000), block];
    for shape in shapes {
        let error = check(space().path(), &shape, &[]).unwrap_err();
        assert!(error.starts_with("error: values are nested more than 24 levels deep\n"), "{error}");
        assert!(error.contains("--> recipe.yaml:"), "{error}");
    }
    for operator in ["[", "-", "not ", "1+", "1 if 1 else ", "1**", "x."] {
        for length in [900, 100_000] {
            let expression = operator.repeat(length / operator.len());
            let text =
                format!("version: 1\nparams: {{ a: \"${{{{ {expression}1 }}}}\" }}\nsteps: {{ a: 1 }}\n");
            assert!(check(space().path(), text, &[]).unwrap_err().starts_with("error: "));
        }
    }
    let mut chain = "version: 1\nparams:\n  p0: 1\n".to_owned();
    for level in 1..200 {
        writeln!(chain, "  p{level}: \"${{{{ [params.p{}] }}}}\"", level - 1).unwrap();
    }
    assert!(check(space().path(), chain, &[]).unwrap_err().contains("nested too deeply"));
}

#[test]
fn long_chains_of_steps_and_parameters_do_not_overflow() {
    let mut text = "version: 1\nparams:\n".to_owned();
    for at in (0..500).rev() {
        writeln!(text, "  p{at}: \"${{{{ params.p{} }}}}\"", at + 1).unwrap();
    }
    text.push_str("  p500: 1\nsteps:\n");
    for at in 0..1500 {
        let with = if at + 1 < 1500 {
            format!(", steps: {{ s: \"${{{{ steps.s{} }}}}\" }}", at + 1)
        } else {
            String::new()
        };
        writeln!(text, "  s{at}: {{ uses: command, with: {{ run: x, outputs: [y]{with} }} }}").unwrap();
    }
    let plan = check(space().path(), text, &[]).unwrap();
    assert_eq!(plan.graph[plan.order()[0]].id, "s1499");
}

#[test]
fn a_matrix_cannot_run_away() {
    let axis = format!("[{}]", (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join(", "));
    let text = format!(
        "version: 1\nsteps:\n  a: {{ uses: command, matrix: {{ x: {axis}, y: {axis}, z: {axis} }}, with: {{ run: x, outputs: [y] }} }}\n"
    );
    assert!(check(space().path(), text, &[]).unwrap_err().contains("more than 10000 cells"));
}

#[test]
fn includes_that_include_each_other_end() {
    let dir = space();
    std::fs::write(dir.path().join("a.yaml"), "include: [b.yaml]\n").unwrap();
    std::fs::write(dir.path().join("b.yaml"), "include: [a.yaml, recipe.yaml]\n").unwrap();
    let text =
        "version: 1\ninclude: a.yaml\nsteps: { c: { uses: command, with: { run: x, outputs: [y] } } }\n";
    assert!(check(dir.path(), text, &[]).is_ok());
}

/// Recipe-like words in any order: gets past the parser far more often than plain noise.
fn scraps() -> impl Strategy<Value = String> {
    let scrap = prop::sample::select(vec![
        "version: 1\n",
        "steps:\n",
        "params:\n",
        "defaults:\n",
        "  a:\n",
        "  b: ",
        "    uses: ",
        "base\n",
        "train\n",
        "report\n",
        "    with:\n",
        "    with: {",
        "      source: ",
        "old\n",
        "    matrix: ",
        "{x: [1, 2]}\n",
        "\"${{ steps.a }}\"\n",
        "\"${{ matrix.x }}\"",
        "'${{ params.b",
        " }}'\n",
        "needs: [a]\n",
        "    when: ",
        "true\n",
        ".nan",
        "~\n",
        "- ",
        "[",
        "]",
        "}",
        ", ",
        "*a ",
        "&a ",
        "<<: ",
        "\n",
        "\t",
        "!x ",
        "é",
        "'",
        "\"",
        "|\n",
        "  ",
        "0",
        "-1e400",
    ]);
    prop::collection::vec(scrap, 0..40).prop_map(|scraps| scraps.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loading_any_text_never_panics(text in prop_oneof![scraps(), any::<String>()], set in "[a-z.=\\[{0-9]{0,20}") {
        let dir = space();
        let _ = check(dir.path(), format!("version: 1\n{text}"), &[&set]);
        let _ = check(dir.path(), text, &[]);
    }

    #[test]
    fn loading_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(space().path(), bytes, &[]);
    }
}

#[test]
fn cutting_a_recipe_anywhere_never_panics() {
    let dir = space();
    let text = include_str!("../fixtures/design.yaml");
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = check(dir.path(), &text[..end], &[]);
    }
}
