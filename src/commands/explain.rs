//! `evergraft explain`.

use serde_json::json;

use super::shared::{Survey, print, print_json};
use crate::{
    cli::{Cli, Format, StepArgs},
    error::Error,
    exec::State,
};

pub(super) fn run(cli: &Cli, args: &StepArgs) -> Result<(), Error> {
    let survey = Survey::of(cli, &args.step.recipe, &args.step.set)?;
    let mut reports = Vec::new();
    for node in survey.named(&args.step.step)? {
        let last = survey.cache.last_key(&survey.plan.recipe_name, &node.step);
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
            State::Waits if node.key.is_none() && survey.lacks_a_pin(node) => {
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
