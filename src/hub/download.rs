//! One file from the network to its place: resumed where an earlier try ended, checked, and moved
//! in one step. The unfinished bytes lie in `<blob>.incomplete`, as other tools of the hub do it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use ureq::http::header;

use super::{
    Settings, Work,
    api::Checksum,
    http::{Answer, Http},
    retry::{Fault, retry},
    verify::matches,
    work::Meter,
};
use crate::error::hinted;

/// No file that anybody trains with is larger.
const MAX_FILE: u64 = 1 << 40;
/// What a try must bring so that the count of failures starts anew.
const PROGRESS: u64 = 1 << 20;
/// Whole downloads with wrong bytes before giving up.
const MAX_WRONG: u32 = 2;

/// A file that is wanted.
pub(super) struct Wanted<'a> {
    /// Where it is.
    pub(super) link: String,
    /// Its name, for people.
    pub(super) name: &'a str,
    /// Its length, where the list of files tells it.
    pub(super) size: Option<u64>,
    /// What it must hash to.
    pub(super) checksum: &'a Checksum,
}

/// Everything around one download.
pub(super) struct Download<'a> {
    pub(super) http: &'a Http<'a>,
    pub(super) settings: &'a Settings,
    pub(super) work: &'a Work<'a>,
    pub(super) meter: &'a Meter<'a>,
    pub(super) wanted: Wanted<'a>,
    /// Where the bytes belong.
    pub(super) blob: &'a Path,
    /// Bytes that the meter counts for this file.
    pub(super) counted: u64,
    /// The most that any try had; only more than that is progress.
    pub(super) best: u64,
}

