//! Digests of files outside the cache, remembered by what the file system says of them: a base of
//! many gigabytes is read once, not at every `plan` and `run`.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::Cache;
use crate::{
    digest::{Digest, is_empty_folder},
    durable::{checked_json, read_checked_json},
};

/// A file that changed so recently may change again without a visible trace: clocks of file
/// systems tick coarsely. Its digest is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// The digest of a file or folder, and how it looked when it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    path: PathBuf,
    looks: Vec<Look>,
    /// Whether nothing of it had changed for [`SETTLED`] when it was read. Only such sources are
    /// remembered.
    #[serde(skip, default = "yes")]
    settled: bool,
    /// Digest of the content.
    pub digest: Digest,
}

/// What changes whenever a file is written. The change time cannot be set by a program, so a
/// copy that keeps modification times shows as well.
#[derive(Debug, Clone, PartialEq, PartialOrd, Ord, Eq, Serialize, Deserialize)]
struct Look {
    path: PathBuf,
    size: u64,
    inode: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Source {
    /// # Errors
    /// When the file is not what it was when its digest was made.
    pub fn check_unchanged(&self) -> anyhow::Result<()> {
        // A backup or a `chmod` changes how a file looks, not what it holds. And one that was written just
        // before it was read may have been written again without looking different.
        let same_looks = self.settled && looks(&self.path)? == self.looks;
        ensure!(
            same_looks || Digest::of_path(&self.path)? == self.digest,
            "`{}` was changed while the step read it; run again",
            self.path.display()
        );
        Ok(())
    }
}

impl Cache {
    /// The digest of a file or folder outside the cache, read again only if it looks changed.
    ///
    /// # Errors
    /// When it cannot be read, or changes while it is read.
    pub fn source(&self, path: &Path) -> anyhow::Result<Source> {
        let before = looks(path)?;
        let name = Digest::of_bytes(path.as_os_str().as_encoded_bytes());
        let memory = Path::new("sources").join(name.hex());
        let known: Option<Source> = read_checked_json(&self.find(&memory)).ok();
        if let Some(known) = known.filter(|known| known.path == path && known.looks == before) {
            return Ok(known);
        }
        let newest = before.iter().map(|look| look.modified_ns.max(look.changed_ns)).max();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = newest.is_some_and(|newest| newest < now.saturating_sub(SETTLED).as_nanos() as i128);
        let source = Source { path: path.to_owned(), looks: before, settled, digest: Digest::of_path(path)? };
        if looks(path)? != source.looks {
            source.check_unchanged()?;
        }
        if self.keeps_notes()
            && settled
            && let Ok(bytes) = checked_json(&source)
        {
            // Only speed suffers when this fails.
            let _ = self.put(memory, &bytes);
        }
        Ok(source)
    }
}

fn yes() -> bool {
    true
}

fn looks(path: &Path) -> anyhow::Result<Vec<Look>> {
    let mut out = Vec::new();
    for entry in walkdir::WalkDir::new(path).follow_links(true) {
        let cannot = || format!("cannot read `{}`", path.display());
        let entry = entry.with_context(cannot)?;
        if entry.file_type().is_file() || (entry.depth() > 0 && is_empty_folder(entry.path())?) {
            let about = entry.metadata().with_context(cannot)?;
            let nanoseconds =
                |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
            out.push(Look {
                path: entry.path().strip_prefix(path).expect("walkdir stays below its root").to_owned(),
                size: about.len(),
                inode: about.ino(),
                modified_ns: nanoseconds(about.mtime(), about.mtime_nsec()),
                changed_ns: nanoseconds(about.ctime(), about.ctime_nsec()),
            });
        }
    }
    out.sort();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Mode, folder::BUCKET},
        *,
    };

    fn settle(path: &Path) {
        let old = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }

    #[test]
    fn a_change_that_keeps_size_and_time_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), Mode::default()).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "one").unwrap();
        settle(&path);
        let one = cache.source(&path).unwrap();
        assert_eq!(one.digest, Digest::of_bytes(b"one"));
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&path, "two").unwrap();
        settle(&path);
        assert!(one.check_unchanged().is_err());
        assert_eq!(cache.source(&path).unwrap().digest, Digest::of_bytes(b"two"));
    }

    /// Two writes within one tick of the file system's clock.
    #[test]
    fn a_file_that_was_written_as_it_was_read_is_read_again_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "two").unwrap();
        let read = |settled, content: &[u8]| Source {
            path: path.clone(),
            looks: looks(&path).unwrap(),
            settled,
            digest: Digest::of_bytes(content),
        };
        assert!(read(false, b"one").check_unchanged().is_err());
        assert!(read(false, b"two").check_unchanged().is_ok());
        assert!(read(true, b"one").check_unchanged().is_ok(), "it was not read");
    }

    #[test]
    fn a_settled_file_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), Mode::default()).unwrap();
        let path = dir.path().join("file");
        let start = std::time::Instant::now();
        std::fs::write(&path, "one").unwrap();
        let memories =
            || std::fs::read_dir(cache.root().join(BUCKET).join("sources")).map_or(0, Iterator::count);
        let fresh = cache.source(&path).unwrap();
        let soon = start.elapsed() < SETTLED / 2;
        assert!(!soon || memories() == 0, "a file of this moment is not remembered");
        std::thread::sleep(SETTLED + Duration::from_millis(200));
        let settled = Source { settled: true, ..fresh };
        assert_eq!(cache.source(&path).unwrap(), settled);
        assert_eq!(memories(), 1);
        // What is remembered is used: a planted digest comes back.
        let planted = Source { digest: Digest::of_bytes(b"planted"), ..settled };
        let name = Digest::of_bytes(path.as_os_str().as_encoded_bytes());
        let memory = Path::new("sources").join(name.hex());
        cache.write(&memory, &checked_json(&planted).unwrap()).unwrap();
        assert_eq!(cache.source(&path).unwrap(), planted);
        // A damaged memory is none.
        std::fs::write(cache.own(&memory), "blake3:torn").unwrap();
        assert_eq!(cache.source(&path).unwrap().digest, Digest::of_bytes(b"one"));
    }
}
