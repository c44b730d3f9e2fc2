//! Plain files of the web, whose SHA-256 the recipe tells. They are kept by that digest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    Settings, Work,
    api::Checksum,
    download::{Download, Wanted},
    http::Http,
    layout::lock,
    link::shown,
    offline,
    work::Meter,
};
use crate::params::file_name;

/// Fetches a file below `folder`; gives its place.
pub(super) fn fetch(
    http: &Http,
    settings: &Settings,
    url: &str,
    sha256: &str,
    folder: &Path,
    work: &Work,
) -> anyhow::Result<PathBuf> {
    let folder = folder.join(sha256);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let name = file_name(url);
    let place = folder.join(name);
    let _lock = lock(&folder.join(".lock"), work)?;
    let checksum = Checksum::Sha256(sha256.to_owned());
    let meter = Meter::new(work.progress, 0);
    let wanted = Wanted { link: url.to_owned(), name, size: None, checksum: &checksum };
    let download =
        Download { http, settings, work, meter: &meter, wanted, blob: &place, counted: 0, best: 0 };
    if download.is_there()? {
        return Ok(place);
    }
    if settings.offline {
        return Err(offline::missing(&format!("`{}` is not here", shown(url))));
    }
    work.log(&format!("fetching `{}`", shown(url)));
    download.run()?;
    Ok(place)
}
