//! A cache that other machines share: an object store, or a folder. Nothing that it says is
//! believed: a record must be of the key asked for, and a file of the digest in the record.
//!
//! ```text
//! <remote>/steps-v1/files/ab/<digest>     the content of a file or log
//! <remote>/steps-v1/records/ab/<key>      what a key led to; written last, and once
//! ```

mod address;
mod http;
mod objects;
mod shared;

use std::{
    collections::HashSet,
    fmt, fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, bail, ensure};

use objects::{Fault, Objects};
use shared::{Blob, SharedRecord};

use super::{Mode, Record, Workspace, files::is_folder, record::MAX_BYTES};
use crate::{
    cancel::Cancel,
    digest::Digest,
    durable::{checked_json, parse_checked_json},
    error::excerpt,
};

/// A remote cache. Its failures are warnings; after one of the connection it is left alone.
pub struct Remote {
    name: String,
    mode: Mode,
    objects: Objects,
    down: AtomicBool,
    warnings: Mutex<Vec<String>>,
    /// Keys whose result is of no use: told once, and not asked for again.
    useless: Mutex<HashSet<Digest>>,
}

impl fmt::Debug for Remote {
    /// What the object store holds may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.name).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens a remote cache without asking it anything. `None` when the mode is off.
    ///
    /// # Errors
    /// When the address is wrong, or what the environment says of it.
    pub fn open(address: &str, mode: Mode) -> anyhow::Result<Option<Self>> {
        if mode == Mode::Off {
            return Ok(None);
        }
        let objects = address::open(address, mode.writes())?;
        let (name, down) = (address.to_owned(), AtomicBool::new(false));
        let (warnings, useless) = (Mutex::default(), Mutex::default());
        Ok(Some(Self { name, mode, objects, down, warnings, useless }))
    }

