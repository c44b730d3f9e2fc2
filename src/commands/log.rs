//! `evergraft log`.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::shared::{Survey, print};
use crate::{
    cli::{Cli, LogArgs},
    digest::Digest,
    error::{Error, hinted},
    exec::{NodeStatus, State},
};

pub(super) fn run(cli: &Cli, args: &LogArgs) -> Result<(), Error> {
    let survey = Survey::of(cli, &args.step.recipe)?;
    let wanted = survey.named(&args.step.step)?;
    for node in &wanted {
        let (path, grows) = place(&survey, node, args.follow)?;
        if wanted.len() > 1 {
            print(&format!("== {}\n", node.step))?;
        }
        follow(&path, grows)?;
    }
    Ok(())
}

/// The log of the step's result, or that of the step as it runs now, and whether it still grows.
fn place(survey: &Survey, node: &NodeStatus, running: bool) -> Result<(PathBuf, bool), Error> {
    let digest: Option<Digest> = node.key.as_ref().and_then(|text| text.parse().ok());
    if let Some(digest) = &digest {
        if node.state == State::Cached {
            return Ok((survey.cache.log_path(digest), false));
        }
        if running && let Some(log) = survey.cache.running_log(digest) {
            return Ok((log, true));
        }
    }
    let (what, hint) = match running {
        true => ("and it does not run now", "`evergraft status` tells what runs"),
        false => (
            "so there is no log of it",
            "--follow shows that of a running step; that of a failed one lies in the run's folder, below `outputs`",
        ),
    };
    Err(Error::Usage(hinted(format!("`{}` has no result, {what} ({})", node.step, node.why), hint)))
}

/// Prints a log and, where it grows, what is added to it until its step is over.
fn follow(path: &Path, grows: bool) -> Result<(), Error> {
    let cannot = || format!("cannot read `{}`", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    loop {
        // Asked before reading: what a step wrote at its very end must not be lost.
        let over = !grows || !path.exists();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(cannot)?;
        if !bytes.is_empty() {
            print(&String::from_utf8_lossy(&bytes))?;
        }
        if over {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
