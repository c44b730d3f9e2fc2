//! Opening a cache folder: what may be done with it, where things lie in it, who uses it.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::UNIX_EPOCH,
};

use anyhow::Context as _;

use super::{
    lock::{LockOptions, UseLock},
    mode::Mode,
    record::Record,
    remote::Remote,
    workspace::IdleFolders,
};
use crate::{
    digest::Digest,
    durable,
    error::{Error, hinted},
};

/// The folder of everything that this format of the cache holds.
pub(super) const BUCKET: &str = "steps-v1";
/// The folder of what is not committed yet.
pub(super) const TMP: &str = "tmp";
/// The folder of folders with links to a result's artifact and log, which runs link to.
pub(super) const SHOWN: &str = "shown";
/// The folder of what unfinished steps go on from.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// The folder of the notes of those who use the cache.
const USERS: &str = "users";
const USE_LOCK: &str = "use.lock";
/// The folder of what `verify --repair` took out.
pub(super) const DAMAGED: &str = "damaged";
/// The folder of the lists of what kept runs need.
pub(super) const KEPT: &str = "kept";
/// The folder of files of the web, by their digest.
pub(super) const DOWNLOADS: &str = "downloads-v1";
/// Says how the bucket is written. An evergraft that writes it in a way that this one cannot keep up
/// sets a higher number.
const FORMAT_FILE: &str = "format";
const FORMAT: u32 = 1;
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of evergraft; `evergraft cache clean` empties it.\n";

/// An opened cache: a folder, and a remote one where that is wished.
#[derive(Debug)]
pub struct Cache {
    pub(super) root: PathBuf,
    /// Looked at, but never written.
    beneath: Option<PathBuf>,
    pub(super) mode: Mode,
    pub(super) remote: Option<Remote>,
    warnings: Mutex<Vec<String>>,
    pub(super) idle: Arc<IdleFolders>,
}

