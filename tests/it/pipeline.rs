//! The whole job on the shipped tiny pair, with few steps; and what it says to bad input.

use std::path::{Path, PathBuf};

use crate::space::{Ran, Space};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

/// The quickstart, small: one seed, three optimizer steps, ten items.
const SMALL: [&str; 7] = [
    "--set=params.seeds=[1]",
    "--set=params.optimizer.num_train_epochs=0.02",
    "--set=steps.bare_old.with.limit=10",
    "--set=steps.bare_new.with.limit=10",
    "--set=steps.at_home.with.limit=10",
    "--set=steps.after_move.with.limit=10",
    "--set=steps.after_retuning.with.limit=10",
];

fn quickstart(space: &Space, verb: &str, more: &[&str]) -> Ran {
    let recipe = recipes().join("quickstart.yaml");
    let mut args = vec![verb, recipe.to_str().unwrap()];
    args.extend(SMALL);
    args.extend(more);
    space.expect(0, &args)
}

#[test]
fn the_quickstart_in_small_makes_a_report_once() {
    let space = Space::new("");
    let ran = quickstart(&space, "run", &[]);
    let run = space.path().join("outputs/quickstart/latest");
    assert!(ran.stdout.trim().ends_with("report.md"), "{}", ran.stdout);
    let report = std::fs::read_to_string(run.join("report.md")).unwrap();
    for words in [
        "bare old base",
        "LoRA moved to the new base (direct transfer)",
        "Trans-PEFT moved to the new base",
        "LoRA re-tuned on the new base",
        "| continued |",
        "blake3:",
        "\"uses\": \"train\"",
        "`quickstart.yaml`:\n\n~~~~yaml\n# ",
        "params.seeds=[1]",
    ] {
        assert!(report.contains(words), "the report lacks {words:?}:\n{report}");
    }
    assert!(!report.contains(space.path().to_str().unwrap()), "a report holds no path");
    assert!(std::fs::read_to_string(run.join("report.svg")).unwrap().starts_with("<svg"));
    assert!(std::fs::read_to_string(run.join("tables/tiny_world.tex")).unwrap().contains("\\toprule"));

    let adapter = run.join("steps/train[method=trans-peft,seed=1]/artifact");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    let lineage: serde_json::Value =
        serde_json::from_slice(&std::fs::read(adapter.join("evergraft.json")).unwrap()).unwrap();
    assert_eq!((lineage["pc"].as_f64(), lineage["pi"].as_f64()), (Some(0.2), Some(0.1)));
    let scores = run.join("steps/after_move[method=lora,seed=1]/artifact");
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scores.join("results.json")).unwrap()).unwrap();
    let score = results["results"]["tiny_world"]["acc,label-extract"].as_f64().unwrap();
    let samples = std::fs::read_to_string(scores.join("samples_tiny_world.jsonl")).unwrap();
    let right: u64 = samples
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["acc,label-extract"].as_u64().unwrap()
        })
        .sum();
    assert_eq!((samples.lines().count(), right as f64 / 10.0), (10, score));

    let again = quickstart(&space, "run", &["--format", "json"]);
    assert!(
        again.stdout.contains("\"executed\":0,\"cached\":19,"),
        "{}",
        again.stdout.lines().last().unwrap()
    );
    quickstart(&space, "plan", &["--check"]);
    space.expect(0, &["cache", "verify"]);
    let ran = quickstart(&space, "run", &["--set=steps.report.with.vars.baseline=nobody"]);
    assert!(
        ran.stderr.contains("nothing is compared: `vars.baseline` is `nobody`, and the rows are `LoRA"),
        "{}",
        ran.stderr
    );
    let ran = quickstart(&space, "plan", &["--set=params.pc=0"]);
    assert!(ran.stdout.contains("changed: `trans_peft.pc`: 0.2 -> 0"), "{}", ran.stdout);
}

#[test]
fn the_shipped_recipes_are_right() {
    let space = Space::new("");
    let recipe = |name: &str| recipes().join(name).display().to_string();
    space.expect(0, &["check", &recipe("quickstart.yaml")]);
    space.expect(0, &["check", &recipe("make-tiny-pair.yaml")]);
    // The real model's recipe names files that a user fetches first.
    for name in ["old.gguf", "data/text/tinyshakespeare.txt"] {
        space.write(name, "x");
    }
    for task in ["arc_e", "arc_c", "obqa", "boolq"] {
        for split in ["train", "test"] {
            space.write(&format!("data/commonsense/{task}/{split}.json"), "[]");
        }
    }
    for scale in ["smoke", "full"] {
        let (scale, data) = (
            format!("--set=params.scale={scale}"),
            format!("--set=params.data={}", space.path().join("data").display()),
        );
        let old = format!("--set=steps.old.with.source={}", space.path().join("old.gguf").display());
        space.expect(0, &["check", &recipe("smollm2-arc.yaml"), &scale, &data, &old]);
    }
}

/// A recipe whose only base is `folder`.
fn base_recipe(folder: &str) -> String {
    format!("version: 1\nname: bad\nsteps:\n  old: {{ uses: base, with: {{ source: {folder} }} }}\n")
}

