//! Looking results up and committing them.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};

use super::{
    atomic,
    lock::{self, LockOptions, UseLock},
    record::{self, ArtifactFile, Record},
};
use crate::{
    digest::Digest,
    error::{Error, hinted},
    key::StepKey,
};

/// The folder of everything that this format of the cache holds.
pub(super) const BUCKET: &str = "steps-v1";
/// The folder of files of the web, by their digest.
pub(super) const DOWNLOADS: &str = "downloads-v1";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of evergraft; `evergraft cache clean` empties it.\n";

/// An opened cache folder.
#[derive(Debug)]
pub struct Cache {
    pub(super) root: PathBuf,
}

/// What a look-up found.
pub enum Lookup {
    /// A usable result.
    Hit(Box<Record>),
    /// None, why, and the lock that saving one needs.
    Miss(MissReason, EntryLock),
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// There never was one for this key.
    New,
    /// There is one, but something is wrong with it.
    Damaged(String),
}

/// The right to save one entry. [`Cache::workspace`] and [`Cache::commit`] ask for it.
#[derive(Debug)]
pub struct EntryLock {
    digest: Digest,
    _file: File,
}

/// Where a step runs before its result is committed. Removed with everything in it when dropped.
#[derive(Debug)]
pub struct Workspace {
    dir: tempfile::TempDir,
}

impl Workspace {
    /// The empty folder that becomes the artifact.
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("artifact")
    }

    /// The log that is kept with the result.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log.txt")
    }
}

impl Cache {
    /// Opens a cache, making its folders when they are not there.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)?;
        let prepare = || -> std::io::Result<()> {
            fs::create_dir_all(&root)?;
            for (name, text) in [("CACHEDIR.TAG", TAG), (".gitignore", "*\n")] {
                if !root.join(name).exists() {
                    fs::write(root.join(name), text)?;
                }
            }
            for folder in ["records", "artifacts", "logs", "last", "locks", "tmp"] {
                fs::create_dir_all(root.join(BUCKET).join(folder))?;
            }
            Ok(())
        };
        prepare().map_err(|error| {
            hinted(
                format!("cannot use the cache folder `{}`: {error}", root.display()),
                format!("choose another with --cache-dir or {}", crate::env::CACHE_DIR),
            )
        })?;
        Ok(Self { root })
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Marks the cache as used; while held, `clean` waits.
    ///
    /// # Errors
    /// When somebody is cleaning it for too long.
    pub fn lock_shared(&self, options: &LockOptions) -> Result<UseLock, Error> {
        UseLock::take(&self.root.join("use.lock"), false, options)
    }

    /// Takes the cache alone.
    ///
    /// # Errors
    /// When somebody uses it for too long.
    pub fn lock_alone(&self, options: &LockOptions) -> Result<UseLock, Error> {
        UseLock::take(&self.root.join("use.lock"), true, options)
    }

    /// What is there for a key, without a lock.
    pub fn peek(&self, digest: &Digest) -> Result<Record, MissReason> {
        match Record::read(&self.record_path(digest), digest) {
            Ok(None) => Err(MissReason::New),
            Err(error) => Err(MissReason::Damaged(format!("its cache record is damaged ({error:#})"))),
            Ok(Some(record)) => match self.check_quickly(&record) {
                Ok(()) => Ok(record),
                Err(error) => Err(MissReason::Damaged(format!("its cached result is damaged ({error:#})"))),
            },
        }
    }

    /// A result, or the lock to make one. Waits while another process makes it.
    ///
    /// # Errors
    /// When the wait is cut short or the cache cannot be written.
    pub fn lookup(&self, digest: &Digest, force: bool, options: &LockOptions) -> Result<Lookup, Error> {
        if !force && let Ok(record) = self.peek(digest) {
            return Ok(Lookup::Hit(Box::new(record)));
        }
        let path = self.root.join(BUCKET).join("locks").join(digest.hex());
        let file = lock::acquire(&path, true, "a step of the cache", options)?;
        let lock = EntryLock { digest: digest.clone(), _file: file };
        // Whoever held the lock may have made the result.
        match self.peek(digest) {
            Ok(record) if !force => Ok(Lookup::Hit(Box::new(record))),
            Ok(_) => Ok(Lookup::Miss(MissReason::New, lock)),
            Err(reason) => Ok(Lookup::Miss(reason, lock)),
        }
    }

