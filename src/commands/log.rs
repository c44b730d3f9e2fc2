//! `evergraft log`.

use anyhow::Context as _;

use super::shared::{Survey, print};
use crate::{
    cli::{Cli, StepSelector},
    error::{Error, hinted},
    exec::State,
};

pub(super) fn run(cli: &Cli, args: &StepSelector) -> Result<(), Error> {
    let survey = Survey::of(cli, &args.recipe, &args.set)?;
    let wanted = survey.named(&args.step)?;
    for node in &wanted {
        let digest = node.key.as_ref().filter(|_| node.state == State::Cached);
        let Some(digest) = digest.and_then(|text| text.parse().ok()) else {
            return Err(Error::Usage(hinted(
                format!("`{}` has no result, so there is no log of it ({})", node.step, node.why),
                "the log of a failed step lies in the folder of its run, below `outputs`",
            )));
        };
        let path = survey.cache.log_path(&digest);
        let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        if wanted.len() > 1 {
            print(&format!("== {}\n", node.step))?;
        }
        print(&String::from_utf8_lossy(&text))?;
    }
    Ok(())
}