    /// What went wrong since the last call.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.warnings.lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default()
    }

    /// What it holds for a key.
    pub(super) fn record(&self, key: &Digest) -> Option<SharedRecord> {
        if !self.mode.reads() || self.is_down() || self.useless.lock().is_ok_and(|keys| keys.contains(key)) {
            return None;
        }
        let place = objects::record(key);
        let found = match self.objects.read(&place, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(Fault::Missing) => return None,
            Err(fault) => return self.failed("its record", fault),
        };
        let read = || -> anyhow::Result<SharedRecord> {
            let shared: SharedRecord = parse_checked_json(&found)?;
            shared.check(key)?;
            Ok(shared.tamed())
        };
        let refused = |error| {
            self.give_up_on(key);
            self.damaged(&place, &format!("the record {} ({error:#})", key.short()));
        };
        read().map_err(refused).ok()
    }

    /// Fetches the files and the log of a record; whether all of them are as it says.
    pub(super) fn files(&self, shared: &SharedRecord, workspace: &Workspace, cancel: &Cancel) -> bool {
        let out = workspace.out();
        let fetch = || -> Result<(), (String, Fault)> {
            let here = |error| ("its files".to_owned(), Fault::Refused(error));
            must_fit(&out, shared).map_err(here)?;
            for file in &shared.record.files {
                if is_folder(&file.path) {
                    fs::create_dir_all(out.join(&file.path)).context("cannot make a folder").map_err(here)?;
                    continue;
                }
                let blob = Blob { size: file.size, digest: file.digest.clone() };
                self.blob(&blob, &out.join(&file.path), file.executable, cancel)
                    .map_err(|fault| (format!("`{}`", excerpt(&file.path)), fault))?;
            }
            Ok(())
        };
        let Err((what, fault)) = fetch() else {
            if let Some(log) = &shared.log
                && let Err(fault) = self.blob(log, &workspace.log(), false, cancel)
            {
                // The result is whole without it.
                let _ = fs::remove_file(workspace.log());
                self.failed::<()>(&format!("the log of `{}`", shared.record.node), fault);
            }
            return true;
        };
        if let Fault::Missing | Fault::Damaged(_) = fault {
            // Somebody who makes the result anew may put a whole record in its place.
            self.objects.distrust(&objects::record(&shared.record.digest));
        }
        if cancel.signal().is_none() {
            self.give_up_on(&shared.record.digest);
            self.failed::<()>(&format!("{what} of `{}`", shared.record.node), fault);
        }
        false
    }

    fn blob(&self, blob: &Blob, path: &Path, executable: bool, cancel: &Cancel) -> Result<(), Fault> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).context("cannot make a folder")?;
        }
        let place = objects::file(&blob.digest);
        self.objects.fetch(&place, blob, path, cancel)?;
        if executable {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("cannot change a file")?;
        }
        Ok(())
    }

    /// Adds a committed result: its files, then its record.
    pub(super) fn store(&self, record: &Record, artifact: &Path, log: &Path, cancel: &Cancel) {
        if !self.mode.writes() || self.is_down() {
            return;
        }
        let add = || -> Result<(), Fault> {
            for file in record.files.iter().filter(|file| !is_folder(&file.path)) {
                let blob = Blob { size: file.size, digest: file.digest.clone() };
                self.objects.add(&objects::file(&file.digest), &blob, &artifact.join(&file.path), cancel)?;
            }
            let log = match fs::metadata(log) {
                Ok(about) => {
                    let blob = Blob { size: about.len(), digest: Digest::of_file(log)? };
                    self.objects.add(&objects::file(&blob.digest), &blob, log, cancel)?;
                    Some(blob)
                }
                Err(_) => None,
            };
            let shared = SharedRecord { record: record.clone(), log };
            let bytes = checked_json(&shared).map_err(Fault::Refused)?;
            self.objects.create(&objects::record(&record.digest), bytes)
        };
        if let Err(fault) = add()
            && cancel.signal().is_none()
        {
            self.failed::<()>(&format!("the result of `{}`, which is to go there,", record.node), fault);
        }
    }

    fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    fn give_up_on(&self, key: &Digest) {
        if let Ok(mut keys) = self.useless.lock() {
            keys.insert(key.clone());
        }
    }

    fn warn(&self, text: String) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(text);
        }
    }

    fn damaged(&self, place: &str, what: &str) {
        self.objects.distrust(place);
        self.warn(format!("the remote cache `{}` is damaged: {what}", self.name));
    }

    /// Turns what went wrong into a warning, and gives nothing.
    fn failed<T>(&self, what: &str, fault: Fault) -> Option<T> {
        match fault {
            Fault::Missing => self.warn(format!("the remote cache `{}` lacks {what}", self.name)),
            Fault::Damaged(why) => {
                self.warn(format!("the remote cache `{}` is damaged: {what} {why}", self.name));
            }
            Fault::Refused(error) => {
                self.warn(format!("the remote cache `{}` is of no use for {what}: {error:#}", self.name));
            }
            // Steps of the same run must not all wait for it.
            Fault::Down(error) => {
                if !self.down.swap(true, Ordering::SeqCst) {
                    let why = excerpt(error);
                    self.warn(format!("the remote cache `{}` is left alone from here on: {why}", self.name));
                }
            }
        }
        None
    }
}

fn must_fit(folder: &Path, shared: &SharedRecord) -> anyhow::Result<()> {
    let size = shared.size().context("its sizes are beyond all measure")?;
    let disk = rustix::fs::statvfs(folder).context("cannot tell how much space there is")?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    ensure!(size <= free, "it is too large: {size} bytes, and there is room for {free}");
    Ok(())
}

/// A path of a record that stays in the artifact's folder.
fn must_stay_inside(path: &str) -> anyhow::Result<()> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut parts = Path::new(path).components();
    let plain = parts.all(|part| matches!(part, std::path::Component::Normal(_)));
    let same = Path::new(path).components().collect::<std::path::PathBuf>().as_os_str() == path;
    if path.is_empty() || !plain || !same || path.contains('\0') {
        bail!("`{}` leaves the artifact's folder", excerpt(path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b.txt", "a b/ç", "a/", "a/b/"] {
            must_stay_inside(good).unwrap();
        }
        for bad in ["", "/", "/a", "..", "../", "a/../b", "./a", "a//b", "a//", "a\0b"] {
            must_stay_inside(bad).unwrap_err();
        }
    }
}
