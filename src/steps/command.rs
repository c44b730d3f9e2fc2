//! `uses: command`: a shell line in a folder of its own.

use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{StepContext, process, secrets::Secrets};
use crate::{env, error::hinted, params::CommandParams};

pub(crate) fn run(params: &CommandParams, ctx: &StepContext) -> anyhow::Result<()> {
    let log = ctx.log.lock().ok().and_then(|file| file.try_clone().ok()).context("cannot share the log")?;
    let mut command = Command::new("sh");
    command.arg("-e").arg("-c").arg(&params.run).current_dir(ctx.out);
    // An import from another step's result would add to it, and so damage it.
    if std::env::var_os(env::PYTHONDONTWRITEBYTECODE).is_none() {
        command.env(env::PYTHONDONTWRITEBYTECODE, "1");
    }
    command.envs(&params.env);
    let mut all = String::new();
    for (index, input) in params.inputs.iter().enumerate() {
        command.env(format!("INPUT_{}", index + 1), &input.0);
        all.push_str(&format!("{}\n", input.0.display()));
    }
    command.env("INPUTS", all);
    for (name, reference) in &params.steps {
        command.env(format!("STEP_{}", name.to_uppercase()), &ctx.input(reference)?.path);
    }
    if let Some(gpus) = ctx.gpus {
        command.env(env::CUDA_VISIBLE_DEVICES, gpus);
    }
    command.stdin(Stdio::null());
    let secrets = Secrets::of_environment(&params.secrets)?;
    let status = if params.secrets.is_empty() {
        command.stdout(log.try_clone()?).stderr(log);
        process::run(&mut command, ctx)?
    } else {
        run_masked(command, log, secrets.clone(), ctx)?
    };
    if !status.success() {
        bail!("the command ended with {status}");
    }
    remove_undeclared(ctx.out, Path::new(""), &params.outputs)?;
    // Only now: a folder on the way may have been a link, which is no part of a result.
    for output in &params.outputs {
        if !ctx.out.join(output).exists() {
            return Err(hinted(
                format!("the command did not make its output `{output}`"),
                "write it below the folder that the command starts in, not behind a link, or take it out of `outputs`",
            ));
        }
    }
    secrets.must_not_be_in(ctx.out)
}

/// How long the rest of a command's words is waited for: something that left its process group may hold the
/// pipe for ever.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Runs a command whose words go through a filter on their way to the log.
fn run_masked(
    mut command: Command,
    mut log: fs::File,
    secrets: Secrets,
    ctx: &StepContext,
) -> anyhow::Result<ExitStatus> {
    let (mut words, into) = std::io::pipe().context("cannot make a pipe")?;
    command.stdout(into.try_clone()?).stderr(into);
    let (done, filtered) = mpsc::channel();
    std::thread::spawn(move || done.send(secrets.copy_masked(&mut words, &mut log)));
    let status = process::run(&mut command, ctx);
    // The last ends of the pipe on this side; the filter waits for them.
    drop(command);
    match filtered.recv_timeout(LAST_WORDS) {
        Ok(filtered) => filtered.context("cannot write the log")?,
        Err(RecvTimeoutError::Timeout) => ctx.warn("something that the command started goes on without it"),
        Err(RecvTimeoutError::Disconnected) => bail!("the log's filter ended early"),
    }
    status
}

/// What was not declared is no result: it would make artifacts differ by leftovers.
fn remove_undeclared(root: &Path, below: &Path, outputs: &[String]) -> anyhow::Result<()> {
    for entry in fs::read_dir(root.join(below)).context("cannot read the step's folder")? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if outputs.iter().any(|output| Path::new(output) == path) {
            continue;
        }
        let is_dir = entry.file_type()?.is_dir();
        if is_dir && outputs.iter().any(|output| Path::new(output).starts_with(&path)) {
            remove_undeclared(root, &path, outputs)?;
        } else if is_dir {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
