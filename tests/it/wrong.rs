//! Wrong input, case by case: what the program says of each lies in `tests/fixtures/messages/wrong/`.

use std::fs;

use evergraft::model::{BaseFolder, Tokenizer};
use serde_json::{Value, json};

use crate::{
    messages::known,
    parity::fixture,
    space::{Space, files_below},
};

/// Runs steps that fail or warn, one recipe after the other.
fn fail(space: &Space, steps: &[String]) {
    for steps in steps {
        space.write("recipe.yaml", format!("version: 1\nname: wrong\nsteps:\n{steps}"));
        let ran = space.run(&["run", "-q"]);
        let told = [1, 2].contains(&ran.code) || ran.stderr.contains("warning: ");
        assert!(told, "{steps}\n{}\n{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}

#[test]
fn rows() {
    let space = Space::new("");
    let gzip = |name: &str| space.write(name, [0x1f, 0x8b, 8, 0, 1]);
    let mut steps = Vec::new();
    let mut case = |name: &str, text: &[u8], with: &str| {
        space.write(name, text);
        steps.push(format!("  rows: {{ uses: dataset, with: {{ source: {name}, {with} }} }}\n"));
    };
    case("a.xml", b"<a/>", "format: raw");
    case("empty.jsonl", b"", "format: raw");
    case("broken.json", b"[{", "format: raw");
    case("object.json", b"{}", "format: raw");
    case("number.json", b"[7]", "format: raw");
    case("lines.json", b"{\"a\": 1}\n{\"a\": 2}\n", "format: raw");
    case("broken.jsonl", b"{\"a\": 1}\n{\"a\"\n", "format: raw");
    case("latin.jsonl", b"{\"a\": \"\xe9\"}\n", "format: raw");
    case("ragged.csv", b"a,b\n1\n", "format: raw");
    case("headless.csv", b"\xff\xfe\n", "format: raw");
    case("not.parquet", b"PAR1 nothing of it PAR1", "format: raw");
    case("short.parquet", b"PAR1", "format: raw");
    case("fields.jsonl", b"{\"question\": \"q\"}\n", "format: alpaca");
    case("map.jsonl", b"{\"question\": \"q\"}\n", "format: alpaca, fields: { output: reply }");
    case("gsm.jsonl", b"{\"question\": \"q\", \"answer\": \"no number\"}\n", "format: gsm8k");
    case("math.jsonl", b"{\"problem\": \"p\", \"solution\": \"no box\"}\n", "format: math");
    case("one.jsonl", b"{\"text\": \"t\"}\n", "format: text, split: \"[5:7]\"");
    case("one.jsonl", b"{\"text\": \"t\"}\n", "format: text, split: \"train[::2]\"");
    case("one.jsonl", b"{\"text\": \"t\"}\n", "format: text, fields: { words: text }");
    case("one.jsonl", b"{\"text\": \"t\"}\n", "format: raw, fields: { text: words }");
    space.write("folder/train.jsonl", "{\"text\": \"t\"}\n");
    gzip("cut.jsonl.gz");
    steps.push("  rows: { uses: dataset, with: { source: cut.jsonl.gz, format: raw } }\n".to_owned());
    steps.push("  rows: { uses: dataset, with: { source: folder, split: dev, format: text } }\n".to_owned());
    let made = "  made: { uses: command, with: { run: \"echo a > b.txt\", outputs: [b.txt] } }\n";
    for path in ["c.txt", "../b.txt"] {
        let source = format!("{{ step: \"${{{{ steps.made }}}}\", path: {path} }}");
        steps
            .push(format!("{made}  rows: {{ uses: dataset, with: {{ source: {source}, format: text }} }}\n"));
    }
    fail(&space, &steps);
}

#[test]
fn bases_and_what_is_made_of_them() {
    let space = Space::new("");
    let base = |with: &str| format!("  old: {{ uses: base, with: {{ {with} }} }}\n");
    for (name, content) in [("m.bin", "pickle"), ("m.txt", "a text"), ("m.pt", "PK"), ("folder/a.txt", "")] {
        space.write(name, content);
    }
    space.write("pickled/config.json", fs::read(fixture("llama/config.json")).unwrap());
    space.write("pickled/pytorch_model.bin", "PK");
    space.write("weightless/config.json", fs::read(fixture("llama/config.json")).unwrap());
    space.write("words.json", "{}");
    space.write("a.txt", "one\n\ntwo words\n");
    space.copy("tests/fixtures/models/llama", "llama");
    space.copy("recipes/tiny/old", "old");
    let (llama, old) = ("llama", "old");
    let mut steps: Vec<String> = ["m.bin", "m.txt", "m.pt", "folder", "pickled", "weightless"]
        .map(|name| base(&format!("source: {name}")))
        .into();
    steps.push(base(&format!("source: {llama}/model.safetensors")));
    steps.push(base(&format!("source: {llama}, digest: \"blake3:{}\"", "0".repeat(64))));
    steps.push(base(&format!("source: {llama}, tokenizer: words.json")));
    steps.push(base(&format!("source: {llama}, tokenizer: a.txt")));
    steps.push(base(&format!("source: {llama}, init: {{ config: {{}}, tokenizer: {{}} }}")));
    steps.push(base(&format!("source: {llama}, init: {{ config: {{ model_type: llama }} }}")));
    steps.push(base("source: \"https://example.org/model.gguf\""));
    steps.push(base(&format!("source: {old}, tokenizer: \"https://example.org/tokenizer.json\"")));
    steps.push(base("{}").replace("{ {} }", "{}"));
    let text = "  text: { uses: dataset, with: { source: a.txt, format: text } }\n";
    for (vocab, config) in
        [("3", "model_type: llama"), ("300", "model_type: unheard"), ("300", "model_type: llama")]
    {
        let tokenizer = format!("{{ vocab_size: {vocab}, text: \"${{{{ steps.text }}}}\" }}");
        steps.push(format!(
            "{text}{}",
            base(&format!("init: {{ config: {{ {config} }}, tokenizer: {tokenizer} }}"))
        ));
    }
    // A base without a tokenizer serves for nothing but its weights.
    let whole = |source: &str, tokens: &str, more: &str| {
        format!(
            "{}{text}  tokens: {{ uses: tokenize, with: {{ base: \"${{{{ steps.old }}}}\", dataset: \"${{{{ steps.text }}}}\", \
             {tokens} }} }}\n{more}",
            base(&format!("source: {source}"))
        )
    };
    steps.push(whole(llama, "prompt: document", ""));
    steps.push(whole(old, "prompt: plain", ""));
    steps.push(whole(old, "prompt: chat", ""));
    steps.push(whole(old, "prompt: document, max_seq_length: 1", ""));
    let train = |with: &str| {
        format!(
            "  train: {{ uses: train, with: {{ base: \"${{{{ steps.old }}}}\", tokens: \"${{{{ steps.tokens }}}}\", {with} }} }}\n"
        )
    };
    for with in [
        "adapter: { target_modules: [q_porj] }",
        "adapter: { target_modules: [q_proj], layers_to_transform: [99] }",
        "adapter: { target_modules: [] }",
        "adapter: { target_modules: [q_proj], r: 0 }",
        "adapter: { target_modules: [q_proj] }, validation_split: 1.5",
        "adapter: { target_modules: [q_proj] }, dtype: f16",
        "adapter: { target_modules: [q_proj] }, trans_peft: { pi: 1.5 }",
        "adapter: { target_modules: [q_proj] }, device: cuda",
        "adapter: { target_modules: [q_proj] }, eval_tokens: \"${{ steps.old }}\"",
        "adapter: { target_modules: [q_proj] }, optimizer: { learning_rate: -1 }",
        "adapter: { target_modules: [q_proj] }, optimizer: { eval_steps: 5 }",
        "adapter: { peft_type: BOTTLENECK, adapter_size: 0 }",
    ] {
        steps.push(whole(old, "prompt: document", &train(with)));
    }
    let adapter = "adapter: { target_modules: [q_proj], r: 2 }, optimizer: { max_steps: 1 }";
    for after in [
        "  moved: { uses: swap, with: { adapter: \"${{ steps.train }}\", to: \"${{ steps.other }}\" } }\n",
        "  moved: { uses: swap, with: { adapter: \"${{ steps.train }}\", to: \"${{ steps.old }}\" } }\n",
        "  one: { uses: merge, with: { adapter: \"${{ steps.old }}\" } }\n",
        "  scores: { uses: eval, with: { model: \"${{ steps.train }}\", tasks: [gsm9k] } }\n",
        "  scores: { uses: eval, with: { model: \"${{ steps.train }}\", tasks: [] } }\n",
        "  scores: { uses: eval, with: { model: \"${{ steps.text }}\", tasks: [{ task: perplexity, dataset: \"${{ steps.text }}\" }] } }\n",
        "  page: { uses: report, with: { template: nothing.md.j2, results: [\"${{ steps.train }}\"] } }\n",
    ] {
        let other = format!("  other: {{ uses: base, with: {{ source: {llama} }} }}\n");
        let other = if after.contains("other") { other } else { String::new() };
        steps.push(whole(old, "prompt: document", &format!("{other}{}{after}", train(adapter))));
    }
    let bottleneck = "adapter: { peft_type: BOTTLENECK, adapter_size: 4 }, optimizer: { max_steps: 1 }";
    let merge = "  one: { uses: merge, with: { adapter: \"${{ steps.train }}\" } }\n";
    steps.push(whole(old, "prompt: document", &format!("{}{merge}", train(bottleneck))));
    for (name, content) in [("imported/a.txt", ""), ("torn/adapter_config.json", "{")] {
        space.write(name, content);
        let folder = name.split('/').next().unwrap();
        let import = format!(
            "  mine: {{ uses: adapter, with: {{ source: {folder}, base: \"${{{{ steps.old }}}}\" }} }}\n"
        );
        steps.push(format!("{}{import}", base(&format!("source: {llama}"))));
    }
    fail(&space, &steps);
}

/// Steps that begin well and stop at what their inputs turn out to hold.
#[test]
fn what_inputs_hold() {
    let space = Space::new("");
    space.copy("recipes/tiny/old", "old");
    space.copy("recipes/tiny/old", "mute");
    space.write("mute/tokenizer_config.json", "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}");
    fs::remove_file(space.path().join("mute/generation_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&space.read("mute/config.json")).unwrap();
    config["eos_token_id"] = Value::Null;
    space.write("mute/config.json", config.to_string());
    space.write("one.jsonl", "{\"instruction\": \"Add.\", \"output\": \"2\"}\n");
    let words = "a word ".repeat(40);
    space.write("long.jsonl", json!({ "instruction": words, "output": "2" }).to_string() + "\n");
    space.write("raw.jsonl", "{\"q\": \"\", \"a\": \"\", \"b\": [\"x\"], \"c\": [\"x\", \"\"], \"n\": 7}\n");
    space.write("a.txt", "one\n\ntwo words\n");
    space.write("large.md.j2", "x".repeat((1 << 20) + 1));
    let base = |source: &str| format!("  old: {{ uses: base, with: {{ source: {source} }} }}\n");
    let rows = |source: &str, format: &str| {
        format!("  rows: {{ uses: dataset, with: {{ source: {source}, format: {format} }} }}\n")
    };
    let tokens = |with: &str| {
        format!(
            "  tokens: {{ uses: tokenize, with: {{ base: \"${{{{ steps.old }}}}\", dataset: \"${{{{ steps.rows }}}}\", \
             {with} }} }}\n"
        )
    };
    let mut steps = Vec::new();
    for (source, format, with) in [
        ("one.jsonl", "alpaca", "prompt: document"),
        ("raw.jsonl", "raw", "prompt: alpaca"),
        ("long.jsonl", "alpaca", "prompt: alpaca, max_seq_length: 8"),
    ] {
        steps.push(base("old") + &rows(source, format) + &tokens(with));
    }
    steps.push(base("mute") + &rows("one.jsonl", "alpaca") + &tokens("prompt: alpaca"));
    let train = "  train: { uses: train, with: { base: \"${{ steps.old }}\", tokens: \"${{ steps.tokens }}\", \
         adapter: { target_modules: [q_proj] }, validation_split: 0.5, optimizer: { max_steps: 1, eval_steps: 1 } } }\n";
    steps.push(base("old") + &rows("one.jsonl", "alpaca") + &tokens("prompt: alpaca") + train);
    // Tasks whose templates do not find what they ask for.
    let task = |name: &str, more: &str| {
        let text =
            format!("task: {name}\ndoc_to_text: q\ndoc_to_target: a\nmetadata: {{ version: 1 }}\n{more}\n");
        space.write(&format!("{name}.yaml"), text);
    };
    task("empty_answer", "output_type: generate_until");
    task("empty_text", "output_type: loglikelihood_rolling");
    task("no_answer", "output_type: loglikelihood\ntarget_delimiter: \"\"");
    task("one_choice", "output_type: multiple_choice\ndoc_to_choice: b");
    task("empty_choice", "output_type: multiple_choice\ndoc_to_choice: c");
    task("no_list", "output_type: multiple_choice\ndoc_to_choice: \"a {{ c }}\"");
    task("number", "output_type: multiple_choice\ndoc_to_choice: n");
    let text = fs::read_to_string(space.path().join("empty_text.yaml")).unwrap();
    space.write("empty_text.yaml", text.replace("doc_to_text: q\n", ""));
    for name in ["empty_answer", "empty_text", "no_answer", "one_choice", "empty_choice", "no_list", "number"]
    {
        let eval = format!(
            "  scores: {{ uses: eval, with: {{ model: \"${{{{ steps.old }}}}\", tasks: [{{ task: {name}.yaml, \
             dataset: \"${{{{ steps.rows }}}}\" }}] }} }}\n"
        );
        steps.push(base("old") + &rows("raw.jsonl", "raw") + &eval);
    }
    let asked = "  scores: { uses: eval, with: { model: \"${{ steps.old }}\", tasks: [{ task: gsm8k, prompt: alpaca, \
         dataset: \"${{ steps.rows }}\" }] } }\n";
    steps.push(base("old") + &rows("raw.jsonl", "raw") + asked);
    let scores = "  scores: { uses: eval, with: { model: \"${{ steps.old }}\", \
         tasks: [{ task: perplexity, dataset: \"${{ steps.rows }}\" }] } }\n";
    for with in ["labels: { nobody: N }", "template: large.md.j2"] {
        let report = format!(
            "  page: {{ uses: report, with: {{ results: [\"${{{{ steps.scores }}}}\"], {with} }} }}\n"
        );
        steps.push(base("old") + &rows("a.txt", "text") + scores + &report);
    }
    let twice = scores.replace("scores:", "others:")
        + "  page: { uses: report, with: { results: [\"${{ steps.scores }}\", \"${{ steps.others }}\"], \
           labels: { scores: same, others: same } } }\n";
    steps.push(base("old") + &rows("a.txt", "text") + scores + &twice);
    steps.push(
        base("old") + "  mine: { uses: adapter, with: { source: a.txt, base: \"${{ steps.old }}\" } }\n",
    );
    let made = "  made: { uses: command, with: { run: \"mkdir d; touch d/e\", outputs: [d] } }\n";
    steps.push(
        made.to_owned()
            + "  rows: { uses: dataset, with: { source: { step: \"${{ steps.made }}\", path: d/f }, format: text } }\n",
    );
    fail(&space, &steps);
    // What is not selected has to be there.
    let other = made.replace("d/e", "d/g");
    let next = made.replace("made:", "next:").replace("run:", "steps: { made: \"${{ steps.made }}\" }, run:");
    space.write("recipe.yaml", format!("version: 1\nname: wrong\nsteps:\n{other}{next}"));
    assert_eq!(space.run(&["run", "-q", "--only", "next"]).code, 1);
}

#[test]
fn commands() {
    let space = Space::new("");
    let steps = [
        "run: \"exit 3\"",
        "run: \"echo gone; kill -9 $$\"",
        "run: \"true\", outputs: [a.txt]",
        "run: \"ln -s /etc a.txt\", outputs: [a.txt]",
        "run: \"mkfifo a\", outputs: [a]",
        "run: \"mkdir b; touch b/o; ln -s b a\", outputs: [a/o]",
        "run: \"touch a\", outputs: [../a]",
        "run: \"touch a\", outputs: [/a]",
        "run: \"touch a\", outputs: []",
        "run: \"touch a\", outputs: [a], inputs: [b.txt]",
        "run: \"touch a\", outputs: [a], env: { \"A=B\": b }",
        "run: \"touch a\", outputs: [a], secrets: [NOT_SET]",
        "run: \"touch a\", outputs: [a], secrets: [\"A B\"]",
        "run: \"touch a\", outputs: [a], steps: { \"a-b\": \"${{ steps.other }}\" }",
        "run: \"sleep 9\", outputs: [a] }, timeout: 0.2, with: {",
        "run: \"touch a\", outputs: [a] }, resources: { gpu: 99 }, needs: [] , description: {",
    ]
    .map(|with| format!("  it: {{ uses: command, with: {{ {with} }} }}\n"));
    let mut steps: Vec<String> = steps.into();
    steps
        .push("  it: { uses: command, timeout: 0.2, with: { run: \"sleep 9\", outputs: [a] } }\n".to_owned());
    steps.push(
        "  it: { uses: command, resources: { gpu: 99 }, with: { run: \"touch a\", outputs: [a] } }\n"
            .to_owned(),
    );
    for resources in ["cpus: 0", "gpu: -1", "mem: much", "cores: 1"] {
        steps.push(format!(
            "  it: {{ uses: command, resources: {{ {resources} }}, with: {{ run: \"touch a\", outputs: [a] }} }}\n"
        ));
    }
    steps.push(
        "  a: { uses: command, with: { run: \"touch o\", outputs: [o] } }\n  b: { uses: command, with: { run: \"touch o\", \
         outputs: [o], steps: { \"a-b\": \"${{ steps.a }}\" } } }\n"
            .to_owned(),
    );
    fail(&space, &steps);
}

/// A file where a folder should be, or a folder where a file should be.
#[test]
fn places_that_are_taken() {
    let recipe =
        "version: 1\nname: taken\nsteps: { a: { uses: command, with: { run: 'touch o', outputs: [o] } } }\n";
    for taken in [
        "outputs",
        "outputs/taken",
        "cache",
        "cache/steps-v1/artifacts",
        "cache/steps-v1/locks",
        "cache/steps-v1/logs",
        "cache/steps-v1/records",
        "cache/steps-v1/tmp",
    ] {
        let space = Space::new(recipe);
        if taken.starts_with("cache/") {
            space.expect(0, &["run"]);
            fs::remove_dir_all(space.path().join(taken)).unwrap();
        }
        space.write(taken, "");
        assert_ne!(space.run(&["run", "--force"]).code, 0, "{taken}");
    }
    let space = Space::new(recipe);
    space.expect(0, &["run"]);
    let locks = space.path().join("cache/steps-v1/locks");
    for lock in files_below(&locks) {
        fs::remove_file(&lock).unwrap();
        fs::create_dir(&lock).unwrap();
        assert_ne!(space.run(&["run", "--force"]).code, 0, "{}", lock.display());
        fs::remove_dir(&lock).unwrap();
    }
    fs::create_dir(space.path().join("there")).unwrap();
    space.expect(2, &["init", "there"]);
}

#[test]
fn recipes() {
    let space = Space::new("");
    for text in [
        "",
        "version: 1\n",
        "version: 2\nsteps: { a: { uses: base } }\n",
        "version: 1\nsteps: {}\n",
        "version: 1\nsteps: []\n",
        "version: 1\nsteps: { a: 7 }\n",
        "version: 1\nsteps: { a: {} }\n",
        "version: 1\nsteps: { a: { uses: 7 } }\n",
        "version: 1\nsteps: { a: { uses: base, with: 7 } }\n",
        "version: 1\nsteps: { a: { uses: base, source: b } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, needs: 7 } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, matrix: 7 } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, matrix: { exclude: [7] } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, matrix: { a b: [1] } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, resources: 7 } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, retries: many } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r }, when: '${{ params }}' } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: '${{ }}' } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: '${{ params.x' } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: '${{ 1 +* 2 }}' } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: '${{ params.x }}' } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: '${{ steps }}' } } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: '${{ range(9999999) }}' } } }\n",
        "version: 1\ninclude: 7\nsteps: { a: { uses: base } }\n",
        "version: 1\ninclude: [recipe.yaml]\nsteps: { a: { uses: base } }\n",
        "version: 1\ndescription: [a]\nsteps: { a: { uses: base } }\n",
        "version: 1\nname: a/b\nsteps: { a: { uses: base } }\n",
        "version: 1\nparams: [a]\nsteps: { a: { uses: base } }\n",
        "version: 1\nsteps: { a: { uses: base, with: { source: @b } } }\n",
        "version: 1\nsteps:\n\ta: 1\n",
        "version: 1\n7: a\nsteps: { a: { uses: base } }\n",
        "version: 1\nsteps: { a: { uses: command, with: { run: r, $step: b } } }\n",
        "version: 1\nsteps: { a: { extends: b, uses: base }, b: { extends: a, uses: base } }\n",
        "version: 1\nsteps: { a: { extends: nobody, uses: base } }\n",
        "version: 1\n? [a]\n: b\nsteps: { a: { uses: base } }\n",
        "version: 1\nsteps: { a: &a { uses: *a } }\n",
        "version: 1\nsteps: { a: { uses: command, matrix: { n: [1, '1'] }, with: { run: r, outputs: [o] } } }\n",
    ] {
        space.write("recipe.yaml", text);
        let ran = space.run(&["check"]);
        assert_eq!(ran.code, 2, "{text}\n{}", ran.stdout);
    }
    let long = format!("'${{{{ 1{} }}}}'", " + 1".repeat(5000));
    let deep = format!("'${{{{ {}{} }}}}'", "[".repeat(90), "]".repeat(90));
    let grown = format!("{}[]{}", "[".repeat(60), "]".repeat(60));
    for run in [long, deep, format!("'${{{{ [{grown}] }}}}'")] {
        space.write(
            "recipe.yaml",
            format!(
                "version: 1\nsteps: {{ a: {{ uses: command, with: {{ run: {run}, outputs: [o] }} }} }}\n"
            ),
        );
        assert_eq!(space.run(&["check"]).code, 2);
    }
    let two = "version: 1\nsteps: { a: { uses: command, with: { run: r, outputs: [o] } }, b: { uses: command, with: { run: r, outputs: [o] } } }\n";
    space.write("recipe.yaml", two);
    space.expect(4, &["plan", "--only", "a", "--from", "b"]);
    for no_path in ["", ".", "/"] {
        assert_eq!(space.run(&["check", no_path]).code, 2, "{no_path}");
    }
    let values = (0..400).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    space.write(
        "recipe.yaml",
        format!("version: 1\nsteps: {{ a: {{ uses: command, matrix: {{ m: [{values}], n: [{values}] }}, with: {{ run: r, outputs: [o] }} }} }}\n"),
    );
    assert_eq!(space.run(&["check"]).code, 2);
    for set in ["", "params", "params..a=1", "params.a=[", "=1", "steps.nobody.with.run=1"] {
        space.write(
            "recipe.yaml",
            "version: 1\nsteps: { a: { uses: command, with: { run: r, outputs: [o] } } }\n",
        );
        assert_eq!(space.run(&["check", "--set", set]).code, 2, "{set}");
    }
}

#[test]
fn command_lines() {
    let space =
        Space::new("version: 1\nsteps: { a: { uses: command, with: { run: 'touch o', outputs: [o] } } }\n");
    space.write("there.yaml", "");
    for args in [
        &["run", "--only", "b"][..],
        &["run", "--from", "a", "--until", "b"],
        &["run", "--jobs", "0"],
        &["run", "--resources", "gpu"],
        &["run", "--resources", "gpu=x"],
        &["run", "--resources", "mem=-1"],
        &["run", "--cache-mode", "some"],
        &["run", "--cache-dir", "there.yaml"],
        &["run", "--lock-timeout", "-1"],
        &["run", "-C", "nowhere"],
        &["run", "."],
        &["check", "there.txt"],
        &["explain"],
        &["explain", "b"],
        &["log", "b"],
        &["log", "a"],
        &["log", "a", "--follow"],
        &["status", "--run", "nowhere"],
        &["diff", "one", "two"],
        &["init", "there.yaml"],
        &["init", "nowhere/new.yaml"],
        &["graph", "--format", "png"],
        &["cache", "prune", "--max-size", "much"],
        &["cache", "prune", "--older-than", "old"],
        &["cache", "keep", "nowhere"],
        &["cache", "unkeep", "nowhere"],
        &["cache", "unkeep"],
        &["cache", "size", "--cache-dir", "there.yaml"],
        &["cache", "verify", "--repair", "--cache-mode", "read"],
    ] {
        let ran = space.run(args);
        assert!(ran.code != 0, "{args:?}\n{}", ran.stdout);
    }
}

/// The llama fixture with fields of its configuration changed.
#[test]
fn model_configurations() {
    let original: Value = serde_json::from_slice(&fs::read(fixture("llama/config.json")).unwrap()).unwrap();
    let rope = |table: Value| json!({ "rope_parameters": table });
    let scaling = |kind: &str| json!({ "rope_theta": 1e4, "rope_type": kind, "factor": 2.0 });
    for change in [
        json!({ "model_type": null }),
        json!({ "model_type": "unheard" }),
        json!({ "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "rope_parameters":
            { "full_attention": { "rope_theta": 1e4 }, "sliding_attention": scaling("linear") } }),
        json!({ "model_type": "gemma2", "hidden_activation": "relu" }),
        json!({ "model_type": "qwen2", "use_sliding_window": true, "layer_types": ["chunked"] }),
        json!({ "hidden_size": 33, "head_dim": null }),
        json!({ "num_key_value_heads": 3 }),
        json!({ "head_dim": 7 }),
        json!({ "hidden_act": "relu" }),
        json!({ "rms_norm_eps": 2.0 }),
        json!({ "initializer_range": -1.0 }),
        json!({ "quantization_config": {} }),
        json!({ "use_bidirectional_attention": true }),
        json!({ "tie_word_embeddings": "yes" }),
        json!({ "hidden_act": 7 }),
        json!({ "vocab_size": null }),
        json!({ "vocab_size": 65 }),
        json!({ "num_hidden_layers": 3 }),
        json!({ "bos_token_id": 64 }),
        json!({ "eos_token_id": "end" }),
        json!({ "rope_parameters": 7 }),
        rope(json!({ "rope_theta": 0.5 })),
        rope(scaling("yarn")),
        rope(json!({ "rope_type": "linear", "factor": 0.5 })),
        rope(json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
            "original_max_position_embeddings": 64 })),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = original.clone();
        for (name, value) in change.as_object().unwrap() {
            config[name] = value.clone();
        }
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        fs::copy(fixture("llama/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        let Err(error) = BaseFolder::open(dir.path()) else { panic!("{change} is fine") };
        known(&error);
    }
}

#[test]
fn tokenizers() {
    for text in ["", "{}", "[]", "{\"model\": {\"type\": \"Unheard\"}}"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        known(&Tokenizer::from_dir(dir.path()).err().unwrap());
    }
    let empty = tempfile::tempdir().unwrap();
    known(&Tokenizer::from_dir(empty.path()).err().unwrap());
}

#[test]
fn helps() {
    let space = Space::new("");
    for verb in [
        "",
        "run",
        "check",
        "plan",
        "explain",
        "graph",
        "log",
        "status",
        "diff",
        "init",
        "devices",
        "schema",
        "ls",
        "cache",
        "cache dir",
        "cache size",
        "cache verify",
        "cache prune",
        "cache keep",
        "cache unkeep",
        "cache clean",
    ] {
        let args: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
        let ran = space.expect(0, &args);
        crate::messages::compare(format!("=== evergraft {}\n{}", args.join(" "), ran.stdout));
    }
}
