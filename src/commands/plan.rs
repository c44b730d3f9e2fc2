//! `evergraft plan`.

use serde_json::json;

use super::shared::{Survey, print, print_json, table};
use crate::{
    cli::{Cli, Format, PlanArgs},
    error::{Error, count},
    exec::State,
};

pub(super) fn run(cli: &Cli, args: &PlanArgs) -> Result<(), Error> {
    let survey = Survey::of(cli, &args.recipe.recipe, &args.recipe.set)?;
    let stale = show(&survey, args.format)?;
    if args.check && stale > 0 {
        return Err(Error::Stale(format!("{} would run", count(stale, "step"))));
    }
    Ok(())
}

/// Prints the state of every node; gives the number of those that would run.
pub(super) fn show(survey: &Survey, format: Format) -> Result<usize, Error> {
    let count = |state: State| survey.nodes().filter(|node| node.state == state).count();
    let (run, waits, cached) = (count(State::Run), count(State::Waits), count(State::Cached));
    match format {
        Format::Json => {
            let steps: Vec<_> = survey.nodes().collect();
            print_json(&json!({
                "recipe": survey.plan.recipe_name, "run": run, "waits": waits, "cached": cached,
                "steps": steps, "plan": survey.plan.to_json(),
            }))?;
        }
        Format::Text => {
            let rows: Vec<Vec<String>> = survey
                .nodes()
                .zip(survey.kinds())
                .map(|(node, kind)| {
                    let state = match node.state {
                        State::Cached => "cached",
                        State::Run => "run",
                        State::Waits => "run?",
                    };
                    vec![state.to_owned(), node.step.clone(), kind.to_owned(), node.why.clone()]
                })
                .collect();
            print(&table(&rows))?;
            print(&format!("{cached} cached, {run} to run, {waits} after them\n"))?;
        }
    }
    Ok(run + waits)
}
