//! The files of an artifact: their listing, their digests, their protection.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::UNIX_EPOCH,
};

use anyhow::bail;

use super::record::{ArtifactFile, Record};
use crate::digest::Digest;

/// What a folder's listing says of a file.
struct Listed {
    size: u64,
    mtime_ns: u64,
    executable: bool,
}

fn listing(folder: &Path) -> anyhow::Result<BTreeMap<String, Listed>> {
    let mut out = BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let about = entry.metadata()?;
            let since = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let executable = about.permissions().mode() & 0o111 != 0;
            let path = entry.path().strip_prefix(folder).expect("walkdir stays below its root");
            let listed = Listed { size: about.len(), mtime_ns: since.as_nanos() as u64, executable };
            out.insert(path.to_string_lossy().into_owned(), listed);
        }
    }
    Ok(out)
}

/// Every file of an artifact, read in full.
pub(super) fn list(folder: &Path) -> anyhow::Result<Vec<ArtifactFile>> {
    listing(folder)?
        .into_iter()
        .map(|(path, Listed { size, mtime_ns, executable })| {
            let digest = Digest::of_file(&folder.join(&path))?;
            Ok(ArtifactFile { path, size, mtime_ns, executable, digest })
        })
        .collect()
}

/// Digest of an artifact; names its folder.
pub(super) fn content(files: &[ArtifactFile]) -> Digest {
    Digest::of_files(files.iter().map(|file| (file.path.as_str(), file.executable, &file.digest)))
}

/// Every file is there with its size; one whose time changed is read again.
pub(super) fn check_quickly(record: &Record, folder: &Path) -> anyhow::Result<()> {
    if !folder.is_dir() {
        bail!("its files are gone");
    }
    let mut there = listing(folder)?;
    for file in &record.files {
        let Some(now) = there.remove(&file.path) else { bail!("`{}` is missing", file.path) };
        let same = now.size == file.size
            && now.executable == file.executable
            && (now.mtime_ns == file.mtime_ns || Digest::of_file(&folder.join(&file.path))? == file.digest);
        if !same {
            bail!("`{}` was changed", file.path);
        }
    }
    if let Some(extra) = there.keys().next() {
        bail!("`{extra}` was added");
    }
    Ok(())
}

/// Takes away the right to write: a tool that opens a result for writing must fail rather than
/// change what others rely on. Whoever may read the folder itself may read everything in it.
pub(super) fn protect(out: &Path) -> anyhow::Result<()> {
    let folder_mode = fs::metadata(out)?.permissions().mode() & 0o7777;
    for entry in walkdir::WalkDir::new(out) {
        let entry = entry?;
        if entry.file_type().is_symlink() || !(entry.file_type().is_file() || entry.file_type().is_dir()) {
            bail!(
                "the step left `{}`, which is neither a file nor a folder",
                entry.path().strip_prefix(out).unwrap_or(entry.path()).display()
            );
        }
        let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
        let mode = match (entry.file_type().is_dir(), executable) {
            (true, _) => folder_mode,
            (false, true) => folder_mode & 0o555,
            (false, false) => folder_mode & 0o444,
        };
        fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
    }
    Ok(())
}
