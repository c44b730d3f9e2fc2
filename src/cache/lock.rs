//! Kernel file locks: they die with their owner, so nothing has to be unlocked by hand.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{cancel::Cancel, error::Error};

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

/// Held by everything that uses the cache; `clean` takes it alone.
#[derive(Debug)]
pub struct UseLock {
    file: File,
    alone: bool,
}

impl Drop for UseLock {
    /// Those who share it write no owner, so the last one's name must not stay.
    fn drop(&mut self) {
        if self.alone {
            let _ = self.file.set_len(0);
        }
    }
}

impl UseLock {
    pub(super) fn take(path: &Path, alone: bool, options: &LockOptions) -> Result<Self, Error> {
        Ok(Self { file: acquire(path, alone, "the cache", options)?, alone })
    }
}

/// Waits for the lock on a file and writes its owner into it.
pub(super) fn acquire(path: &Path, alone: bool, what: &str, options: &LockOptions) -> Result<File, Error> {
    let open = || -> anyhow::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the lock `{}`", path.display()))
    };
    let mut file = open()?;
    let start = Instant::now();
    let mut told = false;
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
        if options.timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
            return Err(Error::LockTimeout(format!(
                "{what} is locked by {} and was not free within {} s\nhint: wait longer with `--lock-timeout SECONDS`",
                owner(&mut file),
                options.timeout.unwrap_or_default().as_secs()
            )));
        }
        if !told {
            told = true;
            (options.on_wait)(&format!("waiting for {what}, which {} uses", owner(&mut file)));
        }
        if let Some(signal) = options.cancel.signal() {
            return Err(Error::Signal(signal));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if alone {
        // For the message of those who wait; the lock itself is the kernel's.
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let text = format!("process {} on {host}\n", std::process::id());
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = file.write_all(text.as_bytes());
    }
    Ok(file)
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = std::io::Read::by_ref(file).take(200).read_to_string(&mut text);
    let text = text.trim();
    if text.is_empty() { "another process".to_owned() } else { text.to_owned() }
}
