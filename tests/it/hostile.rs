//! Files that mean harm: each is an error that names the file and what in it is wrong, never a panic
//! and never an allocation by a number that was not checked.
//!
//! `tests/fixtures/hostile/<kind>/` holds the files, `errors.txt` what comes out for each.
//! `EVERGRAFT_BLESS=1 cargo test hostile` writes it; read the difference before committing it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{messages::with_hint, space::Space};

#[path = "../fuzz/src/entries.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it from another crate")]
mod entries;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The name that an input has in its folder.
fn file_name(kind: &str) -> &str {
    match kind {
        "gguf" => "model.gguf",
        "llama2c" => "model.bin",
        "llama2c_tokenizer" => "tokenizer.bin",
        "safetensors" => "model.safetensors",
        "safetensors_index" => "model.safetensors.index.json",
        // Weights that do not fit it are told of the folder as a whole.
        "config_json" => "DIR",
        "adapter_config" => "adapter_config.json",
        "recipe" => "recipe.yaml",
        "task" => "task.yaml",
        other => panic!("no such kind: {other}"),
    }
}

/// The error of one input, without the folder's path.
fn error_of(kind: &str, bytes: &[u8]) -> Option<String> {
    let (_, entry) = entries::ENTRIES.iter().find(|(name, _)| *name == kind).expect("a known kind");
    let dir = tempfile::tempdir().unwrap();
    let error = entry(dir.path(), bytes).err()?;
    Some(with_hint(&error).replace(&dir.path().display().to_string(), "DIR"))
}

#[test]
fn every_hostile_file_is_an_error_that_names_it() {
    let folder = fixtures().join("hostile");
    let mut found = String::new();
    for (kind, _) in entries::ENTRIES {
        let mut paths: Vec<_> =
            fs::read_dir(folder.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{kind}");
        for path in paths {
            let name = path.file_name().unwrap().to_str().unwrap();
            let error = error_of(kind, &fs::read(&path).unwrap());
            if let Some(error) = &error {
                assert!(error.contains(file_name(kind)), "{kind}/{name} names no file: {error}");
                assert!(
                    ["recipe", "task"].contains(&kind) || error.len() < 1_000,
                    "{kind}/{name} takes {} bytes",
                    error.len()
                );
                assert!(!error.contains(|c: char| c.is_control() && c != '\n'), "{kind}/{name}: {error:?}");
            }
            let shown = error.as_deref().unwrap_or("ok");
            // The first diagnostic of a recipe is enough.
            let shown = shown.split("\n\n").next().unwrap_or_default();
            writeln!(found, "=== {kind}/{name}\n{}\n", shown.trim_end()).unwrap();
        }
    }
    let found = format!("{}\n", found.trim_end());
    let file = folder.join("errors.txt");
    if std::env::var_os("EVERGRAFT_BLESS").is_some() {
        fs::write(&file, found).unwrap();
    } else {
        assert_eq!(found, fs::read_to_string(&file).unwrap());
    }
}

/// Files that are whole, so that the entries above do reach the end.
#[test]
fn whole_files_are_read() {
    let models = fixtures().join("models");
    for (kind, file) in [
        ("gguf", "gguf-q4_0/model.gguf"),
        ("gguf", "gguf-llama3/model.gguf"),
        ("safetensors", "llama/model.safetensors"),
        ("config_json", "llama/config.json"),
        ("adapter_config", "llama-lora/adapter_config.json"),
    ] {
        let error = error_of(kind, &fs::read(models.join(file)).unwrap());
        // The tiny GGUF files have no tokenizer.
        let fine = error.is_none() || (kind == "gguf" && error.as_ref().unwrap().contains("no tokenizer"));
        assert!(fine, "{file}: {error:?}");
    }
}

/// What the fuzzer of task files starts from; its own finds are among the hostile files above.
#[test]
fn whole_task_files_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |folder: &str| -> Vec<PathBuf> {
        fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut shipped = files("src/eval/tasks");
    // Which labels, the recipe has to say.
    shipped.retain(|path| !path.ends_with("labels.yaml"));
    assert!(shipped.len() > 19, "{shipped:?}");
    for path in &shipped {
        assert_eq!(error_of("task", &fs::read(path).unwrap()), None, "{}", path.display());
    }
    // And cut short wherever it may be; of the fixtures, some are wrong as they are.
    for path in shipped.iter().chain(&files("tests/fixtures/tasks")) {
        let text = fs::read(path).unwrap();
        (0..=text.len()).rev().step_by(199).for_each(|end| drop(error_of("task", &text[..end])));
    }
}

/// Every prefix of a whole file, and every single flipped byte of its header.
#[test]
fn damaged_files_never_panic() {
    let models = fixtures().join("models");
    for (kind, file, header) in [
        ("gguf", "gguf-q4_0/model.gguf", 1_600),
        ("safetensors", "llama/model.safetensors", 2_400),
        ("adapter_config", "llama-lora/adapter_config.json", 0),
    ] {
        let whole = fs::read(models.join(file)).unwrap();
        for length in (0..header.min(whole.len())).step_by(29) {
            assert!(error_of(kind, &whole[..length]).is_some(), "{file} at {length}");
        }
        for at in (0..header).step_by(17) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            error_of(kind, &bytes);
        }
    }
}

