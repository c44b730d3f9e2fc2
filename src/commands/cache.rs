//! `evergraft cache`.

use std::time::Duration;

use serde_json::json;

use super::shared::{cache_root, open_cache, print, print_json};
use crate::{
    cache::LockOptions,
    cli::{CacheCommand, Cli, Format},
    error::{Error, count},
    exec,
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
                    let bytes = indicatif::BinaryBytes(size.bytes);
                    print(&format!("{} results{unfinished}, {bytes}\n", size.records))
                }
            }
        }
        CacheCommand::Verify { format } => {
            let mut records = 0;
            let damage = cache.verify(&mut || records += 1)?;
            match format {
                Format::Json => print_json(&json!({ "records": records, "damage": damage }))?,
                Format::Text => {
                    for item in &damage {
                        print(&format!("{}: {}\n", item.path.display(), item.problem))?;
                    }
                    print(&format!("{records} results checked, {} damaged\n", damage.len()))?;
                }
            }
            match damage.len() {
                0 => Ok(()),
                n => {
                    let damaged = count(n, "damaged result");
                    Err(Error::Integrity(format!("{damaged}; the next run makes what is damaged anew")))
                }
            }
        }
        CacheCommand::Clean { lock_timeout, checkpoints } => {
            let cancel = exec::watch_signals()?;
            let on_wait = |message: &str| eprintln!("{message}");
            let options = LockOptions {
                timeout: lock_timeout.map(Duration::from_secs),
                cancel: &cancel,
                on_wait: &on_wait,
            };
            let _alone = cache.lock_alone(&options)?;
            let size = if *checkpoints { cache.clean_checkpoints()? } else { cache.clean()? };
            let what = match checkpoints {
                true => format!("the checkpoints of {}", count(size.unfinished as usize, "step")),
                false => format!("{} results", size.records),
            };
            print(&format!("removed {what}, {}\n", indicatif::BinaryBytes(size.bytes)))
        }
    }
}
