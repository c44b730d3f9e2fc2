//! [`LockFile`]: the commits that the hub sources of a recipe stand for, in a file beside it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::ensure;
use serde::Deserialize;

use crate::{
    error::hinted,
    params::{Address, is_commit},
};

/// Longest lock file that is read.
const MAX_BYTES: u64 = 1 << 20;
const VERSION: u32 = 1;

/// The content of `<recipe>.lock`.
#[derive(Debug, Clone, Default)]
pub struct LockFile {
    path: PathBuf,
    recipe: String,
    /// Commits by pin name, e.g. `hf://Qwen/Qwen2-7B@main`.
    pub commits: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    #[serde(default)]
    commits: BTreeMap<String, String>,
}

impl LockFile {
    /// The lock of a recipe: `recipe.yaml` has `recipe.lock`. One that is not there is empty.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn of_recipe(recipe: &Path) -> anyhow::Result<Self> {
        let name = recipe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut lock = Self { path: recipe.with_extension("lock"), recipe: name, commits: BTreeMap::new() };
        lock.commits = lock.read().map_err(|error| {
            hinted(
                format!("cannot use the lock file `{}`: {error:#}", lock.path.display()),
                "restore it from version control, or delete it: the next run asks the hub again",
            )
        })?;
        Ok(lock)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        ensure!(text.len() as u64 <= MAX_BYTES, "it is longer than {MAX_BYTES} bytes");
        let parsed: Text = serde_saphyr::from_str(&text)?;
        ensure!(parsed.version == VERSION, "its version is {}, not {VERSION}", parsed.version);
        for (name, commit) in &parsed.commits {
            let known = matches!(Address::accepted(name), Some(Address::Hub(hub)) if hub.pin_name() == *name);
            ensure!(known, "`{name}` is not a hub address with a revision");
            ensure!(is_commit(commit), "`{name}` has `{commit}`, which is no whole commit id");
        }
        Ok(parsed.commits)
    }

    /// Adds commits and writes the file in one step. What another process added meanwhile stays,
    /// and wins unless `replace`.
    ///
    /// # Errors
    /// When the recipe's folder cannot be written.
    pub fn add(&mut self, commits: &BTreeMap<String, String>, replace: bool) -> anyhow::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        // Other runs of recipes in this folder wait here; where a folder cannot be locked they do not.
        let lock = File::open(&folder);
        let _held = lock.as_ref().map(File::lock);
        let mut all = self.read()?;
        for (name, commit) in commits {
            if replace || !all.contains_key(name) {
                all.insert(name.clone(), commit.clone());
            }
        }
        if all != self.commits || !self.path.exists() {
            self.write(&folder, &all).map_err(|error| {
                hinted(
                    format!("cannot write the lock file `{}`: {error}", self.path.display()),
                    "in a folder that cannot be written, write the commits as `revision:` into the recipe",
                )
            })?;
        }
        self.commits = all;
        Ok(())
    }

    fn write(&self, folder: &Path, commits: &BTreeMap<String, String>) -> std::io::Result<()> {
        let mut text = format!(
            "# The commits that the hub sources of {0} stand for. Keep it under version control.\n\
             # `evergraft run {0} --update-lock` asks the hub again.\nversion: {VERSION}\ncommits:\n",
            self.recipe.escape_debug()
        );
        for (name, commit) in commits {
            text.push_str(&format!("  \"{name}\": \"{commit}\"\n"));
        }
        let mut file = tempfile::Builder::new().prefix(".lock-").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        // A temporary file is private; this one is for the whole project.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(file.path(), permissions)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    }
}
