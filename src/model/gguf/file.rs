//! A GGUF file's header: metadata and where each tensor lies, checked against the file's length.
//!
//! Our own reader, since the maintained ones (candle's, gguf-rs) allocate by lengths the file
//! claims, so that a few hostile bytes can ask for all memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use super::{blocks::dequantize, cursor::Cursor, metadata::Metadata, tensor_type::TensorType};
use crate::{error::excerpt, model::mmap::MappedFile};

/// What a GGUF file starts with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// The shortest tensor entry: name length, number of dimensions, one dimension, type, offset.
const MIN_TENSOR_ENTRY: usize = 8 + 4 + 8 + 4 + 8;
/// The shortest key-value pair: key length, type, a one-byte value.
const MIN_PAIR: usize = 8 + 4 + 1;
const MAX_TENSOR_NAME: usize = 1024;
const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// An opened GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: MappedFile,
    pub(super) metadata: Metadata,
    tensors: BTreeMap<String, TensorEntry>,
}

#[derive(Debug)]
struct TensorEntry {
    /// Row-major, `[out, in]`: the reverse of the file's order.
    shape: Vec<usize>,
    kind: TensorType,
    /// Of the data, from the start of the file.
    start: usize,
    bytes: usize,
}

impl GgufFile {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// When the file is cut short or malformed, or uses an unknown version or number format.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = MappedFile::open(path)?;
        let (metadata, tensors) = read_header(file.bytes())
            .with_context(|| format!("`{}` is not a valid GGUF file", path.display()))?;
        Ok(Self { path: path.to_owned(), file, metadata, tensors })
    }

    /// Every tensor's name in the file, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape, row-major.
    pub fn tensor_shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor's values, dequantised, in the file's order.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn load_tensor(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let entry = self
            .tensors
            .get(name)
            .with_context(|| format!("`{}` has no tensor `{name}`", self.path.display()))?;
        Ok(dequantize(entry.kind, &self.bytes()[entry.start..entry.start + entry.bytes]))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }
}

fn read_header(bytes: &[u8]) -> anyhow::Result<(Metadata, BTreeMap<String, TensorEntry>)> {
    let mut cursor = Cursor::new(bytes);
    ensure!(cursor.take(4)? == MAGIC, "it does not start with `GGUF`");
    let version = cursor.u32()?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 2 | 3) => bail!("big-endian files are not supported"),
        _ => bail!("version {version} is not supported, only 2 and 3"),
    }
    let tensor_count = cursor.count("tensors", MIN_TENSOR_ENTRY)?;
    let pair_count = cursor.count("metadata pairs", MIN_PAIR)?;
    let metadata = Metadata::read(&mut cursor, pair_count)?;
    let alignment = metadata.whole("general.alignment")?.unwrap_or(32);
    ensure!(
        alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT,
        "metadata `general.alignment` must be a power of two up to {MAX_ALIGNMENT}, found `{alignment}`"
    );

    let mut entries = Vec::new();
    for _ in 0..tensor_count {
        entries.push(read_tensor_entry(&mut cursor, alignment)?);
    }
    let data_start = cursor.position().next_multiple_of(alignment as usize);
    place_tensors(entries, data_start, bytes.len()).map(|tensors| (metadata, tensors))
}

/// A tensor's name and entry, its start still counted from the start of the data.
fn read_tensor_entry(cursor: &mut Cursor<'_>, alignment: u64) -> anyhow::Result<(String, TensorEntry)> {
    let name = cursor.text().context("in a tensor's name")?;
    ensure!(
        name.len() <= MAX_TENSOR_NAME,
        "a tensor's name has {} bytes, above the limit of {MAX_TENSOR_NAME}",
        name.len()
    );
    let entry = || -> anyhow::Result<TensorEntry> {
        let dimensions = cursor.u32()?;
        ensure!((1..=MAX_DIMENSIONS).contains(&dimensions), "it claims {dimensions} dimensions");
        let mut shape = Vec::with_capacity(dimensions as usize);
        let mut values = 1_usize;
        for _ in 0..dimensions {
            let size = usize::try_from(cursor.u64()?).context("a dimension is too large")?;
            values = values.checked_mul(size).context("its dimensions are too large")?;
            shape.push(size);
        }
        let type_id = cursor.u32()?;
        let kind = TensorType::from_id(type_id).with_context(|| {
            format!("number format {type_id} is not supported, only {}", TensorType::NAMES)
        })?;
        ensure!(
            shape[0].is_multiple_of(kind.block_len()),
            "its rows of {} values are not whole blocks of {}",
            shape[0],
            kind.block_len()
        );
        let bytes = (values / kind.block_len())
            .checked_mul(kind.block_bytes())
            .context("its dimensions are too large")?;
        let offset = cursor.u64()?;
        ensure!(offset.is_multiple_of(alignment), "its offset {offset} is not a multiple of {alignment}");
        shape.reverse();
        Ok(TensorEntry { shape, kind, start: usize::try_from(offset)?, bytes })
    }();
    Ok((name.to_owned(), entry.with_context(|| format!("in tensor `{}`", excerpt(name)))?))
}

/// Turns offsets into positions in the file, and checks that tensors lie inside it, apart.
fn place_tensors(
    mut entries: Vec<(String, TensorEntry)>,
    data_start: usize,
    file_len: usize,
) -> anyhow::Result<BTreeMap<String, TensorEntry>> {
    entries.sort_by_key(|(_, entry)| entry.start);
    let mut free_from = data_start;
    let mut tensors = BTreeMap::new();
    for (name, mut entry) in entries {
        let start = data_start.checked_add(entry.start);
        let end = start.and_then(|start| start.checked_add(entry.bytes));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= file_len)) else {
            bail!(
                "tensor `{}` of {} bytes at offset {} lies past the end: the file is cut short",
                excerpt(&name),
                entry.bytes,
                entry.start
            );
        };
        ensure!(start >= free_from, "tensor `{}` overlaps the one before it", excerpt(&name));
        free_from = end;
        entry.start = start;
        ensure!(!tensors.contains_key(&name), "tensor `{}` is there twice", excerpt(&name));
        tensors.insert(name, entry);
    }
    Ok(tensors)
}
