//! The special tokens that the files beside a `tokenizer.json` name. Knows texts and ids as written,
//! not whether a tokenizer has them.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::{config::token_ids_from_json, files::read_optional_json};

/// Files that name special tokens by text; the first one that names a token decides.
const BY_TEXT: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
/// Files that name them by id, asked after the others.
const BY_ID: [&str; 2] = ["generation_config.json", "config.json"];

/// What a special token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Begins a text.
    Bos,
    /// Ends a text.
    Eos,
    /// Fills up short rows.
    Pad,
    /// Stands for what the vocabulary cannot spell.
    Unk,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Bos, Self::Eos, Self::Pad, Self::Unk];

    /// The key in `tokenizer_config.json`, which is also the name in chat templates.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Bos => "bos_token",
            Self::Eos => "eos_token",
            Self::Pad => "pad_token",
            Self::Unk => "unk_token",
        }
    }
}

/// Keys beyond [`Role`] that a chat template may use.
const OTHER_KEYS: [&str; 3] = ["sep_token", "cls_token", "mask_token"];

/// A token as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named<T> {
    pub(crate) file: &'static str,
    pub(crate) token: T,
}

/// The special tokens of a folder.
#[derive(Debug, Default)]
pub(crate) struct SpecialTokens {
    by_text: Vec<(&'static str, Named<String>)>,
    by_id: Vec<(Role, Named<u32>)>,
}

impl SpecialTokens {
    /// Reads the folder's `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `config.json`, as far as they are there.
    pub(crate) fn from_dir(dir: &Path) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for file in BY_TEXT {
            let Some(value) = read_optional_json(&dir.join(file))? else { continue };
            for key in Role::ALL.map(Role::key).into_iter().chain(OTHER_KEYS) {
                let known = found.by_text.iter().any(|(seen, _)| *seen == key);
                if let Some(text) = token_text(&value, key).filter(|_| !known) {
                    found.by_text.push((key, Named { file, token: text.to_owned() }));
                }
            }
        }
        for file in BY_ID {
            let Some(value) = read_optional_json(&dir.join(file))? else { continue };
            for role in Role::ALL {
                let key = format!("{}_id", role.key());
                let ids = token_ids_from_json(&key, value.get(&key))
                    .with_context(|| format!("in `{}`", dir.join(file).display()))?;
                found.by_id.extend(ids.into_iter().map(|token| (role, Named { file, token })));
            }
        }
        Ok(found)
    }

    /// The text that the nearest file gives a role.
    pub(crate) fn text(&self, role: Role) -> Option<&Named<String>> {
        self.by_text.iter().find(|(key, _)| *key == role.key()).map(|(_, named)| named)
    }

    /// The ids that files give a role, the nearest first.
    pub(crate) fn ids(&self, role: Role) -> impl Iterator<Item = u32> {
        self.by_id.iter().filter(move |(of, _)| *of == role).map(|(_, named)| named.token)
    }

    /// Every key with a text, as chat templates see them.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.by_text.iter().map(|(key, named)| (*key, named.token.as_str()))
    }
}

/// A special token's text: a plain text or an object with `content`.
fn token_text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    let token = value.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|text| !text.is_empty())
}
