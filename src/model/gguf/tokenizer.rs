//! Rebuilds a tokenizer from GGUF metadata.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::file::GgufFile;
use crate::{
    error::{excerpt, hinted},
    model::tokenizer_json::{AddedToken, Around, PreTokenizer, ScoredToken, byte_level, scored},
};

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Contents of `tokenizer.json` and `tokenizer_config.json`.
///
/// # Errors
/// When the file has no tokenizer, or one of a kind that is not known.
pub(crate) fn tokenizer_files(file: &GgufFile) -> anyhow::Result<(Value, Value)> {
    let (metadata, bytes) = (&file.metadata, file.bytes());
    let model = metadata.text("tokenizer.ggml.model")?.context("the file has no tokenizer")?;
    let tokens = metadata
        .texts(bytes, "tokenizer.ggml.tokens")?
        .context("the file has no metadata `tokenizer.ggml.tokens`")?;
    let types = match metadata.integers(bytes, "tokenizer.ggml.token_type")? {
        Some(types) => types,
        None => vec![NORMAL; tokens.len()],
    };
    ensure!(
        types.len() == tokens.len(),
        "`tokenizer.ggml.tokens` has {} entries, but `tokenizer.ggml.token_type` {}",
        tokens.len(),
        types.len()
    );
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (text, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED) && !text.is_empty())
        .map(|(id, (text, &kind))| AddedToken {
            id: id as u32,
            content: (*text).to_owned(),
            special: kind != USER_DEFINED,
        })
        .collect();

    let special = |name: &str| -> anyhow::Result<Option<u32>> {
        let id = metadata.whole(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < tokens.len()))
    };
    let (bos, eos) = (special("bos")?, special("eos")?);
    let pad = special("padding")?;
    let flag = |name: &str| metadata.flag(&format!("tokenizer.ggml.{name}"));
    let add_eos = flag("add_eos_token")?.unwrap_or(false);
    let around = |add_bos: bool| Around { bos: bos.filter(|_| add_bos), eos: eos.filter(|_| add_eos) };

    let tokenizer = match model {
        "gpt2" => {
            let pre_tokenizer = pre_tokenizer(metadata.text("tokenizer.ggml.pre")?.unwrap_or("default"))?;
            let merges = metadata
                .texts(bytes, "tokenizer.ggml.merges")?
                .context("the file has no metadata `tokenizer.ggml.merges`")?;
            // A token may start with a space, so the separator is the first space after that.
            let merges: Vec<(&str, &str)> = merges
                .iter()
                .map(|merge| {
                    let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
                    let at = at.with_context(|| {
                        format!("`{}` in `tokenizer.ggml.merges` is not two tokens", excerpt(merge))
                    })?;
                    Ok((&merge[..at], &merge[at + 1..]))
                })
                .collect::<anyhow::Result<_>>()?;
            let add_bos = flag("add_bos_token")?.unwrap_or(pre_tokenizer == PreTokenizer::Llama3);
            byte_level(&tokens, &merges, pre_tokenizer, &added, around(add_bos))?
        }
        "llama" => {
            let scores = metadata
                .floats(bytes, "tokenizer.ggml.scores")?
                .context("the file has no metadata `tokenizer.ggml.scores`")?;
            ensure!(
                scores.len() == tokens.len(),
                "`tokenizer.ggml.tokens` has {} entries, but `tokenizer.ggml.scores` {}",
                tokens.len(),
                scores.len()
            );
            let scored_tokens: Vec<ScoredToken> = tokens
                .iter()
                .zip(&scores)
                .zip(&types)
                .map(|((text, &score), &kind)| ScoredToken {
                    text: (*text).to_owned(),
                    score,
                    mergeable: kind == NORMAL,
                })
                .collect();
            let unknown = special("unknown")?.unwrap_or(0);
            let prefix_space = flag("add_space_prefix")?.unwrap_or(true);
            let add_bos = flag("add_bos_token")?.unwrap_or(true);
            scored(&scored_tokens, unknown, prefix_space, &added, around(add_bos))?
        }
        other => {
            bail!("`tokenizer.ggml.model` `{}` is not supported, only `gpt2` and `llama`", excerpt(other))
        }
    };

    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
    });
    for (key, id) in [("bos_token", bos), ("eos_token", eos), ("pad_token", pad)] {
        if let Some(id) = id {
            config[key] = json!(tokens[id as usize]);
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        config["chat_template"] = json!(template);
    }
    Ok((tokenizer, config))
}

/// How text is cut, by the name that llama.cpp's converter gives the tokenizer. Cutting otherwise
/// would give other tokens than the model was trained on, so an unknown name is an error.
fn pre_tokenizer(name: &str) -> anyhow::Result<PreTokenizer> {
    match name {
        "default" | "gpt-2" | "gpt2" => Ok(PreTokenizer::Gpt2),
        "smollm" | "starcoder" | "refact" | "command-r" => Ok(PreTokenizer::DigitsThenGpt2),
        "llama-bpe" | "llama3" | "llama-v3" => Ok(PreTokenizer::Llama3),
        "qwen2" | "deepseek-r1-qwen" => Ok(PreTokenizer::Qwen2),
        other => Err(hinted(
            format!("`tokenizer.ggml.pre` `{}` is not known", excerpt(other)),
            "known ones: default, gpt-2, smollm, starcoder, refact, command-r, llama-bpe, qwen2, deepseek-r1-qwen; \
             or give the model's own tokenizer.json with `tokenizer:`",
        )),
    }
}