impl Cache {
    /// Opens a cache, making its folders when they are not there and the mode writes.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(root: &Path, mode: Mode) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)?;
        let mut cache = Self {
            root,
            beneath: None,
            mode,
            remote: None,
            warnings: Mutex::default(),
            idle: Arc::default(),
        };
        if let Some(newer) = cache.newer_format() {
            cache.read_only(&format!(
                "the cache `{}` was written by a newer evergraft (format {newer}, this one knows {FORMAT}), so nothing \
                 is kept there",
                cache.root.display()
            ));
        }
        if cache.mode.writes()
            && let Err(error) = cache.prepare()
        {
            let forbidden =
                matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
            if !forbidden || !cache.root.join(BUCKET).is_dir() {
                return Err(hinted(
                    format!("cannot use the cache folder `{}`: {error}", cache.root.display()),
                    format!("choose another with --cache-dir or {}", crate::env::CACHE_DIR),
                ));
            }
            cache.read_only(&format!(
                "the cache `{}` cannot be written ({error}), so nothing is kept there",
                cache.root.display()
            ));
        }
        Ok(cache)
    }

    /// Shares results with another cache.
    pub fn with_remote(self, remote: Option<Remote>) -> Self {
        Self { remote, ..self }
    }

    /// Whether results are shared at all.
    pub fn has_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// The cache of one run. Results that must not be kept lie in the run's folder.
    ///
    /// # Errors
    /// When the run's folder cannot be written.
    pub fn of_run(mut self, folder: &Path) -> anyhow::Result<Self> {
        if !self.mode.writes() {
            let own = std::path::absolute(folder)?.join("cache");
            make_folders(&own).with_context(|| format!("cannot make `{}`", own.display()))?;
            self.beneath = Some(std::mem::replace(&mut self.root, own));
        }
        Ok(self)
    }

    fn prepare(&self) -> std::io::Result<()> {
        fs::create_dir_all(&self.root)?;
        let format = self.root.join(BUCKET).join(FORMAT_FILE);
        for (name, text) in [("CACHEDIR.TAG", TAG), (".gitignore", "*\n")] {
            if !self.root.join(name).exists() {
                fs::write(self.root.join(name), text)?;
            }
        }
        make_folders(&self.root)?;
        if !format.exists() {
            fs::write(format, format!("{FORMAT}\n"))?;
        }
        // Folders that are there say nothing of the right to write into them.
        tempfile::tempfile_in(self.root.join(BUCKET).join(TMP)).map(drop)
    }

    fn newer_format(&self) -> Option<u32> {
        let text = fs::read_to_string(self.root.join(BUCKET).join(FORMAT_FILE)).ok()?;
        text.trim().parse().ok().filter(|format| *format > FORMAT)
    }

    fn read_only(&mut self, why: &str) {
        let was = self.mode;
        self.mode = if was.reads() { Mode::Read } else { Mode::Off };
        if self.mode != was {
            self.warn(why);
        }
    }

    pub(super) fn warn(&self, text: &str) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(text.to_owned());
        }
    }

    /// What went wrong since the last call without being an error.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut all = self.warnings.lock().map(|mut own| std::mem::take(&mut *own)).unwrap_or_default();
        all.extend(self.remote.iter().flat_map(Remote::take_warnings));
        all
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// # Errors
    /// When this cache may only be read.
    pub(super) fn must_be_writable(&self) -> anyhow::Result<()> {
        if self.mode.writes() {
            return Ok(());
        }
        let message = format!("the cache `{}` is only read", self.root.display());
        Err(hinted(message, "choose another with --cache-dir, or set --cache-mode"))
    }

    /// Whether memories and notes may be written: to the cache itself, or to the run's own.
    pub(super) fn keeps_notes(&self) -> bool {
        self.mode.writes() || self.beneath.is_some()
    }

    /// Marks the cache as used; while held, `clean` and `prune` wait.
    ///
    /// # Errors
    /// When somebody is cleaning it for too long.
    pub fn lock_shared(&self, options: &LockOptions) -> Result<UseLock, Error> {
        if self.mode.writes() {
            self.sweep();
        }
        let lock = self.use_lock(false, options)?;
        if self.mode.writes() {
            // `clean` may have held the lock until now.
            make_folders(&self.root).context("cannot use the cache folder")?;
        }
        Ok(lock)
    }

    /// Removes what killed runs left, where nobody else is there whose work it could be. What cannot be
    /// removed is only in the way of disk space.
    fn sweep(&self) {
        let Some(_alone) = UseLock::try_alone(&self.root.join(USE_LOCK)) else { return };
        for folder in [TMP, USERS] {
            for entry in fs::read_dir(self.own(folder)).into_iter().flatten().flatten() {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
        // A kill right after the commit leaves what nobody will go on from; what is newer than the record is of
        // a step that runs again, although its result is here.
        for entry in fs::read_dir(self.own(CHECKPOINTS)).into_iter().flatten().flatten() {
            if let Some(key) = Digest::of_hex(&entry.file_name().to_string_lossy())
                && let Ok(Some(done)) = Record::read(&self.own(record(&key)), &key)
                && newest(&entry.path()) <= done.committed_at
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Takes the cache alone.
    ///
    /// # Errors
    /// When it is only read, or somebody uses it for too long.
    pub fn lock_alone(&self, options: &LockOptions) -> Result<UseLock, Error> {
        self.must_be_writable().map_err(Error::Usage)?;
        self.use_lock(true, options)
    }

    fn use_lock(&self, alone: bool, options: &LockOptions) -> Result<UseLock, Error> {
        UseLock::take(&self.root.join(USE_LOCK), &self.own(USERS), alone, !self.mode.writes(), options)
    }

    /// Where something of the bucket is written.
    pub(super) fn own(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(BUCKET).join(below)
    }

    /// Writes a file of the bucket in one move that outlives a power cut.
    pub(super) fn write(&self, below: impl AsRef<Path>, bytes: &[u8]) -> anyhow::Result<()> {
        durable::write(&self.own(below), &self.own(TMP), bytes)
    }

    /// The same, without a wait for the disk: for what shows when it is torn, and may be lost.
    pub(super) fn put(&self, below: impl AsRef<Path>, bytes: &[u8]) -> anyhow::Result<()> {
        durable::put(&self.own(below), &self.own(TMP), bytes)
    }

    /// Where something of the bucket is read.
    pub(super) fn find(&self, below: impl AsRef<Path>) -> PathBuf {
        let own = self.own(&below);
        match &self.beneath {
            Some(beneath) if !own.exists() => {
                let other = beneath.join(BUCKET).join(below);
                if other.exists() { other } else { own }
            }
            _ => own,
        }
    }

    /// Where steps keep files of the web by their digest.
    pub fn downloads(&self) -> PathBuf {
        self.root.join(DOWNLOADS)
    }

    /// Parent of the folders that [`Self::show`] names; none where it names none.
    pub fn shown(&self) -> Option<PathBuf> {
        // What lies beneath would be shown as if it were this one's.
        self.beneath.is_none().then(|| self.own(SHOWN))
    }

    /// Name, below [`Self::shown`], of a folder with links to a result's artifact and its log: `artifact`, which
    /// stays when a later run of the same step makes other bytes, and `log.txt`, which is that of the newest.
    /// None where it cannot be made.
    pub fn show(&self, result: &Record) -> Option<PathBuf> {
        let (key, bytes) = (&result.digest, &result.artifact);
        // Short enough for a file system to keep a link to it in an inode.
        let name = Path::new(&key.hex()[..2]).join(format!("{}-{}", &key.hex()[..24], bytes.short()));
        let folder = self.shown()?.join(&name);
        let links = [("artifact", artifact(bytes)), ("log.txt", log(key))];
        if links.iter().all(|(link, _)| fs::symlink_metadata(folder.join(link)).is_ok()) {
            return Some(name);
        }
        fs::create_dir(&folder).or_else(|_| fs::create_dir_all(&folder)).ok()?;
        for (link, target) in links {
            match symlink(Path::new("../../..").join(target), folder.join(link)) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return None,
                _ => {}
            }
        }
        Some(name)
    }

    /// Folder of an artifact.
    pub fn artifact_path(&self, digest: &Digest) -> PathBuf {
        self.find(artifact(digest))
    }

    /// Log of the run that made a key's result.
    pub fn log_path(&self, digest: &Digest) -> PathBuf {
        self.find(log(digest))
    }
}

/// Names below the bucket.
pub(super) fn artifact(digest: &Digest) -> PathBuf {
    sharded("artifacts", digest, "")
}

pub(super) fn log(digest: &Digest) -> PathBuf {
    sharded("logs", digest, ".txt")
}

pub(super) fn record(digest: &Digest) -> PathBuf {
    sharded("records", digest, "")
}

pub(super) fn last(recipe: &str, node: &str) -> PathBuf {
    Path::new("last").join(Digest::of_bytes(format!("{recipe}\n{node}").as_bytes()).hex())
}

fn sharded(what: &str, digest: &Digest, ending: &str) -> PathBuf {
    Path::new(what).join(&digest.hex()[..2]).join(format!("{}{ending}", digest.hex()))
}

/// When something in a folder was last written, in seconds since 1970.
fn newest(folder: &Path) -> u64 {
    let all = walkdir::WalkDir::new(folder).into_iter().flatten();
    let times = all.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    let newest = times.max().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    newest.unwrap_or_default().as_secs()
}

fn make_folders(root: &Path) -> std::io::Result<()> {
    for folder in ["records", "artifacts", "logs", SHOWN, "last", "sources", "locks", TMP] {
        let folder = Path::new(BUCKET).join(folder);
        fs::create_dir_all(root.join(&folder)).map_err(|error| {
            // Callers name the cache, and go by the kind.
            std::io::Error::new(error.kind(), format!("cannot make `{}`: {error}", folder.display()))
        })?;
    }
    Ok(())
}
