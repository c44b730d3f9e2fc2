//! A model's chat template: the Jinja text of its `chat_template.jinja` or `tokenizer_config.json`,
//! rendered as transformers' `apply_chat_template` does. Templates come from strangers: bounded
//! work, memory and recursion, no files.

use std::{
    path::Path,
    sync::{Arc, LazyLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use minijinja::{
    AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value as Jinja, syntax::SyntaxConfig,
};
use regex::Regex;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    chat_dialect,
    files::{MAX_TEXT, read_bounded, read_optional_json},
    special_tokens::SpecialTokens,
};
use crate::error::{excerpt, hinted};

/// Takes precedence over the template in `tokenizer_config.json`.
pub(crate) const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
const CONFIG_FILE: &str = "tokenizer_config.json";
/// The key in [`CONFIG_FILE`].
const KEY: &str = "chat_template";

/// Steps a rendering may take, each worth 64 bytes of text: 19 MB. A long conversation takes some
/// thousand.
const FUEL: u64 = 300_000;
const MAX_RECURSION: usize = 200;
/// The longest published templates have some 20 KB.
const MAX_TEMPLATE: usize = 256 << 10;
/// Fuel counts neither parsing nor the walk over values that a template nests into each other:
/// their time is bounded here, and the stack holds what `MAX_TEMPLATE` and `FUEL` can nest.
const DEADLINE: Duration = Duration::from_secs(5);
const STACK: usize = 512 << 20;

/// `{% generation %}` marks the model's part for training in transformers and writes nothing.
static GENERATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is fixed")
});

/// One turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'a str,
    /// What is said.
    pub content: &'a str,
}

/// A chat template, ready to render.
pub struct ChatTemplate {
    env: Arc<Environment<'static>>,
    file: &'static str,
    special: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("file", &self.file).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Reads the template of a Hugging Face folder, and the special tokens that it may write.
    ///
    /// # Errors
    /// When there is none, a file is malformed, or the template is not valid Jinja.
    pub fn from_dir(dir: &Path) -> anyhow::Result<Self> {
        let special = SpecialTokens::from_dir(dir)?;
        let special = special.texts().map(|(key, text)| (key, text.to_owned())).collect();
        let path = dir.join(CHAT_TEMPLATE_FILE);
        if path.is_file() {
            let text = String::from_utf8(read_bounded(&path, MAX_TEXT)?)
                .map_err(|_| anyhow!("`{}` is not UTF-8", path.display()))?;
            return Self::new(CHAT_TEMPLATE_FILE, text, special);
        }
        let config = read_optional_json(&dir.join(CONFIG_FILE))?;
        match config.as_ref().and_then(|config| config.get(KEY)) {
            None | Some(Value::Null) => Err(hinted(
                format!(
                    "there is no chat template: no `{CHAT_TEMPLATE_FILE}`, and no `{KEY}` in `{CONFIG_FILE}`"
                ),
                "a base that was not trained on chats often has none; use another `prompt`, such as `alpaca`",
            )),
            Some(value) => Self::new(CONFIG_FILE, default_template(value)?.to_owned(), special),
        }
    }

