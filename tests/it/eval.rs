//! Evaluations from task files: rows to scores, keys, resume after a kill, and what bad input says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use evergraft::{
    data::{last_boxed, read_rows},
    device::resolve,
    eval::{Choices, Score, Task, is_math_equal, log_likelihoods},
    model::{Decoder, TokenBatch, Untouched},
    params::{DeviceName, MathMode, shipped_task},
    rng,
};
use serde_json::Value;

use crate::{processes::kill, space::Space, tiny};

const GENERATE: &str = r#"
task: colours
dataset_path: json
dataset_kwargs: { data_files: { test: rows/test.jsonl, train: rows/shots.jsonl } }
test_split: test
fewshot_split: train
output_type: generate_until
description: "Answer.\n"
doc_to_text: "{{ question }}"
doc_to_target: "{{ colour }}"
num_fewshot: 2
fewshot_config: { sampler: first_n }
generation_kwargs: { until: ["\n"], max_gen_toks: 8 }
filter_list:
  - name: word
    filter: [{ function: regex, regex_pattern: "([a-z]+)" }]
metric_list:
  - { metric: exact_match, ignore_case: true }
metadata: { version: 1.5 }
"#;

const CHOOSE: &str = r#"
task: chosen
dataset_path: json
dataset_kwargs: { data_files: { test: rows/test.jsonl } }
test_split: test
output_type: multiple_choice
doc_to_text: "{{ question }}\nAnswer:"
doc_to_choice: [red, green, "dark blue"]
doc_to_target: colour
metric_list: [{ metric: acc }, { metric: acc_norm }, { metric: acc_bytes }, { metric: exact_match }]
metadata: { version: 2 }
"#;

const TASKS: &str =
    "[./tasks/colours.yaml, tasks/chosen.yaml, { task: perplexity, dataset: \"${{ steps.texts }}\" }]";

fn tiny_base() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny/old").display().to_string()
}

fn recipe(tasks: &str) -> String {
    format!(
        "version: 1\nname: tasks\nsteps:\n  old: {{ uses: base, with: {{ source: {} }} }}\n  \
         texts: {{ uses: dataset, with: {{ source: tasks/rows/texts.jsonl, format: text }} }}\n  \
         scores: {{ uses: eval, with: {{ model: \"${{{{ steps.old }}}}\", batch_size: 4, tasks: {tasks} }} }}\n",
        tiny_base()
    )
}

/// A folder with task files and `count` rows.
fn space(tasks: &str, count: usize) -> Space {
    let space = Space::new(&recipe(tasks));
    space.write("tasks/colours.yaml", GENERATE);
    space.write("tasks/chosen.yaml", CHOOSE);
    let colours = ["red", "green", "dark blue"];
    let row = |n: usize| {
        let (very, colour) = ("very ".repeat(n % 7), colours[n % 3]);
        format!("{{\"question\": \"Name the colour of the {very}pojup.\", \"colour\": \"{colour}\"}}\n")
    };
    space.write("tasks/rows/test.jsonl", (0..count).map(row).collect::<String>());
    space.write("tasks/rows/shots.jsonl", (100..103).map(row).collect::<String>());
    let text = |n: usize| format!("{{\"text\": \"The pojup is red. {}\"}}\n", "It ate. ".repeat(1 + 60 * n));
    space.write("tasks/rows/texts.jsonl", (0..3).map(text).collect::<String>());
    space
}

fn artifact(space: &Space) -> PathBuf {
    space.path().join("outputs/tasks/latest/steps/scores/artifact").canonicalize().unwrap()
}

fn results(space: &Space) -> Value {
    serde_json::from_slice(&fs::read(artifact(space).join("results.json")).unwrap()).unwrap()
}

