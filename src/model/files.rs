//! Small files of a model folder, read with a bound on their size.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::unique_keys;

/// Larger than any tokenizer that is in use.
pub(crate) const MAX_BYTES: u64 = 512 << 20;
/// Larger than any other text file of a model. JSON takes some sixteen times its length when read.
pub(crate) const MAX_TEXT: u64 = 32 << 20;

/// The content of a file of at most `most` bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read `{}`", path.display());
    // A pipe or a device would never end.
    ensure!(!path.exists() || path.is_file(), "`{}` is not a file", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(most + 1).read_to_end(&mut bytes).with_context(cannot)?;
    ensure!(bytes.len() as u64 <= most, "`{}` is larger than {} MiB", path.display(), most >> 20);
    Ok(bytes)
}

/// A JSON file in which no object has a key twice.
pub(crate) fn read_json(path: &Path) -> anyhow::Result<Value> {
    read_short_json(path, MAX_TEXT)
}

/// A JSON file of at most `most` bytes in which no object has a key twice.
pub(crate) fn read_short_json(path: &Path, most: u64) -> anyhow::Result<Value> {
    unique_keys::parse(&read_bounded(path, most)?)
        .with_context(|| format!("`{}` cannot be read as JSON", path.display()))
}

/// A JSON file that need not be there.
pub(crate) fn read_optional_json(path: &Path) -> anyhow::Result<Option<Value>> {
    if path.is_file() { read_json(path).map(Some) } else { Ok(None) }
}

/// Writes a JSON file, indented, with a final newline.
pub(crate) fn write_json(path: &Path, value: &Value) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("a JSON value failed to serialise")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}
