//! The files of an artifact: their listing, their digests, their protection.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::UNIX_EPOCH,
};

use anyhow::bail;

use super::record::{ArtifactFile, Record};
use crate::{
    digest::{Digest, is_empty_folder},
    error::{excerpt, hinted},
};

/// What a folder's listing says of a file, or of an empty folder.
#[derive(Default)]
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
            let listed = Listed { size: about.len(), mtime_ns: since.as_nanos() as u64, executable };
            out.insert(name_of(entry.path(), folder)?.to_owned(), listed);
        } else if entry.depth() > 0 && is_empty_folder(entry.path())? {
            out.insert(format!("{}/", name_of(entry.path(), folder)?), Listed::default());
        }
    }
    Ok(out)
}

/// A path inside an artifact.
fn name_of<'p>(path: &'p Path, folder: &Path) -> anyhow::Result<&'p str> {
    let path = path.strip_prefix(folder).expect("walkdir stays below its root");
    path.to_str().ok_or_else(|| {
        hinted(
            format!("the name of `{}` is no UTF-8 text", excerpt(path.display())),
            "records and other machines know the files of a result by names that are; rename it",
        )
    })
}

/// Whether a name in a listing is that of an empty folder.
pub(super) fn is_folder(name: &str) -> bool {
    name.ends_with('/')
}

/// Every file of an artifact, read in full, and every empty folder.
pub(super) fn list(folder: &Path) -> anyhow::Result<Vec<ArtifactFile>> {
    listing(folder)?
        .into_iter()
        .map(|(path, Listed { size, mtime_ns, executable })| {
            let whole = folder.join(&path);
            let digest = if is_folder(&path) { Digest::of_bytes(&[]) } else { Digest::of_file(&whole)? };
            Ok(ArtifactFile { path, size, mtime_ns, executable, digest })
        })
        .collect()
}

/// Digest of an artifact; names its folder.
pub(super) fn content(files: &[ArtifactFile]) -> Digest {
    Digest::of_files(files.iter().map(|file| (file.path.as_bytes(), file.executable, &file.digest)))
}

/// Every file is there with its size; one whose time changed is read again.
pub(super) fn check_quickly(record: &Record, folder: &Path) -> anyhow::Result<()> {
    if !folder.is_dir() {
        bail!("its files are gone");
    }
    let mut there = listing(folder)?;
    for file in &record.files {
        let Some(now) = there.remove(&file.path) else { bail!("`{}` is missing", excerpt(&file.path)) };
        let same = now.size == file.size
            && now.executable == file.executable
            && (now.mtime_ns == file.mtime_ns || Digest::of_file(&folder.join(&file.path))? == file.digest);
        if !same {
            bail!("`{}` was changed", excerpt(&file.path));
        }
    }
    if let Some(extra) = there.keys().next() {
        bail!("`{}` was added", excerpt(extra));
    }
    Ok(())
}

/// Takes away the right to write: a tool that opens a result for writing must fail rather than
/// change what others rely on. Whoever may read the folder itself may read everything in it.
pub(super) fn protect(out: &Path) -> anyhow::Result<()> {
    let folder_mode = fs::metadata(out)?.permissions().mode() & 0o7777;
    for entry in walkdir::WalkDir::new(out) {
        let entry = entry?;
        let name = name_of(entry.path(), out)?;
        if entry.file_type().is_symlink() || !(entry.file_type().is_file() || entry.file_type().is_dir()) {
            bail!("the step left `{name}`, which is neither a file nor a folder");
        }
        let about = entry.metadata()?;
        if about.is_file() && about.nlink() > 1 {
            own_copy(entry.path())?;
        }
        let executable = about.permissions().mode() & 0o111 != 0;
        let mode = match (entry.file_type().is_dir(), executable) {
            (true, _) => folder_mode,
            (false, true) => folder_mode & 0o555,
            (false, false) => folder_mode & 0o444,
        };
        fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Puts a copy in the place of a file that has other names too: those are not the step's to protect, and
/// whoever writes through one of them would change the result.
fn own_copy(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    let copy = tempfile::NamedTempFile::new_in(folder)?;
    fs::copy(path, copy.path())?;
    copy.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_name_outside_becomes_a_copy() {
        let (out, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, linked) = (outside.path().join("source"), out.path().join("linked"));
        fs::write(&source, "before").unwrap();
        fs::hard_link(&source, &linked).unwrap();
        protect(out.path()).unwrap();
        assert_eq!(list(out.path()).unwrap().len(), 1);
        assert_ne!(fs::metadata(&source).unwrap().mode() & 0o200, 0, "it is still its owner's to write");
        fs::write(&source, "after").unwrap();
        assert_eq!(fs::read_to_string(&linked).unwrap(), "before");
        assert_eq!(fs::metadata(&linked).unwrap().mode() & 0o222, 0);
    }

    #[test]
    fn an_empty_folder_is_part_of_an_artifact() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let with = list(dir.path()).unwrap();
        assert_eq!(with.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["d/"]);
        fs::write(dir.path().join("d/x"), "").unwrap();
        assert_eq!(list(dir.path()).unwrap()[0].path, "d/x");
        fs::remove_dir_all(dir.path().join("d")).unwrap();
        assert_ne!(content(&with), content(&list(dir.path()).unwrap()));
    }

    #[test]
    fn a_name_that_is_no_text_is_refused() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("é"), "").unwrap();
        protect(dir.path()).unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(b"a\xff")), "").unwrap();
        let error = protect(dir.path()).unwrap_err();
        assert!(error.to_string().contains("is no UTF-8 text"), "{error:#}");
        assert!(crate::error::hint_of(&error).is_some());
        list(dir.path()).unwrap_err();
    }
}