#[test]
fn damaged_models_are_told_and_leave_nothing() {
    let space = Space::new(&base_recipe("base"));
    space.copy("recipes/tiny/old", "base");
    let weights = std::fs::read(space.path().join("base/model.safetensors")).unwrap();
    let mut beyond = weights.clone();
    beyond[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for (bytes, words) in [
        (&weights[..weights.len() - 100], "model.safetensors"),
        (&weights[..4], "model.safetensors"),
        (&beyond[..], "model.safetensors"),
    ] {
        space.write("base/model.safetensors", bytes);
        let ran = space.expect(1, &["run"]);
        assert!(
            ran.stderr.contains("error: step `old` failed") && ran.stderr.contains(words),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    let mut model = std::fs::read(space.path().join("base/config.json")).unwrap();
    space.write("base/model.safetensors", &weights);
    // A tokenizer with more tokens than the model embeds.
    let text = String::from_utf8(std::mem::take(&mut model)).unwrap();
    space.write("base/config.json", text.replace("\"vocab_size\": 512", "\"vocab_size\": 300"));
    let ran = space.expect(1, &["run"]);
    assert!(ran.stderr.contains("error: step `old` failed"), "{}", ran.stderr);
    let gguf = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/gguf-q8_0/model.gguf"),
    )
    .unwrap();
    space.write("recipe.yaml", base_recipe("m.gguf"));
    for end in [3, 20, 200, gguf.len() / 2, gguf.len() - 1] {
        space.write("m.gguf", &gguf[..end]);
        let ran = space.expect(1, &["run"]);
        assert!(ran.stderr.contains("m.gguf") && !ran.stderr.contains("panicked"), "{end}: {}", ran.stderr);
    }
    assert!(std::fs::read_dir(space.path().join("cache/steps-v1/tmp")).unwrap().next().is_none());
    space.write("m.gguf", &gguf);
    space.expect(0, &["run"]);
}

#[test]
fn rows_that_were_cut_are_warned_of() {
    let space = Space::new(
        "version: 1\nname: cut\nsteps:\n  old: { uses: base, with: { source: base } }\n  \
         rows: { uses: dataset, with: { source: a.txt, format: text } }\n  \
         tokens: { uses: tokenize, with: { base: \"${{ steps.old }}\", dataset: \"${{ steps.rows }}\", \
         prompt: document, max_seq_length: 4 } }\n",
    );
    space.copy("recipes/tiny/old", "base");
    space.write("a.txt", "a\n\none two three four five six\n");
    let ran = space.expect(0, &["run"]);
    assert!(ran.stderr.contains("1 of 2 rows are longer than 4 tokens and were cut"), "{}", ran.stderr);
}

#[test]
fn rows_without_their_field_are_named() {
    let space = Space::new(
        "version: 1\nname: bad\nsteps:\n  rows: { uses: dataset, with: { source: a.jsonl, format: alpaca } }\n",
    );
    space.write(
        "a.jsonl",
        "{\"instruction\": \"i\", \"output\": \"o\"}\n{\"instruction\": \"i\", \"out\": \"o\"}\n",
    );
    let ran = space.expect(1, &["run"]);
    assert!(
        ran.stderr.contains("a.jsonl, row 2: there is no field `output`; the row has `instruction`, `out`"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("hint: name the right fields"), "{}", ran.stderr);
}

#[test]
fn a_base_that_was_pretrained_anew_is_warned_of_and_another_shape_refused() {
    let tiny = recipes().join("tiny");
    let recipe = |hidden: usize| {
        format!(
            r#"version: 1
name: swap
steps:
  old: {{ uses: base, with: {{ source: {tiny}/old }} }}
  rows: {{ uses: dataset, with: {{ source: {tiny}/train.jsonl.gz, format: alpaca, split: "[:8]" }} }}
  text: {{ uses: dataset, with: {{ source: text.jsonl, format: text }} }}
  anew:
    uses: base
    with:
      init:
        tokenizer: {{ vocab_size: 512, text: "${{{{ steps.text }}}}" }}
        config: {{ model_type: llama, hidden_size: {hidden}, intermediate_size: 384, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 256, rms_norm_eps: 1.0e-5, rope_theta: 10000.0, tie_word_embeddings: true }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.old }}}}", dataset: "${{{{ steps.rows }}}}", prompt: plain }} }}
  train: {{ uses: train, with: {{ base: "${{{{ steps.old }}}}", tokens: "${{{{ steps.tokens }}}}", optimizer: {{ max_steps: 1, per_device_train_batch_size: 2 }} }} }}
  moved: {{ uses: swap, with: {{ adapter: "${{{{ steps.train }}}}", to: "${{{{ steps.anew }}}}" }} }}
"#,
            tiny = tiny.display()
        )
    };
    let space = Space::new(&recipe(128));
    // Enough different words for a vocabulary of 512.
    let text: String = (0..4000u32)
        .map(|i| format!("{{\"text\": \"w{} x{} of{}\"}}\n", i * 7919 % 5000, i * 104_729 % 6000, i))
        .collect();
    space.write("text.jsonl", text);
    let ran = space.run(&["run"]);
    if ran.code == 0 {
        assert!(ran.stderr.contains("looks re-pretrained rather than continued"), "{}", ran.stderr);
        let again = space.expect(0, &["run"]);
        assert!(again.stderr.contains("looks re-pretrained"), "a warning comes again with the cached result");
    } else {
        panic!("{}", ran.stderr);
    }
    space.write("recipe.yaml", recipe(64));
    let ran = space.expect(1, &["run"]);
    assert!(ran.stderr.contains("does not fit") && ran.stderr.contains("hidden_size"), "{}", ran.stderr);
}

