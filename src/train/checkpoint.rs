//! Checkpoints: a folder each, complete or not there at all.
//!
//! ```text
//! <folder>/step-0000000120/checkpoint.json        checksum line, state, digests of the files
//!                          weights.safetensors    the trained parameters
//!                          optimizer.safetensors  AdamW's moments
//!                          best.safetensors       the best weights so far, where they are wanted
//!                          metrics.jsonl          the lines so far
//! ```
//!
//! A checkpoint is written beside its place, synced, and renamed: the rename is the commit point.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::state::{State, Tensors, first_broken};
use crate::{
    digest::Digest,
    durable::{self, checked_json, parse_checked_json, read_checked_json},
    error::hinted,
    fault,
    model::{SafetensorsWeights, WeightSource as _, write_safetensors},
    params::{Dtype, OptimizerParams},
};

const HEADER: &str = "checkpoint.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const BEST: &str = "best.safetensors";
const METRICS: &str = "metrics.jsonl";
const PREFIX: &str = "step-";
const UNFINISHED: &str = ".new-";

/// Bumped when the files change their meaning. A checkpoint of another format is left for the version
/// of the program that wrote it.
const FORMAT: u32 = 1;
/// Time between two checkpoints when the recipe names no number of steps.
const PAUSE: Duration = Duration::from_secs(60);
/// Writing takes at most this part of the time then.
const SHARE: u32 = 20;

/// The checkpoints of one run.
#[derive(Debug)]
pub(super) struct Checkpoints {
    folder: PathBuf,
    every: Option<usize>,
    limit: usize,
    /// The step of the newest.
    newest: usize,
    /// Steps whose checkpoints have another format.
    foreign: BTreeSet<usize>,
    written: Instant,
    cost: Duration,
}

#[derive(Serialize, Deserialize)]
struct Header<S> {
    format: u32,
    /// Updates of each parameter that has moments.
    updates: BTreeMap<String, i32>,
    state: S,
    files: BTreeMap<String, Digest>,
}

impl Checkpoints {
    /// The checkpoints in a folder, which need not exist. What a kill left half-written goes.
    pub(super) fn open(folder: &Path, params: &OptimizerParams) -> Self {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Self {
            folder: folder.to_owned(),
            every: params.save_steps,
            limit: params.save_total_limit,
            newest: 0,
            foreign: BTreeSet::new(),
            written: Instant::now(),
            cost: Duration::ZERO,
        }
    }

    /// Whether it is time for one after `step`.
    pub(super) fn is_due(&self, step: usize) -> bool {
        match self.every {
            Some(0) => false,
            Some(every) => step.is_multiple_of(every),
            None => self.written.elapsed() >= PAUSE.max(self.cost * SHARE),
        }
    }

    /// Whether a stopped run should leave one after `step`.
    pub(super) fn is_wanted(&self, step: usize) -> bool {
        self.every != Some(0) && step > self.newest
    }

    /// What there is, for the user.
    pub(super) fn describe(&self) -> String {
        match self.newest {
            0 => "there is no checkpoint yet".to_owned(),
            step => format!("the checkpoint of step {step} is kept in {}", self.path(step).display()),
        }
    }

    /// Writes one and removes the oldest beyond the limit. One of another format goes only where it
    /// stands in the place of this one.
    ///
    /// # Errors
    /// When the disk is full or a weight is not finite; those before it are still there.
    pub(super) fn save(&mut self, state: &State, weights: &Tensors) -> anyhow::Result<()> {
        let start = Instant::now();
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make `{}`", self.folder.display()))?;
        let new = tempfile::Builder::new()
            .prefix(UNFINISHED)
            // As the umask says, so that users can share a cache.
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(&self.folder)
            .with_context(|| format!("cannot make a folder in `{}`", self.folder.display()))?;
        write(new.path(), state, weights)?;
        durable::sync_tree(new.path())?;
        fault::point("checkpoint synced");
        let place = self.path(state.step);
        if self.foreign.remove(&state.step) {
            let _ = fs::remove_dir_all(&place);
        }
        fs::rename(new.path(), &place).with_context(|| format!("cannot make `{}`", place.display()))?;
        fault::point("checkpoint renamed");
        durable::sync(&self.folder)?;
        self.newest = state.step;
        let steps = self.steps().unwrap_or_default();
        for old in steps.iter().filter(|step| !self.foreign.contains(step)).skip(self.limit) {
            let _ = fs::remove_dir_all(self.path(*old));
        }
        (self.written, self.cost) = (Instant::now(), start.elapsed());
        Ok(())
    }

    /// The newest whole one, with its weights. Damaged ones are told of and removed. `like` holds
    /// the parameters of the run, for their shapes and places.
    ///
    /// # Errors
    /// When the system does not let one be read: it may be whole.
    pub(super) fn newest(
        &mut self,
        like: &Tensors,
        warn: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Option<(State, Tensors)>> {
        let steps =
            self.steps().with_context(|| format!("cannot read the folder `{}`", self.folder.display()))?;
        for step in &steps {
            if format_of(&self.path(*step)).is_ok_and(|format| format != FORMAT) {
                self.foreign.insert(*step);
            }
        }
        for step in &steps {
            if self.foreign.contains(step) {
                warn(&format!(
                    "the checkpoint of step {step} is of another version of the program, and is left alone"
                ));
                continue;
            }
            match read(&self.path(*step), *step, like) {
                Ok(found) => {
                    self.newest = *step;
                    return Ok(Some(found));
                }
                Err(error) if is_of_the_system(&error) => {
                    return Err(hinted(
                        format!("the checkpoint of step {step} cannot be read: {error:#}"),
                        "it is kept: run again once it can be read, or start over with `--force`",
                    ));
                }
                Err(error) => {
                    warn(&format!("the checkpoint of step {step} is damaged and not used: {error:#}"));
                    let _ = fs::remove_dir_all(self.path(*step));
                }
            }
        }
        if !steps.is_empty() {
            warn("no checkpoint can be used, so training starts over");
        }
        Ok(None)
    }

    fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:010}"))
    }

    /// Steps that have a checkpoint, the newest first.
    fn steps(&self) -> io::Result<Vec<usize>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let step: Option<usize> = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            steps.extend(step);
        }
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }
}

