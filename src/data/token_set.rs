//! Tokenized rows on disk: one `tokens.safetensors` with all rows end to end.

use std::{fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::model::MappedFile;

/// File name inside a `tokenize` artifact.
const FILE: &str = "tokens.safetensors";
/// A label that takes no part in the loss (transformers' and torch's convention).
pub const IGNORED_LABEL: i32 = -100;

/// Token ids and loss labels, row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSet {
    input_ids: Vec<i32>,
    labels: Vec<i32>,
    /// Start of each row, and the end of the last.
    offsets: Vec<i64>,
}

impl TokenSet {
    /// No rows yet.
    pub fn new() -> Self {
        Self { offsets: vec![0], ..Self::default() }
    }

    /// Adds a row; `labels` is as long as `ids`, with [`IGNORED_LABEL`] where no loss is wanted.
    pub fn push(&mut self, ids: &[i32], labels: &[i32]) {
        debug_assert_eq!(ids.len(), labels.len());
        self.input_ids.extend_from_slice(ids);
        self.labels.extend_from_slice(labels);
        self.offsets.push(self.input_ids.len() as i64);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Number of tokens in all rows.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// A row's ids and labels.
    pub fn row(&self, index: usize) -> (&[i32], &[i32]) {
        let range = self.offsets[index] as usize..self.offsets[index + 1] as usize;
        (&self.input_ids[range.clone()], &self.labels[range])
    }

    /// Writes the rows into a folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let bytes32 = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (ids, labels) = (bytes32(&self.input_ids), bytes32(&self.labels));
        let views = [
            ("input_ids", TensorView::new(Dtype::I32, vec![self.input_ids.len()], &ids)?),
            ("labels", TensorView::new(Dtype::I32, vec![self.labels.len()], &labels)?),
            ("offsets", TensorView::new(Dtype::I64, vec![self.offsets.len()], &offsets)?),
        ];
        let bytes = safetensors::serialize(views, None)?;
        fs::write(folder.join(FILE), bytes).with_context(|| format!("cannot write `{FILE}`"))
    }

    /// Reads the rows of a folder.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("`{}` is damaged", path.display()))
    }

    /// Number of tokens of a folder's longest row; only the offsets are read.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn longest_row(folder: &Path) -> anyhow::Result<usize> {
        let path = folder.join(FILE);
        let file = MappedFile::open(&path)?;
        let longest = || -> anyhow::Result<usize> {
            let offsets = offsets(&SafeTensors::deserialize(file.bytes())?)?;
            ensure!(offsets.is_sorted(), "the row offsets are not in order");
            let lengths = offsets.windows(2).map(|ends| ends[1].abs_diff(ends[0]) as usize);
            Ok(lengths.max().unwrap_or(0))
        };
        longest().with_context(|| format!("`{}` is damaged", path.display()))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let file = SafeTensors::deserialize(bytes)?;
        let ints = |name: &str| -> anyhow::Result<Vec<i32>> {
            let view = file.tensor(name)?;
            ensure!(view.dtype() == Dtype::I32 && view.shape().len() == 1, "`{name}` is not a list of i32");
            let (chunks, _) = view.data().as_chunks::<4>();
            Ok(chunks.iter().map(|chunk| i32::from_le_bytes(*chunk)).collect())
        };
        let (input_ids, labels) = (ints("input_ids")?, ints("labels")?);
        let offsets = offsets(&file)?;
        ensure!(input_ids.len() == labels.len(), "ids and labels differ in length");
        let ends = offsets.first() == Some(&0) && offsets.last() == Some(&(input_ids.len() as i64));
        if !ends || !offsets.is_sorted() {
            bail!("the row offsets do not fit the tokens");
        }
        Ok(Self { input_ids, labels, offsets })
    }

    /// Checks that no row is longer than the model's context.
    ///
    /// # Errors
    /// When one is; its number, from 1, and its length are named.
    pub fn check_length(&self, max_positions: usize) -> anyhow::Result<()> {
        for row in 0..self.rows() {
            let length = self.row(row).0.len();
            ensure!(
                length <= max_positions,
                "row {} has {length} tokens, but the model takes {max_positions}; lower `max_seq_length`",
                row + 1
            );
        }
        Ok(())
    }

    /// Checks that every id has a row in an embedding of `vocab_size` rows.
    ///
    /// # Errors
    /// When one has not: the rows were made with another tokenizer.
    pub fn check_vocabulary(&self, vocab_size: usize) -> anyhow::Result<()> {
        let fits = |id: i32| usize::try_from(id).is_ok_and(|id| id < vocab_size);
        let bad_id = self.input_ids.iter().find(|id| !fits(**id));
        let bad =
            bad_id.or_else(|| self.labels.iter().find(|label| **label != IGNORED_LABEL && !fits(**label)));
        match bad {
            Some(id) => bail!(
                "token id {id} is outside this model's vocabulary of {vocab_size}: were the rows tokenized for another base?"
            ),
            None => Ok(()),
        }
    }
}

