//! BLAKE3 content digests, written `blake3:<64 hex digits>`.

use std::{fmt, fs::File, io::Read as _, path::Path, str::FromStr};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The digest of some content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "blake3:";

/// Bytes that are read at a time; all cores share them.
const PIECE: u64 = 8 << 20;

impl Digest {
    /// Digest of bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// Digest of one file's content. It is read, not mapped: somebody who truncates a mapped file ends the
    /// process that looks at it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read `{}`", path.display());
        let mut file = File::open(path).with_context(cannot)?;
        let (mut hasher, mut piece) = (blake3::Hasher::new(), Vec::new());
        loop {
            piece.clear();
            (&mut file).take(PIECE).read_to_end(&mut piece).with_context(cannot)?;
            if piece.is_empty() {
                return Ok(Self(hasher.finalize().to_hex().to_string()));
            }
            hasher.update_rayon(&piece);
        }
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
            let relative = entry.path().strip_prefix(path).expect("walkdir stays below its root");
            let name = relative.as_os_str().as_encoded_bytes();
            if entry.file_type().is_file() {
                files.push((name.to_owned(), Self::of_file(entry.path())?));
            } else if entry.depth() > 0 && is_empty_folder(entry.path())? {
                files.push(([name, b"/"].concat(), Self::of_bytes(&[])));
            }
        }
        files.sort();
        Ok(Self::of_files(files.iter().map(|(name, digest)| (name.as_slice(), false, digest))))
    }

    /// Digest of a folder, given the bytes of the relative path of each of its files and, with a `/` at
    /// its end, of each empty folder; whether its executable bit counts and is set; and its digest. Sorted by
    /// path.
    pub fn of_files<'a>(files: impl Iterator<Item = (&'a [u8], bool, &'a Self)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (name, executable, digest) in files {
            if executable {
                hasher.update(b"executable");
            }
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update(digest.0.as_bytes());
        }
        Self(hasher.finalize().to_hex().to_string())
    }

    /// The hex digits, without the prefix: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The digest of these hex digits, such as a file is named by.
    pub fn of_hex(hex: &str) -> Option<Self> {
        format!("{PREFIX}{hex}").parse().ok()
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// Whether something is a folder with nothing in it.
///
/// # Errors
/// When it is a folder that cannot be read.
pub(crate) fn is_empty_folder(path: &Path) -> anyhow::Result<bool> {
    let cannot = || format!("cannot read folder `{}`", path.display());
    Ok(path.is_dir() && path.read_dir().with_context(cannot)?.next().is_none())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = Digest::of_path(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let nested = Digest::of_path(dir.path()).unwrap();
        std::fs::write(dir.path().join("a/b/x"), "").unwrap();
        let filled = Digest::of_path(dir.path()).unwrap();
        assert!(nothing != nested && nested != filled && nothing != filled);
    }

    #[test]
    fn names_that_are_no_text_are_told_apart() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let digest_with = |name: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(OsStr::from_bytes(name)), "x").unwrap();
            Digest::of_path(dir.path()).unwrap()
        };
        assert_ne!(digest_with(b"\xfe"), digest_with(b"\xff"));
    }

    #[test]
    fn a_file_of_several_pieces_has_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 1, PIECE as usize, PIECE as usize + 5] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(Digest::of_file(&path).unwrap(), Digest::of_bytes(&bytes));
        }
    }
}
