//! Commits of hub sources: asked for before anything runs, and written into the lock file, so that
//! every later plan and run needs no network for them.

use std::collections::BTreeMap;

use crate::{
    cancel::{Cancel, Cancelled},
    env,
    error::{Error, hinted},
    hub::{self, LockFile, Settings, Work},
    plan::{Plan, Selection},
    progress::Silent,
};

/// Finds the commits that the selected nodes, and those before them, need. `update` asks anew for
/// those that the lock file holds. Gives a line for each that is new.
///
/// # Errors
/// When the hub does not tell a commit, or the lock file cannot be written.
pub fn pin(
    plan: &mut Plan,
    selection: &Selection,
    update: bool,
    cancel: &Cancel,
    say: &(dyn Fn(&str) + Sync),
) -> Result<(), Error> {
    let wanted = plan.pins_of(&plan.with_ancestors(plan.select(selection)?), update);
    if wanted.is_empty() {
        return Ok(());
    }
    let mut lock = LockFile::of_recipe(&plan.recipe_path).map_err(Error::Usage)?;
    let settings = Settings::from_env().map_err(Error::Usage)?;
    if update && settings.offline {
        let hint = format!("unset {}, or leave --update-lock out", env::HF_HUB_OFFLINE);
        return Err(Error::Usage(hinted("--update-lock asks the hub, which is forbidden", hint)));
    }
    let work = Work { stop: &|| cancel.check(), log: say, warn: say, progress: &Silent };
    let mut found = BTreeMap::new();
    for (name, hub) in wanted {
        let commit = hub::resolve(&settings, &hub, &work).map_err(|error| stopped(error, cancel))?;
        found.insert(name, commit);
    }
    let before = lock.commits.clone();
    lock.add(&found, update)?;
    for name in found.keys() {
        let (old, new) = (before.get(name), &lock.commits[name]);
        match old {
            Some(old) if old == new => {}
            Some(old) => say(&format!("pinned   {name}  {old} -> {new}")),
            None => say(&format!("pinned   {name}  {new}")),
        }
    }
    plan.pin(&lock.commits);
    Ok(())
}

fn stopped(error: anyhow::Error, cancel: &Cancel) -> Error {
    match cancel.signal() {
        Some(signal) if error.downcast_ref::<Cancelled>().is_some() => Error::Signal(signal),
        _ => Error::Other(error),
    }
}
