//! Looking results up and committing them.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::{
    Cache, Mode,
    files::{self, content, list},
    folder::{self, CHECKPOINTS, TMP},
    lock::{self, LockOptions},
    record::{About, ArtifactFile, Record},
    remote::Remote,
    workspace::Workspace,
};
use crate::{
    cancel::Cancel,
    digest::Digest,
    durable::{self, checked_json, read_checked_json},
    error::{Error, hinted},
    fault,
    key::StepKey,
};

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
    /// Nobody looked: the mode forbids it.
    NotRead(Mode),
}

/// The right to save one entry. [`Cache::workspace`] and [`Cache::commit`] ask for it.
#[derive(Debug)]
pub struct EntryLock {
    digest: Digest,
    _file: File,
}

impl Cache {
    /// What is there for a key, without a lock.
    pub fn peek(&self, digest: &Digest) -> Result<Record, MissReason> {
        if self.mode.reads() { self.check(digest) } else { Err(MissReason::NotRead(self.mode)) }
    }

    /// Whether there is a usable result for a key, be it used or not.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.check(digest).is_ok()
    }

    fn check(&self, digest: &Digest) -> Result<Record, MissReason> {
        match Record::read(&self.find(folder::record(digest)), digest) {
            Ok(None) => Err(MissReason::New),
            Err(error) => Err(MissReason::Damaged(format!("its cache record is damaged ({error:#})"))),
            Ok(Some(record)) => match files::check_quickly(&record, &self.artifact_path(&record.artifact)) {
                Ok(()) => Ok(record),
                Err(error) => Err(MissReason::Damaged(format!("its cached result is damaged ({error:#})"))),
            },
        }
    }

    /// What the remote cache promises for a key. Nothing is fetched but the record.
    pub fn peek_remote(&self, digest: &Digest) -> Option<Record> {
        self.read_remote()?.record(digest).map(|found| found.record)
    }

    /// The remote cache, where results are used at all.
    fn read_remote(&self) -> Option<&Remote> {
        self.remote.as_ref().filter(|_| self.mode.reads())
    }

    /// A result, or the lock to make one. Waits while another process makes it.
    ///
    /// # Errors
    /// When the wait is cut short or the cache cannot be written.
    pub fn lookup(&self, digest: &Digest, force: bool, options: &LockOptions) -> Result<Lookup, Error> {
        if !force && let Ok(record) = self.peek(digest) {
            return Ok(Lookup::Hit(Box::new(record)));
        }
        let path = self.own("locks").join(digest.hex());
        let file = lock::acquire(&path, "a step of the cache", options)?;
        let lock = EntryLock { digest: digest.clone(), _file: file };
        // Whoever held the lock may have made the result.
        let reason = match self.peek(digest) {
            Ok(record) if !force => return Ok(Lookup::Hit(Box::new(record))),
            Ok(_) => MissReason::New,
            Err(reason) => reason,
        };
        match if force { None } else { self.fetch(&lock, options.cancel) } {
            Some(record) => {
                if let MissReason::Damaged(problem) = reason {
                    self.warn(&format!("{problem}, so the remote cache's is taken"));
                }
                Ok(Lookup::Hit(Box::new(record)))
            }
            None => Ok(Lookup::Miss(reason, lock)),
        }
    }

    /// The result of the remote cache, committed here. Whatever is wrong with it is a warning.
    fn fetch(&self, lock: &EntryLock, cancel: &Cancel) -> Option<Record> {
        let remote = self.read_remote()?;
        let found = remote.record(&lock.digest)?;
        let workspace = match self.workspace(lock) {
            Ok(workspace) => workspace,
            Err(error) => {
                self.warn(&format!("nothing is fetched from the remote cache: {error:#}"));
                return None;
            }
        };
        if !remote.files(&found, &workspace, cancel) {
            return None;
        }
        let about = About::of(found.record);
        let saved = self.save(lock, workspace, about);
        saved.map_err(|error| self.warn(&format!("cannot keep what the remote cache holds: {error:#}"))).ok()
    }

    /// The key of a result, whatever became of its files.
    pub fn key_of(&self, digest: &Digest) -> Option<StepKey> {
        Some(Record::read(&self.find(folder::record(digest)), digest).ok()??.key)
    }

    /// The key that once led to an artifact; the newest where several did. Reads every record.
    pub fn maker_of(&self, artifact: &Digest) -> Option<StepKey> {
        let records = self.records().ok()?.into_iter();
        let digests = records.filter_map(|(_, name)| Digest::of_hex(&name));
        let made = digests
            .filter_map(|digest| Record::read(&self.find(folder::record(&digest)), &digest).ok()?)
            .filter(|record| record.artifact == *artifact);
        made.max_by_key(|record| record.committed_at).map(|record| record.key)
    }

    /// The log of a step that runs now.
    pub fn running_log(&self, digest: &Digest) -> Option<PathBuf> {
        let prefix = format!("{}-", digest.short());
        let entries = fs::read_dir(self.own(TMP)).into_iter().flatten().flatten();
        let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        logs.map(|entry| entry.path().join("log.txt")).find(|log| log.is_file())
    }

    /// Gives a committed result to the remote cache. What goes wrong is a warning.
    pub fn share(&self, record: &Record, cancel: &Cancel) {
        if let Some(remote) = &self.remote {
            let (artifact, log) = (self.artifact_path(&record.artifact), self.log_path(&record.digest));
            remote.store(record, &artifact, &log, cancel);
        }
    }

    /// The time of the last use; `prune` goes by it. Another user's record may not allow it.
    pub(crate) fn mark_used(&self, digest: &Digest) {
        if self.mode.writes() {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let now = Timestamps { last_access: now, last_modification: now };
            let _ = utimensat(CWD, self.own(folder::record(digest)), &now, AtFlags::empty());
        }
    }

    /// An empty place to run a step in. What a killed run left in its place goes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workspace(&self, lock: &EntryLock) -> anyhow::Result<Workspace> {
        let tmp = self.own(TMP);
        let prefix = format!("{}-", lock.digest.short());
        if let Ok(entries) = fs::read_dir(&tmp) {
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        Workspace::new(&tmp, &prefix, &self.idle)
    }

    /// Saves what a step left in its workspace: fsync, rename, then the record, then fsync of what names it.
    ///
    /// What a power cut may take decides where there is a wait for the disk:
    ///
    /// - The files of the artifact are on the disk before a record names them: a look-up goes by their sizes
    ///   and times, which file systems may keep where they lose the content.
    /// - The record is renamed to its place first and synced there, together with the folders that hold it
    ///   and the artifact; a journal then writes all of it at once. In between, a power cut may leave it torn,
    ///   which its checksum shows, or without its artifact: a miss either way. When this returns, the result
    ///   stays.
    /// - Checkpoints go only after that.
    /// - The log and the node's last key wait for nothing: no look-up goes by them.
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let about = About {
            key,
            node: node.to_owned(),
            evergraft: env!("CARGO_PKG_VERSION").to_owned(),
            committed_at: now.as_secs(),
            duration_ms: duration.as_millis() as u64,
            warnings,
        };
        self.save(lock, workspace, about)
    }

    fn save(&self, lock: &EntryLock, workspace: Workspace, about: About) -> anyhow::Result<Record> {
        let out = workspace.out();
        fault::point("step done");
        files::protect(&out)?;
        fault::point("files protected");
        let files = list(&out)?;
        let artifact = content(&files);
        durable::sync_tree(&out)?;
        fault::point("files synced");
        let files = self.place_artifact(&out, &artifact, files)?;
        fault::point("artifact placed");
        place_log(&workspace.log(), &self.own(folder::log(&lock.digest)))?;
        fault::point("log written");
        let record = about.with(&lock.digest, artifact, files);
        self.put(folder::record(&lock.digest), &checked_json(&record)?)?;
        fault::point("record written");
        let (file, artifact) =
            (self.own(folder::record(&lock.digest)), self.own(folder::artifact(&record.artifact)));
        durable::sync(&file)?;
        for place in [file, artifact] {
            durable::sync(place.parent().expect("results lie in folders"))?;
        }
        fault::point("record synced");
        self.forget_checkpoints(lock);
        fault::point("checkpoints removed");
        Ok(record)
    }

    /// Where a step keeps what it needs to go on after a kill. It outlives the workspace and goes
    /// with the commit.
    pub fn checkpoints(&self, lock: &EntryLock) -> PathBuf {
        self.own(CHECKPOINTS).join(lock.digest.hex())
    }

    /// A file that the process locks which runs a step.
    pub fn process_lock(&self, lock: &EntryLock) -> PathBuf {
        self.own("locks").join(format!("{}.process", lock.digest.hex()))
    }

    /// Makes the step start afresh. What cannot be removed is only in the way of disk space.
    pub fn forget_checkpoints(&self, lock: &EntryLock) {
        let _ = fs::remove_dir_all(self.checkpoints(lock));
    }

    /// Remembers the key that a node of a recipe has now; `explain` compares with it.
    pub fn remember(&self, recipe: &str, node: &str, key: &StepKey) {
        if self.keeps_notes()
            && let Ok(bytes) = checked_json(key)
            && fs::read(self.find(folder::last(recipe, node))).ok().as_ref() != Some(&bytes)
        {
            // Only explanations suffer when this fails.
            let _ = self.put(folder::last(recipe, node), &bytes);
        }
    }

    /// The key that a node of a recipe had when it last ran or was found.
    pub fn last_key(&self, recipe: &str, node: &str) -> Option<StepKey> {
        read_checked_json(&self.find(folder::last(recipe, node))).ok()
    }

    /// How long a node of a recipe took when its result was made.
    pub fn last_duration(&self, recipe: &str, node: &str) -> Option<Duration> {
        let digest = self.last_key(recipe, node)?.digest();
        let record = Record::read(&self.find(folder::record(&digest)), &digest).ok()??;
        Some(Duration::from_millis(record.duration_ms))
    }

    /// Moves a finished folder to its place; gives the files as they lie there. Another key may
    /// have led to the same bytes before, or does so at this moment.
    fn place_artifact(
        &self,
        out: &Path,
        artifact: &Digest,
        files: Vec<ArtifactFile>,
    ) -> anyhow::Result<Vec<ArtifactFile>> {
        let place = self.own(folder::artifact(artifact));
        let parent = place.parent().expect("artifacts lie in folders");
        fs::create_dir_all(parent).with_context(|| format!("cannot make `{}`", parent.display()))?;
        for _ in 0..10 {
            match list(&place) {
                Ok(there) if content(&there) == *artifact => return Ok(there),
                // What cannot be read is as good as damaged.
                _ if fs::symlink_metadata(&place).is_ok() => self.move_away(&place)?,
                _ => {}
            }
            match fs::rename(out, &place) {
                Ok(()) => {
                    fault::point("artifact renamed");
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

    /// Somebody may be reading it, so the name is made free at once, before the files go.
    fn move_away(&self, damaged: &Path) -> anyhow::Result<()> {
        let aside = tempfile::tempdir_in(self.own(TMP))?;
        match fs::rename(damaged, aside.path().join("damaged")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(hinted(
                format!("cannot move the damaged artifact `{}` away: {error}", damaged.display()),
                "remove it by hand, or ask its owner to",
            )),
            _ => {
                fault::point("damaged artifact moved");
                Ok(())
            }
        }
    }
}

/// Moves a log to its place, however large it is; a step need not have one.
fn place_log(from: &Path, to: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot keep the log `{}`", to.display());
    let folder = to.parent().expect("logs lie in folders");
    fs::create_dir_all(folder).with_context(cannot)?;
    File::options().create(true).append(true).open(from).with_context(cannot)?;
    fs::rename(from, to).with_context(cannot)
}
