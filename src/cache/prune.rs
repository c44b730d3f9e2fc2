//! `cache prune`: removes results by their last use, by the size of the whole, or because nothing
//! leads to them. Whatever a kept run needs stays. Runners hold the cache, so none is at work here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    Cache, Record,
    folder::{self, CHECKPOINTS, DAMAGED, SHOWN, TMP},
    verify::remove,
};
use crate::{digest::Digest, durable::read_checked_json, error::hinted};

/// What is to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneRules {
    /// Results that nobody used for so long, and what steps stopped so long ago left.
    pub older_than: Option<Duration>,
    /// Those used least recently, until everything is no larger than this.
    pub max_size: Option<u64>,
    /// What no result leads to: files of lost records, leftovers of killed runs, what `verify --repair`
    /// set aside.
    pub unreachable: bool,
    /// Only tell.
    pub dry_run: bool,
}

/// One thing that went.
#[derive(Debug, Clone, Serialize)]
pub struct PrunedItem {
    /// The node that made it first, or what it is.
    pub what: String,
    /// Its place.
    pub path: PathBuf,
    /// Days since its last use.
    pub days: f64,
}

/// What went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pruned {
    /// Results and other things.
    pub items: Vec<PrunedItem>,
    /// Bytes that are free now.
    pub bytes: u64,
    /// Bytes that are left.
    pub left: u64,
}

struct Entry {
    path: PathBuf,
    digest: Digest,
    node: String,
    artifact: Digest,
    age: Duration,
    kept: bool,
}

struct Pruning<'c> {
    cache: &'c Cache,
    rules: PruneRules,
    pruned: Pruned,
}

impl Cache {
    /// Removes what the rules say. The caller holds [`Cache::lock_alone`].
    ///
    /// # Errors
    /// When a folder or what a kept run needs cannot be read, or something cannot be removed.
    pub fn prune(&self, rules: PruneRules) -> anyhow::Result<Pruned> {
        let mut pruning = Pruning { cache: self, rules, pruned: Pruned::default() };
        let (mut results, lost) = pruning.results()?;
        pruning.pruned.left = self.size().bytes;
        let mut uses: BTreeMap<Digest, usize> = BTreeMap::new();
        for result in &results {
            *uses.entry(result.artifact.clone()).or_default() += 1;
        }
        // Least recently used first.
        results.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| a.digest.cmp(&b.digest)));
        for result in results.iter().filter(|result| !result.kept) {
            let old = rules.older_than.is_some_and(|limit| result.age > limit);
            let much = rules.max_size.is_some_and(|limit| pruning.pruned.left > limit);
            if old || much {
                pruning.remove_result(result, &mut uses)?;
            }
        }
        if let Some(limit) = rules.older_than {
            for folder in [self.own(CHECKPOINTS), self.downloads()] {
                for path in entries(&folder).filter(|path| age(path) > limit) {
                    pruning.remove(&path, name_of(&folder))?;
                }
            }
        }
        if rules.unreachable {
            pruning.remove_unreachable(&uses, &results, &lost)?;
        }
        pruning.remove_dead_links()?;
        Ok(pruning.pruned)
    }
}

