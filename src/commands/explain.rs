//! `evergraft explain`.

use std::collections::BTreeSet;

use serde_json::json;

use super::shared::{open_cache, planned, print, print_json};
use crate::{
    cli::{Cli, Format, StepArgs},
    error::Error,
    exec::{State, status},
};

pub(super) fn run(cli: &Cli, args: &StepArgs) -> Result<(), Error> {
    let plan = planned(&args.recipe, &args.set)?;
    let wanted = plan.named(&args.step)?;
    let cache = open_cache(cli)?;
    let nodes = status(&plan, &cache, &BTreeSet::new())?;
    let mut reports = Vec::new();
    for (index, node) in nodes.iter().filter(|(index, _)| wanted.contains(index)) {
        let last = cache.last_key(&plan.recipe_name, &node.step);
        let differences = match (&node.preimage, &last) {
            (Some(now), Some(last)) => now.differences(last),
            _ => Vec::new(),
        };
        if args.format == Format::Json {
            reports.push(json!({ "status": node, "key": node.preimage, "differences": differences }));
            continue;
        }
        let state = match node.state {
            State::Cached => "cached",
            State::Run => "would run",
            State::Waits if node.key.is_none() && plan.graph[*index].unpinned().is_some() => {
                "would run, or be cached if the hub tells a known commit"
            }
            State::Waits => "would run, or be cached if the steps before it make the same bytes",
        };
        let mut text = format!("{}: {state} ({})\n", node.step, node.why);
        if last.is_none() {
            text.push_str("  there is no earlier key of this step to compare with\n");
        }
        for difference in &differences {
            text.push_str(&format!("  {difference}\n"));
        }
        if let Some(key) = &node.key {
            text.push_str(&format!("  key {key}\n"));
        }
        print(&text)?;
    }
    if args.format == Format::Json { print_json(&reports) } else { Ok(()) }
}
