//! Without a network: what other runs and tools left in the hub's cache for a commit.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    Work,
    api::{Checksum, RepoFile},
    fetch::Source,
    verify::matches,
};
use crate::{env, error::hinted, params::HubAddress};

/// An error that names what is missing, for work that may make no request.
pub(super) fn missing(what: &str) -> anyhow::Error {
    hinted(
        format!("{what}, and {} forbids to fetch it", env::HF_HUB_OFFLINE),
        format!("unset {} once, or copy the hub's cache from a machine that has it", env::HF_HUB_OFFLINE),
    )
}

/// The files of a commit that are there, each with the digest that its blob's name promises.
///
/// # Errors
/// When there are none.
pub(super) fn files_there(source: &Source) -> anyhow::Result<Vec<RepoFile>> {
    let root = source.folder().snapshot(source.hub.revision());
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
        let Ok(entry) = entry else { continue };
        let Ok(about) = fs::metadata(entry.path()) else { continue };
        let checksum = blob_name(entry.path());
        if let (true, Some(checksum)) = (about.is_file(), checksum) {
            let path = entry.path().strip_prefix(&root).expect("walkdir stays below its root");
            files.push(RepoFile { path: path.to_string_lossy().into_owned(), size: about.len(), checksum });
        }
    }
    if files.is_empty() {
        return Err(missing(&format!("no file of `{}` is in `{}`", source.hub, root.display())));
    }
    Ok(files)
}

fn blob_name(link: &Path) -> Option<Checksum> {
    let target = fs::canonicalize(link).ok()?;
    Checksum::from_name(target.file_name()?.to_str()?)
}

/// Checks files that are there and gives their places.
///
/// # Errors
/// When one is damaged.
pub(super) fn use_there(source: &Source, files: &[RepoFile], work: &Work) -> anyhow::Result<Vec<PathBuf>> {
    let root = source.folder().snapshot(source.hub.revision());
    files
        .iter()
        .map(|file| {
            let path = root.join(&file.path);
            if !matches(&path, &file.checksum, work)? {
                return Err(missing(&format!("`{}` is damaged", path.display())));
            }
            Ok(path)
        })
        .collect()
}

/// Whether all files are numbered, so that it is known that none is missing.
///
/// # Errors
/// When files are numbered `00000-of-00003` and some are missing.
pub(super) fn check_shards(hub: &HubAddress, names: &[&str]) -> anyhow::Result<bool> {
    let pattern = regex::Regex::new(r"^(.*)-(\d{5})-of-(\d{5})").context("a fixed pattern")?;
    let mut groups: BTreeMap<(String, usize), usize> = BTreeMap::new();
    let mut numbered = 0;
    for found in names.iter().filter_map(|name| pattern.captures(name)) {
        numbered += 1;
        let total = found[3].parse().unwrap_or(0);
        *groups.entry((found[1].to_owned(), total)).or_default() += 1;
    }
    for ((prefix, total), there) in groups {
        if there < total {
            return Err(missing(&format!("`{hub}` has {there} of the {total} files `{prefix}-*` here")));
        }
    }
    Ok(numbered == names.len())
}