fn samples(space: &Space, task: &str) -> Vec<Value> {
    let text = fs::read_to_string(artifact(space).join(format!("samples_{task}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn task_files_bring_their_rows_and_scores() {
    let space = space(TASKS, 9);
    space.expect(0, &["run"]);
    let found = results(&space);
    assert_eq!(found["versions"]["colours"], 1.5);
    assert_eq!(found["n-shot"]["colours"], 2);
    assert_eq!(found["n-samples"]["chosen"]["effective"], 9);
    assert_eq!(found["higher_is_better"]["perplexity"]["bits_per_byte"], false);
    assert_eq!(found["primary_metric"]["chosen"], "acc,none");
    assert!(found["configs"]["chosen"]["prompt_digest"].as_str().unwrap().starts_with("blake3:"));

    let lines = samples(&space, "colours");
    assert_eq!(lines[0]["doc_id"], 0);
    let shots = "Name the colour of the very very pojup. green\n\n\
                 Name the colour of the very very very pojup. dark blue\n\n";
    assert_eq!(lines[1]["prompt"], format!("Answer.\n{shots}Name the colour of the very pojup."));
    assert!(lines.iter().all(|line| !line["generation"].as_str().unwrap().contains('\n')));

    let lines = samples(&space, "chosen");
    for line in &lines {
        let scores: Vec<(f64, bool)> = serde_json::from_value(line["resps"].clone()).unwrap();
        let best = |length: [f64; 3]| {
            let each: Vec<f64> =
                scores.iter().zip(length).map(|((score, _), length)| score / length).collect();
            (0..3).max_by(|a, b| each[*a].total_cmp(&each[*b])).unwrap() as u64
        };
        let gold = line["gold"].as_u64().unwrap();
        assert_eq!(line["acc,none"], u64::from(best([1.0; 3]) == gold));
        assert_eq!(line["acc_norm,none"], u64::from(best([3.0, 5.0, 9.0]) == gold));
    }
    let acc = lines.iter().filter(|line| line["acc,none"] == 1).count() as f64 / 9.0;
    let table = &found["results"]["chosen"];
    assert_eq!(table["acc,none"].as_f64().unwrap(), acc);
    let stderr = (acc * (1.0 - acc) / 8.0).sqrt();
    assert!((table["acc_stderr,none"].as_f64().unwrap() - stderr).abs() < 1e-12);

    // The long text takes several windows of the model's 256 tokens.
    let lines = samples(&space, "perplexity");
    let windows = |line: &Value| line["resps"].as_array().unwrap().len();
    assert!(windows(&lines[0]) == 1 && windows(&lines[2]) > 1);
    let [sum, bytes] = [0, 1]
        .map(|at| -> f64 { lines.iter().map(|line| line["bits_per_byte,none"][at].as_f64().unwrap()).sum() });
    let table = &found["results"]["perplexity"];
    let bits = table["bits_per_byte,none"].as_f64().unwrap();
    assert!((bits + sum / bytes / std::f64::consts::LN_2).abs() < 1e-9 && bits > 0.0);
    assert!(table["bits_per_byte_ci95,none"][0].as_f64().unwrap() <= bits);
}

#[test]
fn what_a_task_file_says_counts_and_where_it_lies_does_not() {
    let space = space("[tasks/chosen.yaml]", 3);
    assert_eq!(space.counts(&[]), (3, 0));
    fs::rename(space.path().join("tasks"), space.path().join("other")).unwrap();
    fs::rename(space.path().join("other/chosen.yaml"), space.path().join("other/renamed.yaml")).unwrap();
    space.write("recipe.yaml", recipe("[other/renamed.yaml]").replace("tasks/rows", "other/rows"));
    assert_eq!(space.counts(&[]), (0, 3));
    // A comment is not what it says.
    space.write("other/renamed.yaml", format!("# mine\n{CHOOSE}"));
    assert_eq!(space.counts(&[]), (0, 3));
    space.write("other/renamed.yaml", CHOOSE.replace("Answer:", "Colour:"));
    let ran = space.expect(0, &["plan"]);
    assert!(ran.stdout.contains("changed: `tasks.0.definition.doc_to_text`"), "{}", ran.stdout);
    space.write("other/renamed.yaml", CHOOSE);
    space.write("other/rows/test.jsonl", "{\"question\": \"Colour?\", \"colour\": \"red\"}\n");
    let ran = space.expect(0, &["plan"]);
    assert!(ran.stdout.contains("changed: content of file `task_data.0`"), "{}", ran.stdout);
}

/// Where an unfinished evaluation keeps its answers, once there are as many.
fn wait_for_answers(space: &Space, task: &str, lines: usize) -> Option<PathBuf> {
    let folders = fs::read_dir(space.path().join("cache/steps-v1/checkpoints"));
    let files = folders
        .into_iter()
        .flatten()
        .flatten()
        .map(|folder| folder.path().join(format!("answers_{task}.jsonl")));
    let enough = |path: &PathBuf| {
        fs::read(path).is_ok_and(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count() >= lines)
    };
    files.into_iter().find(enough)
}

/// Killed in its first task, and again in its second; the result is that of an undisturbed run.
#[test]
fn a_killed_evaluation_goes_on_and_gives_the_same_bytes() {
    let undisturbed = space(TASKS, 60);
    undisturbed.expect(0, &["run"]);
    let whole = artifact(&undisturbed);
    let space = space(TASKS, 60);
    for (task, lines) in [("colours", 5), ("chosen", 1)] {
        let mut child = space.command(&["run", "-q"]).stderr(Stdio::null()).spawn().unwrap();
        let path = loop {
            assert!(child.try_wait().unwrap().is_none(), "it was done before it could be killed");
            match wait_for_answers(&space, task, lines) {
                Some(path) => break path,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        kill(&mut child, &space);
        // As if the kill had torn the last line.
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
    }
    let ran = space.expect(0, &["run"]);
    assert!(ran.stderr.contains("task `colours`: 60 of 60 answers are there already"), "{}", ran.stderr);
    let result = artifact(&space);
    for name in ["results.json", "samples_colours.jsonl", "samples_chosen.jsonl", "samples_perplexity.jsonl"]
    {
        assert_eq!(fs::read(result.join(name)).unwrap(), fs::read(whole.join(name)).unwrap(), "{name}");
    }
    assert_eq!(result.file_name(), whole.file_name());
    assert_eq!(fs::read_dir(space.path().join("cache/steps-v1/checkpoints")).unwrap().count(), 0);
}

fn is_loaded(space: &Space) -> bool {
    space.read("outputs/tasks/latest/steps/scores/log.txt").contains("base `old` is loaded")
}

#[test]
fn bad_rows_are_named_with_their_task() {
    let space = space("[tasks/chosen.yaml]", 3);
    let good = space.read("tasks/rows/test.jsonl");
    for (row, words) in [
        ("", "holds no row"),
        ("{\"question\": \"Q\"", "test.jsonl"),
        (
            "{\"colour\": \"red\"}",
            "row 1 of the dataset: `doc_to_text`: there is no field `question`; the row has `colour`",
        ),
        ("{\"question\": \"Q\", \"colour\": \"pink\"}", "the answer `pink` is none of the 3 choices"),
        ("{\"question\": \"Q\", \"colour\": 7}", "the answer `7` is none of the 3 choices"),
    ] {
        space.write("tasks/rows/test.jsonl", row);
        let ran = space.expect(1, &["run"]);
        let told = ran.stderr.contains("in task `chosen`") && ran.stderr.contains(words);
        assert!(told && !ran.stderr.contains("panicked"), "{row}: {}", ran.stderr);
        assert!(!is_loaded(&space), "{row}: nothing is loaded before the rows are known to be right");
    }
    space.write("tasks/rows/test.jsonl", &good);
    space.write("recipe.yaml", recipe("[{ task: tasks/chosen.yaml, num_fewshot: 3 }]"));
    let ran = space.expect(1, &["run"]);
    let words = "3 examples are asked for, and there are 2 rows beside the question";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    space.write("recipe.yaml", recipe("[{ task: tasks/chosen.yaml, num_fewshot: 2 }]"));
    space.expect(0, &["run"]);
    assert!(is_loaded(&space));
    // A longer prompt than the model takes is cut and counted; a longer answer is an error.
    space.write("tasks/rows/test.jsonl", good.replacen("Name", &"Name ".repeat(400), 1));
    space.write("recipe.yaml", recipe("[tasks/chosen.yaml]"));
    let ran = space.expect(0, &["run"]);
    let words = "task `chosen`: 1 of 3 prompts leave too little of the context";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    assert_eq!(results(&space)["truncated_prompts"]["chosen"], 1);
    // Each of its choices keeps as much of the prompt as it can.
    assert_eq!(samples(&space, "chosen")[0]["resps"].as_array().unwrap().len(), 3);
    let long = format!("\"{}\"", "dark blue ".repeat(200));
    space.write("tasks/chosen.yaml", CHOOSE.replace("\"dark blue\"", &long));
    space.write("tasks/rows/test.jsonl", good.lines().next().unwrap());
    let ran = space.expect(1, &["run"]);
    assert!(ran.stderr.contains("but the model takes 256"), "{}", ran.stderr);
}

#[test]
fn a_tokenizer_without_an_end_token_is_told() {
    let space = space(TASKS, 3);
    own_base(&space, |name, bytes| {
        if !name.ends_with("config.json") {
            return bytes;
        }
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        for key in ["eos_token", "bos_token", "eos_token_id", "bos_token_id"] {
            config.as_object_mut().unwrap().remove(key);
        }
        serde_json::to_vec(&config).unwrap()
    });
    let recipe = space.read("recipe.yaml");
    let ran = space.expect(1, &["run"]);
    let words = "the tokenizer's files name neither a beginning nor an end token";
    assert!(ran.stderr.contains("in task `perplexity`") && ran.stderr.contains(words), "{}", ran.stderr);
    space.write("recipe.yaml", recipe.replace(", { task: perplexity, dataset: \"${{ steps.texts }}\" }", ""));
    let ran = space.expect(0, &["run"]);
    let words = "so a generation ends at a stop string or at its longest";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}

/// The shipped tiny base as a folder of its own, `change`d file by file.
fn own_base(space: &Space, change: impl Fn(&str, Vec<u8>) -> Vec<u8>) {
    for entry in fs::read_dir(tiny_base()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = change(&name, fs::read(entry.path()).unwrap());
        space.write(&format!("base/{name}"), bytes);
    }
    let recipe = space.read("recipe.yaml").replace(&tiny_base(), "base");
    space.write("recipe.yaml", recipe);
}

#[test]
fn a_model_without_numbers_is_told_with_the_row() {
    let space = space("[tasks/chosen.yaml]", 40);
    own_base(&space, |name, mut bytes| {
        if name == "model.safetensors" {
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        bytes
    });
    let ran = space.expect(1, &["run"]);
    // The longest item is asked first: the seventh row has six words more than the first.
    let words = "in task `chosen`: the model's logits for row 7 of the dataset are not finite";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}

#[test]
fn a_whole_prompt_can_be_what_the_user_says() {
    let chat = "{ task: tasks/chosen.yaml, num_fewshot: 1 }], apply_chat_template: true, system_instruction: \"Be brief.\", num_fewshot: 2, limit: 2 } }\n#";
    let space = space(chat, 5);
    let recipe = space.read("recipe.yaml").replace("tasks: { task", "tasks: [{ task");
    space.write("recipe.yaml", recipe);
    own_base(&space, |_, bytes| bytes);
    let turn = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}";
    let template = format!("{turn}{{% if add_generation_prompt %}}[assistant]\n{{% endif %}}");
    space.write("base/chat_template.jinja", template);
    space.expect(0, &["run"]);
    let lines = samples(&space, "chosen");
    let asked = lines[1]["prompt"].as_str().unwrap();
    assert!(asked.starts_with("[system]\nBe brief.\n[user]\nName the colour of the "), "{asked}");
    assert!(asked.ends_with("\n\nName the colour of the very pojup.\nAnswer:\n[assistant]\n"), "{asked}");
    // The task's own number of examples wins over the step's.
    assert_eq!((asked.matches("Answer:").count(), lines.len()), (2, 2));
    let found = results(&space);
    assert_eq!(found["configs"]["chosen"]["system"], "Be brief.");
    assert_eq!(found["n-shot"]["chosen"], 1);
}

/// ln p of a continuation, from the logits.
fn reference(model: &Decoder, context: &[u32], continuation: &[u32]) -> (f64, bool) {
    let tokens: Vec<i32> = context.iter().chain(continuation).map(|token| *token as i32).collect();
    let batch = TokenBatch::rows(&[&tokens]);
    let logits = model.logits(model.hidden(&batch, None, &Untouched));
    let [_, vocabulary] = logits.dims();
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let mut sum = 0.0;
    let mut greedy = true;
    for (at, token) in continuation.iter().enumerate() {
        let row = &logits[(context.len() + at - 1) * vocabulary..][..vocabulary];
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let norm: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
        sum += f64::from(row[*token as usize] - most) - norm.ln();
        greedy &= row[*token as usize] == most;
    }
    (sum, greedy)
}

#[test]
fn log_likelihoods_are_sums_of_log_probabilities() {
    let model = tiny::decoder(2, &resolve(DeviceName::Flex).unwrap());
    let tokens = |count: u32, step: u32, first: u32| -> Vec<u32> {
        (0..count).map(|token| (token * step + first) % 40).collect()
    };
    let items: Vec<Choices> = (0..5)
        .map(|n| Choices {
            context: tokens(1 + 3 * n, 7, n),
            continuations: (0..3).map(|c| tokens(1 + c + n % 2, 11, c)).collect(),
        })
        .collect();
    for batch_size in [1, 2, 16] {
        let mut found: Vec<Vec<Score>> = vec![Vec::new(); items.len()];
        log_likelihoods(&model, &items, batch_size, None, &mut || Ok(()), &mut |item, scores| {
            found[item] = scores.to_vec();
            Ok(())
        })
        .unwrap();
        for (item, scores) in items.iter().zip(found) {
            assert_eq!(scores.len(), 3);
            for (continuation, score) in item.continuations.iter().zip(scores) {
                let (expected, greedy) = reference(&model, &item.context, continuation);
                assert!((score.log_likelihood - expected).abs() < 1e-4, "{score:?} {expected}");
                assert_eq!(score.is_greedy, greedy);
            }
        }
    }
}

/// Of a long target the perplexity is larger than any number, and of one row nothing tells how far it
/// spreads; the report says so instead of failing.
#[test]
fn a_perplexity_that_overflows_is_reported() {
    let task = "[{ task: tasks/long.yaml, name: long }]";
    let space = space(task, 1);
    let task = CHOOSE
        .replace("multiple_choice", "loglikelihood")
        .replace("doc_to_choice: [red, green, \"dark blue\"]\n", "")
        .replace("task: chosen", "task: long")
        .replace(
            "{ metric: acc }, { metric: acc_norm }, { metric: acc_bytes }, { metric: exact_match }",
            METRICS,
        );
    const METRICS: &str = "{ metric: perplexity }, { metric: token_perplexity }, { metric: acc }";
    space.write("tasks/long.yaml", task);
    let target = "zq".repeat(120);
    let row = format!("{{\"question\": \"Q\", \"colour\": \"{target}\"}}\n");
    space.write("tasks/rows/test.jsonl", &row);
    let report = "  report: { uses: report, with: { results: \"${{ steps.scores }}\" } }\n";
    space.write("recipe.yaml", space.read("recipe.yaml") + report);
    let report =
        || fs::read_to_string(space.path().join("outputs/tasks/latest/steps/report/artifact/report.md"));
    for (rows, shown) in [(1, "| inf | – | 1 | – | 1 | inf |"), (2, "| inf | – | 1 | inf–inf * | 2 | inf |")]
    {
        space.write("tasks/rows/test.jsonl", row.repeat(rows));
        let ran = space.expect(0, &["run"]);
        assert!(
            ran.stderr.contains("task `long`: perplexity is larger than the largest number"),
            "{}",
            ran.stderr
        );
        let table = &results(&space)["results"]["long"];
        assert_eq!(table.get("perplexity,none"), Some(&Value::Null));
        assert!(table["token_perplexity,none"].as_f64().unwrap() > 1.0);
        let single = rows == 1;
        assert_eq!(table["acc_stderr,none"].is_null(), single, "one item has no standard error");
        assert_eq!(table["token_perplexity_ci95,none"].is_null(), single);
        assert!(table["acc_ci95,none"][1].as_f64().unwrap() > 0.0, "Wilson's is for one item too");
        let report = report().unwrap();
        assert!(report.contains(shown), "{report}");
    }
}

/// The example of the documentation is a task file, and the recipe beside it uses it.
#[test]
fn the_documented_example_is_right() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/evaluation.md")).unwrap();
    let start = text.find("# yaml-language-server").unwrap();
    let example = &text[start..start + text[start..].find("```").unwrap()];
    let space = space("[capitals.yaml]", 1);
    space.write("capitals.yaml", example);
    let row = "{\"country\": \"Italy \", \"capital\": \"Rome\", \"others\": [\"Paris\"]}\n";
    space.write("capitals.jsonl", row);
    space.write("capitals-train.jsonl", row.replace("Italy", "France") + &row.replace("Italy", "Spain"));
    space.expect(0, &["run"]);
    let asked = samples(&space, "capitals")[0]["prompt"].clone();
    let shots = "Q: What is the capital of France?\nA: Rome\n\nQ: What is the capital of Spain?\nA: Rome\n\n";
    assert_eq!(asked, format!("Answer with one word.\n\n{shots}Q: What is the capital of Italy?\nA:"));
    let choose =
        example.replace("generate_until  ", "multiple_choice ").replace("# doc_to_choice", "doc_to_choice");
    let (head, rest) = choose.split_once("generation_kwargs").unwrap();
    let metadata = &rest[rest.find("metadata:").unwrap()..];
    let metadata = metadata.replace("exact_match,first-word", "acc_norm,none");
    space.write("capitals.yaml", format!("{head}{metadata}"));
    space.expect(0, &["run"]);
    assert_eq!(samples(&space, "capitals")[0]["choices"], serde_json::json!(["Rome", "Paris"]));
}

/// Every gold answer of MATH against itself and against another problem's.
#[test]
fn the_gold_answers_of_math() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/math/test.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: there is no {}", path.display());
        return;
    };
    let golds: Vec<String> = text
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            last_boxed(row["solution"].as_str().unwrap()).unwrap().to_owned()
        })
        .collect();
    assert_eq!(golds.len(), 5000);
    let mut shuffled: Vec<&str> = golds.iter().map(String::as_str).collect();
    let mut random = rng::stream(0, "shuffled golds", &[]);
    for last in (1..shuffled.len()).rev() {
        shuffled.swap(last, random.below(last as u64 + 1) as usize);
    }
    for mode in [MathMode::Strict, MathMode::PaperCompat] {
        let right = |predictions: &[&str]| {
            golds.iter().zip(predictions).filter(|(gold, found)| is_math_equal(mode, found, gold)).count()
        };
        let own: Vec<&str> = golds.iter().map(String::as_str).collect();
        let (own, others) = (right(&own), right(&shuffled));
        println!("{mode:?}: {own} of 5000 against themselves, {others} of 5000 shuffled");
        assert_eq!(own, 5000, "{mode:?}");
        // Small numbers are the answer to many problems; more than this would be a lax grader.
        assert!(others < 5000 / 20, "{mode:?}: {others}");
    }
}

