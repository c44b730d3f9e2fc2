//! `uses: command`: a shell line in a folder of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::{StepContext, process};
use crate::{env, error::hinted, params::CommandParams};

pub(crate) fn run(params: &CommandParams, ctx: &StepContext) -> anyhow::Result<()> {
    let log = ctx.log.lock().ok().and_then(|file| file.try_clone().ok()).context("cannot share the log")?;
    let mut command = Command::new("sh");
    command.arg("-e").arg("-c").arg(&params.run).current_dir(ctx.out).envs(&params.env);
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
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = process::run(&mut command, ctx.cancel)?;
    if !status.success() {
        bail!("the command ended with {status}");
    }
    for output in &params.outputs {
        if !ctx.out.join(output).exists() {
            return Err(hinted(
                format!("the command did not make its output `{output}`"),
                "write it below the folder that the command starts in, or take it out of `outputs`",
            ));
        }
    }
    remove_undeclared(ctx.out, Path::new(""), &params.outputs)
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