#[test]
fn long_adapter_configs_are_refused() {
    let lora = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
    let with = |field: &str, value: Value| {
        let mut config = lora.clone();
        config[field] = value;
        error_of("adapter_config", config.to_string().as_bytes()).unwrap()
    };
    let names: Vec<String> = (0..10_001).map(|n| format!("m{n}")).collect();
    for (error, words) in [
        (with("x", " ".repeat(1 << 20).into()), "/adapter_config.json` is larger than 1 MiB"),
        (with("target_modules", "a|".repeat(200_000).into()), "`target_modules`: patterns of 400000 bytes"),
        (with("exclude_modules", json!(names)), "`exclude_modules`: 10001 names"),
    ] {
        assert!(error.contains(words), "{error}");
    }
}

/// A sparse file may claim to be larger than the machine's memory.
#[test]
fn files_that_are_too_large_are_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = format!("{:#}", evergraft::model::BaseFolder::open(dir.path()).unwrap_err());
    assert!(error.contains("config.json` is larger than 32 MiB"), "{error}");

    let path = dir.path().join("model.gguf");
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend(u64::MAX.to_le_bytes());
    header.extend(1_u64.to_le_bytes());
    fs::write(&path, header).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let error = format!("{:#}", evergraft::model::SourceModel::open_native(&path).err().unwrap());
    assert!(error.contains("model.gguf`") && error.contains("tensors, but has room for"), "{error}");
}

fn base_step(source: &str) -> Space {
    Space::new(&format!("version: 1\nsteps:\n  base:\n    uses: base\n    with: {{ source: {source} }}\n"))
}

/// What a user sees: exit code 1, since a step failed, and the file and the field in the message.
#[test]
fn a_hostile_model_fails_its_step() {
    let hostile = |name: &str| fs::read(fixtures().join("hostile").join(name)).unwrap();
    let llama = fixtures().join("models/llama");
    for (files, words) in [
        (
            vec![("config.json", hostile("config_json/huge-hidden_size"))],
            ["source/config.json", "`hidden_size`"],
        ),
        (
            vec![("model.safetensors", hostile("safetensors/name-twice"))],
            ["source/model.safetensors", "`a` is there twice"],
        ),
        (
            vec![("model.safetensors.index.json", hostile("safetensors_index/shard-in-the-parent"))],
            ["source/model.safetensors.index.json", "../model-00001-of-00003.safetensors"],
        ),
    ] {
        let space = base_step("source");
        for name in ["config.json", "model.safetensors"] {
            let name_of_index = files[0].0 == "model.safetensors.index.json";
            if name == "config.json" || !name_of_index {
                space.write(&format!("source/{name}"), fs::read(llama.join(name)).unwrap());
            }
        }
        for (name, bytes) in files {
            space.write(&format!("source/{name}"), bytes);
        }
        let ran = space.expect(1, &["run", "recipe.yaml"]);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    for (name, word) in [
        ("gguf/tensor-count-of-all-ones", "claims 18446744073709551615 tensors"),
        ("gguf/text-length-of-all-ones", "in metadata `general.name`"),
        ("gguf/alignment-of-three", "`general.alignment`"),
        ("gguf/tensor-of-an-unknown-type", "in tensor `a`: number format 99"),
        ("gguf/head-width-is-huge", "`llama.attention.key_length`"),
    ] {
        let space = base_step("model.gguf");
        space.write("model.gguf", hostile(name));
        let ran = space.expect(1, &["run", "recipe.yaml"]);
        assert!(ran.stderr.contains("model.gguf") && ran.stderr.contains(word), "{name}: {}", ran.stderr);
    }
}

/// A wrong recipe is bad input: exit code 2, and nothing runs.
#[test]
fn a_hostile_recipe_is_bad_input() {
    for name in ["aliases-that-multiply", "matrix-that-multiplies", "rank-is-huge", "nested-too-deep"] {
        let space = Space::new("");
        space.write("recipe.yaml", fs::read(fixtures().join("hostile/recipe").join(name)).unwrap());
        let ran = space.expect(2, &["check", "recipe.yaml"]);
        assert!(ran.stderr.contains("recipe.yaml:"), "{name}: {}", ran.stderr);
    }
}
