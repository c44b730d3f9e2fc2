//! One step on a thread of its own: key, look-up, run, commit. Owns no shared state.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc::Sender},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use petgraph::graph::NodeIndex;

use super::keys::{Keys, as_input, not_read, reason};
use crate::{
    cache::{Cache, LockOptions, Lookup, MissReason, Record, Workspace},
    cancel::{Cancel, Cancelled},
    digest::Digest,
    error::Error,
    plan::StepNode,
    progress::Observer,
    steps::{self, Bases, Input, StepContext},
};

/// Set in a step's token when its `timeout:` is over.
pub(super) const TIMED_OUT: i32 = 14;
/// First pause before a retry; doubles each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// Lines of a failed step's log that are shown.
const LOG_TAIL: usize = 12;

/// What a worker tells the dispatcher.
pub(super) enum Message {
    Waiting(NodeIndex, String),
    Started(NodeIndex, String),
    Warned(NodeIndex, String),
    Retrying(NodeIndex, String, u32),
    Done(NodeIndex, Box<Result<Success, Failure>>),
}

pub(super) struct Success {
    pub(super) input: Arc<Input>,
    pub(super) record: Record,
    pub(super) cached: bool,
}

pub(super) struct Failure {
    pub(super) error: Error,
    /// The whole text of the log, if the step got as far as having one.
    pub(super) log: Vec<u8>,
}

/// What a worker needs; shared by all.
pub(super) struct Worker<'a> {
    pub(super) recipe: &'a str,
    pub(super) cache: &'a Cache,
    pub(super) keys: &'a Keys<'a>,
    pub(super) observer: &'a dyn Observer,
    pub(super) lock_timeout: Option<Duration>,
    /// Parent of the steps' folders for TensorBoard.
    pub(super) tensorboard: PathBuf,
    /// What steps have loaded for each other.
    pub(super) bases: Bases,
}

/// One assignment.
pub(super) struct Job<'a> {
    pub(super) index: NodeIndex,
    pub(super) node: &'a StepNode,
    pub(super) inputs: BTreeMap<String, Arc<Input>>,
    pub(super) forced: bool,
    /// Only look; the selection leaves this step out.
    pub(super) only_cached: bool,
    pub(super) cancel: Cancel,
}

impl Worker<'_> {
    pub(super) fn run(&self, job: &Job, messages: &Sender<Message>) {
        let mut log = Vec::new();
        let result = catch_unwind(AssertUnwindSafe(|| self.try_run(job, messages, &mut log)));
        let result = result.unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Error::Defect(text.to_owned()))
        });
        let result = result.map_err(|error| Failure { error, log });
        let _ = messages.send(Message::Done(job.index, Box::new(result)));
    }

    fn try_run(&self, job: &Job, messages: &Sender<Message>, log: &mut Vec<u8>) -> Result<Success, Error> {
        let key = self.keys.key(job.node, &job.inputs)?;
        let digest = key.digest();
        let success = |record: Record, cached: bool| {
            self.cache.remember(self.recipe, &job.node.id, &key);
            let input = as_input(job.node, &record, &key, self.cache, &job.inputs);
            Ok(Success { input, record, cached })
        };
        let on_wait = |message: &str| {
            let _ = messages.send(Message::Waiting(job.index, message.to_owned()));
        };
        let options = LockOptions { timeout: self.lock_timeout, cancel: &job.cancel, on_wait: &on_wait };
        let found = self.cache.lookup(&digest, job.forced, &options).map_err(|error| match error {
            Error::Signal(_) => self.stopped(job, Cancelled.into()),
            other => other,
        })?;
        for warning in self.cache.take_warnings() {
            let _ = messages.send(Message::Warned(job.index, warning));
        }
        let (miss, lock) = match found {
            Lookup::Hit(record) => return success(*record, true),
            Lookup::Miss(..) if job.only_cached => {
                return Err(crate::error::hinted(
                    "it is not selected, and no result of it is in the cache",
                    "select it too, or leave out --only/--from",
                )
                .into());
            }
            Lookup::Miss(reason, lock) => (reason, lock),
        };
        let why = match miss {
            _ if job.forced => "forced".to_owned(),
            MissReason::NotRead(mode) => not_read(mode),
            MissReason::New => reason(self.cache, self.recipe, &job.node.id, &key),
            MissReason::Damaged(problem) => {
                let warning = format!("{problem}, so it runs again");
                let _ = messages.send(Message::Warned(job.index, warning));
                "its cached result is damaged".to_owned()
            }
        };
        if job.forced {
            self.cache.forget_checkpoints(&lock);
        }
        let _ = messages.send(Message::Started(job.index, why));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let workspace = self.cache.workspace(&lock)?;
            let start = Instant::now();
            let checkpoints = self.cache.checkpoints(&lock);
            let ran = self.attempt(job, &digest, &workspace, &checkpoints);
            *log = std::fs::read(workspace.log()).unwrap_or_default();
            match ran {
                Ok(()) => {
                    job.cancel.check().map_err(|error| self.stopped(job, error))?;
                    self.keys.check_unchanged(job.node)?;
                    let warnings = warnings(&workspace.log());
                    let record = self
                        .cache
                        .commit(&lock, workspace, key.clone(), &job.node.id, start.elapsed(), warnings)
                        .context("cannot save the result")?;
                    return success(record, false);
                }
                Err(error) if error.downcast_ref::<Cancelled>().is_some() => {
                    return Err(self.stopped(job, error));
                }
                Err(error) if attempt <= job.node.retries => {
                    drop(workspace);
                    let _ = messages.send(Message::Retrying(job.index, format!("{error:#}"), attempt + 1));
                    let until = Instant::now() + BACKOFF * 2u32.pow((attempt - 1).min(6));
                    while Instant::now() < until {
                        job.cancel.check().map_err(|error| self.stopped(job, error))?;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn attempt(
        &self,
        job: &Job,
        key: &Digest,
        workspace: &Workspace,
        checkpoints: &Path,
    ) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(workspace.log());
        let log = Mutex::new(log.context("cannot make the log")?);
        let progress = self.observer.progress(&job.node.id);
        let context = StepContext {
            node: &job.node.id,
            key,
            out: &workspace.out(),
            checkpoints,
            inputs: &job.inputs,
            bases: &self.bases,
            downloads: &self.cache.downloads(),
            tensorboard: &self.tensorboard.join(&job.node.id),
            progress: progress.as_ref(),
            cancel: &job.cancel,
            log: &log,
            source_digest: &|path| Ok(self.keys.source(path)?.digest),
        };
        steps::run(job.node.kind.name, &job.node.params, &context)
    }

    fn stopped(&self, job: &Job, error: anyhow::Error) -> Error {
        match job.cancel.signal() {
            Some(TIMED_OUT) => anyhow!(
                "it took longer than its timeout of {} s",
                job.node.timeout.unwrap_or_default().as_secs_f64()
            )
            .into(),
            Some(signal) => Error::Signal(signal),
            None => error.into(),
        }
    }
}

/// The lines that a step wants the user to see.
fn warnings(log: &Path) -> Vec<String> {
    let Ok(file) = File::open(log) else { return Vec::new() };
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("warning: ").map(str::to_owned))
        .take(50)
        .collect()
}

/// The end of a log, for the message of a failure.
pub(super) fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
