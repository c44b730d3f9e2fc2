//! `evergraft run`.

use std::{collections::BTreeSet, io::IsTerminal as _, time::Duration};

use super::shared::{open_cache, planned, print};
use crate::{
    cli::{Cli, Format, RunArgs},
    env,
    error::Error,
    exec::{self, Observer, RunOptions},
    plan::Selection,
    progress::{Bars, JsonLines, Plain},
};

pub(super) fn run(cli: &Cli, args: &RunArgs) -> Result<(), Error> {
    if args.dry_run {
        return super::plan::run(cli, &args.recipe, false, args.format);
    }
    let mut plan = planned(&args.recipe.recipe, &args.recipe.set)?;
    let cache = open_cache(cli)?;
    let mut forced = BTreeSet::new();
    for name in &args.force {
        match name.as_str() {
            "*" => forced.extend(plan.graph.node_indices()),
            name => forced.extend(plan.named(name)?),
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let selection = Selection { only: args.only.clone(), from: args.from.clone(), until: args.until.clone() };
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
        jobs: args.jobs.unwrap_or(cores) as usize,
        cpus: cores,
        keep_going: args.keep_going,
        lock_timeout: args.lock_timeout.map(Duration::from_secs),
        outputs: args.outputs.clone(),
    };
    let json = args.format == Format::Json;
    let observer: Box<dyn Observer> = if json {
        Box::new(JsonLines)
    } else if std::io::stderr().is_terminal() && !env::is_on(env::NO_PROGRESS) && !env::is_on(env::CI) {
        let mut bars = Bars::default();
        bars.quiet = cli.quiet;
        Box::new(bars)
    } else {
        Box::new(Plain { quiet: cli.quiet })
    };
    let summary = exec::run(&plan, &cache, &options, &cancel, observer.as_ref())?;
    if !json {
        for report in &summary.reports {
            print(&format!("{}\n", report.display()))?;
        }
    }
    Ok(())
}