impl Pruning<'_> {
    /// Readable records, and the names of the others.
    fn results(&self) -> anyhow::Result<(Vec<Entry>, BTreeSet<PathBuf>)> {
        let kept: BTreeSet<Digest> = self.cache.kept()?.into_iter().flat_map(|run| run.keys).collect();
        let (mut results, mut lost) = (Vec::new(), BTreeSet::new());
        for (path, name) in self.cache.records()? {
            match read_checked_json::<Record>(&path) {
                Ok(record) => results.push(Entry {
                    age: age(&path),
                    kept: kept.contains(&record.digest),
                    node: record.node,
                    artifact: record.artifact,
                    digest: record.digest,
                    path,
                }),
                // Its artifact could not be told from those that may go.
                Err(error) if kept.iter().any(|key| key.hex() == name) => {
                    let message = format!("a record that a kept run needs cannot be read: {error:#}");
                    let hint = "`evergraft cache verify --repair` sets it aside; the run that needs it makes it anew";
                    return Err(hinted(message, hint).context(format!("`{}`", path.display())));
                }
                // It may be whole for others: neither it nor an artifact may be called unreachable.
                Err(error) if error.is::<std::io::Error>() => {
                    let what = format!("cannot read `{}`, so nothing is removed", path.display());
                    return Err(error.context(what));
                }
                Err(_) => {
                    lost.insert(path);
                }
            }
        }
        Ok((results, lost))
    }

    /// The record goes first: what is left after a kill is unreachable, never a result without files.
    fn remove_result(&mut self, result: &Entry, uses: &mut BTreeMap<Digest, usize>) -> anyhow::Result<()> {
        let days = result.age.as_secs_f64() / 86_400.0;
        let what = result.node.clone();
        self.pruned.items.push(PrunedItem { what, path: result.path.clone(), days });
        self.free(&result.path)?;
        self.free(&self.cache.own(folder::log(&result.digest)))?;
        if let Some(left) = uses.get_mut(&result.artifact) {
            *left -= 1;
            if *left == 0 {
                self.free(&self.cache.artifact_path(&result.artifact))?;
            }
        }
        Ok(())
    }

    fn remove_unreachable(
        &mut self,
        uses: &BTreeMap<Digest, usize>,
        results: &[Entry],
        lost: &BTreeSet<PathBuf>,
    ) -> anyhow::Result<()> {
        for path in lost {
            self.remove(path, "a damaged record")?;
        }
        let used: BTreeSet<&str> = uses.keys().map(Digest::hex).collect();
        for path in self.sharded("artifacts") {
            if !used.contains(name_of(&path)) {
                self.remove(&path, "files without a record")?;
            }
        }
        let known: BTreeSet<&str> = results.iter().map(|result| result.digest.hex()).collect();
        for path in self.sharded("logs") {
            if !known.contains(name_of(&path).trim_end_matches(".txt")) {
                self.remove(&path, "a log without a record")?;
            }
        }
        for (folder, what) in [(TMP, "left by a killed run"), (DAMAGED, "set aside by `verify --repair`")] {
            for path in entries(&self.cache.own(folder)) {
                self.remove(&path, what)?;
            }
        }
        // Nobody holds a lock now; each is an empty file or nearly so.
        if !self.rules.dry_run {
            entries(&self.cache.own("locks")).for_each(|path| drop(fs::remove_file(path)));
        }
        Ok(())
    }

    /// What showed results that are gone.
    fn remove_dead_links(&mut self) -> anyhow::Result<()> {
        for folder in self.sharded(SHOWN) {
            if ["artifact", "log.txt"].iter().any(|link| fs::metadata(folder.join(link)).is_err()) {
                self.free(&folder)?;
            }
        }
        Ok(())
    }

    fn sharded(&self, name: &str) -> Vec<PathBuf> {
        entries(&self.cache.own(name)).flat_map(|shard| entries(&shard)).collect()
    }

    fn remove(&mut self, path: &Path, what: &str) -> anyhow::Result<()> {
        let days = age(path).as_secs_f64() / 86_400.0;
        self.pruned.items.push(PrunedItem { what: what.to_owned(), path: path.to_owned(), days });
        self.free(path)
    }

    fn free(&mut self, path: &Path) -> anyhow::Result<()> {
        let files = walkdir::WalkDir::new(path).into_iter().flatten();
        let sizes = files.filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file));
        let bytes: u64 = sizes.map(|about| about.len()).sum();
        self.pruned.bytes += bytes;
        self.pruned.left = self.pruned.left.saturating_sub(bytes);
        match self.rules.dry_run {
            true => Ok(()),
            false if path.is_dir() => remove(path),
            false => match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(anyhow::Error::new(error).context(format!("cannot remove `{}`", path.display())))
                }
                _ => Ok(()),
            },
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Time since it was last written or marked as used; nothing where the clock went back.
fn age(path: &Path) -> Duration {
    let modified =
        fs::metadata(path).and_then(|about| about.modified()).unwrap_or_else(|_| SystemTime::now());
    SystemTime::now().duration_since(modified).unwrap_or_default()
}
