//! Kernel file locks: they die with their owner, so nothing has to be unlocked by hand.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{cancel::Cancel, error::Error};

const POLL: Duration = Duration::from_millis(20);

/// How to wait for a lock.
#[derive(Clone)]
pub struct LockOptions<'a> {
    /// Give up after this long; none waits as long as the owner lives.
    pub timeout: Option<Duration>,
    /// Ends the wait.
    pub cancel: &'a Cancel,
    /// Told once, when the wait begins.
    pub on_wait: &'a dyn Fn(&str),
}

/// Held by everything that uses the cache; `clean` and `prune` take it alone.
#[derive(Debug)]
pub struct UseLock {
    /// None where a cache that is only read has no lock that could be opened.
    file: Option<File>,
    /// The note that names a user who shares it.
    note: Option<(File, PathBuf)>,
    alone: bool,
}

impl Drop for UseLock {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.alone) {
            // Those who share it write no owner, so the last one's name must not stay.
            let _ = file.set_len(0);
        }
        if let Some((_, path)) = &self.note {
            let _ = fs::remove_file(path);
        }
    }
}

impl UseLock {
    /// The lock alone, where it is free at this moment.
    pub(super) fn try_alone(path: &Path) -> Option<Self> {
        let file = open(path).ok()?;
        file.try_lock().ok()?;
        Some(Self { file: Some(file), note: None, alone: true })
    }

    /// `users` is the folder of the notes of those who share the lock.
    pub(super) fn take(
        path: &Path,
        users: &Path,
        alone: bool,
        read_only: bool,
        options: &LockOptions,
    ) -> Result<Self, Error> {
        if read_only && !path.exists() {
            return Ok(Self { file: None, note: None, alone });
        }
        let who = |file: &mut File| if alone { sharers(users) } else { owner(file) };
        let file = wait(path, alone, "the cache", &who, options)?;
        let note = if alone || read_only { None } else { note(users) };
        Ok(Self { file: Some(file), note, alone })
    }
}

/// A locked file that says who uses the cache. It is for messages alone, so it may fail.
fn note(users: &Path) -> Option<(File, PathBuf)> {
    fs::create_dir_all(users).ok()?;
    let (mut file, path) = tempfile::Builder::new().tempfile_in(users).ok()?.keep().ok()?;
    file.try_lock().ok()?;
    file.write_all(myself().as_bytes()).ok()?;
    Some((file, path))
}

/// Those whose notes are locked; a note that is not was left by a killed process, and goes.
fn sharers(users: &Path) -> String {
    let mut names = Vec::new();
    for entry in fs::read_dir(users).into_iter().flatten().flatten() {
        let Ok(mut file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => drop(fs::remove_file(entry.path())),
            Err(_) => names.push(owner(&mut file)),
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() { "another process".to_owned() } else { names.join(", ") }
}

fn myself() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let since = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    format!("process {} on {host} since {since}\n", std::process::id())
}

/// Waits for the lock on a file and writes its owner into it.
pub(super) fn acquire(path: &Path, what: &str, options: &LockOptions) -> Result<File, Error> {
    wait(path, true, what, &owner, options)
}

fn wait(
    path: &Path,
    alone: bool,
    what: &str,
    who: &dyn Fn(&mut File) -> String,
    options: &LockOptions,
) -> Result<File, Error> {
    let mut file = open(path)?;
    let start = Instant::now();
    let (mut first, mut told) = (true, false);
    loop {
        let taken = if alone { file.try_lock() } else { file.try_lock_shared() };
        match taken {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("cannot lock `{}`", path.display()))
                    .into());
            }
        }
        // A run that starts holds it alone for a moment, which is nothing to tell of.
        if std::mem::take(&mut first) {
            std::thread::sleep(POLL);
            continue;
        }
        if options.timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
            return Err(Error::LockTimeout(format!(
                "{what} is locked by {} and was not free within {} s\nhint: wait longer with `--lock-timeout SECONDS`",
                who(&mut file),
                options.timeout.unwrap_or_default().as_secs()
            )));
        }
        if !told {
            told = true;
            (options.on_wait)(&format!("waiting for {what}, which {} uses", who(&mut file)));
        }
        if let Some(signal) = options.cancel.signal() {
            return Err(Error::Signal(signal));
        }
        std::thread::sleep(POLL);
    }
    if alone {
        // For the message of those who wait; the lock itself is the kernel's.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = file.write_all(myself().as_bytes());
    }
    Ok(file)
}

/// Opens the file of a lock. That needs no right to write: another user may have made it.
///
/// # Errors
/// When it can be neither made nor read.
pub(crate) fn open(path: &Path) -> anyhow::Result<File> {
    let opened = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            File::open(path)
        }
        other => other,
    };
    opened.with_context(|| format!("cannot open the lock `{}`", path.display()))
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = std::io::Read::by_ref(file).take(200).read_to_string(&mut text);
    let text = text.trim();
    if text.is_empty() { "another process".to_owned() } else { text.to_owned() }
}
