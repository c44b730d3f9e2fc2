//! The two questions to the hub: which commit is this revision, and which files does it hold.

use anyhow::{Context as _, anyhow, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ureq::http::header;

use super::{
    Settings, Work,
    http::{Http, read_bounded},
    link::{Origin, encode, join, shown},
    retry::{Fault, retry},
};
use crate::{
    error::hinted,
    params::{HubAddress, RepoKind, is_commit, is_hex, is_safe_path},
};

/// Longest answer; model cards stand in some of them.
const MAX_ANSWER: u64 = 32 << 20;
/// Most files of a repository that are looked at.
const MAX_FILES: usize = 200_000;

/// A file of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RepoFile {
    /// Path inside the repository. Not yet known to be harmless.
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    /// What the bytes must hash to; names the blob.
    pub(super) checksum: Checksum,
}

/// What a file's bytes must hash to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Checksum {
    /// SHA-256 of the bytes: large files (LFS), and web files.
    Sha256(String),
    /// The id that git gives to a file with these bytes: small files.
    GitBlob(String),
}

impl Checksum {
    /// Hex digits; the blob's name.
    pub(super) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }

    /// From a blob's name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name.len() {
            64 if is_hex(name, 64) => Some(Self::Sha256(name.to_owned())),
            40 if is_hex(name, 40) => Some(Self::GitBlob(name.to_owned())),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The commit that a revision means now.
///
/// # Errors
/// When the hub does not know it, or does not answer.
pub(super) fn commit_of(
    http: &Http,
    settings: &Settings,
    hub: &HubAddress,
    work: &Work,
) -> anyhow::Result<String> {
    let link = format!("{}/revision/{}", api(settings, hub), encode(hub.revision(), ""));
    let (answer, _): (Revision, _) = retry(&settings.retry, work, || json(http, &link))
        .with_context(|| format!("cannot look up `{}`", hub.pin_name()))?;
    ensure!(is_commit(&answer.sha), "the hub answers for `{}` without a commit", hub.pin_name());
    Ok(answer.sha)
}

/// Every file of a repository at a commit; of the top folder alone unless `deep`.
///
/// # Errors
/// When the hub does not answer, or answers nonsense.
pub(super) fn files_of(
    http: &Http,
    settings: &Settings,
    hub: &HubAddress,
    deep: bool,
    work: &Work,
) -> anyhow::Result<Vec<RepoFile>> {
    let endpoint = Origin::of(&settings.endpoint)?;
    let mut link =
        format!("{}/tree/{}?recursive={deep}&expand=false", api(settings, hub), encode(hub.revision(), ""));
    let mut files = Vec::new();
    let mut seen = 0;
    let cannot = || format!("cannot list the files of `{hub}`");
    loop {
        let (entries, next): (Vec<TreeEntry>, _) =
            retry(&settings.retry, work, || json(http, &link)).with_context(cannot)?;
        let empty = entries.is_empty();
        // Folders count too: a server could list them for ever.
        seen += entries.len();
        ensure!(seen <= MAX_FILES, "`{hub}` holds more than {MAX_FILES} files and folders");
        for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
            files.push(entry.try_into().with_context(cannot)?);
        }
        let Some(next) = next.filter(|_| !empty) else { return Ok(files) };
        let same = Origin::of(&next)? == endpoint;
        ensure!(same, "the list of files of `{hub}` goes on at another host, `{}`", shown(&next));
        link = next;
    }
}

impl TryFrom<TreeEntry> for RepoFile {
    type Error = anyhow::Error;

    fn try_from(entry: TreeEntry) -> anyhow::Result<Self> {
        let (size, checksum) = match entry.lfs {
            Some(lfs) => (lfs.size, is_hex(&lfs.oid, 64).then_some(Checksum::Sha256(lfs.oid))),
            None => (entry.size, is_hex(&entry.oid, 40).then_some(Checksum::GitBlob(entry.oid))),
        };
        let checksum = checksum.with_context(|| format!("`{}` has no digest", entry.path.escape_debug()))?;
        Ok(Self { path: entry.path, size, checksum })
    }
}

impl RepoFile {
    /// # Errors
    /// When the name could lead out of the folder that the file is put in.
    pub(super) fn check_name(&self, hub: &HubAddress) -> anyhow::Result<()> {
        if is_safe_path(&self.path) {
            return Ok(());
        }
        let name: String = self.path.chars().take(200).collect();
        Err(hinted(
            format!(
                "`{hub}` holds a file with the dangerous name `{}`, so it is not used",
                name.escape_debug()
            ),
            "do not trust this repository",
        ))
    }

    /// Where the file is downloaded.
    pub(super) fn link(&self, settings: &Settings, hub: &HubAddress) -> String {
        let prefix = hub.kind.prefix();
        format!(
            "{}/{prefix}{}/resolve/{}/{}",
            settings.endpoint,
            hub.repo,
            encode(hub.revision(), ""),
            encode(&self.path, "/")
        )
    }
}

fn api(settings: &Settings, hub: &HubAddress) -> String {
    format!("{}/api/{}/{}", settings.endpoint, hub.kind.plural(), hub.repo)
}

/// Whether all folders must be listed to find what is wanted.
pub(super) fn needs_all_folders(hub: &HubAddress) -> bool {
    hub.kind == RepoKind::Dataset || hub.path.is_some()
}

/// A JSON answer and the link to the next page.
fn json<T: DeserializeOwned>(http: &Http, link: &str) -> Result<(T, Option<String>), Fault> {
    let answer = http.get(link, 0)?;
    let next = answer.header(header::LINK).and_then(next_page).map(|next| join(link, next)).transpose()?;
    let bytes = read_bounded(answer.body, MAX_ANSWER, link)?;
    let value = serde_json::from_slice(&bytes).map_err(|error| {
        // A proxy's error page, or an answer cut where nobody counts bytes.
        Fault::again(anyhow!("`{}` answers with something else than expected: {error}", shown(link)))
    })?;
    Ok((value, next))
}

/// The link of `Link: <...>; rel="next"`.
fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|part| {
        let (link, rest) = part.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then_some(link)
    })
}
