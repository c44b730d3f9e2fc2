//! Folders that steps run in. An emptied one serves the next step: ext4 takes long to make files for
//! minutes after it removed others, so a run removes as little as it can.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;

/// Where a step runs before its result is committed. What is in it goes when it is dropped.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
    idle: Arc<IdleFolders>,
}

impl Workspace {
    /// An empty one in `tmp`, its name beginning with `prefix`.
    pub(super) fn new(tmp: &Path, prefix: &str, idle: &Arc<IdleFolders>) -> anyhow::Result<Self> {
        let cannot = || format!("cannot make a folder in `{}`", tmp.display());
        let folder = match idle.take(prefix) {
            Some(folder) => folder,
            None => tempfile::Builder::new()
                .prefix(prefix)
                // As the umask says, so that users can share a cache.
                .permissions(Permissions::from_mode(0o777))
                .tempdir_in(tmp)
                .with_context(cannot)?
                .keep(),
        };
        let workspace = Self { folder, idle: Arc::clone(idle) };
        fs::create_dir(workspace.out()).with_context(cannot)?;
        Ok(workspace)
    }

    /// The empty folder that becomes the artifact.
    pub fn out(&self) -> PathBuf {
        self.folder.join("artifact")
    }

    /// The log that is kept with the result.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let empty = fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_none());
        // Under the step's name, whoever runs that step next would take it for a dead one's and remove it.
        let idle =
            renamed(&self.folder, "idle-").filter(|idle| empty && fs::rename(&self.folder, idle).is_ok());
        match idle {
            Some(idle) => self.idle.give(idle),
            None => drop(fs::remove_dir_all(&self.folder)),
        }
    }
}

/// Emptied folders that wait for a step. They go with the cache that made them.
#[derive(Debug, Default)]
pub(super) struct IdleFolders(Mutex<Vec<PathBuf>>);

impl IdleFolders {
    /// One of them under a new name.
    fn take(&self, prefix: &str) -> Option<PathBuf> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let folder = renamed(&idle, prefix)?;
        fs::rename(&idle, &folder).ok().map(|()| folder)
    }

    fn give(&self, folder: PathBuf) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
    }
}

impl Drop for IdleFolders {
    fn drop(&mut self) {
        for folder in self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The path with another beginning of its name; the random end stays.
fn renamed(path: &Path, prefix: &str) -> Option<PathBuf> {
    let (_, random) = path.file_name()?.to_str()?.rsplit_once('-')?;
    Some(path.with_file_name(format!("{prefix}{random}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_folder_serves_the_next_step() {
        let tmp = tempfile::tempdir().unwrap();
        let there = || -> Vec<String> {
            let entries = fs::read_dir(tmp.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let idle = Arc::new(IdleFolders::default());
        let new = |prefix: &str| Workspace::new(tmp.path(), prefix, &idle).unwrap();
        let first = new("aa-");
        let name = there()[0].strip_prefix("aa-").unwrap().to_owned();
        fs::remove_dir(first.out()).unwrap();
        drop(first);
        assert_eq!(there(), [format!("idle-{name}")], "it is no step's any more");
        let second = new("bb-");
        assert_eq!(there(), [format!("bb-{name}")]);
        fs::write(second.out().join("left"), "").unwrap();
        drop(second);
        assert_eq!(there(), [""; 0], "what holds something goes with it");
        let third = new("cc-");
        fs::remove_dir(third.out()).unwrap();
        drop(third);
        fs::remove_dir(tmp.path().join(&there()[0])).unwrap();
        let fourth = new("dd-");
        assert!(fourth.out().is_dir(), "one that somebody took away is made anew");
        fs::remove_dir(fourth.out()).unwrap();
        drop(fourth);
        assert_eq!(there().len(), 1);
        drop(idle);
        assert_eq!(there(), [""; 0]);
    }
}
