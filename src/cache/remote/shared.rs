//! [`SharedRecord`]: a record as a remote cache holds it.

use std::collections::BTreeSet;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::{super::files::content, Record, must_stay_inside};
use crate::{digest::Digest, error::excerpt_of};

/// As many as a run keeps of a step.
const MOST_WARNINGS: usize = 50;
/// Of a node's name or a warning.
const MOST_CHARACTERS: usize = 1000;

/// A record with its log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cache) struct SharedRecord {
    pub(in crate::cache) record: Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<Blob>,
}

/// A content by which a file is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) size: u64,
    pub(super) digest: Digest,
}

impl SharedRecord {
    /// What it tells people, without what would fill or steer their terminal.
    pub(super) fn tamed(mut self) -> Self {
        self.record.node = excerpt_of(MOST_CHARACTERS, self.record.node);
        self.record.warnings.truncate(MOST_WARNINGS);
        for warning in &mut self.record.warnings {
            *warning = excerpt_of(MOST_CHARACTERS, &warning);
        }
        self
    }

    /// # Errors
    /// When it is not of this key, or its files cannot be an artifact.
    pub(super) fn check(&self, key: &Digest) -> anyhow::Result<()> {
        self.record.must_be_of(key)?;
        self.record.files.iter().try_for_each(|file| must_stay_inside(&file.path))?;
        let paths: BTreeSet<&str> = self.record.files.iter().map(|file| file.path.as_str()).collect();
        ensure!(paths.len() == self.record.files.len(), "a file is named twice");
        ensure!(content(&self.record.files) == self.record.artifact, "its files are not its artifact");
        Ok(())
    }

    /// Bytes of everything; none when the sum is no number.
    pub(super) fn size(&self) -> Option<u64> {
        let log = self.log.as_ref().map_or(0, |log| log.size);
        self.record.files.iter().try_fold(log, |sum, file| sum.checked_add(file.size))
    }
}
