//! Builds the JSON of a `tokenizer.json` from a vocabulary: byte-level BPE (GPT-2's kind) and BPE
//! by scores with byte fallback (SentencePiece's kind). Knows nothing of the formats the
//! vocabularies come from.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::error::excerpt;

/// How text is cut before a byte-level BPE runs on each part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreTokenizer {
    /// GPT-2's expression.
    Gpt2,
    /// Every digit alone, then GPT-2's expression (SmolLM, StarCoder).
    DigitsThenGpt2,
    /// Llama 3's expression: up to three digits together. Whole parts that are tokens stay whole.
    Llama3,
    /// Qwen2's expression: every digit alone; Unicode is normalised first.
    Qwen2,
}

const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A token that is found in the text before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Left out when decoding for people.
    pub(crate) special: bool,
}

/// A token of a vocabulary by scores.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScoredToken {
    pub(crate) text: String,
    pub(crate) score: f32,
    /// Takes part in merges: neither special nor a byte.
    pub(crate) mergeable: bool,
}

/// What stands around every text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Around {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
}

/// A byte-level BPE tokenizer.
pub(crate) fn byte_level(
    tokens: &[&str],
    merges: &[(&str, &str)],
    pre_tokenizer: PreTokenizer,
    added: &[AddedToken],
    around: Around,
) -> anyhow::Result<Value> {
    let vocab = vocabulary(tokens.iter().copied())?;
    let known: HashSet<&str> = tokens.iter().copied().collect();
    for (left, right) in merges {
        for part in [*left, *right, &format!("{left}{right}")] {
            ensure!(
                known.contains(part),
                "merge `{} {}` uses `{}`, which is not a token",
                excerpt(left),
                excerpt(right),
                excerpt(part)
            );
        }
    }
    let gpt2 =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]})
    };
    let (normalizer, cutter) = match pre_tokenizer {
        PreTokenizer::Gpt2 => (Value::Null, gpt2),
        PreTokenizer::DigitsThenGpt2 => (
            Value::Null,
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, gpt2]}),
        ),
        PreTokenizer::Llama3 => (Value::Null, split(LLAMA3_SPLIT)),
        PreTokenizer::Qwen2 => (json!({"type": "NFC"}), split(QWEN2_SPLIT)),
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(added),
        "normalizer": normalizer,
        "pre_tokenizer": cutter,
        "post_processor": template(around, tokens)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre_tokenizer == PreTokenizer::Llama3,
            "vocab": vocab,
            "merges": merges.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
        },
    }))
}

/// No token of a real vocabulary by scores is nearly this long; finding a token's splits takes
/// time in the square of its length.
const MAX_SCORED_TOKEN: usize = 512;

/// A BPE tokenizer that merges the pair with the best score first, and spells unknown characters
/// as bytes. Spaces are `▁`.
pub(crate) fn scored(
    tokens: &[ScoredToken],
    unknown: u32,
    prefix_space: bool,
    added: &[AddedToken],
    around: Around,
) -> anyhow::Result<Value> {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let vocab = vocabulary(texts.iter().copied())?;
    let unknown =
        texts.get(unknown as usize).context("the token for unknown text is not in the vocabulary")?;
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let mut normalizers = vec![replace];
    if prefix_space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(added),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": template(around, &texts)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab,
            "merges": merges_by_score(tokens)?.iter().map(|(l, r)| json!([l, r])).collect::<Vec<_>>(),
        },
    }))
}

