//! Several files of a repository at once, and the links to them in the commit's folder.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::ensure;

use super::{
    Settings, Work,
    api::RepoFile,
    download::{Download, Wanted},
    http::Http,
    layout::RepoFolder,
    work::Meter,
};
use crate::params::HubAddress;

/// A repository at a commit, and how to get at it.
pub(super) struct Source<'a> {
    pub(super) http: &'a Http<'a>,
    pub(super) settings: &'a Settings,
    /// Its revision is a commit.
    pub(super) hub: &'a HubAddress,
}

impl Source<'_> {
    pub(super) fn folder(&self) -> RepoFolder {
        RepoFolder::new(self.settings, self.hub)
    }

    /// Fetches files that are not there; gives their places in the order of `files`.
    ///
    /// # Errors
    /// The first that went wrong; the others are stopped and go on next time.
    pub(super) fn fetch(&self, files: &[RepoFile], work: &Work) -> anyhow::Result<Vec<PathBuf>> {
        // Before the first byte: a repository with one dangerous name is not trusted at all.
        files.iter().try_for_each(|file| file.check_name(self.hub))?;
        let folder = self.folder();
        folder.prepare()?;
        let meter =
            Meter::new(work.progress, files.iter().fold(0, |sum, file| file.size.saturating_add(sum)));
        let failed = AtomicBool::new(false);
        let first_error = Mutex::new(None);
        let next = AtomicUsize::new(0);
        let stop = || {
            (work.stop)()?;
            ensure!(!failed.load(Ordering::Acquire), "another file could not be fetched");
            Ok(())
        };
        let inner = Work { stop: &stop, ..*work };
        std::thread::scope(|scope| {
            for _ in 0..self.settings.parallel.clamp(1, files.len().max(1)) {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let Err(error) = self.one(&folder, file, &inner, &meter) else { continue };
                        if !failed.swap(true, Ordering::AcqRel)
                            && let Ok(mut slot) = first_error.lock()
                        {
                            *slot = Some(error);
                            // The others may be waiting for a silent server.
                            self.http.agent().shutdown();
                        }
                        break;
                    }
                });
            }
        });
        meter.finish();
        (work.stop)()?;
        if let Some(error) = first_error.into_inner().unwrap_or_default() {
            return Err(error);
        }
        let commit = self.hub.revision();
        files.iter().map(|file| folder.link(commit, &file.path, &file.checksum)).collect()
    }

    fn one(&self, folder: &RepoFolder, file: &RepoFile, work: &Work, meter: &Meter) -> anyhow::Result<()> {
        work.check()?;
        let blob = folder.blob(&file.checksum);
        let _lock = folder.lock(&file.checksum, work)?;
        let wanted = Wanted {
            link: file.link(self.settings, self.hub),
            name: &file.path,
            size: Some(file.size),
            checksum: &file.checksum,
        };
        let download = Download {
            http: self.http,
            settings: self.settings,
            work,
            meter,
            wanted,
            blob: &blob,
            counted: 0,
            best: 0,
        };
        if download.is_there()? {
            return Ok(());
        }
        work.log(&format!("fetching `{}`, {} bytes", file.path, file.size));
        download.run()
    }
}
