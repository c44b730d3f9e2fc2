//! BLAKE3 content digests, written `blake3:<64 hex digits>`.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    str::FromStr,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The digest of some content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "blake3:";
/// What of a file is in memory at once.
const CHUNK: u64 = 16 << 20;
/// From this length on, threads pay.
const WORTH_THREADS: usize = 128 << 10;

impl Digest {
    /// Digest of bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// Digest of one file's content. Read, not mapped: a file that is cut while it is read would end a
    /// process that maps it (SIGBUS).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let read = || {
            let mut file = File::open(path)?;
            let mut hasher = blake3::Hasher::new();
            let mut chunk = Vec::new();
            while file.by_ref().take(CHUNK).read_to_end(&mut chunk)? > 0 {
                match chunk.len() {
                    0..WORTH_THREADS => hasher.update(&chunk),
                    _ => hasher.update_rayon(&chunk),
                };
                chunk.clear();
            }
            io::Result::Ok(Self(hasher.finalize().to_hex().to_string()))
        };
        read().with_context(|| format!("cannot read `{}`", path.display()))
    }

    /// Digest of a file, or of a folder as [`Digest::of_files`] of everything in it.
    ///
    /// # Errors
    /// When something below `path` cannot be read.
    pub fn of_path(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            return Self::of_file(path);
        }
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(path).follow_links(true) {
            let entry = entry.with_context(|| format!("cannot read folder `{}`", path.display()))?;
            if entry.file_type().is_file() {
                let relative = entry.path().strip_prefix(path).expect("walkdir stays below its root");
                files.push((relative.to_string_lossy().into_owned(), Self::of_file(entry.path())?));
            }
        }
        files.sort();
        Ok(Self::of_files(files.iter().map(|(name, digest)| (name.as_str(), false, digest))))
    }

    /// Digest of a folder, given the relative path of each of its files, whether its executable bit
    /// counts and is set, and its digest; sorted by path.
    pub fn of_files<'a>(files: impl Iterator<Item = (&'a str, bool, &'a Self)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (name, executable, digest) in files {
            if executable {
                hasher.update(b"executable");
            }
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(digest.0.as_bytes());
        }
        Self(hasher.finalize().to_hex().to_string())
    }

    /// The hex digits, without the prefix: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex =
            text.strip_prefix(PREFIX).ok_or_else(|| format!("`{text}` does not start with `{PREFIX}`"))?;
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(hex.to_owned()))
        } else {
            Err(format!("`{text}` is not `{PREFIX}` and 64 lower-case hex digits"))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}
