//! llama2.c checkpoints (the legacy f32 `.bin`) and their `tok*.bin` tokenizers. q and k are in
//! interleaved order, as in the file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{
    config::{ModelConfig, RopePairs},
    files::{MAX_BYTES, read_bounded},
    mmap::MappedFile,
    tokenizer_json::{AddedToken, Around, ScoredToken, scored},
    weights::{WeightSource, expected_tensors},
};

/// Seven 32-bit numbers.
const HEADER_BYTES: usize = 7 * 4;
/// First number of the newer, versioned format.
const VERSIONED_MAGIC: u32 = 0x616b_3432;
/// What every llama2.c tokenizer uses.
const BOS: u32 = 1;
const EOS: u32 = 2;

/// The tensors of a llama2.c checkpoint.
#[derive(Debug)]
pub struct Llama2cWeights {
    path: PathBuf,
    file: MappedFile,
    /// Hugging Face name to shape and place, counted in f32 values.
    tensors: BTreeMap<String, (Vec<usize>, usize)>,
}

impl Llama2cWeights {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// When the header is absurd or does not match the file's length.
    pub fn open(path: &Path) -> anyhow::Result<(ModelConfig, Self)> {
        let file = MappedFile::open(path)?;
        let (config, tensors) = read_header(file.bytes())
            .with_context(|| format!("`{}` is not a valid llama2.c checkpoint", path.display()))?;
        Ok((config, Self { path: path.to_owned(), file, tensors }))
    }
}

impl WeightSource for Llama2cWeights {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|(shape, _)| shape.clone())
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let (shape, start) = self
            .tensors
            .get(name)
            .with_context(|| format!("`{}` has no tensor `{name}`", self.path.display()))?;
        let start = HEADER_BYTES + 4 * start;
        let bytes = &self.file.bytes()[start..start + 4 * shape.iter().product::<usize>()];
        Ok(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, usize)>;

fn read_header(bytes: &[u8]) -> anyhow::Result<(ModelConfig, Tensors)> {
    let header = bytes.get(..HEADER_BYTES).context("the file is cut short: it has no whole header")?;
    let numbers: Vec<i32> = header.as_chunks().0.iter().map(|&number| i32::from_le_bytes(number)).collect();
    if numbers[0].cast_unsigned() == VERSIONED_MAGIC {
        bail!("the versioned llama2.c format is not supported, only the legacy f32 one");
    }
    let size = |i: usize, name: &str| -> anyhow::Result<usize> {
        usize::try_from(numbers[i])
            .ok()
            .filter(|&n| n > 0)
            .with_context(|| format!("the header's `{name}` is {}", numbers[i]))
    };
    let (hidden_size, num_attention_heads) = (size(0, "dim")?, size(3, "n_heads")?);
    ensure!(
        hidden_size.is_multiple_of(num_attention_heads),
        "the header's `dim` {hidden_size} is not a multiple of its `n_heads` {num_attention_heads}"
    );
    let config = ModelConfig {
        model_type: "llama".to_owned(),
        // A negative size says that the head is not the embedding.
        vocab_size: numbers[5].unsigned_abs() as usize,
        hidden_size,
        intermediate_size: size(1, "hidden_dim")?,
        num_hidden_layers: size(2, "n_layers")?,
        num_attention_heads,
        num_key_value_heads: size(4, "n_kv_heads")?,
        head_dim: hidden_size / num_attention_heads,
        max_position_embeddings: size(6, "seq_len")?,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        attention_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: numbers[5] > 0,
        rope_pairs: RopePairs::Interleaved,
        bos_token_id: Some(BOS),
        // Its training data separates stories by the first token alone, so that one ends a text too.
        eos_token_ids: vec![EOS, BOS],
        initializer_range: 0.02,
        ..ModelConfig::default()
    };
    config.validate()?;
    let tensors = place_tensors(&config, (bytes.len() - HEADER_BYTES) as u64)?;
    Ok((config, tensors))
}

/// The file holds each kind of tensor for all layers, then the next kind.
fn place_tensors(config: &ModelConfig, data_bytes: u64) -> anyhow::Result<Tensors> {
    // All sizes are bounded by the configuration's limits, so u64 sums of products cannot overflow.
    let rotations = config.max_position_embeddings as u64 * (config.head_dim / 2) as u64 * 2;
    let layers = config.num_hidden_layers;
    let one_layer = ModelConfig { num_hidden_layers: 1, ..config.clone() };
    let count = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
    let total: u64 = expected_tensors(&one_layer)
        .iter()
        .map(|(name, shape)| count(shape) * if name.contains(".layers.") { layers as u64 } else { 1 })
        .sum::<u64>()
        + rotations;
    ensure!(
        total * 4 == data_bytes,
        "a model of its sizes takes {} bytes after the header, but {data_bytes} follow: {}",
        total * 4,
        if data_bytes < total * 4 { "the file is cut short" } else { "it is another format" }
    );

    let shapes: BTreeMap<String, Vec<usize>> = expected_tensors(&one_layer).into_iter().collect();
    let mut tensors = BTreeMap::new();
    let mut position = 0;
    let mut place = |name: String, like: &str| {
        let shape = shapes[like].clone();
        let values: usize = shape.iter().product();
        tensors.insert(name, (shape, position));
        position += values;
    };
    place("model.embed_tokens.weight".to_owned(), "model.embed_tokens.weight");
    for module in [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.down_proj",
        "mlp.up_proj",
    ] {
        for layer in 0..layers {
            let like = format!("model.layers.0.{module}.weight");
            place(format!("model.layers.{layer}.{module}.weight"), &like);
        }
    }
    place("model.norm.weight".to_owned(), "model.norm.weight");
    if !config.tie_word_embeddings {
        // The rotation tables stand before the head.
        let shape = shapes["lm_head.weight"].clone();
        tensors.insert("lm_head.weight".to_owned(), (shape, position + rotations as usize));
    }
    Ok(tensors)
}

