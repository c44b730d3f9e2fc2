//! One question and its answer in a model's own chat format, and where the answer ends.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{ChatTemplate, Message, Tokenizer};
use crate::error::hinted;

/// Stands for an answer while looking at what a template writes after it.
const PROBE: &str = "EvergraftAnswer";

/// A model's chat format for single questions.
#[derive(Debug)]
pub struct Chat {
    template: ChatTemplate,
    system: Option<String>,
    /// What the template writes after an answer.
    after: String,
    /// How much of that belongs to the answer: up to its first special token.
    end: String,
    end_token: Option<u32>,
}

impl Chat {
    /// Reads the template of a Hugging Face folder; `system` begins every conversation.
    ///
    /// # Errors
    /// When there is no template, or it does not render a question with its answer.
    pub fn new(dir: &Path, tokenizer: &Tokenizer, system: Option<String>) -> anyhow::Result<Self> {
        let template = ChatTemplate::from_dir(dir)?;
        let mut chat = Self { template, system, after: String::new(), end: String::new(), end_token: None };
        let probe = chat.render("Question", Some(PROBE))?;
        let (_, after) =
            probe.rsplit_once(PROBE).context("the chat template leaves out what the assistant says")?;
        after.clone_into(&mut chat.after);
        match tokenizer.first_special(after) {
            Some((length, token)) => {
                chat.end_token = Some(token);
                after[..length].clone_into(&mut chat.end);
            }
            // Nothing would tell the model where to stop.
            None => {
                chat.end_token = tokenizer.eos_token_id();
                chat.end = format!("{}{}", after.trim_end(), tokenizer.eos_token().unwrap_or_default());
            }
        }
        Ok(chat)
    }

    /// The token that ends an answer.
    pub fn end_token_id(&self) -> Option<u32> {
        self.end_token
    }

    /// The text before the model's answer.
    ///
    /// # Errors
    /// When the template refuses it.
    pub fn prompt(&self, user: &str) -> anyhow::Result<String> {
        self.render(user, None)
    }

    /// The whole text, up to the token that ends the answer, and the length of its prompt.
    ///
    /// # Errors
    /// When the template refuses it, or writes the prompt otherwise once the answer is known.
    pub fn conversation(&self, user: &str, assistant: &str) -> anyhow::Result<(String, usize)> {
        let prompt = self.prompt(user)?;
        let mut text = self.render(user, Some(assistant))?;
        let fits = text.starts_with(&prompt) && text.ends_with(&self.after);
        if !fits || text.len() < prompt.len() + self.after.len() {
            return Err(hinted(
                "the chat template writes the question otherwise when its answer is known, so that training \
                 and evaluation would differ",
                "leave out `system:` if it is set (some templates write it before the last question only), or use \
                 another `prompt`",
            ));
        }
        text.truncate(text.len() - self.after.len());
        text.push_str(&self.end);
        Ok((text, prompt.len()))
    }

    fn render(&self, user: &str, assistant: Option<&str>) -> anyhow::Result<String> {
        let system = self.system.as_deref().map(|content| Message { role: "system", content });
        let user = Message { role: "user", content: user };
        let assistant = assistant.map(|content| Message { role: "assistant", content });
        let messages: Vec<Message<'_>> = system.into_iter().chain([user]).chain(assistant).collect();
        let text = self.template.render(&messages, assistant.is_none())?;
        ensure!(!text.is_empty(), "the chat template writes nothing");
        Ok(text)
    }
}