fn offsets(file: &SafeTensors<'_>) -> anyhow::Result<Vec<i64>> {
    let view = file.tensor("offsets")?;
    ensure!(view.dtype() == Dtype::I64 && view.shape().len() == 1, "`offsets` is not a list of i64");
    Ok(view.data().as_chunks::<8>().0.iter().map(|chunk| i64::from_le_bytes(*chunk)).collect())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn sample() -> TokenSet {
        let mut set = TokenSet::new();
        set.push(&[1, 2, 3], &[-100, 2, 3]);
        set.push(&[], &[]);
        set.push(&[4], &[4]);
        set
    }

    #[test]
    fn survives_a_round_trip_and_refuses_damage() {
        let folder = tempfile::tempdir().unwrap();
        let set = sample();
        set.save(folder.path()).unwrap();
        assert_eq!(TokenSet::open(folder.path()).unwrap(), set);
        assert_eq!(set.row(0), (&[1, 2, 3][..], &[-100, 2, 3][..]));
        let bytes = fs::read(folder.path().join(FILE)).unwrap();
        for end in 0..bytes.len() {
            assert!(TokenSet::parse(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn the_longest_row_is_found_without_reading_the_tokens() {
        let folder = tempfile::tempdir().unwrap();
        sample().save(folder.path()).unwrap();
        assert_eq!(TokenSet::longest_row(folder.path()).unwrap(), 3);
        TokenSet::new().save(folder.path()).unwrap();
        assert_eq!(TokenSet::longest_row(folder.path()).unwrap(), 0);

        // A sparse file whose ids and labels are more than memory holds.
        let (tokens, ids) = (1_u64 << 35, 1_u64 << 37);
        let header = format!(
            r#"{{"offsets":{{"dtype":"I64","shape":[3],"data_offsets":[0,24]}},"input_ids":{{"dtype":"I32","shape":[{tokens}],"data_offsets":[24,{}]}},"labels":{{"dtype":"I32","shape":[{tokens}],"data_offsets":[{},{}]}}}}"#,
            24 + ids,
            24 + ids,
            24 + 2 * ids
        );
        let mut file = fs::File::create(folder.path().join(FILE)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        for offset in [0, tokens - 5, tokens] {
            file.write_all(&offset.to_le_bytes()).unwrap();
        }
        let start = file.stream_position().unwrap();
        file.set_len(start + 2 * ids).unwrap();
        assert_eq!(TokenSet::longest_row(folder.path()).unwrap() as u64, tokens - 5);
    }

    #[test]
    fn names_an_id_outside_the_vocabulary() {
        assert!(sample().check_vocabulary(5).is_ok());
        let message = sample().check_vocabulary(4).unwrap_err().to_string();
        assert!(message.contains("token id 4"), "{message}");
    }
}
