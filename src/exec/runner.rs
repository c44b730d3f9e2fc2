//! One step of a run: key, look-up, attempts, commit. Owns no shared state.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use petgraph::graph::NodeIndex;

use super::{
    Place,
    keys::{Keys, as_input, not_read, reason},
    outputs::StepFolders,
    place,
    pool::{Pool, Wish},
    process::{Crash, Process},
    protocol::{Lineage, Order, Outcome, Reply, Request},
    slots::Cards,
};
use crate::{
    cache::{Cache, EntryLock, LockOptions, Lookup, MissReason, Record, Workspace},
    cancel::{Cancel, Cancelled},
    digest::Digest,
    env,
    error::{Error, excerpt_of, hinted, panic_text},
    key::StepKey,
    plan::{Plan, StepNode},
    progress::{Observer, Progress},
    steps::{self, Bases, Input, Signal, StepContext},
};

/// Set in a step's token when its `timeout:` is over.
pub(super) const TIMED_OUT: i32 = 14;
/// First pause before a retry; doubles each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// Lines of a failed step's log that are shown.
const LOG_TAIL: usize = 12;
/// Characters of a line of the log that are shown.
const MOST_TOLD: usize = 1000;
/// Bytes of a line of the log that are read at once.
const LONGEST_LINE: u64 = 64 << 10;
/// Warnings of a step that are kept.
const MOST_WARNINGS: usize = 50;
/// Bytes of a failed step's log that are kept.
const LONGEST_LOG: u64 = 64 << 20;
/// Between two looks at a step's token.
const POLL: Duration = Duration::from_millis(20);

/// What is told to the dispatcher.
pub(super) enum Message {
    Looked(NodeIndex, Box<Result<Looked, Failure>>),
    Waiting(NodeIndex, String),
    Started(NodeIndex, String),
    Warned(NodeIndex, String),
    Retrying(NodeIndex, String, u32),
    /// It has run and needs its slots no more; its result is still to be saved.
    Saving(NodeIndex),
    Done(NodeIndex, Box<Result<Success, Failure>>),
}

/// What the cache says of a step.
pub(super) enum Looked {
    /// Nothing has to run.
    Hit(Success),
    /// It has to run under this key, and takes about so many bytes of memory.
    Miss(StepKey, Option<u64>),
}

pub(super) struct Success {
    pub(super) input: Arc<Input>,
    pub(super) record: Record,
    pub(super) cached: bool,
}

pub(super) struct Failure {
    pub(super) error: Error,
    /// The text of the log, if the step got as far as having one.
    pub(super) log: Vec<u8>,
    /// Whether the log's end explains the error.
    pub(super) log_explains: bool,
}

/// Estimates the memory that a step takes, from what its inputs turned out to be.
pub type MemoryEstimate = fn(&Plan, NodeIndex, &BTreeMap<String, Arc<Input>>) -> Option<u64>;

/// What all steps of a run share.
pub(super) struct Runner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cache: &'a Cache,
    pub(super) keys: &'a Keys<'a>,
    pub(super) observer: &'a dyn Observer,
    pub(super) lock_timeout: Option<Duration>,
    /// Parent of the steps' folders for TensorBoard.
    pub(super) tensorboard: PathBuf,
    pub(super) steps: StepFolders,
    pub(super) memory: MemoryEstimate,
    pub(super) pool: Pool,
    pub(super) orders: AtomicU64,
}

/// One step with its inputs.
#[derive(Clone)]
pub(super) struct Job<'a> {
    pub(super) index: NodeIndex,
    pub(super) node: &'a StepNode,
    pub(super) inputs: BTreeMap<String, Arc<Input>>,
    pub(super) forced: bool,
    /// Only look; the selection leaves this step out.
    pub(super) only_cached: bool,
    pub(super) cancel: Cancel,
}

