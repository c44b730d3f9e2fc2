//! [`Secrets`]: values of the environment that must not be seen in logs and results.

use std::{fs::File, io::Read, path::Path};

use anyhow::Context as _;

use crate::error::hinted;

/// What stands for a secret.
const MASK: &[u8] = b"***";
/// Shorter values would be found in every text.
const MIN_LENGTH: usize = 4;
const PIECE: usize = 1 << 16;

/// Secret values. Each line of a value counts for itself.
#[derive(Clone)]
pub(super) struct Secrets {
    /// Name and line, the longest first.
    lines: Vec<(String, Vec<u8>)>,
}

impl Secrets {
    /// # Errors
    /// When a variable is not set, or has no line that is long enough to be told from other text.
    pub(super) fn of_environment(names: &[String]) -> anyhow::Result<Self> {
        let mut lines = Vec::new();
        for name in names {
            let value = std::env::var_os(name).unwrap_or_default().into_encoded_bytes();
            let known = lines.len();
            lines.extend(usable_lines(&value).map(|line| (name.clone(), line.to_vec())));
            if lines.len() == known {
                let what = if value.is_empty() { "is not set" } else { "is too short to be kept secret" };
                let hint = format!(
                    "set {name} in the environment that evergraft runs in, to a line of at least {MIN_LENGTH} bytes"
                );
                return Err(hinted(format!("the secret `{name}` {what}"), hint));
            }
        }
        lines.sort_by_key(|(_, line)| std::cmp::Reverse(line.len()));
        Ok(Self { lines })
    }

    /// The name of the secret that some text holds.
    fn find(&self, text: &[u8]) -> Option<&str> {
        (0..text.len()).find_map(|at| self.at(&text[at..])).map(|(name, _)| name.as_str())
    }

    fn longest(&self) -> usize {
        self.lines.first().map_or(0, |(_, line)| line.len())
    }

    fn at(&self, text: &[u8]) -> Option<&(String, Vec<u8>)> {
        self.lines.iter().find(|(_, line)| text.starts_with(line))
    }

    /// Copies a stream to its end, secrets masked. A line goes on as soon as it is whole.
    pub(super) fn copy_masked(
        &self,
        from: &mut impl Read,
        to: &mut impl std::io::Write,
    ) -> std::io::Result<()> {
        let mut held = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let read = from.read(&mut piece)?;
            held.extend_from_slice(&piece[..read]);
            // A secret may go on behind what has come so far, but not behind the end of a line.
            let whole = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let sure = if read == 0 {
                held.len()
            } else {
                whole.max((held.len() + 1).saturating_sub(self.longest()))
            };
            let mut out = Vec::with_capacity(sure);
            let mut at = 0;
            while at < sure {
                match self.at(&held[at..]) {
                    Some((_, secret)) => {
                        out.extend_from_slice(MASK);
                        at += secret.len();
                    }
                    None => {
                        out.push(held[at]);
                        at += 1;
                    }
                }
            }
            to.write_all(&out)?;
            held.drain(..at);
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// When a file below a folder, or its path, holds a secret.
    pub(super) fn must_not_be_in(&self, folder: &Path) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        for entry in walkdir::WalkDir::new(folder) {
            let entry = entry?;
            let path = entry.path().strip_prefix(folder).unwrap_or(entry.path());
            if let Some(name) = self.find(path.as_os_str().as_encoded_bytes()) {
                return Err(hinted(
                    format!("the name of an output holds the secret `{name}`"),
                    "results are shared and kept; choose another name",
                ));
            }
            if entry.file_type().is_file()
                && let Some(name) = self.find_in(entry.path())?
            {
                return Err(hinted(
                    format!("the output `{}` holds the secret `{name}`", path.display()),
                    "results are shared and kept; write the output without it",
                ));
            }
        }
        Ok(())
    }

    fn find_in(&self, path: &Path) -> anyhow::Result<Option<&str>> {
        let cannot = || format!("cannot read `{}`", path.display());
        let mut file = File::open(path).with_context(cannot)?;
        let (mut held, mut piece) = (Vec::new(), vec![0; PIECE]);
        loop {
            let read = file.read(&mut piece).with_context(cannot)?;
            if read == 0 {
                return Ok(None);
            }
            held.extend_from_slice(&piece[..read]);
            if let Some(name) = self.find(&held) {
                return Ok(Some(name));
            }
            held.drain(..(held.len() + 1).saturating_sub(self.longest()).min(held.len()));
        }
    }
}

/// The lines of a value that can be told from other text, without what Windows puts at their ends.
fn usable_lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = value.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| line.len() >= MIN_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte a time, so that every secret comes in parts.
    struct Drops<'t>(&'t [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            (into[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    #[test]
    fn each_line_counts_without_its_end() {
        let of = |value: &'static str| usable_lines(value.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("hunter2\r\nab\n\nhunter3"), [&b"hunter2"[..], b"hunter3"]);
        assert_eq!(of("ab\ncd\nef"), [&b""[..]; 0]);
    }

    #[test]
    fn a_name_is_an_output_too() {
        let secrets = Secrets { lines: vec![("S".to_owned(), b"hunter2".to_vec())] };
        let dir = tempfile::tempdir().unwrap();
        secrets.must_not_be_in(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("of-hunter2/x")).unwrap();
        let error = secrets.must_not_be_in(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "the name of an output holds the secret `S`");
    }

    #[test]
    fn secrets_are_masked_however_they_come() {
        let secret = |text: &str| ("S".to_owned(), text.as_bytes().to_vec());
        let secrets = Secrets { lines: vec![secret("hunter22"), secret("hunter")] };
        let text = b"hunter22 hunter2\nhunt\nxhunter\nhunter22hunter22";
        let want = "*** ***2\nhunt\nx***\n******";
        let (mut whole, mut drops) = (Vec::new(), Vec::new());
        secrets.copy_masked(&mut &text[..], &mut whole).unwrap();
        secrets.copy_masked(&mut Drops(text), &mut drops).unwrap();
        assert_eq!(String::from_utf8(whole).unwrap(), want);
        assert_eq!(String::from_utf8(drops).unwrap(), want);
    }
}
