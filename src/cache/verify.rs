//! `cache verify`, `size` and `clean`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    Cache,
    files::{content, list},
    folder::{BUCKET, CHECKPOINTS, DAMAGED, DOWNLOADS},
    record::Record,
};
use crate::durable::read_checked_json;

/// One thing that is not as it was saved.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Damage {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// The record that leads to it.
    #[serde(skip)]
    record: PathBuf,
}

/// How much the cache holds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Size {
    /// Committed steps.
    pub records: u64,
    /// Steps that were stopped and can go on.
    pub unfinished: u64,
    /// Bytes of everything.
    pub bytes: u64,
}

impl Cache {
    /// Reads every record and every file of every artifact again.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn verify(&self, on_record: &mut dyn FnMut()) -> anyhow::Result<Vec<Damage>> {
        let mut damage = Vec::new();
        for (path, name) in self.records()? {
            on_record();
            let mut report = |place: PathBuf, problem: String| {
                damage.push(Damage { path: place, problem, record: path.clone() });
            };
            let record: Record = match read_checked_json(&path) {
                Ok(record) => record,
                Err(error) => {
                    report(path.clone(), format!("the record is damaged: {error:#}"));
                    continue;
                }
            };
            if record.digest.hex() != name || record.key.digest() != record.digest {
                report(path.clone(), "the record belongs to another key".to_owned());
            }
            let place = self.artifact_path(&record.artifact);
            match list(&place) {
                Ok(files) if content(&files) == record.artifact => {}
                Ok(_) => report(place, format!("the artifact of `{}` was changed", record.node)),
                Err(_) if fs::symlink_metadata(&place).is_err() => {
                    report(place, format!("the artifact of `{}` is gone", record.node))
                }
                Err(error) => {
                    report(place, format!("the artifact of `{}` is damaged: {error:#}", record.node))
                }
            }
        }
        Ok(damage)
    }

    /// Every record's file, and its name.
    pub(super) fn records(&self) -> anyhow::Result<Vec<(PathBuf, String)>> {
        let folder = self.own("records");
        let mut found = Vec::new();
        for entry in walkdir::WalkDir::new(&folder).sort_by_file_name() {
            let entry = entry.with_context(|| format!("cannot read `{}`", folder.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_file() && !name.starts_with('.') {
                found.push((entry.into_path(), name));
            }
        }
        Ok(found)
    }

    /// Moves what is damaged into a folder of its own, so that its steps run again without a word.
    /// The caller holds [`Cache::lock_alone`].
    ///
    /// # Errors
    /// When something cannot be moved.
    pub fn set_aside(&self, damage: &[Damage]) -> anyhow::Result<PathBuf> {
        let damaged = self.own(DAMAGED);
        fs::create_dir_all(&damaged).with_context(|| format!("cannot make `{}`", damaged.display()))?;
        let places: BTreeSet<&PathBuf> = damage.iter().flat_map(|item| [&item.record, &item.path]).collect();
        for path in places {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let free = (0..).map(|n| damaged.join(format!("{name}-{n}"))).find(|place| !place.exists());
            let free = free.expect("some number is free");
            match fs::rename(path, &free) {
                // Two records may tell of one artifact, which may be gone altogether.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot move `{}`", path.display()));
                }
                _ => {}
            }
        }
        Ok(damaged)
    }

    /// Counts records and bytes.
    pub fn size(&self) -> Size {
        let mut size = self.size_of(&[BUCKET, DOWNLOADS].map(|name| self.root.join(name)));
        size.unfinished = self.size_of_checkpoints().unfinished;
        size
    }

    fn size_of_checkpoints(&self) -> Size {
        let folder = self.root.join(BUCKET).join(CHECKPOINTS);
        let steps = fs::read_dir(&folder).into_iter().flatten().count();
        Size { unfinished: steps as u64, ..self.size_of(&[folder]) }
    }

    fn size_of(&self, folders: &[PathBuf]) -> Size {
        let mut size = Size::default();
        let records = self.root.join(BUCKET).join("records");
        for entry in folders.iter().flat_map(walkdir::WalkDir::new).flatten() {
            if let Ok(about) = entry.metadata()
                && about.is_file()
            {
                size.bytes += about.len();
                size.records += u64::from(entry.path().starts_with(&records));
            }
        }
        size
    }

    /// Removes what unfinished steps would go on from. The caller holds [`Cache::lock_alone`].
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn clean_checkpoints(&self) -> anyhow::Result<Size> {
        let size = self.size_of_checkpoints();
        remove(&self.root.join(BUCKET).join(CHECKPOINTS))?;
        Ok(size)
    }

    /// Removes everything. The caller holds [`Cache::lock_alone`].
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn clean(&self) -> anyhow::Result<Size> {
        let size = self.size();
        for folder in [BUCKET, DOWNLOADS].map(|name| self.root.join(name)) {
            remove(&folder)?;
        }
        Ok(size)
    }
}

pub(super) fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}