    fn new(file: &'static str, text: String, special: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        ensure!(
            text.len() <= MAX_TEMPLATE,
            "the chat template in `{file}` has {} bytes, more than the {MAX_TEMPLATE} that are read",
            text.len()
        );
        let text = GENERATION.replace_all(&text, |found: &regex::Captures<'_>| {
            let word = if found.get(2).is_some() { "endif" } else { "if true" };
            format!("{{%{} {word} {}%}}", &found[1], &found[3])
        });
        let mut env = Environment::new();
        env.set_debug(false);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(MAX_RECURSION);
        // As Jinja's own: an unknown name is empty, what is inside it an error.
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        env.set_syntax(syntax.build().expect("the delimiters are the default ones"));
        env.set_auto_escape_callback(|_| AutoEscape::None);
        chat_dialect::extend(&mut env);
        let text = text.into_owned();
        let env = apart(file, move || match env.add_template_owned(KEY, text) {
            Ok(()) => Ok(Arc::new(env)),
            Err(error) => Err(explain(file, &error)),
        })?;
        Ok(Self { env, file, special })
    }

    /// Renders a conversation; with `add_generation_prompt`, up to where the model's answer begins.
    ///
    /// # Errors
    /// When the template refuses the conversation, does something wrong, or works without end.
    pub fn render(&self, messages: &[impl Serialize], add_generation_prompt: bool) -> anyhow::Result<String> {
        ensure!(!messages.is_empty(), "a conversation needs a message");
        let mut messages = messages.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        // As in transformers: what is null is not there.
        for message in messages.iter_mut().filter_map(Value::as_object_mut) {
            message.retain(|_, value| !value.is_null());
        }
        // transformers passes these four, and the special tokens that are set.
        let mut context = json!({
            "messages": messages, "tools": null, "documents": null,
            "add_generation_prompt": add_generation_prompt,
        });
        for (key, text) in &self.special {
            context[*key] = json!(text);
        }
        let (env, file) = (Arc::clone(&self.env), self.file);
        apart(file, move || {
            let context = Jinja::from(minijinja::value::Serde(context));
            let text = env.get_template(KEY).and_then(|template| template.render(context));
            text.map_err(|error| explain(file, &error))
        })
    }
}

/// Works on a thread with a large stack, until the deadline.
fn apart<T: Send + 'static>(
    file: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (send, receive) = mpsc::channel();
    // A thread that is past its deadline cannot be stopped; it ends with the program, and nobody
    // waits for what it sends.
    thread::Builder::new()
        .name("chat-template".to_owned())
        .stack_size(STACK)
        .spawn(move || drop(send.send(work())))
        .context("cannot start a thread for the chat template")?;
    receive.recv_timeout(DEADLINE).unwrap_or_else(|_| {
        Err(anyhow!("chat template in `{file}` takes longer than {} s", DEADLINE.as_secs()))
    })
}

/// The template of `tokenizer_config.json`: a text, or the one named `default` in a list.
fn default_template(value: &Value) -> anyhow::Result<&str> {
    if let Some(text) = value.as_str() {
        return Ok(text);
    }
    let malformed = || anyhow!("`{KEY}` in `{CONFIG_FILE}` is neither a text nor a list of named templates");
    let named = value.as_array().ok_or_else(malformed)?;
    let mut names = Vec::new();
    for entry in named {
        let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else {
            return Err(malformed());
        };
        if name == "default" {
            return Ok(text);
        }
        names.push(format!("`{}`", excerpt(name)));
    }
    Err(hinted(
        format!("`{KEY}` in `{CONFIG_FILE}` has no template named `default`, only {}", names.join(", ")),
        format!("write the one to use to a `{CHAT_TEMPLATE_FILE}` beside it"),
    ))
}

fn explain(file: &str, error: &minijinja::Error) -> anyhow::Error {
    let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
    let place = format!("chat template in `{file}{line}`");
    // The innermost error tells what went wrong, the outer ones on the way to where.
    let mut inner = error;
    while let Some(next) = std::error::Error::source(inner).and_then(|source| source.downcast_ref()) {
        inner = next;
    }
    let detail = inner.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    if let Some(refusal) = inner.detail().filter(|detail| detail.starts_with(chat_dialect::REFUSAL)) {
        return hinted(
            format!("{place}: {refusal}"),
            "the row does not fit the model's chat format; without `system:`, or with another `prompt`, it may",
        );
    }
    match inner.kind() {
        ErrorKind::OutOfFuel => {
            anyhow!("{place} works without end or writes too much: more than {FUEL} steps for a conversation")
        }
        kind => anyhow!("{place}: {kind}{detail}"),
    }
}
