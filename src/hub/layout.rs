//! The folder of a repository in the hub's cache, laid out as every tool of the hub does it:
//! `models--org--name/{blobs,refs,snapshots}` and `.locks` beside it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Read as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{Settings, Work, api::Checksum};
use crate::params::{HubAddress, is_commit};

/// A repository's folder.
pub(super) struct RepoFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    pub(super) fn new(settings: &Settings, hub: &HubAddress) -> Self {
        let name = format!("{}--{}", hub.kind.plural(), hub.repo.replace('/', "--"));
        Self { root: settings.cache.join(&name), locks: settings.cache.join(".locks").join(name) }
    }

    /// Where bytes lie, by their digest.
    pub(super) fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.root.join("blobs").join(checksum.hex())
    }

    /// The files of a commit: links to blobs.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that a tool wrote down for a revision.
    pub(super) fn reference(&self, revision: &str) -> Option<String> {
        let mut text = String::new();
        let file = File::open(self.root.join("refs").join(revision)).ok()?;
        file.take(100).read_to_string(&mut text).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Writes down a revision that no tool wrote down before. One that is there stays: another
    /// tool may have the files of that commit only.
    pub(super) fn add_reference(&self, revision: &str, commit: &str) {
        let path = self.root.join("refs").join(revision);
        if !path.exists()
            && let Some(folder) = path.parent()
        {
            // Only offline use by other tools suffers when this fails.
            let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&path, commit));
        }
    }

    /// Whether a tool found out that a commit has no such file.
    pub(super) fn is_known_to_lack(&self, commit: &str, path: &str) -> bool {
        self.root.join(".no_exist").join(commit).join(path).exists()
    }

    /// Writes down that a commit has no such file, for later work without a network.
    pub(super) fn remember_to_lack(&self, commit: &str, path: &str) {
        let mark = self.root.join(".no_exist").join(commit).join(path);
        if let Some(folder) = mark.parent() {
            // Only later work without a network suffers when this fails.
            let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&mark, ""));
        }
    }

    /// Makes the folders of blobs and locks.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        for folder in [&self.root.join("blobs"), &self.locks] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        Ok(())
    }

    /// Waits until nobody else fetches this blob. Other tools take the same lock.
    pub(super) fn lock(&self, checksum: &Checksum, work: &Work) -> anyhow::Result<File> {
        lock(&self.locks.join(format!("{}.lock", checksum.hex())), work)
    }

    /// Makes the link of a file in a commit's folder.
    pub(super) fn link(&self, commit: &str, path: &str, checksum: &Checksum) -> anyhow::Result<PathBuf> {
        let link = self.snapshot(commit).join(path);
        let up = "../".repeat(2 + path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{}", checksum.hex()));
        if fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(link);
        }
        let make = || -> std::io::Result<()> {
            let folder = link.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let new = tempfile::Builder::new().prefix(".new-").tempdir_in(folder)?;
            symlink(&target, new.path().join("link"))?;
            fs::rename(new.path().join("link"), &link)
        };
        make().with_context(|| format!("cannot make the link `{}`", link.display()))?;
        Ok(link)
    }
}

/// Waits for a kernel lock.
pub(super) fn lock(path: &Path, work: &Work) -> anyhow::Result<File> {
    let cannot = || format!("cannot lock `{}`", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).with_context(cannot)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                work.check()?;
                if !told {
                    told = true;
                    work.log(&format!("waiting for `{}`: somebody else fetches this file", path.display()));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::Error(error)) => {
                // A file system without locks: two that fetch the same file spoil it for each other
                // at worst, which the digest tells.
                work.log(&format!("{}: {error}; going on without", cannot()));
                return Ok(file);
            }
        }
    }
}
