//! [`Objects`]: reading and adding objects by their names, whatever kind of store it is.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path as Place,
};
use tokio::runtime::Runtime;

use super::{super::folder::BUCKET, shared::Blob};
use crate::{cancel::Cancel, digest::Digest};

/// Bytes of one request; more than this is fetched and sent in pieces.
const PIECE: u64 = 16 << 20;

/// Why an object could not be read or added.
pub(super) enum Fault {
    /// There is none.
    Missing,
    /// It is not what it should be.
    Damaged(String),
    /// Something here forbids it: its size, the disk.
    Refused(anyhow::Error),
    /// The store does not answer as it should.
    Down(anyhow::Error),
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::Missing,
            // The outer texts repeat the address; the innermost says what happened.
            other => {
                let mut cause: &dyn std::error::Error = &other;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                Self::Down(anyhow::anyhow!("{cause}"))
            }
        }
    }
}

/// What is added cannot be missing: the place for it is.
fn not_taken(error: Error) -> Fault {
    match error.into() {
        Fault::Missing => Fault::Down(anyhow::anyhow!("there is no such bucket")),
        other => other,
    }
}

/// A store, and the folder in it.
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Runtime,
    /// Objects that were found to be wrong; they may be written again.
    wrong: Mutex<BTreeSet<String>>,
}

/// Where the record of a key lies.
pub(super) fn record(key: &Digest) -> String {
    sharded("records", key)
}

/// Where a file of this content lies.
pub(super) fn file(digest: &Digest) -> String {
    sharded("files", digest)
}

fn sharded(what: &str, digest: &Digest) -> String {
    format!("{BUCKET}/{what}/{}/{}", &digest.hex()[..2], digest.hex())
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.context("cannot prepare the remote cache")?;
        Ok(Self { store, prefix: prefix.trim_matches('/').to_owned(), runtime, wrong: Mutex::default() })
    }

    fn place(&self, name: &str) -> Place {
        Place::from(format!("{}/{name}", self.prefix))
    }

    /// Allows it to be written again.
    pub(super) fn distrust(&self, name: &str) {
        if let Ok(mut wrong) = self.wrong.lock() {
            wrong.insert(name.to_owned());
        }
    }

    fn is_wrong(&self, name: &str) -> bool {
        self.wrong.lock().is_ok_and(|wrong| wrong.contains(name))
    }

    /// A whole object of at most `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let place = self.place(name);
        let size = self.runtime.block_on(self.store.head(&place))?.size;
        if size > limit {
            self.distrust(name);
            return Err(Fault::Damaged(format!("is too long: {size} bytes")));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        self.pieces(&place, size, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Fetches an object that must be of this content.
    pub(super) fn fetch(&self, name: &str, blob: &Blob, path: &Path, cancel: &Cancel) -> Result<(), Fault> {
        let mut file = File::create_new(path).with_context(|| format!("cannot make `{}`", path.display()))?;
        let place = self.place(name);
        let size = self.runtime.block_on(self.store.head(&place))?.size;
        let mut hasher = blake3::Hasher::new();
        if size == blob.size {
            self.pieces(&place, size, &mut |piece| {
                cancel.check()?;
                hasher.update(piece);
                file.write_all(piece).with_context(|| format!("cannot write `{}`", path.display()))
            })?;
        }
        if size != blob.size || hasher.finalize().to_hex().as_str() != blob.digest.hex() {
            self.distrust(name);
            return Err(Fault::Damaged("is not what its digest says".to_owned()));
        }
        Ok(())
    }

    fn pieces(
        &self,
        place: &Place,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> Result<(), Fault> {
        let mut start = 0;
        while start < size {
            let end = (start + PIECE).min(size);
            take(&self.runtime.block_on(self.store.get_range(place, start..end))?)?;
            start = end;
        }
        Ok(())
    }

    /// Adds a file under the name of its content, unless it is there.
    pub(super) fn add(&self, name: &str, blob: &Blob, path: &Path, cancel: &Cancel) -> Result<(), Fault> {
        cancel.check()?;
        let place = self.place(name);
        if !self.is_wrong(name) {
            match self.runtime.block_on(self.store.head(&place)) {
                Ok(there) if there.size == blob.size => return Ok(()),
                Ok(_) => self.distrust(name),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let cannot = || format!("cannot read `{}`", path.display());
        let mut file = File::open(path).with_context(cannot)?;
        if blob.size <= PIECE {
            let mut bytes = Vec::with_capacity(blob.size as usize);
            file.read_to_end(&mut bytes).with_context(cannot)?;
            return self.create(name, bytes);
        }
        let mut upload = self.runtime.block_on(self.store.put_multipart(&place)).map_err(not_taken)?;
        let mut send = || -> Result<(), Fault> {
            loop {
                cancel.check()?;
                let mut piece = Vec::new();
                (&mut file).take(PIECE).read_to_end(&mut piece).with_context(cannot)?;
                if piece.is_empty() {
                    break;
                }
                self.runtime.block_on(upload.put_part(PutPayload::from(piece)))?;
            }
            self.runtime.block_on(upload.complete())?;
            Ok(())
        };
        let sent = send();
        if sent.is_err() {
            // What was sent so far costs money where it lies.
            let _ = self.runtime.block_on(upload.abort());
        }
        sent
    }

    /// Adds an object unless somebody was faster; what is known to be wrong is replaced.
    pub(super) fn create(&self, name: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        let mode = if self.is_wrong(name) { PutMode::Overwrite } else { PutMode::Create };
        let options = PutOptions { mode, ..PutOptions::default() };
        let place = self.place(name);
        match self.runtime.block_on(self.store.put_opts(&place, PutPayload::from(bytes), options)) {
            Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(not_taken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn what_is_stopped_is_not_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; PIECE as usize + 1]).unwrap();
        let (digest, size) = (Digest::of_file(&path).unwrap(), PIECE + 1);
        let (name, blob) = (file(&digest), Blob { size, digest });
        let objects = Objects::new(Arc::new(InMemory::new()), "").unwrap();
        let (go, stop) = (Cancel::default(), Cancel::default());
        stop.set(2);
        assert!(matches!(objects.add(&name, &blob, &path, &stop), Err(Fault::Refused(_))));
        assert!(matches!(objects.read(&name, size), Err(Fault::Missing)));
        assert!(objects.add(&name, &blob, &path, &go).is_ok());
        assert_eq!(objects.read(&name, size).ok().map(|bytes| bytes.len() as u64), Some(size));
    }
}