/// Whether an error says that a file or folder is not there, or is none.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

/// Whether the system failed, which says nothing about the files.
fn is_of_the_system(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let of_the_content =
        |error: &io::Error| is_absence(error) || matches!(error.kind(), InvalidData | UnexpectedEof);
    error.chain().filter_map(|cause| cause.downcast_ref()).any(|error| !of_the_content(error))
}

fn write(folder: &Path, state: &State, weights: &Tensors) -> anyhow::Result<()> {
    let mut moments = Tensors::new();
    let mut updates = BTreeMap::new();
    for (name, steps, [first, second]) in state.optimizer.moments() {
        updates.insert(name.to_owned(), steps);
        moments.insert(format!("first.{name}"), first.clone());
        moments.insert(format!("second.{name}"), second.clone());
    }
    if let Some(name) = first_broken(weights) {
        bail!("`{name}` is not finite");
    }
    write_tensors(&folder.join(WEIGHTS), weights)?;
    write_tensors(&folder.join(OPTIMIZER), &moments)?;
    if !state.best_weights.is_empty() {
        write_tensors(&folder.join(BEST), &state.best_weights)?;
    }
    fs::write(folder.join(METRICS), &state.metrics).with_context(|| format!("cannot write `{METRICS}`"))?;
    let mut files = BTreeMap::new();
    for name in [WEIGHTS, OPTIMIZER, BEST, METRICS] {
        if folder.join(name).is_file() {
            files.insert(name.to_owned(), Digest::of_file(&folder.join(name))?);
        }
    }
    let header = checked_json(&Header { format: FORMAT, updates, state, files })?;
    fs::write(folder.join(HEADER), header).with_context(|| format!("cannot write `{HEADER}`"))
}

/// The format of a checkpoint, which stands in every one.
fn format_of(folder: &Path) -> anyhow::Result<u32> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    Ok(read_checked_json::<Format>(&folder.join(HEADER))?.format)
}

fn read(folder: &Path, step: usize, like: &Tensors) -> anyhow::Result<(State, Tensors)> {
    let header = fs::read(folder.join(HEADER)).with_context(|| format!("cannot read `{HEADER}`"))?;
    let header: Header<State> =
        parse_checked_json(&header).with_context(|| format!("`{HEADER}` cannot be used"))?;
    ensure!(header.state.step == step, "it is of step {}", header.state.step);
    for (name, digest) in &header.files {
        ensure!(Digest::of_file(&folder.join(name))? == *digest, "`{name}` was changed");
    }
    let mut state = header.state;
    state.metrics =
        fs::read_to_string(folder.join(METRICS)).with_context(|| format!("cannot read `{METRICS}`"))?;
    let weights = read_tensors(&folder.join(WEIGHTS), "", like)?;
    if header.files.contains_key(BEST) {
        state.best_weights = read_tensors(&folder.join(BEST), "", like)?;
    }
    let updated: Tensors = like
        .iter()
        .filter(|(name, _)| header.updates.contains_key(*name))
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    ensure!(updated.len() == header.updates.len(), "it has moments of other parameters");
    let mut first = read_tensors(&folder.join(OPTIMIZER), "first.", &updated)?;
    let mut second = read_tensors(&folder.join(OPTIMIZER), "second.", &updated)?;
    for (name, steps) in &header.updates {
        if let (Some(first), Some(second)) = (first.remove(name), second.remove(name)) {
            state.optimizer.restore(name, *steps, [first, second]);
        }
    }
    Ok((state, weights))
}

fn write_tensors(path: &Path, tensors: &Tensors) -> anyhow::Result<()> {
    let shapes: Vec<(String, Vec<usize>)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    write_safetensors(path, &shapes, Dtype::F32, |name| {
        let values = tensors[name].to_data().convert::<f32>();
        values.try_to_vec::<f32>().with_context(|| format!("cannot read back `{name}`"))
    })
}

/// Reads a tensor for each one of `like`. f32 holds every smaller format exactly.
fn read_tensors(path: &Path, prefix: &str, like: &Tensors) -> anyhow::Result<Tensors> {
    let file = SafetensorsWeights::open_file(path)?;
    let read = |(name, like): (&String, &Tensor<2>)| {
        let (stored, shape) = (format!("{prefix}{name}"), like.dims());
        ensure!(file.shape(&stored).as_deref() == Some(&shape), "`{stored}` does not fit");
        let data = TensorData::new(file.load(&stored)?, shape);
        Ok((name.clone(), Tensor::<2>::from_data(data, &like.device()).cast(like.dtype())))
    };
    like.iter().map(read).collect()
}
