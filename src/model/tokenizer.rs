//! A model's tokenizer: `tokenizer.json` through the `tokenizers` crate, and which of its tokens
//! begin or end a text. Never assumes an id that no file names.

use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::{
    files::{MAX_BYTES, read_bounded},
    special_tokens::{Named, Role, SpecialTokens},
};
use crate::error::hinted;

/// The file every tokenizer needs.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// The files of a model folder that belong to its tokenizer.
pub const TOKENIZER_FILE_NAMES: [&str; 4] =
    [TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// Turns text into token ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    eos_text: Option<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).field("eos", &self.eos).finish()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a Hugging Face folder. The special tokens come from
    /// `tokenizer_config.json`, else `special_tokens_map.json` (as texts), else
    /// `generation_config.json`, else `config.json` (as ids).
    ///
    /// # Errors
    /// When a file is missing, malformed, or names a token that does not exist.
    pub fn from_dir(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(TOKENIZER_FILE);
        if !path.is_file() {
            return Err(hinted(
                format!("`{}` has no `{TOKENIZER_FILE}`", dir.display()),
                "in Python, `AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes one",
            ));
        }
        let mut tokenizer = Self::from_file(&path)?;
        let special = SpecialTokens::from_dir(dir)?;
        tokenizer.bos = tokenizer.id_of(Role::Bos, &special)?;
        tokenizer.eos = tokenizer.id_of(Role::Eos, &special)?;
        tokenizer.eos_text = tokenizer.eos.and_then(|id| tokenizer.inner.id_to_token(id));
        Ok(tokenizer)
    }

    /// The token that the files name for a role: by text, else by id.
    fn id_of(&self, role: Role, special: &SpecialTokens) -> anyhow::Result<Option<u32>> {
        if let Some(Named { file, token: text }) = special.text(role) {
            match (self.inner.token_to_id(text), role) {
                (Some(id), _) => return Ok(Some(id)),
                // Without it nothing would end; the others may be missing.
                (None, Role::Eos) => {
                    return Err(hinted(
                        format!(
                            "`{file}` names `{}` `{text}`, which is not in `{TOKENIZER_FILE}`",
                            role.key()
                        ),
                        "take both files from the same model",
                    ));
                }
                (None, _) => {}
            }
        }
        // Some published files name ids beyond the tokenizer; such an id ends nothing.
        let mut ids = special.ids(role);
        Ok(ids.find(|&id| self.inner.id_to_token(id).is_some()))
    }

    /// Reads one `tokenizer.json`, without special tokens of its own.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        Self::from_bytes(&read_bounded(path, MAX_BYTES)?)
            .with_context(|| format!("`{}` is not a valid tokenizer", path.display()))
    }

    /// Reads the content of a `tokenizer.json`, without special tokens of its own.
    pub(crate) fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        // The tokenizers crate slices and indexes by what the file says, so that a hostile file can
        // make it panic; that must be an error like any other here.
        let loaded = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut inner = loaded
            .map_err(|_| anyhow!("its parts contradict each other"))?
            .map_err(|error| anyhow!("{error}"))?;
        // A file may carry the truncation and padding of the program that saved it.
        inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?;
        inner.with_padding(None);
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { inner, vocab_size, bos: None, eos: None, eos_text: None })
    }

    /// Token ids of a text, with the tokens around it that the model expects if asked for.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> anyhow::Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|error| anyhow!("cannot tokenize a text: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text without tokens around it, and how many of them lie in its first
    /// `boundary` bytes. A token across the boundary counts as behind it.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text.
    pub fn encode_split(&self, text: &str, boundary: usize) -> anyhow::Result<(Vec<u32>, usize)> {
        let encoding =
            self.inner.encode(text, false).map_err(|error| anyhow!("cannot tokenize a text: {error}"))?;
        let before = encoding.get_offsets().iter().take_while(|(_, end)| *end <= boundary).count();
        Ok((encoding.get_ids().to_vec(), before))
    }

    /// The first special token in a text: where it ends, and its id.
    pub(crate) fn first_special(&self, text: &str) -> Option<(usize, u32)> {
        let tokens = self.inner.get_added_tokens_decoder();
        let special = tokens.iter().filter(|(_, token)| token.special && !token.content.is_empty());
        special
            .filter_map(|(id, token)| Some((text.find(&token.content)?, token.content.len(), *id)))
            // The longer one where two begin together.
            .min_by_key(|(start, length, id)| (*start, std::cmp::Reverse(*length), *id))
            .map(|(start, length, id)| (start + length, id))
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// When the decoder of the tokenizer fails. Unknown ids are left out.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> anyhow::Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| anyhow!("cannot decode tokens: {error}"))
    }

    /// The token that begins a text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos
    }

    /// The text of the token that ends a text.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_text.as_deref()
    }

    /// Every id is below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that the model has an embedding for every token.
    ///
    /// # Errors
    /// When it has fewer.
    pub fn check_fits(&self, model_vocab_size: usize) -> anyhow::Result<()> {
        if self.vocab_size <= model_vocab_size {
            return Ok(());
        }
        Err(hinted(
            format!(
                "the tokenizer does not fit the model: it has token ids up to {}, but the model embeds only \
                 {model_vocab_size}",
                self.vocab_size - 1
            ),
            "take tokenizer and weights from the same model",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = json!({
            "version": "1.0",
            // Left behind by the program that saved it; must not shorten or pad anything here.
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "<end>"},
            "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
        });
        std::fs::write(dir.path().join(TOKENIZER_FILE), tokenizer.to_string()).unwrap();
        for (name, value) in files {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        dir
    }

    #[test]
    fn encodes_whole_texts_and_decodes() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let ids = tokenizer.encode("aabab<end>", false).unwrap();
        assert_eq!(ids, [0, 2, 2, 3]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "aabab");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "aabab<end>");
        assert_eq!((tokenizer.vocab_size(), tokenizer.eos_token_id()), (4, None));
    }

    #[test]
    fn special_tokens_come_from_the_nearest_file() {
        let dir = folder(&[("config.json", json!({"eos_token_id": [1, 2]}))]);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!((tokenizer.eos_token_id(), tokenizer.eos_token()), (Some(1), Some("b")));

        let dir = folder(&[
            ("config.json", json!({"eos_token_id": 1})),
            ("tokenizer_config.json", json!({"eos_token": {"content": "<end>"}})),
        ]);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.eos_token_id(), Some(3));

        let dir = folder(&[("tokenizer_config.json", json!({"eos_token": "<none>"}))]);
        let message = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains("`<none>`"), "{message}");
    }

    #[test]
    fn a_text_is_split_at_a_byte() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.encode_split("a<end>ab", 6).unwrap(), (vec![0, 3, 2], 2));
        // `ab` lies across the boundary
        assert_eq!(tokenizer.encode_split("a<end>ab", 7).unwrap(), (vec![0, 3, 2], 2));
        assert_eq!(tokenizer.first_special("ab<end>"), Some((7, 3)));
        assert_eq!(tokenizer.first_special("ab"), None);
    }

    #[test]
    fn a_model_with_too_few_embeddings_does_not_fit() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        tokenizer.check_fits(4).unwrap();
        assert!(tokenizer.check_fits(3).unwrap_err().to_string().contains("does not fit the model"));
    }

    #[test]
    fn files_that_contradict_themselves_are_errors() {
        // the prefix is longer than the merge's right part, which the crate slices by
        let hostile = json!({
            "version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "continuing_subword_prefix": "######",
                      "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
        });
        assert!(Tokenizer::from_bytes(hostile.to_string().as_bytes()).is_err());
        assert!(Tokenizer::from_bytes(b"{}").is_err());
    }
}
