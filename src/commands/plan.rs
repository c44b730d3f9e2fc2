//! `evergraft plan`.

use serde::Serialize;
use serde_json::json;

use super::shared::{Survey, print, print_json, table};
use crate::{
    cli::{Cli, Format, PlanArgs},
    error::{Error, count},
    estimate::{Estimate, estimates},
    exec::{NodeStatus, State},
};

pub(super) fn run(cli: &Cli, args: &PlanArgs) -> Result<(), Error> {
    let survey = Survey::under(cli, &args.recipe, &args.selection)?;
    let stale = show(&survey, args.format)?;
    if args.check && stale > 0 {
        return Err(Error::Stale(format!("{} would run", count(stale, "step"))));
    }
    Ok(())
}

/// A step in `--format json`.
#[derive(Serialize)]
struct Step<'s> {
    #[serde(flatten)]
    status: &'s NodeStatus,
    #[serde(flatten)]
    estimate: Option<&'s Estimate>,
}

/// e.g. `1.9 GiB memory, 6 MiB disk`.
fn describe(estimate: &Estimate) -> String {
    let size = |bytes: u64| match bytes as f64 / f64::from(1 << 20) {
        mib if mib >= 1024.0 => format!("{:.1} GiB", mib / 1024.0),
        mib => format!("{} MiB", mib.ceil()),
    };
    let memory = estimate.memory_bytes.map(|bytes| format!("~{} memory", size(bytes)));
    let disk = estimate.disk_bytes.map(|bytes| format!("{} disk", size(bytes)));
    memory.into_iter().chain(disk).collect::<Vec<_>>().join(", ")
}

/// Prints the state of every node; gives the number of those that would run.
pub(super) fn show(survey: &Survey, format: Format) -> Result<usize, Error> {
    let count = |state: State| survey.nodes().filter(|node| node.state == state).count();
    let (run, waits, cached) = (count(State::Run), count(State::Waits), count(State::Cached));
    let known = estimates(&survey.plan, survey.all_states());
    match format {
        Format::Json => {
            let steps: Vec<_> =
                survey.states().map(|(index, status)| Step { status, estimate: known.get(index) }).collect();
            print_json(&json!({
                "recipe": survey.plan.recipe_name, "run": run, "waits": waits, "cached": cached,
                "steps": steps, "plan": survey.plan.to_json(),
            }))?;
        }
        Format::Text => {
            let rows: Vec<Vec<String>> = survey
                .states()
                .zip(survey.kinds())
                .map(|((index, node), kind)| {
                    let state = match node.state {
                        State::Cached => "cached",
                        State::Run => "run",
                        State::Waits => "run?",
                    };
                    let estimate = known.get(index).map(describe).unwrap_or_default();
                    vec![state.to_owned(), node.step.clone(), kind.to_owned(), estimate, node.why.clone()]
                })
                .collect();
            print(&table(&rows))?;
            print(&format!("{cached} cached, {run} to run, {waits} after them\n"))?;
        }
    }
    Ok(run + waits)
}
