//! Trains a byte-level BPE tokenizer on text.

use anyhow::{anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

/// The only special token: ends a text, and fills up short rows.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// Every byte and the special token.
const MIN_VOCAB: usize = 257;
const MAX_VOCAB: usize = 1 << 20;

/// Contents of `tokenizer.json` and `tokenizer_config.json`, learnt from texts. The same texts in
/// the same order give the same bytes. Little text gives fewer tokens than asked for.
///
/// # Errors
/// When `vocab_size` is out of range.
pub(crate) fn train_tokenizer(
    vocab_size: usize,
    texts: impl Iterator<Item = String> + Send,
) -> anyhow::Result<(Value, Value)> {
    ensure!(
        (MIN_VOCAB..=MAX_VOCAB).contains(&vocab_size),
        "`vocab_size` must lie between {MIN_VOCAB} (every byte and `{END_OF_TEXT}`) and {MAX_VOCAB}, found \
         `{vocab_size}`"
    );
    let failed = |error| anyhow!("cannot train a tokenizer: {error}");
    let cutter = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(cutter.into()))
    .with_decoder(Some(cutter.into()))
    .build()
    .map_err(failed)?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    let tokenizer = serde_json::from_str(&tokenizer.to_string(false).map_err(failed)?)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
    });
    Ok((tokenizer, config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tokenizer;

    fn texts() -> impl Iterator<Item = String> + Send {
        (0..200).map(|i| format!("the cat number {i} sat on the mat, naïvely; then the cat slept {}", i * 7))
    }

    #[test]
    fn training_is_deterministic_and_round_trips() {
        let (first, _) = train_tokenizer(300, texts()).unwrap();
        for _ in 0..3 {
            assert_eq!(train_tokenizer(300, texts()).unwrap().0.to_string(), first.to_string());
        }
        let tokenizer = Tokenizer::from_bytes(first.to_string().as_bytes()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 300);
        let text = "the cat sat 日本 🦀\n\t done";
        let ids = tokenizer.encode(text, true).unwrap();
        assert!(ids.len() < text.len() && !ids.contains(&0), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert_eq!(tokenizer.encode(END_OF_TEXT, true).unwrap(), [0]);
    }

    #[test]
    fn sizes_out_of_range_are_errors() {
        assert!(train_tokenizer(256, texts()).is_err());
        assert!(train_tokenizer(usize::MAX, texts()).is_err());
    }
}
