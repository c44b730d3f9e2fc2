//! The one place that maps files into memory.

use std::{fs::File, ops::Range, path::Path, sync::Arc};

use anyhow::Context as _;
use memmap2::{Mmap, UncheckedAdvice};

/// A whole file, read on demand by the operating system.
#[derive(Debug)]
pub(crate) struct MappedFile(Option<Mmap>);

impl MappedFile {
    /// Maps a file for reading. An empty file is an empty slice.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read `{}`", path.display());
        let file = File::open(path).with_context(cannot)?;
        let metadata = file.metadata().with_context(cannot)?;
        anyhow::ensure!(metadata.is_file(), "`{}` is not a file", path.display());
        if metadata.len() == 0 {
            return Ok(Self(None));
        }
        map(&file).map(|mapped| Self(Some(mapped))).with_context(cannot)
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Part of a mapped file. When it is dropped, its pages leave this process's memory (not the
/// operating system's file cache): a model that is copied to a device is never held twice.
#[derive(Debug)]
pub(crate) struct MappedSlice {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl MappedSlice {
    /// These bytes of the file, or nothing where it is shorter.
    pub(crate) fn new(file: &Arc<MappedFile>, range: Range<usize>) -> Option<Self> {
        file.bytes().get(range.clone())?;
        Some(Self { file: Arc::clone(file), range })
    }
}

impl AsRef<[u8]> for MappedSlice {
    fn as_ref(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }
}

impl Drop for MappedSlice {
    fn drop(&mut self) {
        if let Some(map) = &self.file.0 {
            release(map, self.range.clone());
        }
    }
}

#[expect(unsafe_code, reason = "the crate calls this advice unsafe, since on anonymous memory it loses data")]
fn release(map: &Mmap, range: Range<usize>) {
    // SAFETY: the mapping is read-only and backed by a file, so a page that is touched again is
    // read again, with the same bytes (see `map`). Advice that fails changes nothing.
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
}

#[expect(unsafe_code, reason = "mapping a file has no safe form; models are too large to read whole")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private to this process and only read. Artifacts in the cache are
    // never changed in place (they are renamed into it whole), so the bytes stay put while mapped.
    // If a user cuts a source file short meanwhile, the kernel ends the process with a signal, as
    // for every program that maps files; no check here could prevent that.
    unsafe { Mmap::map(file) }
}