    /// An empty place to run a step in. What a killed run left in its place goes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workspace(&self, lock: &EntryLock) -> anyhow::Result<Workspace> {
        let tmp = self.root.join(BUCKET).join("tmp");
        let prefix = format!("{}-", lock.digest.short());
        if let Ok(entries) = fs::read_dir(&tmp) {
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&tmp)
            .with_context(|| format!("cannot make a folder in `{}`", tmp.display()))?;
        fs::create_dir(dir.path().join("artifact")).context("cannot make the step's folder")?;
        Ok(Workspace { dir })
    }

    /// Saves what a step left in its workspace: fsync, rename, then the record.
    ///
    /// # Errors
    /// When the disk is full or the step left something that is no plain file.
    pub fn commit(
        &self,
        lock: &EntryLock,
        workspace: Workspace,
        key: StepKey,
        node: &str,
        duration: Duration,
        warnings: Vec<String>,
    ) -> anyhow::Result<Record> {
        let out = workspace.out();
        // The files are never written again: a tool that opens one for writing must fail rather
        // than change a result that others rely on.
        for entry in walkdir::WalkDir::new(&out) {
            let entry = entry?;
            if entry.file_type().is_symlink() || !(entry.file_type().is_file() || entry.file_type().is_dir())
            {
                bail!(
                    "the step left `{}`, which is neither a file nor a folder",
                    entry.path().strip_prefix(&out).unwrap_or(entry.path()).display()
                );
            }
            if entry.file_type().is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(0o444))?;
            }
        }
        let artifact = Digest::of_path(&out)?;
        let files = list(&out)?;
        atomic::sync_tree(&out)?;
        let place = self.artifact_path(&artifact);
        let parent = place.parent().expect("artifacts lie in folders");
        fs::create_dir_all(parent)?;
        let existing = place.is_dir() && Digest::of_path(&place).is_ok_and(|digest| digest == artifact);
        let files = if existing {
            list(&place)?
        } else {
            if place.exists() {
                fs::remove_dir_all(&place).context("cannot remove a damaged artifact")?;
            }
            fs::rename(&out, &place).with_context(|| format!("cannot make `{}`", place.display()))?;
            atomic::sync_dir(parent)?;
            files
        };
        let log = fs::read(workspace.log()).unwrap_or_default();
        atomic::write(&self.log_path(&lock.digest), &log)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            digest: lock.digest.clone(),
            key,
            artifact,
            files,
            node: node.to_owned(),
            evergraft: env!("CARGO_PKG_VERSION").to_owned(),
            committed_at: now.as_secs(),
            duration_ms: duration.as_millis() as u64,
            warnings,
        };
        record.write(&self.record_path(&lock.digest))?;
        Ok(record)
    }

    /// Remembers the key that a node of a recipe has now; `explain` compares with it.
    pub fn remember(&self, recipe: &str, node: &str, key: &StepKey) {
        if self.last_key(recipe, node).as_ref() != Some(key)
            && let Ok(bytes) = record::serialise(key)
        {
            // Only explanations suffer when this fails.
            let _ = atomic::write(&self.last_path(recipe, node), &bytes);
        }
    }

    /// The key that a node of a recipe had when it last ran or was found.
    pub fn last_key(&self, recipe: &str, node: &str) -> Option<StepKey> {
        record::parse(&fs::read(self.last_path(recipe, node)).ok()?).ok()
    }

    /// Where steps keep files of the web by their digest.
    pub fn downloads(&self) -> PathBuf {
        self.root.join(DOWNLOADS)
    }

    /// Folder of an artifact.
    pub fn artifact_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(BUCKET).join("artifacts").join(&digest.hex()[..2]).join(digest.hex())
    }

    /// Log of the run that made a key's result.
    pub fn log_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(BUCKET).join("logs").join(&digest.hex()[..2]).join(format!("{}.txt", digest.hex()))
    }

    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(BUCKET).join("records").join(&digest.hex()[..2]).join(digest.hex())
    }

    fn last_path(&self, recipe: &str, node: &str) -> PathBuf {
        let name = Digest::of_bytes(format!("{recipe}\n{node}").as_bytes());
        self.root.join(BUCKET).join("last").join(name.hex())
    }

    /// Every file is there with its size; one whose time changed is read again.
    fn check_quickly(&self, record: &Record) -> anyhow::Result<()> {
        let folder = self.artifact_path(&record.artifact);
        if !folder.is_dir() {
            bail!("its files are gone");
        }
        let mut there = list_sizes(&folder)?;
        for file in &record.files {
            let Some((size, mtime)) = there.remove(&file.path) else { bail!("`{}` is missing", file.path) };
            let same = size == file.size
                && (mtime == file.mtime_ns || Digest::of_file(&folder.join(&file.path))? == file.digest);
            if !same {
                bail!("`{}` was changed", file.path);
            }
        }
        if let Some(extra) = there.keys().next() {
            bail!("`{extra}` was added");
        }
        Ok(())
    }
}

fn list_sizes(folder: &Path) -> anyhow::Result<std::collections::BTreeMap<String, (u64, u64)>> {
    let mut out = std::collections::BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let about = entry.metadata()?;
            let mtime = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
            let path = entry.path().strip_prefix(folder).expect("walkdir stays below its root");
            out.insert(path.to_string_lossy().into_owned(), (about.len(), mtime));
        }
    }
    Ok(out)
}

fn list(folder: &Path) -> anyhow::Result<Vec<ArtifactFile>> {
    list_sizes(folder)?
        .into_iter()
        .map(|(path, (size, mtime_ns))| {
            let digest = Digest::of_file(&folder.join(&path))?;
            Ok(ArtifactFile { path, size, mtime_ns, digest })
        })
        .collect()
}
