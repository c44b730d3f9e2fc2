//! `uses: tokenize`: token ids and loss labels of a dataset, for one base's tokenizer.

use anyhow::{Context as _, bail, ensure};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{
    StepContext,
    dataset::{rows_of, text},
    model_input::open_base,
};
use crate::{
    data::{IGNORED_LABEL, Row, TokenSet, prompt::prompt},
    digest::Digest,
    error::{count, hinted},
    model::{Chat, Tokenizer},
    params::{PromptTemplate, TokenizeParams},
};

/// Rows tokenized between two looks at the progress bar and ctrl-C.
const CHUNK: usize = 4096;

pub(crate) fn run(params: &TokenizeParams, ctx: &StepContext) -> anyhow::Result<()> {
    let base = ctx.input(&params.base)?;
    let tokenizer = open_base(&base.path)?.tokenizer;
    let eos = tokenizer.eos_token_id().ok_or_else(|| {
        hinted(
            "the base's tokenizer has no end-of-sequence token, so no answer could ever end",
            "set `eos_token` in its tokenizer_config.json",
        )
    })? as i32;
    let rows = rows_of(&ctx.input(&params.dataset)?.path)?;
    ctx.progress.begin(Some(rows.len() as u64), "rows");
    let chat = (params.prompt == PromptTemplate::Chat)
        .then(|| Chat::new(&base.path, &tokenizer, params.system.clone()))
        .transpose()?;
    let encoder = Encoder { tokenizer: &tokenizer, chat: chat.as_ref(), params, eos };
    let mut encoded = Vec::with_capacity(rows.len());
    for (index, chunk) in rows.chunks(CHUNK).enumerate() {
        ctx.cancel.check()?;
        let part: anyhow::Result<Vec<Encoded>> = chunk
            .par_iter()
            .enumerate()
            .map(|(i, row)| {
                encoder.row(row).with_context(|| format!("row {} of the dataset", index * CHUNK + i + 1))
            })
            .collect();
        encoded.extend(part?);
        ctx.progress.update(encoded.len() as u64, "");
    }
    let truncated = encoded.iter().filter(|row| row.truncated).count();
    if truncated > 0 {
        ctx.warn(format_args!(
            "{truncated} of {} are longer than {} tokens and were cut; raise `max_seq_length` to keep them whole",
            count(rows.len(), "row"),
            params.max_seq_length
        ));
    }
    let set = if params.prompt == PromptTemplate::Text {
        windows(&encoded, params.max_seq_length)
    } else {
        rows_set(&encoded)
    };
    let empty = rows.len().saturating_sub(set.rows());
    if empty > 0 && params.prompt != PromptTemplate::Text {
        ctx.warn(format_args!(
            "{empty} of {} rows were left out: cut to {} tokens, nothing of their answer remains to learn from",
            rows.len(),
            params.max_seq_length
        ));
    }
    ensure!(set.rows() > 0, "no row has a token to learn from");
    let label_tokens: usize = (0..set.rows())
        .map(|row| set.row(row).1.iter().skip(1).filter(|label| **label != IGNORED_LABEL).count())
        .sum();
    set.save(ctx.out)?;
    ctx.log(format_args!(
        "{} rows, {} tokens, {label_tokens} of them labels; {truncated} rows truncated",
        set.rows(),
        set.tokens()
    ));
    let mut about = json!({
        "rows": set.rows(),
        "tokens": set.tokens(),
        "label_tokens": label_tokens,
        "truncated_rows": truncated,
        "rows_without_labels": if params.prompt == PromptTemplate::Text { 0 } else { empty },
        "max_seq_length": params.max_seq_length,
        "train_on_inputs": params.train_on_inputs,
        "prompt": params.prompt,
        "vocab_size": tokenizer.vocab_size(),
        "eos_token_id": eos,
        "tokenizer_digest": Digest::of_file(&base.path.join("tokenizer.json"))?,
    });
    if let Some(system) = &params.system {
        about["system"] = json!(system);
    }
    ctx.write_json("tokens.json", &about)
}

