//! Whether a file's bytes are the right ones.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::Context as _;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::{Work, api::Checksum};

/// Whether the whole file hashes to this.
///
/// # Errors
/// When it cannot be read, or the work was stopped.
pub(super) fn matches(path: &Path, checksum: &Checksum, work: &Work) -> anyhow::Result<bool> {
    let cannot = || format!("cannot read `{}`", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let mut hash = match checksum {
        Checksum::Sha256(_) => Context::new(&SHA256),
        Checksum::GitBlob(_) => {
            // Git hashes a file with its length before it.
            let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(format!("blob {}\0", file.metadata().with_context(cannot)?.len()).as_bytes());
            hash
        }
    };
    let mut buffer = vec![0; 1 << 20];
    loop {
        work.check()?;
        match file.read(&mut buffer).with_context(cannot)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    let hex: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hex == checksum.hex())
}