impl Download<'_> {
    /// Whether the right bytes are there already. Wrong ones are removed.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn is_there(&self) -> anyhow::Result<bool> {
        let Ok(about) = fs::metadata(self.blob) else { return Ok(false) };
        let same = about.is_file()
            && self.wanted.size.is_none_or(|size| size == about.len())
            && matches(self.blob, self.wanted.checksum, self.work)?;
        if same {
            self.meter.add(about.len(), self.wanted.name);
            return Ok(true);
        }
        self.work.warn(&format!("`{}` was damaged and is fetched again", self.blob.display()));
        fs::remove_file(self.blob).with_context(|| format!("cannot remove `{}`", self.blob.display()))?;
        Ok(false)
    }

    /// Fetches the file. The caller holds the blob's lock.
    ///
    /// # Errors
    /// When the server does not give it, or gives something else.
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        let mut wrong = 0;
        let (policy, work) = (&self.settings.retry, self.work);
        retry(policy, work, || self.attempt(&mut wrong))
            .with_context(|| format!("cannot fetch `{}`", self.wanted.name))
    }

    fn attempt(&mut self, wrong: &mut u32) -> Result<(), Fault> {
        let part = self.part();
        let cannot = || format!("cannot write `{}`", part.display());
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&part).with_context(cannot)?;
        let mut have = file.metadata().with_context(cannot)?.len();
        if have > self.wanted.size.unwrap_or(MAX_FILE) {
            file.set_len(0).with_context(cannot)?;
            have = 0;
        }
        self.count(have);
        if self.wanted.size != Some(have) {
            self.receive(&mut file, have)?;
        }
        if !matches(&part, self.wanted.checksum, self.work)? {
            file.set_len(0).with_context(cannot)?;
            self.count(0);
            *wrong += 1;
            return Err(self.wrong_bytes(*wrong));
        }
        self.keep(&file, &part).map_err(Fault::Fatal)
    }

    /// Appends what is missing.
    fn receive(&mut self, file: &mut File, have: u64) -> Result<(), Fault> {
        let cannot = || format!("cannot write `{}.incomplete`", self.blob.display());
        let answer = self.http.get(&self.wanted.link, have)?;
        let range = ContentRange::of(&answer);
        let (start, announced) = match (answer.status.as_u16(), range) {
            (206, Some(range)) if range.start == Some(have) => (have, range.total),
            // A server that knows no ranges sends everything.
            (200, _) => (0, length(&answer)),
            // Without a known length, this is how a server says that we have it all.
            (416, Some(range)) if range.total == Some(have) && self.wanted.size.is_none() => return Ok(()),
            (status, _) => {
                file.set_len(0).with_context(cannot)?;
                return Err(Fault::again(anyhow!(
                    "the server answers {status} with another range than asked"
                )));
            }
        };
        if let (Some(size), Some(announced)) = (self.wanted.size, announced)
            && size != announced
        {
            let text = format!("the server has {announced} bytes, but the list of files says {size}");
            return Err(Fault::again(anyhow!(text)));
        }
        let end = self.wanted.size.or(announced);
        file.set_len(start).with_context(cannot)?;
        file.seek(SeekFrom::Start(start)).with_context(cannot)?;
        let mut reader = answer.body.into_reader();
        let mut buffer = vec![0; 256 << 10];
        let mut at = start;
        self.best = self.best.max(have);
        loop {
            self.work.check()?;
            self.count(at);
            let best = self.best;
            let broke = |error: &str| {
                let of = end.map(|end| format!(" of {end}")).unwrap_or_default();
                let error = anyhow!("the connection broke after {at}{of} bytes ({error})");
                Fault::Again { error, wait: None, progress: at >= best + PROGRESS }
            };
            match reader.read(&mut buffer) {
                Ok(0) if end.is_none_or(|end| end == at) => return Ok(()),
                Ok(0) => return Err(broke("it ended early")),
                Err(error) => return Err(broke(&error.to_string())),
                Ok(read) => {
                    at += read as u64;
                    if at > end.unwrap_or(MAX_FILE) {
                        file.set_len(0).with_context(cannot)?;
                        return Err(Fault::again(anyhow!("the server sends more bytes than it should")));
                    }
                    file.write_all(&buffer[..read]).with_context(cannot)?;
                }
            }
        }
    }

    fn wrong_bytes(&self, wrong: u32) -> Fault {
        let kind = match self.wanted.checksum {
            Checksum::Sha256(_) => "SHA-256",
            Checksum::GitBlob(_) => "git",
        };
        let text = format!("the bytes do not have the {kind} digest {}", self.wanted.checksum.hex());
        if wrong < MAX_WRONG {
            return Fault::again(anyhow!(text));
        }
        let hint = "the file on the server is damaged, or something on the way changes it";
        hinted(format!("{text}, and this {wrong} times"), hint).into()
    }

    /// Makes the file durable under its own name.
    fn keep(&self, file: &File, part: &Path) -> anyhow::Result<()> {
        let make = || -> std::io::Result<()> {
            file.sync_all()?;
            fs::rename(part, self.blob)?;
            File::open(self.blob.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        make().with_context(|| format!("cannot write `{}`", self.blob.display()))
    }

    fn part(&self) -> PathBuf {
        let mut name = self.blob.as_os_str().to_owned();
        name.push(".incomplete");
        name.into()
    }

    fn count(&mut self, at: u64) {
        if at >= self.counted {
            self.meter.add(at - self.counted, self.wanted.name);
        } else {
            self.meter.take_back(self.counted - at);
        }
        self.counted = at;
    }
}

/// `Content-Range: bytes 5-9/10` or `bytes */10`.
struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

impl ContentRange {
    fn of(answer: &Answer) -> Option<Self> {
        let text = answer.header(header::CONTENT_RANGE)?.trim().strip_prefix("bytes")?.trim();
        let (range, total) = text.split_once('/')?;
        let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
        Some(Self { start, total: total.trim().parse().ok() })
    }
}

fn length(answer: &Answer) -> Option<u64> {
    answer.header(header::CONTENT_LENGTH)?.trim().parse().ok()
}
