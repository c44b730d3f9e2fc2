//! The one place that maps files into memory. Holds the crate's only `unsafe` call.

use std::{fs::File, path::Path};

use anyhow::Context as _;
use memmap2::Mmap;

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

#[expect(unsafe_code, reason = "mapping a file has no safe form; models are too large to read whole")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private to this process and only read. Artifacts in the cache are
    // never changed in place (they are renamed into it whole), so the bytes stay put while mapped.
    // If a user cuts a source file short meanwhile, the kernel ends the process with a signal, as
    // for every program that maps files; no check here could prevent that.
    unsafe { Mmap::map(file) }
}
