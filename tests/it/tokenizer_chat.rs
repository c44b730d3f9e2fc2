//! Chat templates: where they come from, what they may do, how a row becomes a conversation, and
//! `prompt: chat` with the real binary.

use std::fs;

use evergraft::{
    data::TokenSet,
    model::{Chat, ChatTemplate, Message, Tokenizer},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    messages::known,
    space::Space,
    tokenizer::{fixtures, read, small_folder, special_texts},
};

fn template(text: &str) -> anyhow::Result<ChatTemplate> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("chat_template.jinja"), text)?;
    ChatTemplate::from_dir(dir.path())
}

fn error_of(text: &str) -> String {
    let messages = [Message { role: "user", content: "x" }];
    known(&template(text).and_then(|template| template.render(&messages, true)).unwrap_err())
}

#[test]
fn templates_come_from_the_file_or_the_config() {
    let chat = |files: &[(&str, Value)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in files {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            fs::write(dir.path().join(name), text).unwrap();
        }
        ChatTemplate::from_dir(dir.path())
            .and_then(|template| template.render(&[Message { role: "user", content: "x" }], true))
    };
    let config = |template: Value| {
        ("tokenizer_config.json", json!({"eos_token": {"content": "<e>"}, "chat_template": template}))
    };
    assert_eq!(chat(&[config(json!("a{{ eos_token }}"))]).unwrap(), "a<e>");
    let special = ("special_tokens_map.json", json!({"bos_token": "<b>", "eos_token": "<other>"}));
    assert_eq!(chat(&[config(json!("{{ bos_token }}{{ eos_token }}")), special]).unwrap(), "<b><e>");
    let file = ("chat_template.jinja", json!("from the file{{ eos_token }}"));
    assert_eq!(chat(&[config(json!("a")), file]).unwrap(), "from the file<e>");
    let named =
        |name: &str| config(json!([{"name": "tool_use", "template": "t"}, {"name": name, "template": "d"}]));
    assert_eq!(chat(&[named("default")]).unwrap(), "d");
    let message = known(&chat(&[named("rag")]).unwrap_err());
    assert!(message.contains("only `tool_use`, `rag`"), "{message}");
    for nothing in [chat(&[]), chat(&[config(Value::Null)])] {
        assert!(known(&nothing.unwrap_err()).contains("there is no chat template"));
    }
    assert!(known(&chat(&[config(json!(7))]).unwrap_err()).contains("neither a text nor a list"));
}

#[test]
fn template_errors_say_where_and_what() {
    let message = error_of("\n{{ raise_exception('only cats') }}");
    assert_eq!(
        message,
        "chat template in `chat_template.jinja:2`: the template refuses the conversation: only cats"
    );
    let message = error_of("a\n\n{{ messages[0].nothing.deep }}");
    assert!(message.contains("`chat_template.jinja:3`"), "{message}");
    assert!(error_of("{% for %}").contains("`chat_template.jinja:1`: syntax error"));
    assert!(error_of(&" ".repeat(2 << 20)).contains("bytes, more than"));
    let none: [Message<'_>; 0] = [];
    assert!(template("x").unwrap().render(&none, true).unwrap_err().to_string().contains("needs a message"));
}

/// Each ends soon.
#[test]
fn templates_of_strangers_are_bounded() {
    let doubled =
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    // fits a stack of its own
    let deep = "{% set ns = namespace(x=1) %}{% for i in range(40000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let hostile = [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% include 'chat_template' %}".to_owned(),
        "{% include '/etc/passwd' %}".to_owned(),
        "{% import 'chat_template.jinja' as x %}".to_owned(),
        "{% extends 'chat_template' %}".to_owned(),
        "{{ 'x' * 2000000000 }}".to_owned(),
        "{% set ns = namespace(x='xxxxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='x') %}{% for i in range(20) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}\
         {% for i in range(100000) %}{% set y = ns.x.count('y') %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('x', 'xxxxxxxx') %}{% endfor %}".to_owned(),
        "{{ [1] | tojson(indent=999999999999) }}".to_owned(),
        format!("{doubled}{{{{ ns.x | tojson }}}}"),
        format!("{deep}{{{{ ns.x }}}}"),
        format!("{deep}{{{{ ns.x | string | length }}}}{{{{ ns.x ~ 'a' }}}}{{{{ ns.x == [ns.x] }}}}"),
        format!("{deep}{{{{ ns.x | tojson }}}}"),
        format!("{deep}{{{{ [ns.x, [ns.x]] | sort | length }}}}{{{{ {{ns.x: 1}} | length }}}}"),
        format!("{{% set x = 1 %}}{}{{{{ x | length }}}}{{{{ nothing.x }}}}", "{% set x=[x] %}".repeat(15000)),
        "{{ 'x'.format() % 1 }}".to_owned(),
        "{{ '%999999999d' | format(1) }}".to_owned(),
        "{{ '{:>999999999}'.format(1) }}".to_owned(),
        "{{ 'x' | indent(99999999999) }}".to_owned(),
        "{{ range(99999999999) | list }}".to_owned(),
        "{{ ''.join(range(100000)) * 1000000 }}".to_owned(),
        "{{ strftime_now('%') }}".to_owned(),
        "{{ strftime_now('%Q%z%') }}".to_owned(),
        format!("{}{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(50000), ")".repeat(50000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(50000), "]".repeat(50000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(65000)),
        format!("{{{{ {}1 }}}}", "-".repeat(260_000)),
        format!("{{{{ 1{} }}}}", "**1".repeat(80000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(120_000)),
        format!("{{{{ x{} }}}}", ".x".repeat(120_000)),
        format!("{{{{ x{} }}}}", "|e".repeat(120_000)),
        format!("{{{{ {}1 }}}}", "1 if 0 else ".repeat(20000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20000)),
    ];
    for text in &hostile {
        let start = std::time::Instant::now();
        let message =
            match template(text).and_then(|t| t.render(&[Message { role: "user", content: "x" }], true)) {
                Ok(text) => format!("{} bytes", text.len()),
                Err(error) => error.to_string(),
            };
        let took = start.elapsed();
        let short: String = text.chars().take(80).collect();
        println!("{took:?} {short} -> {message}");
        assert!(took.as_secs() < 4, "{short} took {took:?}");
    }
}

