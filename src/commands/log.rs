//! `evergraft log`.

use std::collections::BTreeSet;

use anyhow::Context as _;

use super::shared::{open_cache, planned, print};
use crate::{
    cli::{Cli, LogArgs},
    error::{Error, hinted},
    exec::{State, status},
};

pub(super) fn run(cli: &Cli, args: &LogArgs) -> Result<(), Error> {
    let plan = planned(&args.recipe, &args.set)?;
    let wanted = plan.named(&args.step)?;
    let cache = open_cache(cli)?;
    let nodes = status(&plan, &cache, &BTreeSet::new())?;
    for (_, node) in nodes.iter().filter(|(index, _)| wanted.contains(index)) {
        let digest = node.key.as_ref().filter(|_| node.state == State::Cached);
        let Some(digest) = digest.and_then(|text| text.parse().ok()) else {
            return Err(Error::Usage(hinted(
                format!("`{}` has no result, so there is no log of it ({})", node.step, node.why),
                "the log of a failed step lies in the folder of its run, below `outputs`",
            )));
        };
        let path = cache.log_path(&digest);
        let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        if wanted.len() > 1 {
            print(&format!("== {}\n", node.step))?;
        }
        print(&String::from_utf8_lossy(&text))?;
    }
    Ok(())
}