/// A row's ids; the first `masked` of them carry no loss.
struct Encoded {
    ids: Vec<i32>,
    masked: usize,
    truncated: bool,
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The base's chat format, for `prompt: chat`.
    chat: Option<&'a Chat>,
    params: &'a TokenizeParams,
    eos: i32,
}

impl Encoder<'_> {
    /// Prompt and full text are tokenized apart and cut on the right; the labels leave out as many
    /// tokens as the prompt has (trans-peft-facts.md 2.3, without the reference's pad-id slip).
    fn row(&self, row: &Row) -> anyhow::Result<Encoded> {
        let template = self.params.prompt;
        if let PromptTemplate::Text | PromptTemplate::Document = template {
            let Some(document) = row.get("text").and_then(|value| value.as_str()) else {
                bail!("there is no field `text`; `prompt: {template}` needs a dataset of format `text`")
            };
            let mut ids = self.encode(document)?;
            ids.push(self.eos);
            let truncated = template == PromptTemplate::Document && ids.len() > self.params.max_seq_length;
            if truncated {
                ids.truncate(self.params.max_seq_length);
            }
            return Ok(Encoded { ids, masked: 0, truncated });
        }
        ensure!(
            row.contains_key("instruction"),
            "there is no field `instruction`; plain text needs `prompt: text`"
        );
        ensure!(
            row.get("output").is_some_and(Value::is_string),
            "there is no field `output` with a text; rows of format `raw` are for tasks only"
        );
        let prompt = prompt(template, text(row, "instruction"), text(row, "input"));
        let output = text(row, "output");
        if let Some(chat) = self.chat {
            return self.chat_row(chat, &prompt, output);
        }
        let mut ids = match template {
            // LLM-Adapters appends the id, if the row was not cut and does not end in it.
            PromptTemplate::AlpacaIndented => {
                let mut ids = self.encode(&format!("{prompt}{output}"))?;
                if ids.len() < self.params.max_seq_length && ids.last() != Some(&self.eos) {
                    ids.push(self.eos);
                }
                ids
            }
            // Trans-PEFT's code appends the token's text before tokenizing.
            _ => {
                let eos = self.tokenizer.eos_token().unwrap_or_default();
                self.encode(&format!("{prompt}{output}{eos}"))?
            }
        };
        let truncated = ids.len() > self.params.max_seq_length;
        ids.truncate(self.params.max_seq_length);
        let masked = if self.params.train_on_inputs { 0 } else { self.encode(&prompt)?.len().min(ids.len()) };
        Ok(Encoded { ids, masked, truncated })
    }

    /// The whole conversation is tokenized at once, as transformers does; the template writes the
    /// tokens around it.
    fn chat_row(&self, chat: &Chat, user: &str, output: &str) -> anyhow::Result<Encoded> {
        let (text, prompt) = chat.conversation(user, output)?;
        let (ids, masked) = self.tokenizer.encode_split(&text, prompt)?;
        let mut ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        let truncated = ids.len() > self.params.max_seq_length;
        ids.truncate(self.params.max_seq_length);
        let masked = if self.params.train_on_inputs { 0 } else { masked.min(ids.len()) };
        Ok(Encoded { ids, masked, truncated })
    }

    fn encode(&self, text: &str) -> anyhow::Result<Vec<i32>> {
        Ok(self.tokenizer.encode(text, true)?.into_iter().map(|id| id as i32).collect())
    }
}

/// One row each; rows without a label are left out.
fn rows_set(encoded: &[Encoded]) -> TokenSet {
    let mut set = TokenSet::new();
    for row in encoded.iter().filter(|row| row.ids.len() > row.masked.max(1)) {
        let labels: Vec<i32> = row
            .ids
            .iter()
            .enumerate()
            .map(|(i, id)| if i < row.masked { IGNORED_LABEL } else { *id })
            .collect();
        set.push(&row.ids, &labels);
    }
    set
}

/// All documents end to end, cut into windows; a last window of one token has no label.
fn windows(encoded: &[Encoded], length: usize) -> TokenSet {
    let ids: Vec<i32> = encoded.iter().flat_map(|row| row.ids.iter().copied()).collect();
    let mut set = TokenSet::new();
    for window in ids.chunks(length).filter(|window| window.len() > 1) {
        set.push(window, window);
    }
    set
}
