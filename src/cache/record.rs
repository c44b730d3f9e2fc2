//! [`Record`]: what a key led to. Its file is the only commit point of a step.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::{digest::Digest, durable::parse_checked_json, key::StepKey};

/// A finished step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Digest of `key`.
    pub digest: Digest,
    /// The preimage.
    pub key: StepKey,
    /// Digest of the artifact's content; names its folder.
    pub artifact: Digest,
    /// The artifact's files, sorted by path.
    pub files: Vec<ArtifactFile>,
    /// Node that ran it first.
    pub node: String,
    /// Version of evergraft that ran it.
    pub evergraft: String,
    /// Unix time of the commit, in seconds.
    pub committed_at: u64,
    /// Run time in milliseconds.
    pub duration_ms: u64,
    /// Warnings of the run, shown again on every use.
    pub warnings: Vec<String>,
}

/// What a record says beside its digests and files.
pub(super) struct About {
    pub(super) key: StepKey,
    pub(super) node: String,
    pub(super) evergraft: String,
    pub(super) committed_at: u64,
    pub(super) duration_ms: u64,
    pub(super) warnings: Vec<String>,
}

impl About {
    /// That of a record which was made elsewhere.
    pub(super) fn of(record: Record) -> Self {
        let Record { key, node, evergraft, committed_at, duration_ms, warnings, .. } = record;
        Self { key, node, evergraft, committed_at, duration_ms, warnings }
    }

    /// The whole record.
    pub(super) fn with(self, digest: &Digest, artifact: Digest, files: Vec<ArtifactFile>) -> Record {
        let Self { key, node, evergraft, committed_at, duration_ms, warnings } = self;
        let digest = digest.clone();
        Record { digest, key, artifact, files, node, evergraft, committed_at, duration_ms, warnings }
    }
}

/// One file of an artifact, or an empty folder in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Path inside the artifact, with `/`; that of an empty folder ends with one.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970: a cheap sign that nobody wrote to it.
    pub mtime_ns: u64,
    /// Whether it can be run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Digest of the content.
    pub digest: Digest,
}

/// The longest record that is read; a longer one is damaged.
pub(super) const MAX_BYTES: u64 = 64 << 20;

impl Record {
    /// Reads a record; `None` when there is none.
    pub(super) fn read(path: &Path, digest: &Digest) -> anyhow::Result<Option<Self>> {
        let cannot = || format!("cannot read `{}`", path.display());
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(cannot)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(cannot),
        };
        ensure!(bytes.len() as u64 <= MAX_BYTES, "the record is too long");
        let record: Self = parse_checked_json(&bytes)?;
        record.must_be_of(digest)?;
        Ok(Some(record))
    }

    /// # Errors
    /// When it is that of another key.
    pub(super) fn must_be_of(&self, digest: &Digest) -> anyhow::Result<()> {
        ensure!(&self.digest == digest && self.key.digest() == *digest, "the record belongs to another key");
        Ok(())
    }
}