#[test]
fn chat_ends_an_answer_at_its_last_token() {
    let ends = [
        ("qwen2_5", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("internlm2", "<|im_end|>"),
        ("mistral_nemo", "</s>"),
        ("deepseek_v3", "<｜end▁of▁sentence｜>"),
        ("qwen3", "<|im_end|>"),
    ];
    for (name, end) in ends {
        let config: Value = read(&fixtures().join(name).join("tokenizer_config.json"));
        let texts =
            special_texts(&config, &[end, "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>"]);
        let dir = small_folder(&config, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        for system in [None, Some("Be kind.".to_owned())] {
            let chat = Chat::new(dir.path(), &tokenizer, system.clone()).unwrap();
            // Mistral's template drops the system message once the question is answered.
            if name == "mistral_nemo" && system.is_some() {
                let message = known(&chat.conversation("1+1?", "2").unwrap_err());
                assert!(message.contains("writes the question otherwise"), "{message}");
                continue;
            }
            let end_id = tokenizer.encode(end, false).unwrap()[0];
            assert_eq!(chat.end_token_id(), Some(end_id), "{name}");
            let prompt = chat.prompt("1+1?").unwrap();
            assert_eq!(prompt.contains("Be kind."), system.is_some(), "{name}: {prompt}");
            let (text, at) = chat.conversation("1+1?", "2").unwrap();
            assert_eq!(text[..at], prompt, "{name}");
            assert!(text[at..].ends_with(&format!("2{end}")), "{name}: {}", &text[at..]);
            let (ids, masked) = tokenizer.encode_split(&text, at).unwrap();
            assert_eq!(ids.last(), Some(&end_id), "{name}");
            assert_eq!(tokenizer.decode(&ids[masked..], false).unwrap(), text[at..], "{name}");
        }
    }
}

#[test]
fn chat_without_special_tokens_ends_with_the_end_token() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let dir = small_folder(&json!({"eos_token": "<e>", "chat_template": source}), &["<e>"]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let chat = Chat::new(dir.path(), &tokenizer, None).unwrap();
    let (text, at) = chat.conversation("a", "b").unwrap();
    assert_eq!((&text[..at], &text[at..]), ("user: a\n\nassistant: ", "b<e>"));
    assert_eq!(chat.end_token_id(), tokenizer.eos_token_id());

    let twisted = "{{ messages | length }}{{ messages[-1].content }}";
    let dir = small_folder(&json!({"eos_token": "<e>", "chat_template": twisted}), &["<e>"]);
    let chat = Chat::new(dir.path(), &tokenizer, None).unwrap();
    let message = known(&chat.conversation("a", "b").unwrap_err());
    assert!(message.contains("writes the question otherwise"), "{message}");
    let silent =
        small_folder(&json!({"eos_token": "<e>", "chat_template": "{{ messages[0].content }}"}), &["<e>"]);
    let message = known(&Chat::new(silent.path(), &tokenizer, None).unwrap_err());
    assert!(message.contains("leaves out what the assistant says"), "{message}");
}

#[derive(Deserialize)]
struct Dialect {
    data: Value,
    cases: Vec<Value>,
}

/// Puts the data into the conversation that a template sees.
fn with_data(text: &str, data: &Value) -> String {
    // `tools` is null in every conversation.
    let names =
        data.as_object().unwrap().keys().filter(|name| !["messages", "tools"].contains(&name.as_str()));
    let set: String = names.map(|name| format!("{{% set {name} = messages[0].{name} %}}\n")).collect();
    format!("{set}{{% set messages = messages[0].messages %}}\n{text}")
}

#[test]
fn templates_speak_the_dialect_of_transformers() {
    let dialect: Dialect = read(&fixtures().join("dialect.json"));
    let mut wrong = Vec::new();
    for case in &dialect.cases {
        let text = case[0].as_str().unwrap();
        let ours = template(&with_data(text, &dialect.data))
            .and_then(|template| template.render(&[&dialect.data], false))
            .map_err(|error| error.to_string());
        if ours.as_ref().ok().map(String::as_str) != case[1].as_str() {
            wrong.push(format!("{text}\n  is {ours:?}\nnot {}", case[1]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), dialect.cases.len(), wrong.join("\n"));
}

const RECIPE: &str = r#"
version: 1
name: chat
steps:
  base: { uses: base, with: { source: base } }
  rows: { uses: dataset, with: { source: rows.jsonl, format: alpaca } }
  tokens:
    uses: tokenize
    with: { base: "${{ steps.base }}", dataset: "${{ steps.rows }}", prompt: chat, system: Be brief., max_seq_length: 96 }
  scores:
    uses: eval
    with:
      model: "${{ steps.base }}"
      tasks:
        - { name: tiny, dataset: "${{ steps.rows }}", labels: [red, blue], prompt: chat, system: Be brief., max_new_tokens: 4 }
"#;

/// The shipped tiny base, with a chat template.
fn space(template: &str) -> Space {
    let space = Space::new(RECIPE);
    space.copy("recipes/tiny/old", "base");
    space.write("base/chat_template.jinja", template);
    space.write(
        "rows.jsonl",
        "{\"instruction\": \"Colour?\", \"input\": \"a pojup\", \"output\": \"red\", \"answer\": \"red\"}\n",
    );
    space
}

#[test]
fn prompt_chat_tokenizes_and_evaluates() {
    let turn = "{% for m in messages %}[{{ m.role }}]\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}";
    let space = space(&format!("{turn}{{% if add_generation_prompt %}}[assistant]\n{{% endif %}}"));
    space.expect(0, &["run"]);
    let artifact = |step: &str| space.path().join(format!("outputs/chat/latest/steps/{step}/artifact"));
    let tokenizer = Tokenizer::from_dir(&artifact("base")).unwrap();
    let set = TokenSet::open(&artifact("tokens")).unwrap();
    let (ids, labels) = set.row(0);
    let text =
        |ids: &[i32]| tokenizer.decode(&ids.iter().map(|id| *id as u32).collect::<Vec<_>>(), false).unwrap();
    let prompt = "[system]\nBe brief.<|endoftext|>\n[user]\nColour?\na pojup<|endoftext|>\n[assistant]\n";
    assert_eq!(text(ids), format!("{prompt}red<|endoftext|>"));
    let learnt: Vec<i32> = labels.iter().copied().filter(|label| *label != -100).collect();
    assert_eq!(text(&learnt), "red<|endoftext|>");
    let about: Value = read(&artifact("tokens").join("tokens.json"));
    assert_eq!((&about["prompt"], &about["system"]), (&json!("chat"), &json!("Be brief.")));

    let sample = fs::read_to_string(artifact("scores").join("samples_tiny.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(sample.lines().next().unwrap()).unwrap();
    assert_eq!(sample["prompt"], prompt);
    let results: Value = read(&artifact("scores").join("results.json"));
    let config = &results["configs"]["tiny"];
    assert_eq!((&config["prompt"], &config["system"]), (&json!("chat"), &json!("Be brief.")));
}

#[test]
fn prompt_chat_says_what_is_wrong() {
    let refusing = space("{{ raise_exception('no system here') }}");
    let ran = refusing.expect(1, &["run"]);
    assert!(ran.stderr.contains("the template refuses the conversation: no system here"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`system:`"), "{}", ran.stderr);
    // Neither fuel nor recursion count this; the program ends all the same.
    let endless =
        "{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(60) + "{{ [x, [x]] | sort }}";
    let start = std::time::Instant::now();
    let ran = space(&endless).expect(1, &["run"]);
    assert!(ran.stderr.contains("takes longer than 5 s"), "{}", ran.stderr);
    assert!(start.elapsed().as_secs() < 60);

    let space = space("x");
    let ran = space.expect(2, &["check", "--set=steps.tokens.with.prompt=plain"]);
    assert!(ran.stderr.contains("only `prompt: chat` has a system message"), "{}", ran.stderr);
}