/// Every kind of adapter trains, moves and answers; a merged one answers like the adapter, and can
/// be a base itself.
#[test]
fn adapters_of_every_kind_train_move_and_merge() {
    let recipe = |adapter: &str, merges: bool| {
        let tiny = recipes().join("tiny");
        let tiny = tiny.display();
        let score = |name: &str, model: &str| {
            format!(
                "  {name}: {{ uses: eval, with: {{ model: \"${{{{ steps.{model} }}}}\", limit: 6, tasks: [{{ name: facts, dataset: \"${{{{ steps.test }}}}\", labels: \"${{{{ params.answers }}}}\", prompt: plain, max_new_tokens: 8 }}] }} }}\n"
            )
        };
        let merge = if merges {
            "  merged: { uses: merge, with: { adapter: \"${{ steps.moved }}\" } }\n  small: { uses: merge, with: { adapter: \"${{ steps.train }}\", dtype: bf16 } }\n".to_owned()
                + &score("by_merge", "merged")
                + &score("by_small", "small")
        } else {
            String::new()
        };
        format!(
            "version: 1\nname: kinds\nparams:\n  answers: [forest, river, desert, swamp, cave, meadow, island, berries, grass, fish, seeds, roots, honey, leaves, red, blue, green, black, white, brown, golden, tiny, small, large, huge]\nsteps:\n  old: {{ uses: base, with: {{ source: {tiny}/old }} }}\n  new: {{ uses: base, with: {{ source: {tiny}/new }} }}\n  rows: {{ uses: dataset, with: {{ source: {tiny}/train.jsonl.gz, format: alpaca, split: \"[:64]\" }} }}\n  test: {{ uses: dataset, with: {{ source: {tiny}/test.jsonl.gz, format: alpaca }} }}\n  tokens: {{ uses: tokenize, with: {{ base: \"${{{{ steps.old }}}}\", dataset: \"${{{{ steps.rows }}}}\", prompt: plain, max_seq_length: 96 }} }}\n  train: {{ uses: train, with: {{ base: \"${{{{ steps.old }}}}\", tokens: \"${{{{ steps.tokens }}}}\", adapter: {adapter}, trans_peft: {{ pc: 0.2, pi: 0.1 }}, optimizer: {{ max_steps: 6, learning_rate: 5e-3, per_device_train_batch_size: 8 }} }} }}\n  moved: {{ uses: swap, with: {{ adapter: \"${{{{ steps.train }}}}\", to: \"${{{{ steps.new }}}}\" }} }}\n{}{merge}",
            score("by_adapter", "moved"),
        )
    };
    let samples = |space: &Space, step: &str| {
        space.read(&format!("outputs/kinds/latest/steps/{step}/artifact/samples_facts.jsonl"))
    };
    for adapter in [
        "{ type: lora, r: 4, target_modules: all-linear, use_rslora: true }",
        "{ type: lora, r: 4, use_dora: true, layers_to_transform: [0, 1], lora_dropout: 0 }",
    ] {
        let space = Space::new(&recipe(adapter, true));
        space.expect(0, &["run"]);
        assert_eq!(samples(&space, "by_merge"), samples(&space, "by_adapter"), "{adapter}");
        let merged = space.path().join("outputs/kinds/latest/steps/small/artifact");
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(merged.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["dtype"], "bfloat16");
        let base = recipes().join("tiny/old/model.safetensors");
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        let written = size(&merged.join("model.safetensors"));
        assert!(written < size(&base) * 11 / 10, "{written} bytes");
    }
    for placement in ["houlsby", "pfeiffer", "parallel"] {
        let adapter = format!("{{ type: bottleneck, r: 8, placement: {placement} }}");
        let space = Space::new(&recipe(&adapter, false));
        space.expect(0, &["run"]);
        assert_eq!(samples(&space, "by_adapter").lines().count(), 6);
        let train = space.read("outputs/kinds/latest/steps/train/artifact/train.json");
        let summary: serde_json::Value = serde_json::from_str(&train).unwrap();
        assert!(summary["last_loss"].as_f64().unwrap().is_finite());
        space.write(
            "recipe.yaml",
            recipe(&adapter, false)
                + "  merged: { uses: merge, with: { adapter: \"${{ steps.train }}\" } }\n",
        );
        let ran = space.expect(1, &["run"]);
        assert!(ran.stderr.contains("cannot be folded into weights"), "{}", ran.stderr);
    }
}
