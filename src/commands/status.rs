//! `evergraft status`.

use serde_json::json;

use super::shared::{print, print_json, table};
use crate::{
    cli::{Format, StatusArgs},
    error::Error,
    exec::{PastRun, RunState},
    recipe,
};

pub(super) fn run(args: &StatusArgs) -> Result<(), Error> {
    let run = match &args.run {
        Some(run) => PastRun::find(run, &args.outputs),
        None => {
            let recipe = recipe::load(&args.recipe.recipe, &args.recipe.set)?;
            PastRun::find(recipe.name().as_ref(), &args.outputs)
        }
    };
    let run = run.map_err(Error::Usage)?;
    let (state, steps) = (run.state()?, run.steps()?);
    if args.format == Format::Json {
        return print_json(&json!({ "run": run.folder, "state": state, "steps": steps }));
    }
    let what = match state {
        RunState::Running => "runs now",
        RunState::Finished => "has finished",
        RunState::Killed => "was killed before its end",
    };
    let rows: Vec<Vec<String>> = steps
        .into_iter()
        // What a killed run was at is not going on any more.
        .map(|step| match (state, step.state) {
            (RunState::Killed, "running" | "waiting") => vec!["killed".to_owned(), step.step, step.about],
            (_, state) => vec![state.to_owned(), step.step, step.about],
        })
        .collect();
    print(&format!("{} {what}\n{}", run.folder.display(), table(&rows)))
}
