//! The Hugging Face Hub and plain web files: addresses in, files on this disk out.
//!
//! [`resolve`] asks which commit a revision is; the planner pins it, so that everything else works
//! on commits, which never change. [`fetch_model`], [`fetch_dataset`] and [`fetch_web`] get the files
//! that are needed and no others: resumed, checked, and for the hub kept where every tool of the hub
//! keeps them. Nothing here knows of recipes, plans or the step cache. Threads start here only to
//! fetch several files at once and to watch for a stop.

mod api;
mod card;
mod dataset;
mod download;
mod fetch;
mod http;
mod layout;
mod link;
mod lock_file;
mod model;
mod offline;
mod pattern;
mod retry;
mod settings;
mod splits;
mod verify;
mod web;
mod work;

use std::path::{Path, PathBuf};

use crate::params::HubAddress;
use fetch::Source;
use http::Http;
use layout::RepoFolder;
use work::watched;

pub use lock_file::LockFile;
pub use model::{FetchedModel, ModelPart};
pub use settings::{Retry, Settings, Token};
pub use work::Work;

/// A client for other places of the web, with the certificates that the environment names.
pub(crate) fn agent() -> anyhow::Result<ureq::Agent> {
    http::agent(crate::env::path(crate::env::SSL_CERT_FILE).as_deref())
}

/// The commit that a revision means now. Offline, what a tool of the hub wrote down for it.
///
/// # Errors
/// When nobody knows it.
pub fn resolve(settings: &Settings, hub: &HubAddress, work: &Work) -> anyhow::Result<String> {
    let folder = RepoFolder::new(settings, hub);
    if settings.offline {
        return folder.reference(hub.revision()).ok_or_else(|| {
            offline::missing(&format!("no file of the hub's cache tells the commit of `{}`", hub.pin_name()))
        });
    }
    let http = Http::new(settings)?;
    let commit = watched(work, || http.agent().shutdown(), || api::commit_of(&http, settings, hub, work))?;
    folder.add_reference(hub.revision(), &commit);
    Ok(commit)
}

/// Fetches the model at a commit.
///
/// # Errors
/// When the repository holds no model that can be read, or a file cannot be fetched.
pub fn fetch_model(
    settings: &Settings,
    hub: &HubAddress,
    part: ModelPart,
    work: &Work,
) -> anyhow::Result<FetchedModel> {
    let http = Http::new(settings)?;
    let source = Source { http: &http, settings, hub };
    watched(work, || http.agent().shutdown(), || model::fetch(&source, part, work))
}

/// Fetches the files of a dataset's split at a commit; gives their places in order.
///
/// # Errors
/// When there is no such split, or a file cannot be fetched.
pub fn fetch_dataset(
    settings: &Settings,
    hub: &HubAddress,
    subset: Option<&str>,
    split: &str,
    work: &Work,
) -> anyhow::Result<Vec<PathBuf>> {
    let http = Http::new(settings)?;
    let source = Source { http: &http, settings, hub };
    watched(work, || http.agent().shutdown(), || dataset::fetch(&source, subset, split, work))
}

/// Fetches a file of the web below `folder`; gives its place.
///
/// # Errors
/// When it cannot be fetched, or has another digest.
pub fn fetch_web(
    settings: &Settings,
    url: &str,
    sha256: &str,
    folder: &Path,
    work: &Work,
) -> anyhow::Result<PathBuf> {
    let http = Http::new(settings)?;
    watched(work, || http.agent().shutdown(), || web::fetch(&http, settings, url, sha256, folder, work))
}
