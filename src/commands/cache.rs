//! `evergraft cache`.

use std::time::Duration;

use indicatif::BinaryBytes;
use serde_json::json;

use super::shared::{cache_root, open_cache, print, print_json, table};
use crate::{
    cache::{Cache, KeptRun, LockOptions, PruneRules, UseLock},
    cli::{CacheCommand, Cli, Format, KeepArgs, PruneArgs},
    error::{Error, count, hinted},
    exec::{self, PastRun},
};

pub(super) fn run(cli: &Cli, command: &CacheCommand) -> Result<(), Error> {
    if let CacheCommand::Dir = command {
        return print(&format!("{}\n", cache_root(cli)?.display()));
    }
    let cache = open_cache(cli)?;
    match command {
        CacheCommand::Dir => Ok(()),
        CacheCommand::Size { format } => {
            let size = cache.size();
            match format {
                Format::Json => print_json(&size),
                Format::Text => {
                    let unfinished = match size.unfinished {
                        0 => String::new(),
                        n => format!(", checkpoints of {}", count(n as usize, "unfinished step")),
                    };
                    let bytes = BinaryBytes(size.bytes);
                    print(&format!("{} results{unfinished}, {bytes}\n", size.records))
                }
            }
        }
        CacheCommand::Verify { format, repair, lock_timeout } => {
            verify(&cache, *format, *repair, *lock_timeout)
        }
        CacheCommand::Prune(args) => prune(&cache, args),
        CacheCommand::Keep(args) => keep(&cache, args),
        CacheCommand::Unkeep(args) => unkeep(&cache, args),
        CacheCommand::Clean { lock_timeout, checkpoints } => {
            let _alone = alone(&cache, *lock_timeout)?;
            let size = if *checkpoints { cache.clean_checkpoints()? } else { cache.clean()? };
            let what = match checkpoints {
                true => format!("the checkpoints of {}", count(size.unfinished as usize, "step")),
                false => format!("{} results", size.records),
            };
            print(&format!("removed {what}, {}\n", BinaryBytes(size.bytes)))
        }
    }
}

/// Waits until nobody else uses the cache.
fn alone(cache: &Cache, timeout: Option<u64>) -> Result<UseLock, Error> {
    locked(timeout, |options| cache.lock_alone(options))
}

fn locked(
    timeout: Option<u64>,
    lock: impl FnOnce(&LockOptions) -> Result<UseLock, Error>,
) -> Result<UseLock, Error> {
    let cancel = exec::watch_signals()?;
    let on_wait = |message: &str| eprintln!("{message}");
    lock(&LockOptions { timeout: timeout.map(Duration::from_secs), cancel: &cancel, on_wait: &on_wait })
}

fn verify(cache: &Cache, format: Format, repair: bool, timeout: Option<u64>) -> Result<(), Error> {
    let _alone = if repair { Some(alone(cache, timeout)?) } else { None };
    let mut records = 0;
    let damage = cache.verify(&mut || records += 1)?;
    let aside = if repair && !damage.is_empty() { Some(cache.set_aside(&damage)?) } else { None };
    match format {
        Format::Json => {
            print_json(&json!({ "records": records, "damage": damage, "moved_to": aside }))?;
        }
        Format::Text => {
            for item in &damage {
                print(&format!("{}: {}\n", item.path.display(), item.problem))?;
            }
            print(&format!("{records} results checked, {} damaged\n", damage.len()))?;
            if let Some(aside) = &aside {
                print(&format!("moved what is damaged to `{}`\n", aside.display()))?;
            }
        }
    }
    match damage.len() {
        0 => Ok(()),
        _ if repair => Ok(()),
        n => {
            let damaged = count(n, "damaged result");
            Err(Error::Integrity(format!(
                "{damaged}; the next run makes what is damaged anew, --repair moves it away"
            )))
        }
    }
}

fn prune(cache: &Cache, args: &PruneArgs) -> Result<(), Error> {
    let _alone = alone(cache, args.lock_timeout)?;
    let pruned = cache.prune(PruneRules {
        older_than: args.older_than,
        max_size: args.max_size,
        unreachable: args.unreachable,
        dry_run: args.dry_run,
    })?;
    if args.format == Format::Json {
        return print_json(&pruned);
    }
    let (verb, left) = if args.dry_run { ("would remove", "would be left") } else { ("removed", "left") };
    let rows: Vec<Vec<String>> = pruned
        .items
        .iter()
        .map(|item| {
            vec![item.what.clone(), format!("{:.1} days", item.days), item.path.display().to_string()]
        })
        .collect();
    print(&table(&rows))?;
    let things = count(pruned.items.len(), "thing");
    print(&format!("{verb} {things}, {}; {} {left}\n", BinaryBytes(pruned.bytes), BinaryBytes(pruned.left)))
}

fn keep(cache: &Cache, args: &KeepArgs) -> Result<(), Error> {
    let Some(run) = &args.run else {
        let kept = cache.kept()?;
        return kept.iter().try_for_each(|kept| print(&format!("{}\n", kept.run.display())));
    };
    let run = PastRun::find(run, &args.outputs).map_err(Error::Usage)?;
    let steps = run.summary().map_err(Error::Usage)?.steps;
    let keys = steps.into_iter().filter_map(|step| step.key).collect();
    let kept = KeptRun { run: run.folder, keys };
    // Nothing goes between the look and the list.
    let _shared = locked(None, |options| cache.lock_shared(options))?;
    let there = kept.keys.iter().filter(|key| cache.holds(key)).count();
    let lost = kept.keys.len() - there;
    if there == 0 {
        let message = format!("the cache holds no result of `{}`", kept.run.display());
        return Err(Error::Usage(hinted(message, "run it again first, with the cache that is to keep them")));
    }
    cache.keep(&kept).map_err(Error::Usage)?;
    if lost > 0 {
        let lost = count(lost, "result");
        eprintln!("warning: the cache lacks {lost} of that run; once made anew, they are kept too");
    }
    print(&format!("kept the {} of `{}`\n", count(there, "result"), kept.run.display()))
}

fn unkeep(cache: &Cache, args: &KeepArgs) -> Result<(), Error> {
    let run = args.run.as_deref().ok_or_else(|| {
        Error::Usage(hinted("no run is named", "`evergraft cache keep` lists the runs that are kept"))
    })?;
    // Its folder may be gone.
    let folder = PastRun::find(run, &args.outputs).map_or_else(|_| run.to_owned(), |run| run.folder);
    match cache.unkeep(&folder).map_err(Error::Usage)? {
        true => print(&format!("`{}` is not kept any more\n", folder.display())),
        false => {
            let message = format!("`{}` is not kept", folder.display());
            Err(Error::Usage(hinted(message, "`evergraft cache keep` lists the runs that are kept")))
        }
    }
}