/// Contents of `tokenizer.json` and `tokenizer_config.json` for a `tok*.bin` of this many tokens.
///
/// # Errors
/// When the file is cut short or holds another number of tokens.
pub(crate) fn tokenizer_files(path: &Path, vocab_size: usize) -> anyhow::Result<(Value, Value)> {
    let tokenizer = read_tokens(&read_bounded(path, MAX_BYTES)?, vocab_size).and_then(|tokens| {
        let special = |id: u32| AddedToken { id, content: tokens[id as usize].text.clone(), special: true };
        let added: Vec<AddedToken> = (0..3).map(special).collect();
        scored(&tokens, 0, true, &added, Around { bos: Some(BOS), eos: None })
    });
    let tokenizer =
        tokenizer.with_context(|| format!("`{}` is not a valid llama2.c tokenizer", path.display()))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    });
    Ok((tokenizer, config))
}

fn read_tokens(bytes: &[u8], vocab_size: usize) -> anyhow::Result<Vec<ScoredToken>> {
    const SPECIALS: [&str; 3] = ["<unk>", "<s>", "</s>"];
    ensure!(vocab_size >= 259, "a llama2.c tokenizer has at least 259 tokens, the model has {vocab_size}");
    // The first number, the longest token's length, says nothing that the tokens do not.
    let mut rest = bytes.get(4..).context("the file is cut short: it has no whole header")?;
    let mut tokens = Vec::new();
    #[expect(clippy::needless_range_loop, reason = "the ids run past the special tokens")]
    for id in 0..vocab_size {
        let cut = || format!("the file is cut short in token {id} of {vocab_size}");
        let (score, after) = rest.split_first_chunk().with_context(cut)?;
        let (length, after) = after.split_first_chunk().with_context(cut)?;
        let length = usize::try_from(i32::from_le_bytes(*length))
            .ok()
            .with_context(|| format!("token {id} has a negative length"))?;
        let (text, after) = after.split_at_checked(length).with_context(cut)?;
        rest = after;
        let text = std::str::from_utf8(text).with_context(|| format!("token {id} is not UTF-8"))?;
        // The exporter spells spaces out and decorates the two delimiters.
        let byte = (3..259).contains(&id);
        tokens.push(ScoredToken {
            text: match id {
                0..3 => SPECIALS[id].to_owned(),
                3..259 => format!("<0x{:02X}>", id - 3),
                _ => text.replace(' ', "▁"),
            },
            score: f32::from_le_bytes(*score),
            mergeable: id >= SPECIALS.len() && !byte,
        });
    }
    ensure!(rest.is_empty(), "{} bytes follow the last of {vocab_size} tokens", rest.len());
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(header: [i32; 7], values: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = header.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.extend((0..values).flat_map(|i| (i as f32).to_le_bytes()));
        bytes
    }

    /// dim 4, ffn 6, 2 layers, 2 heads of which 1 for k and v, 5 tokens, 3 positions
    const HEADER: [i32; 7] = [4, 6, 2, 2, 1, 5, 3];
    const VALUES: usize = 20 + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 24 + 24 + 24) + 4 + 3 * 2;

    #[test]
    fn tensors_lie_kind_by_kind() {
        let (config, tensors) = read_header(&checkpoint(HEADER, VALUES)).unwrap();
        assert!(config.tie_word_embeddings);
        let (shape, start) = &tensors["model.layers.1.self_attn.q_proj.weight"];
        assert_eq!((shape.as_slice(), *start), ([4, 4].as_slice(), 20 + 8 + 16));
        assert_eq!(tensors["model.norm.weight"].1, VALUES - 6 - 4);
        assert!(!tensors.contains_key("lm_head.weight"));
    }

    #[test]
    fn a_negative_vocabulary_means_an_untied_head_after_the_rotations() {
        let mut header = HEADER;
        header[5] = -5;
        let (config, tensors) = read_header(&checkpoint(header, VALUES + 20)).unwrap();
        assert!(!config.tie_word_embeddings);
        assert_eq!(tensors["lm_head.weight"].1, VALUES);
    }

    #[test]
    fn wrong_lengths_and_absurd_headers_are_errors() {
        let whole = checkpoint(HEADER, VALUES);
        for length in (0..whole.len()).step_by(7) {
            let message = read_header(&whole[..length]).unwrap_err().to_string();
            assert!(message.contains("cut short"), "{length}: {message}");
        }
        assert!(
            read_header(&checkpoint(HEADER, VALUES + 1)).unwrap_err().to_string().contains("another format")
        );
        for (i, value) in [(0, 0), (1, -1), (2, i32::MAX), (3, 3), (4, 0), (5, 0), (5, i32::MIN), (6, -7)] {
            let mut header = HEADER;
            header[i] = value;
            assert!(read_header(&checkpoint(header, VALUES)).is_err(), "{i} {value}");
        }
    }
}
