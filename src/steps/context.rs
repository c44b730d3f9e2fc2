//! What a running step may see and touch.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::Permissions,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::Context as _;
use serde_json::Value;

use super::Bases;
use crate::{cancel::Cancel, digest::Digest, params::ArtifactRef, progress::Progress};

/// A finished upstream step and, through `inputs`, everything before it.
#[derive(Debug, Clone)]
pub struct Input {
    /// Node id in the plan, e.g. `train[method=lora,seed=1]`.
    pub node: String,
    /// Step id in the recipe, e.g. `train`.
    pub step: String,
    /// Step kind, e.g. `train`.
    pub kind: String,
    /// The matrix cell, axis by axis; empty for a plain step.
    pub cell: BTreeMap<String, Value>,
    /// Parameters as they entered the key (references as `{"$artifact": digest}`).
    pub params: Value,
    /// Digest of the step's key.
    pub key: Digest,
    /// Digest of the artifact's content.
    pub digest: Digest,
    /// The artifact's folder; read only.
    pub path: PathBuf,
    /// Its own inputs.
    pub inputs: Vec<Arc<Input>>,
}

impl Input {
    /// The first artifact with this content among this input and everything before it.
    pub fn find(self: &Arc<Self>, digest: &Digest) -> Option<Arc<Input>> {
        lineage([self]).find(|input| input.digest == *digest).cloned()
    }
}

/// Inputs and everything before them, each once, by however many ways it is reached.
pub(crate) fn lineage<'i>(
    inputs: impl IntoIterator<Item = &'i Arc<Input>>,
) -> impl Iterator<Item = &'i Arc<Input>> {
    let mut open: Vec<&Arc<Input>> = inputs.into_iter().collect();
    open.reverse();
    let mut seen = HashSet::new();
    std::iter::from_fn(move || {
        loop {
            let input = open.pop()?;
            if seen.insert(input.node.as_str()) {
                open.extend(input.inputs.iter().rev());
                return Some(input);
            }
        }
    })
}

/// Everything a running step may use.
pub struct StepContext<'a> {
    /// Node id in the plan.
    pub node: &'a str,
    /// Digest of the step's key: stands for everything that the result depends on.
    pub key: &'a Digest,
    /// An empty folder. What the step leaves here becomes its artifact.
    pub out: &'a Path,
    /// A folder that outlives the step when it is stopped or killed, and goes once its result is there;
    /// it need not exist yet.
    pub checkpoints: &'a Path,
    /// The artifacts that the parameters name, by node id.
    pub inputs: &'a BTreeMap<String, Arc<Input>>,
    /// Bases that other steps have loaded in this process.
    pub bases: &'a Bases,
    /// Where files of the web are kept by their digest.
    pub downloads: &'a Path,
    /// A folder for TensorBoard's files; it need not exist yet, and is no part of the result.
    pub tensorboard: &'a Path,
    /// `CUDA_VISIBLE_DEVICES` of the programs that the step starts, where cards were handed out.
    pub gpus: Option<&'a str>,
    /// Where to report how far the step is.
    pub progress: &'a dyn Progress,
    /// Ask this in long loops.
    pub cancel: &'a Cancel,
    /// The step's log file.
    pub log: &'a Mutex<std::fs::File>,
    /// Told the process group of a program that the step starts, for those who end it if this process cannot.
    pub on_program: &'a (dyn Fn(u32) + Sync),
    /// The digest that a source file has in the step's key.
    pub source_digest: &'a (dyn Fn(&Path) -> anyhow::Result<Digest> + Sync),
}

impl StepContext<'_> {
    /// The artifact that a parameter refers to.
    ///
    /// # Errors
    /// When the planner did not pass it on, which is a defect.
    pub fn input(&self, reference: &ArtifactRef) -> anyhow::Result<&Arc<Input>> {
        self.inputs
            .get(&reference.0)
            .ok_or_else(|| anyhow::anyhow!("step `{}` was not given its input `{}`", self.node, reference.0))
    }

    /// The first artifact with this content among all inputs and everything before them.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Input>> {
        lineage(self.inputs.values()).find(|input| input.digest == *digest).cloned()
    }

    /// Copies those of these files that a folder has into the artifact.
    ///
    /// # Errors
    /// When a file cannot be read or the disk is full.
    pub fn take_over(
        &self,
        from: &Path,
        names: impl IntoIterator<Item = &'static str>,
    ) -> anyhow::Result<()> {
        for name in names.into_iter().filter(|name| from.join(name).is_file()) {
            let to = self.out.join(name);
            std::fs::copy(from.join(name), &to).with_context(|| format!("cannot copy `{name}`"))?;
            // A result's files are read-only, and a copy keeps that; the step may still change its own.
            std::fs::set_permissions(&to, Permissions::from_mode(0o644))
                .with_context(|| format!("cannot change `{name}`"))?;
        }
        Ok(())
    }

    /// Writes a small JSON file into the artifact.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write_json(&self, name: &str, value: &serde_json::Value) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)? + "\n";
        std::fs::write(self.out.join(name), text).with_context(|| format!("cannot write `{name}`"))
    }

    /// Adds a line to the step's log (`evergraft log <step>`). A full disk must not fail a step
    /// that could still succeed, so errors are dropped.
    pub fn log(&self, line: impl fmt::Display) {
        if let Ok(mut file) = self.log.lock() {
            let _ = writeln!(file, "{line}");
        }
    }

    /// Adds a line that starts with `warning: ` to the log; the runner shows it to the user.
    pub fn warn(&self, line: impl fmt::Display) {
        self.log(format_args!("warning: {line}"));
    }
}
