//! Writing that survives a kill: a temporary file, renamed once it is whole. And a power cut, where fsync
//! is asked for. And JSON that shows when it did not.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{digest::Digest, fault};

/// Writes a file so that readers see either the old content or the new, even after a power cut. Until it is
/// whole it lies in `unfinished`, a folder of the same file system, where a kill leaves it.
pub(crate) fn write(path: &Path, unfinished: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = unfinished_file(path, unfinished, bytes)?;
    file.as_file().sync_all().with_context(|| format!("cannot write `{}`", path.display()))?;
    fault::point("file synced");
    move_to(path, file)?;
    sync(path.parent().expect("a file lies in a folder"))
}

/// Writes a file so that readers see either the old content or the new as long as the system runs. Waits for
/// no disk: after a power cut it may be old, torn or gone.
pub(crate) fn put(path: &Path, unfinished: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    move_to(path, unfinished_file(path, unfinished, bytes)?)
}

fn unfinished_file(path: &Path, unfinished: &Path, bytes: &[u8]) -> anyhow::Result<NamedTempFile> {
    let cannot = || format!("cannot write `{}`", path.display());
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        // As the umask says, so that users can share a cache.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(unfinished)
        .with_context(cannot)?;
    fault::point("file made");
    file.write_all(bytes).with_context(cannot)?;
    fault::point("file written");
    Ok(file)
}

fn move_to(path: &Path, file: NamedTempFile) -> anyhow::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let moved = file.persist(path).map_err(|error| error.error);
    moved.with_context(|| format!("cannot write `{}`", path.display()))?;
    fault::point("file renamed");
    Ok(())
}

/// Makes a file's content, or a folder's entries, durable.
pub(crate) fn sync(path: &Path) -> anyhow::Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot sync `{}`", path.display()))
}

/// Makes everything below a folder durable.
pub(crate) fn sync_tree(folder: &Path) -> anyhow::Result<()> {
    for entry in walkdir::WalkDir::new(folder).contents_first(true) {
        let entry = entry.with_context(|| format!("cannot read `{}`", folder.display()))?;
        if entry.file_type().is_file() || entry.file_type().is_dir() {
            sync(entry.path())?;
            fault::point("entry synced");
        }
    }
    Ok(())
}

/// A checksum line, then JSON: any changed or missing byte shows.
pub(crate) fn checked_json<T: Serialize>(value: &T) -> anyhow::Result<Vec<u8>> {
    let json = serde_json::to_vec_pretty(value)?;
    let mut bytes = format!("{}\n", Digest::of_bytes(&json)).into_bytes();
    bytes.extend(json);
    Ok(bytes)
}

/// Reads a file of what [`checked_json`] gave.
pub(crate) fn read_checked_json<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    parse_checked_json(&fs::read(path)?)
}

/// Reads what [`checked_json`] gave.
pub(crate) fn parse_checked_json<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> anyhow::Result<T> {
    let end = bytes.iter().position(|byte| *byte == b'\n').context("the checksum line is missing")?;
    let (check, json) = (&bytes[..end], &bytes[end + 1..]);
    ensure!(check == Digest::of_bytes(json).to_string().as_bytes(), "the checksum does not match");
    Ok(serde_json::from_slice(json)?)
}
