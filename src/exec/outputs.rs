//! The folder of one run: `outputs/<recipe>/<run-id>/`, for people and scripts.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{durable, progress::Event};

/// The link, in a run's folder, that those of its steps go through.
const SHOWN: &str = ".shown";

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    events: File,
}

impl RunFolder {
    /// Makes `<outputs>/<recipe>/<time>-<process>` and points `latest` at it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(outputs: &Path, recipe: &str) -> anyhow::Result<Self> {
        let parent = outputs.join(recipe);
        let make = || -> anyhow::Result<(PathBuf, File)> {
            fs::create_dir_all(&parent)?;
            let id = format!("{}-{}", chrono::Utc::now().format("%Y%m%dT%H%M%S%3fZ"), std::process::id());
            let path = parent.join(&id);
            fs::create_dir(&path)?;
            let events = File::create(path.join("events.jsonl"))?;
            // `status` sees by it that the run lives. Some network disks know no locks.
            let _ = events.try_lock();
            point(&parent.join("latest"), Path::new(&id))?;
            Ok((path, events))
        };
        let (path, events) =
            make().with_context(|| format!("cannot make a run folder in `{}`", parent.display()))?;
        Ok(Self { path, events })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line to `events.jsonl`. A full disk must not end a run that can still go on.
    pub(super) fn event(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // In one write: thousands of steps make as many.
            let _ = self.events.write_all((line + "\n").as_bytes());
        }
    }

    /// Makes what links of steps need. `shown` is the cache's parent of folders with links, if it has one.
    pub(super) fn prepare_links(&self, shown: Option<&Path>) {
        // Without them only people have to look elsewhere.
        let _ = fs::create_dir(&self.steps().0);
        let _ = shown.map(|shown| symlink(shown, self.path.join(SHOWN)));
    }

    /// What its steps leave in it.
    pub(super) fn steps(&self) -> StepFolders {
        StepFolders(self.path.join("steps"))
    }

    /// Copies a report to the top of the run folder, where people look first.
    pub(super) fn copy_report(&self, artifact: &Path, below: &str) -> anyhow::Result<()> {
        let target = self.path.join(below);
        for entry in walkdir::WalkDir::new(artifact) {
            let entry = entry?;
            let path =
                target.join(entry.path().strip_prefix(artifact).expect("walkdir stays below its root"));
            if entry.file_type().is_dir() {
                fs::create_dir_all(&path)?;
            } else {
                let bytes = fs::read(entry.path())?;
                fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
            }
        }
        Ok(())
    }

    /// Writes a JSON file.
    pub(super) fn json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)? + "\n";
        durable::write(&self.path.join(name), &self.path, text.as_bytes())
    }
}

/// Where the artifacts and logs of a run's steps are found.
#[derive(Debug, Clone)]
pub(super) struct StepFolders(PathBuf);

impl StepFolders {
    pub(super) fn of(&self, node: &str) -> PathBuf {
        self.0.join(node)
    }

    /// Links a step to the cache's folder of links to its artifact and its log, or makes such a folder.
    pub(super) fn link(&self, node: &str, shown: Option<&Path>, artifact: &Path, log: &Path) {
        let folder = self.of(node);
        let Some(shown) = shown else {
            if fs::create_dir_all(&folder).is_ok() {
                let _ = symlink(artifact, folder.join("artifact"));
                let _ = symlink(log, folder.join("log.txt"));
            }
            return;
        };
        // The folder of a run is new, so nothing is in the way. A short target takes no block of the disk.
        let _ = symlink(Path::new("..").join(SHOWN).join(shown), folder);
    }
}

/// Makes or replaces a symbolic link in one move.
fn point(link: &Path, target: &Path) -> std::io::Result<()> {
    let new = link.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&new);
    symlink(target, &new)?;
    fs::rename(&new, link)
}
