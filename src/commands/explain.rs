//! `evergraft explain`.

use super::shared::{Survey, print, print_json};
use crate::{
    cli::{Cli, ExplainArgs, Format},
    error::Error,
    exec::{self, Explanation, State},
};

pub(super) fn run(cli: &Cli, args: &ExplainArgs) -> Result<(), Error> {
    let survey = Survey::of(cli, &args.step.recipe)?;
    let nodes = survey.plan.named(&args.step.step)?;
    let explain = |node| exec::explain(&survey.plan, &survey.cache, survey.all_states(), node);
    let all: Vec<Explanation> = nodes.into_iter().map(explain).collect();
    match args.format {
        Format::Json => print_json(&all),
        Format::Text => all.iter().try_for_each(|one| print(&text(one, &survey))),
    }
}

fn text(explanation: &Explanation, survey: &Survey) -> String {
    let Explanation { status, has_earlier, differences, causes, .. } = explanation;
    let state = match status.state {
        State::Cached => "cached",
        State::Run => "would run",
        State::Waits if status.key.is_none() && survey.lacks_a_pin(status) => {
            "would run, or be cached if the hub tells a known commit"
        }
        State::Waits => "would run, or be cached if the steps before it make the same bytes",
    };
    let mut text = format!("{}: {state} ({})\n", status.step, status.why);
    if !has_earlier && status.state != State::Cached {
        text.push_str("  there is no earlier key of this step to compare with\n");
    }
    for difference in differences {
        text.push_str(&format!("  {difference}\n"));
    }
    for cause in causes {
        text.push_str(&format!("  because of {}: {}\n", cause.step, cause.why));
        for difference in &cause.differences {
            text.push_str(&format!("    {difference}\n"));
        }
    }
    if let Some(key) = &status.key {
        text.push_str(&format!("  key {key}\n"));
    }
    text
}