fn shipped(name: &str) -> Task {
    Task::new(shipped_task(name).unwrap().clone(), None).unwrap()
}

/// Every row of the commonsense tests gives as many choices as its text names, and a right one.
#[test]
fn choices_are_read_out_of_the_rows_of_llm_adapters() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/commonsense");
    if !folder.is_dir() {
        println!("skipped: there is no {}", folder.display());
        return;
    }
    for name in ["boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_e", "arc_c", "obqa"] {
        let plain = folder.join(name).join("test.json");
        let path = if plain.is_file() { plain } else { folder.join(name).join("test.json.gz") };
        let (likely, generated) = (shipped(&format!("{name}_choices")), shipped(name));
        for (number, row) in read_rows(&path).unwrap().iter().enumerate() {
            let gold = likely.answer(row).unwrap_or_else(|error| panic!("{name} {number}: {error:#}"));
            let text = row["instruction"].as_str().unwrap();
            let named = text.rsplit_once("Answer format: ").unwrap().1.split('/').count();
            assert_eq!(gold.choices.len(), named, "{name} {number}: {gold:?}");
            likely.question(row, &[]).unwrap();
            generated.answer(row).unwrap();
        }
    }
}

/// Three evaluations on one base, one of them of an adapter: the base is loaded once for those that follow each
/// other, and nobody's result depends on it.
#[test]
fn evaluations_share_a_loaded_base() {
    let adapted = |others: &str| {
        format!(
            r#"version: 1
name: tasks
steps:
  old: {{ uses: base, with: {{ source: {base} }} }}
  texts: {{ uses: dataset, with: {{ source: tasks/rows/texts.jsonl, format: text }} }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.old }}}}", dataset: "${{{{ steps.texts }}}}", prompt: text, max_seq_length: 64 }} }}
  train:
    uses: train
    with:
      base: "${{{{ steps.old }}}}"
      tokens: "${{{{ steps.tokens }}}}"
      adapter: {{ r: 2, lora_alpha: 64, target_modules: [q_proj, down_proj] }}
      optimizer: {{ max_steps: 3, learning_rate: 0.1 }}
  scores: {{ uses: eval, with: {{ model: "${{{{ steps.train }}}}", tasks: [tasks/chosen.yaml] }} }}
{others}"#,
            base = tiny_base()
        )
    };
    let bare = |name: &str, limit: usize| {
        format!(
            "  {name}: {{ uses: eval, needs: [scores], with: {{ model: \"${{{{ steps.old }}}}\", limit: {limit}, tasks: [tasks/chosen.yaml] }} }}\n"
        )
    };
    let (alone, together) = (space("[]", 9), space("[]", 9));
    alone.write("recipe.yaml", adapted(""));
    together.write("recipe.yaml", adapted(&(bare("first", 8) + &bare("second", 9))));
    for space in [&alone, &together] {
        space.expect(0, &["run"]);
    }
    assert_eq!(results(&alone), results(&together));
    for step in ["first", "second"] {
        let log = together.expect(0, &["log", step]).stdout;
        assert!(log.contains("base `old` is loaded already"), "{log}");
    }
    // What the adapter was attached to is still the bare base.
    let read = |step: &str| {
        let path =
            together.path().join(format!("outputs/tasks/latest/steps/{step}/artifact/samples_chosen.jsonl"));
        fs::read_to_string(path).unwrap()
    };
    let (second, adapted) = (read("second"), read("scores"));
    assert!(second.starts_with(&read("first")));
    assert_ne!(second, adapted);
    let direct = space("[tasks/chosen.yaml]", 9);
    direct.expect(0, &["run"]);
    assert_eq!(samples(&direct, "chosen"), samples_of(&second));
}

fn samples_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