impl Runner<'_> {
    /// Whether the result is there.
    pub(super) fn look(&self, job: &Job, messages: &Sender<Message>) {
        let looked =
            guarded(|| self.try_look(job, messages)).map_err(|error| failure(job, error, Vec::new()));
        let _ = messages.send(Message::Looked(job.index, Box::new(looked)));
    }

    /// Runs a step that has no result.
    pub(super) fn run(&self, job: &Job, key: &StepKey, cards: &Cards, messages: &Sender<Message>) {
        let mut log = Vec::new();
        let result = guarded(|| self.try_run(job, key, cards, messages, &mut log));
        let result = result.map_err(|error| failure(job, error, log));
        let _ = messages.send(Message::Done(job.index, Box::new(result)));
    }

    fn try_look(&self, job: &Job, messages: &Sender<Message>) -> Result<Looked, Error> {
        let key = self.keys.key(job.node, &job.inputs)?;
        if (!job.forced || job.only_cached)
            && let Ok(record) = self.cache.peek(&key.digest())
        {
            return Ok(Looked::Hit(self.success(job, &key, record, true)));
        }
        // What the remote cache has waits for no slot either; and what is not selected may be in the making.
        if (job.only_cached || !job.forced && self.cache.peek_remote(&key.digest()).is_some())
            && let Lookup::Hit(record) = self.find(job, &key, false, messages)?
        {
            return Ok(Looked::Hit(self.success(job, &key, *record, true)));
        }
        if job.only_cached {
            let message = "it is not selected, and no result of it is in the cache";
            return Err(hinted(message, "select it too, or leave out --only/--from").into());
        }
        let memory = (self.memory)(self.plan, job.index, &job.inputs);
        Ok(Looked::Miss(key, memory))
    }

    /// The result, here or in the remote cache, or the lock to make one.
    fn find(
        &self,
        job: &Job,
        key: &StepKey,
        force: bool,
        messages: &Sender<Message>,
    ) -> Result<Lookup, Error> {
        let on_wait = |message: &str| {
            let _ = messages.send(Message::Waiting(job.index, message.to_owned()));
        };
        let options = LockOptions { timeout: self.lock_timeout, cancel: &job.cancel, on_wait: &on_wait };
        let found = self.cache.lookup(&key.digest(), force, &options)?;
        for warning in self.cache.take_warnings() {
            let _ = messages.send(Message::Warned(job.index, warning));
        }
        Ok(found)
    }

    fn success(&self, job: &Job, key: &StepKey, record: Record, cached: bool) -> Success {
        if cached {
            self.cache.mark_used(&record.digest);
        }
        self.cache.remember(&self.plan.recipe_name, &job.node.id, key);
        let input = as_input(job.node, &record, key, self.cache, &job.inputs);
        let (shown, log) = (self.cache.show(&record), self.cache.log_path(&record.digest));
        self.steps.link(&job.node.id, shown.as_deref(), &input.path, &log);
        Success { input, record, cached }
    }

    fn try_run(
        &self,
        job: &Job,
        key: &StepKey,
        cards: &Cards,
        messages: &Sender<Message>,
        log: &mut Vec<u8>,
    ) -> Result<Success, Error> {
        let (miss, lock) = match self.find(job, key, job.forced, messages)? {
            Lookup::Hit(record) => return Ok(self.success(job, key, *record, true)),
            Lookup::Miss(reason, lock) => (reason, lock),
        };
        let why = match miss {
            _ if job.forced => "forced".to_owned(),
            MissReason::NotRead(mode) => not_read(mode),
            MissReason::New => reason(self.cache, &self.plan.recipe_name, &job.node.id, key),
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
            let ran = self.attempt(job, key, cards, &workspace, &lock);
            if ran.is_err() {
                *log = read_log(&workspace.log()).unwrap_or_default();
            }
            match ran {
                Ok(()) => {
                    let _ = messages.send(Message::Saving(job.index));
                    self.keys.check_unchanged(job.node)?;
                    let warnings = warnings(&workspace.log());
                    let record = self
                        .cache
                        .commit(&lock, workspace, key.clone(), &job.node.id, start.elapsed(), warnings)
                        .context("cannot save the result")?;
                    return Ok(self.success(job, key, record, false));
                }
                Err(error) if error.is::<Cancelled>() => return Err(stopped(job, error)),
                Err(error) if attempt <= job.node.retries && !error.is::<Error>() => {
                    drop(workspace);
                    let _ = messages.send(Message::Retrying(job.index, format!("{error:#}"), attempt + 1));
                    let until = Instant::now() + BACKOFF * 2u32.pow((attempt - 1).min(6));
                    while Instant::now() < until {
                        job.cancel.check().map_err(|error| stopped(job, error))?;
                        std::thread::sleep(POLL);
                    }
                }
                Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(Error::Other)),
            }
        }
    }

    fn attempt(
        &self,
        job: &Job,
        key: &StepKey,
        cards: &Cards,
        workspace: &Workspace,
        lock: &EntryLock,
    ) -> anyhow::Result<()> {
        let kind = job.node.kind.name;
        let (log, progress) = (workspace.log(), self.observer.progress(&job.node.id));
        let device_class = key.params.get("device").and_then(|class| class.as_str()).map(str::to_owned);
        let order = || Order {
            id: self.orders.fetch_add(1, Ordering::Relaxed),
            node: job.node.id.clone(),
            kind: kind.to_owned(),
            params: job.node.params.clone(),
            key: key.digest(),
            device_class,
            gpus: cards.visible.clone(),
            out: workspace.out(),
            checkpoints: self.cache.checkpoints(lock),
            downloads: self.cache.downloads(),
            tensorboard: self.tensorboard.join(&job.node.id),
            log: log.clone(),
            lock: self.cache.process_lock(lock),
            inputs: match place(kind) {
                Place::Shared => Lineage::of_command(&job.inputs),
                _ => Lineage::of(&job.inputs),
            },
        };
        let outcome = match place(kind) {
            Place::Here => return self.run_here(job, key, workspace, lock, progress.as_ref()),
            Place::Shared => self.follow(job, &*self.pool.shared()?, order(), progress.as_ref())?.0,
            Place::Own => {
                let wish = Wish { kind, cards, inputs: &job.inputs, log: &log };
                let taken = self.pool.take(&wish)?;
                let (outcome, kept) = self.follow(job, &taken.process, order(), progress.as_ref())?;
                // After a panic nobody knows what state it is in.
                if !matches!(outcome, Outcome::Defect(_)) {
                    self.pool.put_back(taken, kind, kept);
                }
                outcome
            }
        };
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Cancelled => Err(Cancelled.into()),
            Outcome::Failed { error, hint: Some(hint) } => Err(hinted(error, hint)),
            Outcome::Failed { error, hint: None } => Err(anyhow!(error)),
            Outcome::Defect(text) => Err(Error::Defect(text).into()),
        }
    }

    /// Orders a step of a process and passes on what it says until it has ended.
    fn follow(
        &self,
        job: &Job,
        process: &Process,
        order: Order,
        progress: &dyn Progress,
    ) -> anyhow::Result<(Outcome, Option<Digest>)> {
        let id = order.id;
        let replies = process.begin(order)?;
        let mut asked: Option<Instant> = None;
        let mut program = None;
        loop {
            match replies.recv_timeout(POLL) {
                Ok(Reply::Begin { total, unit }) => progress.begin(total, &unit),
                Ok(Reply::Update { done, message }) => progress.update(done, &message),
                Ok(Reply::Note(message)) => progress.note(&message),
                Ok(Reply::Warn(message)) => progress.warn(&message),
                Ok(Reply::Program(group)) => program = Some(group),
                Ok(Reply::AskDigest(path)) => {
                    let digest = self.keys.source(&path).map(|source| source.digest);
                    let digest = digest.map_err(|error| format!("{error:#}"));
                    process.tell(&Request::Digest { id, digest })?;
                }
                Ok(Reply::Ended { outcome, kept }) => return Ok((outcome, kept)),
                Err(RecvTimeoutError::Disconnected) => {
                    if let Some(group) = program {
                        steps::signal_group(group, Signal::KILL);
                    }
                    job.cancel.check()?;
                    return Err(process.crash());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            match (asked, job.cancel.signal()) {
                (None, Some(signal)) => {
                    process.tell(&Request::Stop { id, signal })?;
                    asked = Some(Instant::now());
                }
                // A person who stops a run may prefer to wait for the checkpoint, or asks again.
                (Some(since), Some(TIMED_OUT)) if since.elapsed() > env::stop_grace() => process.kill(),
                _ => {}
            }
        }
    }

    fn run_here(
        &self,
        job: &Job,
        key: &StepKey,
        workspace: &Workspace,
        lock: &EntryLock,
        progress: &dyn Progress,
    ) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(workspace.log());
        let log = Mutex::new(log.context("cannot make the log")?);
        let context = StepContext {
            node: &job.node.id,
            key: &key.digest(),
            out: &workspace.out(),
            checkpoints: &self.cache.checkpoints(lock),
            inputs: &job.inputs,
            bases: &Bases::default(),
            downloads: &self.cache.downloads(),
            tensorboard: &self.tensorboard.join(&job.node.id),
            gpus: None,
            progress,
            cancel: &job.cancel,
            log: &log,
            on_program: &|_| {},
            source_digest: &|path| Ok(self.keys.source(path)?.digest),
        };
        steps::run(job.node.kind.name, &job.node.params, &context)
    }
}

