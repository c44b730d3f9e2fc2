//! `evergraft run`.

use std::{io::IsTerminal as _, time::Duration};

use super::shared::{Survey, named_or_all, open_cache, planned, print, selection};
use crate::{
    cli::{Cli, Format, RunArgs},
    env,
    error::Error,
    estimate,
    exec::{self, Capacity, RunOptions},
    progress::{Bars, JsonLines, Observer, Plain},
};

pub(super) fn run(cli: &Cli, args: &RunArgs) -> Result<(), Error> {
    let recipe = &args.recipe;
    if args.dry_run {
        let survey = Survey::under(cli, recipe, &args.selection)?;
        return super::plan::show(&survey, args.format).map(drop);
    }
    let mut plan = planned(&recipe.recipe, &recipe.set)?;
    let cache = open_cache(cli)?;
    let forced = named_or_all(&plan, &args.selection.force)?;
    let selection = selection(&args.selection);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cancel = exec::watch_signals()?;
    let say = |line: &str| {
        if !cli.quiet {
            eprintln!("{line}");
        }
    };
    exec::pin(&mut plan, &selection, args.update_lock, &cancel, &say)?;
    let options = RunOptions {
        selection,
        forced,
        jobs: args.jobs.map_or(cores, |jobs| jobs as usize),
        capacity: Capacity::of(&args.resources.unwrap_or_default()),
        memory: estimate::memory,
        keep_going: args.keep_going,
        lock_timeout: args.lock_timeout.map(Duration::from_secs),
        outputs: args.outputs.clone(),
    };
    let json = args.format == Format::Json;
    let observer: Box<dyn Observer> = if json {
        Box::new(JsonLines)
    } else if std::io::stderr().is_terminal() && !env::is_on(env::NO_PROGRESS) && !env::is_on(env::CI) {
        Box::new(Bars::new(cli.quiet))
    } else {
        Box::new(Plain { quiet: cli.quiet })
    };
    let summary = exec::run(&plan, cache, &options, &cancel, observer.as_ref())?;
    if !json {
        for report in &summary.reports {
            print(&format!("{}\n", report.display()))?;
        }
    }
    Ok(())
}
