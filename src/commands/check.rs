//! `evergraft check`.

use super::shared::{planned, print};
use crate::{
    cli::{Cli, RecipeArgs},
    error::Error,
};

pub(super) fn run(cli: &Cli, args: &RecipeArgs) -> Result<(), Error> {
    let plan = planned(&args.recipe, &args.set)?;
    if cli.quiet {
        return Ok(());
    }
    print(&format!("`{}` is right: {} steps\n", args.recipe.display(), plan.graph.node_count()))?;
    for name in plan.unpinned() {
        print(&format!("`{name}` has no commit in the lock file yet; the next `run` asks the hub\n"))?;
    }
    Ok(())
}
