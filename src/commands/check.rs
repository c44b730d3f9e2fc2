//! `evergraft check`.

use super::shared::{planned, print};
use crate::{
    cli::{Cli, RecipeArgs},
    error::{Error, count},
};

pub(super) fn run(cli: &Cli, args: &RecipeArgs) -> Result<(), Error> {
    let plan = planned(&args.recipe, &args.set)?;
    if cli.quiet {
        return Ok(());
    }
    let steps = count(plan.graph.node_count(), "step");
    print(&format!("`{}` is right: {steps}\n", args.recipe.display()))?;
    for name in plan.unpinned() {
        print(&format!("`{name}` has no commit in the lock file yet; the next `run` asks the hub\n"))?;
    }
    Ok(())
}