/// Every way to make a token of two others, best score first; among equals the lower ids.
fn merges_by_score(tokens: &[ScoredToken]) -> anyhow::Result<Vec<(&str, &str)>> {
    let mergeable = tokens.iter().enumerate().filter(|(_, token)| token.mergeable);
    let ids: HashMap<&str, usize> = mergeable.clone().map(|(id, token)| (token.text.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (id, token) in mergeable {
        let text = token.text.as_str();
        ensure!(!token.score.is_nan(), "the score of token {id} is not a number");
        ensure!(text.len() <= MAX_SCORED_TOKEN, "token {id} is {} bytes long", text.len());
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((token.score, id, l, r, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    Ok(merges.into_iter().map(|merge| (merge.4, merge.5)).collect())
}

/// The vocabulary as a JSON object in the order of ids.
fn vocabulary<'a>(tokens: impl Iterator<Item = &'a str>) -> anyhow::Result<Value> {
    let mut vocab = serde_json::Map::new();
    for (id, token) in tokens.enumerate() {
        if let Some(first) = vocab.insert(token.to_owned(), json!(id)) {
            bail!("tokens {first} and {id} are both `{}`", excerpt(token));
        }
    }
    Ok(Value::Object(vocab))
}

fn added_tokens(added: &[AddedToken]) -> Value {
    let one = |token: &AddedToken| {
        json!({
            "id": token.id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": token.special,
        })
    };
    added.iter().map(one).collect()
}

/// The tokens around a text, as a template; nothing when there are none.
fn template(around: Around, tokens: &[&str]) -> anyhow::Result<Value> {
    if around == Around::default() {
        return Ok(Value::Null);
    }
    let text_of = |id: Option<u32>| -> anyhow::Result<Option<&str>> {
        let Some(id) = id else { return Ok(None) };
        let text = tokens
            .get(id as usize)
            .with_context(|| format!("special token {id} is not in the vocabulary"))?;
        Ok(Some(*text))
    };
    let (bos, eos) = (text_of(around.bos)?, text_of(around.eos)?);
    let mut specials = serde_json::Map::new();
    for (id, text) in [(around.bos, bos), (around.eos, eos)] {
        if let (Some(id), Some(text)) = (id, text) {
            specials.insert(text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
        }
    }
    let sequence = |name: &str, kind: u32| {
        let mut parts = Vec::new();
        parts.extend(bos.map(|text| json!({"SpecialToken": {"id": text, "type_id": kind}})));
        parts.push(json!({"Sequence": {"id": name, "type_id": kind}}));
        parts.extend(eos.map(|text| json!({"SpecialToken": {"id": text, "type_id": kind}})));
        parts
    };
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    Ok(json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": specials,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tokenizer;

    fn load(value: &Value) -> Tokenizer {
        Tokenizer::from_bytes(value.to_string().as_bytes()).unwrap()
    }

    fn scored_tokens() -> Vec<ScoredToken> {
        let mut tokens: Vec<ScoredToken> = ["<unk>", "<s>", "</s>"]
            .map(|text| ScoredToken { text: text.to_owned(), score: 0.0, mergeable: false })
            .to_vec();
        tokens.extend((0..256).map(|byte| ScoredToken {
            text: format!("<0x{byte:02X}>"),
            score: 0.0,
            mergeable: false,
        }));
        for (text, score) in
            [("▁", -9.0), ("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -3.0), ("bc", -1.0), ("▁a", -2.0)]
        {
            tokens.push(ScoredToken { text: text.to_owned(), score, mergeable: true });
        }
        tokens
    }

    #[test]
    fn the_best_score_merges_first_and_bytes_are_the_last_resort() {
        let around = Around { bos: Some(1), eos: None };
        let tokenizer = load(&scored(&scored_tokens(), 0, true, &[], around).unwrap());
        let id = |text: &str| scored_tokens().iter().position(|token| token.text == text).unwrap() as u32;
        // `bc` (-1) beats `ab` (-3): ▁ a b c -> ▁ a bc -> ▁a bc
        assert_eq!(tokenizer.encode("abc", true).unwrap(), [1, id("▁a"), id("bc")]);
        let e_acute = tokenizer.encode("é", false).unwrap();
        assert_eq!(e_acute, [id("▁"), id("<0xC3>"), id("<0xA9>")]);
        assert_eq!(tokenizer.decode(&e_acute, true).unwrap(), "é");
        let spaced = tokenizer.encode("a  b", false).unwrap();
        assert_eq!(tokenizer.decode(&spaced, true).unwrap(), "a  b");
    }

    #[test]
    fn byte_level_cuts_digits_as_asked() {
        let tokens = ["1", "2", "3", "4", "12", "34", "Ġ", "ĠĠ", "a"];
        let merges = [("1", "2"), ("3", "4"), ("Ġ", "Ġ")];
        let encode = |pre, text: &str| {
            load(&byte_level(&tokens, &merges, pre, &[], Around::default()).unwrap())
                .encode(text, true)
                .unwrap()
        };
        assert_eq!(encode(PreTokenizer::Gpt2, "1234"), [4, 5]);
        assert_eq!(encode(PreTokenizer::DigitsThenGpt2, "1234"), [0, 1, 2, 3]);
        assert_eq!(encode(PreTokenizer::Qwen2, "1234"), [0, 1, 2, 3]);
        // three digits together: 123 | 4
        assert_eq!(encode(PreTokenizer::Llama3, "1234"), [4, 2, 3]);
        assert_eq!(encode(PreTokenizer::DigitsThenGpt2, "a  1"), [8, 7, 0]);
        assert_eq!(encode(PreTokenizer::Gpt2, "a  1"), [8, 6, 6, 0]);
    }

    #[test]
    fn contradictions_are_errors() {
        let error = byte_level(&["a", "a"], &[], PreTokenizer::Gpt2, &[], Around::default()).unwrap_err();
        assert!(error.to_string().contains("tokens 0 and 1"));
        let error =
            byte_level(&["a"], &[("a", "b")], PreTokenizer::Gpt2, &[], Around::default()).unwrap_err();
        assert!(error.to_string().contains("`b`"));
        let around = Around { bos: Some(9), eos: None };
        assert!(byte_level(&["a"], &[], PreTokenizer::Gpt2, &[], around).is_err());
        let mut tokens = scored_tokens();
        tokens[260].score = f32::NAN;
        assert!(scored(&tokens, 0, true, &[], Around::default()).is_err());
        assert!(scored(&scored_tokens(), 9999, true, &[], Around::default()).is_err());
    }
}
