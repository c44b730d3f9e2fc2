//! Small files of a model folder, read with a bound on their size.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Larger than any tokenizer that is in use.
const MAX_BYTES: u64 = 512 << 20;

/// The content of a file.
pub(crate) fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read `{}`", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(cannot)?;
    ensure!(bytes.len() as u64 <= MAX_BYTES, "`{}` is larger than {} MiB", path.display(), MAX_BYTES >> 20);
    Ok(bytes)
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> anyhow::Result<Value> {
    serde_json::from_slice(&read_bounded(path)?)
        .with_context(|| format!("`{}` is not valid JSON", path.display()))
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