/// Runs it; a panic is an error too.
fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Error::Defect(panic_text(panic.as_ref()))))
}

fn failure(job: &Job, error: Error, log: Vec<u8>) -> Failure {
    let crashed = matches!(&error, Error::Other(error) if error.is::<Crash>());
    Failure { error, log, log_explains: crashed || job.node.kind.name == "command" }
}

fn stopped(job: &Job, error: anyhow::Error) -> Error {
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

/// The log of a failed step; of a very long one the end.
fn read_log(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LONGEST_LOG);
    file.seek(SeekFrom::Start(start))?;
    let mut log = Vec::new();
    file.take(LONGEST_LOG).read_to_end(&mut log)?;
    Ok(log)
}

/// The lines that a step wants the user to see.
fn warnings(log: &Path) -> Vec<String> {
    let Ok(file) = File::open(log) else { return Vec::new() };
    let (mut file, mut warnings) = (BufReader::new(file), Vec::new());
    while warnings.len() < MOST_WARNINGS {
        let mut line = Vec::new();
        match file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(read) if read > 0 => {}
            _ => break,
        }
        // What has no end in reach is passed over, however long it is.
        if line.last() != Some(&b'\n') && file.skip_until(b'\n').is_err() {
            break;
        }
        let line = String::from_utf8_lossy(&line);
        warnings.extend(line.trim_end().strip_prefix("warning: ").map(|told| excerpt_of(MOST_TOLD, told)));
    }
    warnings
}

/// The end of a log, for the message of a failure.
pub(super) fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LOG_TAIL)..].iter();
    last.map(|line| excerpt_of(MOST_TOLD, line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found_among_long_and_strange_lines() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let long = "x".repeat(3 * LONGEST_LINE as usize);
        let mut text = b"\xff no text\nwarning: first\r\n".to_vec();
        text.extend(format!("{long}\nwarning: {long}\nwarning: last").bytes());
        std::fs::write(log.path(), &text).unwrap();
        let found = warnings(log.path());
        assert_eq!((found[0].as_str(), found[2].as_str(), found.len()), ("first", "last", 3));
        assert!(found[1].starts_with("xxx") && found[1].chars().count() <= MOST_TOLD + 1);
        text.truncate(text.len() - 4);
        assert!(tail(&text).lines().all(|line| line.chars().count() <= MOST_TOLD + 1));
        std::fs::write(log.path(), "warning: again\n".repeat(99)).unwrap();
        assert_eq!(warnings(log.path()).len(), MOST_WARNINGS);
    }
}
