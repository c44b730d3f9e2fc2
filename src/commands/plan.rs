//! `evergraft plan`.

use std::collections::BTreeSet;

use serde_json::json;

use super::shared::{open_cache, planned, print, print_json, table};
use crate::{
    cli::{Cli, Format, RecipeArgs},
    error::Error,
    exec::{State, status},
};

pub(super) fn run(cli: &Cli, args: &RecipeArgs, check: bool, format: Format) -> Result<(), Error> {
    let plan = planned(&args.recipe, &args.set)?;
    let cache = open_cache(cli)?;
    let nodes = status(&plan, &cache, &BTreeSet::new())?;
    let count = |state: State| nodes.iter().filter(|(_, node)| node.state == state).count();
    let (run, waits, cached) = (count(State::Run), count(State::Waits), count(State::Cached));
    match format {
        Format::Json => {
            let steps: Vec<_> = nodes.iter().map(|(_, node)| node).collect();
            print_json(&json!({
                "recipe": plan.recipe_name, "run": run, "waits": waits, "cached": cached,
                "steps": steps, "plan": plan.to_json(),
            }))?;
        }
        Format::Text => {
            let rows: Vec<Vec<String>> = nodes
                .iter()
                .map(|(index, node)| {
                    let state = match node.state {
                        State::Cached => "cached",
                        State::Run => "run",
                        State::Waits => "run?",
                    };
                    let kind = plan.graph[*index].kind.name;
                    vec![state.to_owned(), node.step.clone(), kind.to_owned(), node.why.clone()]
                })
                .collect();
            print(&table(&rows))?;
            print(&format!("{cached} cached, {run} to run, {waits} after them\n"))?;
        }
    }
    if check && run + waits > 0 {
        return Err(Error::Stale(format!("{} steps would run", run + waits)));
    }
    Ok(())
}
