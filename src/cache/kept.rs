//! Kept runs: lists of the results that `prune` leaves alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{Cache, folder::KEPT};
use crate::{
    digest::Digest,
    durable::{checked_json, read_checked_json},
};

/// What one kept run needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRun {
    /// The run's folder.
    pub run: PathBuf,
    /// Digests of its steps' keys.
    pub keys: BTreeSet<Digest>,
}

impl Cache {
    /// Keeps the results of a run, whatever `prune` is asked for.
    ///
    /// # Errors
    /// When the cache is only read, or the disk is full.
    pub fn keep(&self, kept: &KeptRun) -> anyhow::Result<()> {
        self.must_be_writable()?;
        self.write(kept_file(&kept.run), &checked_json(kept)?)
    }

    /// Gives them free again; false when they were not kept.
    ///
    /// # Errors
    /// When the cache is only read.
    pub fn unkeep(&self, run: &Path) -> anyhow::Result<bool> {
        self.must_be_writable()?;
        match fs::remove_file(self.own(kept_file(run))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context("cannot remove the list of what the run needs"),
        }
    }

    /// All kept runs.
    ///
    /// # Errors
    /// When a list is damaged or may not be read: it is not known what it kept then.
    pub fn kept(&self) -> anyhow::Result<Vec<KeptRun>> {
        let mut kept = Vec::new();
        let folder = self.own(KEPT);
        let cannot = || format!("cannot tell which runs are kept: cannot read `{}`", folder.display());
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(kept),
            entries => entries.with_context(cannot)?,
        };
        for entry in entries {
            let entry = entry.with_context(cannot)?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            match read_checked_json(&path) {
                Ok(run) => kept.push(run),
                Err(error) => bail!(
                    "`{}` does not tell what it keeps ({error:#}); remove it and keep the run again",
                    path.display()
                ),
            }
        }
        kept.sort_by(|a: &KeptRun, b: &KeptRun| a.run.cmp(&b.run));
        Ok(kept)
    }
}

/// Below the bucket, the list of what a run needs.
fn kept_file(run: &Path) -> PathBuf {
    Path::new(KEPT).join(Digest::of_bytes(run.as_os_str().as_encoded_bytes()).hex())
}
