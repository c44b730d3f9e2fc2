//! Looking results up and committing them.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};

use super::{
    lock::{self, LockOptions, UseLock},
    record::{ArtifactFile, Record},
};
use crate::{
    digest::Digest,
    durable::{self, checked_json, parse_checked_json},
    error::{Error, hinted},
    key::StepKey,
};

/// The folder of everything that this format of the cache holds.
pub(super) const BUCKET: &str = "steps-v1";
/// The folder of what unfinished steps go on from.
pub(super) const CHECKPOINTS: &str = "checkpoints";
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
            make_folders(&root)
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
        let lock = UseLock::take(&self.root.join("use.lock"), false, options)?;
        // `clean` may have held the lock until now.
        make_folders(&self.root).context("cannot use the cache folder")?;
        Ok(lock)
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
            // As the umask says, so that users can share a cache.
            .permissions(Permissions::from_mode(0o777))
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
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = match (entry.file_type().is_dir(), executable) {
                (true, _) => 0o755,
                (false, true) => 0o555,
                (false, false) => 0o444,
            };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
        let files = list(&out)?;
        let artifact = content(&files);
        durable::sync_tree(&out)?;
        let files = self.place_artifact(&out, &artifact, files)?;
        let log = fs::read(workspace.log()).unwrap_or_default();
        durable::write(&self.log_path(&lock.digest), &log)?;
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
        self.forget_checkpoints(lock);
        Ok(record)
    }

    /// Where a step keeps what it needs to go on after a kill. It outlives the workspace and goes
    /// with the commit.
    pub fn checkpoints(&self, lock: &EntryLock) -> PathBuf {
        self.root.join(BUCKET).join(CHECKPOINTS).join(lock.digest.hex())
    }

    /// A file that the process locks which runs a step.
    pub fn process_lock(&self, lock: &EntryLock) -> PathBuf {
        self.root.join(BUCKET).join("locks").join(format!("{}.process", lock.digest.hex()))
    }

    /// Makes the step start afresh. What cannot be removed is only in the way of disk space.
    pub fn forget_checkpoints(&self, lock: &EntryLock) {
        let _ = fs::remove_dir_all(self.checkpoints(lock));
    }

    /// Remembers the key that a node of a recipe has now; `explain` compares with it.
    pub fn remember(&self, recipe: &str, node: &str, key: &StepKey) {
        if self.last_key(recipe, node).as_ref() != Some(key)
            && let Ok(bytes) = checked_json(key)
        {
            // Only explanations suffer when this fails.
            let _ = durable::write(&self.last_path(recipe, node), &bytes);
        }
    }

    /// The key that a node of a recipe had when it last ran or was found.
    pub fn last_key(&self, recipe: &str, node: &str) -> Option<StepKey> {
        parse_checked_json(&fs::read(self.last_path(recipe, node)).ok()?).ok()
    }

    /// How long a node of a recipe took when its result was made.
    pub fn last_duration(&self, recipe: &str, node: &str) -> Option<Duration> {
        let digest = self.last_key(recipe, node)?.digest();
        let record = Record::read(&self.record_path(&digest), &digest).ok()??;
        Some(Duration::from_millis(record.duration_ms))
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
        let mut there = listing(&folder)?;
        for file in &record.files {
            let Some(now) = there.remove(&file.path) else { bail!("`{}` is missing", file.path) };
            let same = now.size == file.size
                && now.executable == file.executable
                && (now.mtime_ns == file.mtime_ns
                    || Digest::of_file(&folder.join(&file.path))? == file.digest);
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

fn make_folders(root: &Path) -> std::io::Result<()> {
    for folder in ["records", "artifacts", "logs", "last", "sources", "locks", "tmp"] {
        fs::create_dir_all(root.join(BUCKET).join(folder))?;
    }
    Ok(())
}

/// What a folder's listing says of a file.
struct Listed {
    size: u64,
    mtime_ns: u64,
    executable: bool,
}

fn listing(folder: &Path) -> anyhow::Result<std::collections::BTreeMap<String, Listed>> {
    let mut out = std::collections::BTreeMap::new();
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

impl Cache {
    /// Moves a finished folder to its place; gives the files as they lie there. Another key may
    /// have led to the same bytes before, or does so at this moment.
    fn place_artifact(
        &self,
        out: &Path,
        artifact: &Digest,
        files: Vec<ArtifactFile>,
    ) -> anyhow::Result<Vec<ArtifactFile>> {
        let place = self.artifact_path(artifact);
        let parent = place.parent().expect("artifacts lie in folders");
        fs::create_dir_all(parent)?;
        for _ in 0..10 {
            match list(&place) {
                Ok(there) if content(&there) == *artifact => return Ok(there),
                // Somebody may be reading it: aside first, so that the name is free at once.
                Ok(_) => {
                    let aside = tempfile::tempdir_in(self.root.join(BUCKET).join("tmp"))?;
                    match fs::rename(&place, aside.path().join("damaged")) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error).context("cannot remove a damaged artifact");
                        }
                        _ => {}
                    }
                }
                Err(_) => {}
            }
            match fs::rename(out, &place) {
                Ok(()) => {
                    durable::sync_dir(parent)?;
                    return Ok(files);
                }
                // Somebody else was faster.
                Err(_) if place.exists() => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make `{}`", place.display()));
                }
            }
        }
        bail!("`{}` changes all the time", place.display())
    }
}
