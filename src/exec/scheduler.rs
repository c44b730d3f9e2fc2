//! The dispatcher: one thread owns all state and reacts to what workers report.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use petgraph::graph::NodeIndex;
use serde::Serialize;

use super::{
    RunFolder,
    keys::{Keys, inputs_of},
    worker::{Failure, Job, Message, Success, TIMED_OUT, Worker, tail},
};
use crate::{
    cache::{Cache, LockOptions, Record},
    cancel::Cancel,
    error::{Error, hint_of},
    plan::{Plan, Selection, StepNode},
    progress::{Event, Observer},
    steps::{Bases, Input},
};

/// How to run a plan.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Which nodes.
    pub selection: Selection,
    /// Nodes that run whatever is cached.
    pub forced: BTreeSet<NodeIndex>,
    /// Steps at the same time.
    pub jobs: usize,
    /// Processor cores to hand out.
    pub cpus: u32,
    /// Go on with what does not need a failed step.
    pub keep_going: bool,
    /// Longest wait for a lock.
    pub lock_timeout: Option<Duration>,
    /// Parent of run folders.
    pub outputs: PathBuf,
}

/// What a run came to; `run.json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunSummary {
    /// The recipe's name.
    pub recipe: String,
    /// Version of evergraft.
    pub evergraft: String,
    /// Start in RFC 3339.
    pub started: String,
    /// Wall time.
    pub seconds: f64,
    /// Steps that ran.
    pub executed: usize,
    /// Steps found in the cache.
    pub cached: usize,
    /// Steps that failed.
    pub failed: usize,
    /// Steps that did not run.
    pub skipped: usize,
    /// Every step with its key and artifact.
    pub steps: Vec<StepSummary>,
    /// The run's folder.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Reports in the run's folder.
    pub reports: Vec<PathBuf>,
}

/// One line of [`RunSummary::steps`].
#[derive(Debug, Clone, Serialize)]
pub struct StepSummary {
    /// Node id.
    pub step: String,
    /// `executed`, `cached`, `failed` or `skipped`.
    pub state: &'static str,
    /// Digest of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Digest of the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Run time of the run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl StepSummary {
    fn without_result(step: &str, state: &'static str) -> Self {
        Self { step: step.to_owned(), state, key: None, artifact: None, seconds: None }
    }
}

struct Running {
    cpus: u32,
    cancel: Cancel,
    deadline: Option<Instant>,
}

struct Dispatcher<'a> {
    plan: &'a Plan,
    options: &'a RunOptions,
    observer: &'a dyn Observer,
    folder: RunFolder,
    summary: RunSummary,
    /// Not yet decided, in the order of the plan.
    open: Vec<NodeIndex>,
    selected: BTreeSet<NodeIndex>,
    running: HashMap<NodeIndex, Running>,
    done: HashMap<NodeIndex, Arc<Input>>,
    /// Nodes without a result, and the step to blame.
    lost: HashMap<NodeIndex, String>,
    reports: Vec<(NodeIndex, Arc<Input>)>,
    /// The first failure that is not an ordinary step failure.
    fatal: Option<Error>,
    stopping: bool,
}

/// Runs a plan. Everything that finished is committed, whatever happens to the rest.
///
/// # Errors
/// [`Error::StepFailed`], [`Error::Signal`], [`Error::LockTimeout`], [`Error::NoMatch`], or a
/// broken disk.
pub fn run(
    plan: &Plan,
    cache: Cache,
    options: &RunOptions,
    cancel: &Cancel,
    observer: &dyn Observer,
) -> Result<RunSummary, Error> {
    let start = Instant::now();
    let selected = plan.select(&options.selection)?;
    let mut relevant = selected.clone();
    relevant.extend(selected.iter().flat_map(|index| plan.ancestors(*index)));
    let on_wait = |message: &str| observer.event(&Event::RunWaiting { message: message.to_owned() });
    let lock = LockOptions { timeout: options.lock_timeout, cancel, on_wait: &on_wait };
    let _in_use = cache.lock_shared(&lock)?;
    let folder = RunFolder::create(&options.outputs, &plan.recipe_name)?;
    let cache = &cache.of_run(folder.path())?;
    folder.json("plan.json", &plan.to_json())?;
    let summary = RunSummary {
        recipe: plan.recipe_name.clone(),
        evergraft: env!("CARGO_PKG_VERSION").to_owned(),
        started: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        folder: folder.path().to_owned(),
        ..RunSummary::default()
    };
    let mut dispatcher = Dispatcher {
        plan,
        options,
        observer,
        folder,
        summary,
        open: plan.order().into_iter().filter(|index| relevant.contains(index)).collect(),
        selected,
        running: HashMap::new(),
        done: HashMap::new(),
        lost: HashMap::new(),
        reports: Vec::new(),
        fatal: None,
        stopping: false,
    };
    dispatcher.say(Event::RunStarted {
        recipe: plan.recipe_name.clone(),
        steps: dispatcher.selected.len(),
        folder: dispatcher.summary.folder.display().to_string(),
    });
    let keys = Keys::new(cache);
    let worker = Worker {
        recipe: &plan.recipe_name,
        cache,
        keys: &keys,
        observer,
        lock_timeout: options.lock_timeout,
        tensorboard: dispatcher.summary.folder.join("tensorboard"),
        bases: Bases::default(),
    };
    std::thread::scope(|scope| {
        let (sender, messages) = mpsc::channel();
        let (to_share, committed) = mpsc::channel();
        let sharer = scope.spawn(move || share(cache, &committed, cancel));
        loop {
            while let Some(job) = dispatcher.next_job() {
                let (sender, worker) = (sender.clone(), &worker);
                scope.spawn(move || worker.run(&job, &sender));
            }
            if dispatcher.running.is_empty() {
                break;
            }
            // A short wait keeps ctrl-C and timeouts prompt.
            if let Ok(message) = messages.recv_timeout(Duration::from_millis(100)) {
                if let Message::Done(_, result) = &message
                    && let Ok(Success { record, cached: false, .. }) = &**result
                {
                    let _ = to_share.send(record.clone());
                }
                dispatcher.react(message, cache);
            }
            dispatcher.watch(cancel);
        }
        drop(to_share);
        for (step, message) in sharer.join().unwrap_or_default() {
            dispatcher.say(Event::StepWarned { step, message });
        }
    });
    dispatcher.finish(start, cancel)
}

/// Gives results to the remote cache while other steps run; what went wrong, by step.
fn share(cache: &Cache, committed: &mpsc::Receiver<Record>, cancel: &Cancel) -> Vec<(String, String)> {
    let mut warnings = Vec::new();
    for record in committed {
        if cancel.signal().is_none() {
            cache.share(&record);
            warnings.extend(cache.take_warnings().into_iter().map(|warning| (record.node.clone(), warning)));
        }
    }
    warnings
}

impl<'a> Dispatcher<'a> {
    fn say(&mut self, event: Event) {
        self.folder.event(&event);
        self.observer.event(&event);
    }

    fn next_job(&mut self) -> Option<Job<'a>> {
        let mut at = 0;
        while at < self.open.len() {
            let index = self.open[at];
            let blamed =
                self.plan.upstream(index).into_iter().find_map(|before| self.lost.get(&before).cloned());
            if let Some(because) = blamed.or_else(|| self.stopping.then(|| "the run ended early".to_owned()))
            {
                self.open.remove(at);
                self.skip(index, because);
                continue;
            }
            let node: &'a StepNode = &self.plan.graph[index];
            if self.running.len() < self.options.jobs.max(1)
                && let Ok(inputs) = inputs_of(self.plan, index, &self.done)
            {
                let cpus = self.cpus(node);
                let used: u32 = self.running.values().map(|running| running.cpus).sum();
                if used == 0 || used + cpus <= self.options.cpus {
                    self.open.remove(at);
                    let cancel = Cancel::default();
                    let deadline = node.timeout.map(|timeout| Instant::now() + timeout);
                    self.running.insert(index, Running { cpus, cancel: cancel.clone(), deadline });
                    return Some(Job {
                        index,
                        node,
                        inputs,
                        forced: self.options.forced.contains(&index),
                        only_cached: !self.selected.contains(&index),
                        cancel,
                    });
                }
            }
            at += 1;
        }
        None
    }

    /// A step that says nothing takes one core, or all where the work is known to use them.
    fn cpus(&self, node: &StepNode) -> u32 {
        let heavy = matches!(node.kind.name, "pretrain" | "train" | "eval");
        let default = if heavy { self.options.cpus } else { 1 };
        node.resources.cpus.unwrap_or(default).min(self.options.cpus)
    }

    fn react(&mut self, message: Message, cache: &Cache) {
        let id = |index: NodeIndex| self.plan.graph[index].id.clone();
        match message {
            Message::Waiting(index, message) => self.say(Event::StepWaiting { step: id(index), message }),
            Message::Started(index, why) => self.say(Event::StepStarted { step: id(index), why }),
            Message::Warned(index, message) => self.say(Event::StepWarned { step: id(index), message }),
            Message::Retrying(index, error, attempt) => {
                self.say(Event::StepRetried { step: id(index), error, attempt });
            }
            Message::Done(index, result) => {
                self.running.remove(&index);
                match *result {
                    Ok(success) => self.succeeded(index, success, cache),
                    Err(failure) => self.failed(index, failure),
                }
            }
        }
    }

    fn succeeded(&mut self, index: NodeIndex, success: Success, cache: &Cache) {
        let Success { input, record, cached } = success;
        let (step, artifact) = (input.node.clone(), record.artifact.to_string());
        let seconds = record.duration_ms as f64 / 1000.0;
        self.folder.link(&step, &input.path, &cache.log_path(&record.digest));
        if input.kind == "report" {
            self.reports.push((index, Arc::clone(&input)));
        }
        self.summary.steps.push(StepSummary {
            step: step.clone(),
            state: if cached { "cached" } else { "executed" },
            key: Some(record.digest.to_string()),
            artifact: Some(artifact.clone()),
            seconds: Some(seconds),
        });
        self.done.insert(index, input);
        if cached {
            self.summary.cached += 1;
            self.say(Event::StepCached { step, artifact, warnings: record.warnings });
        } else {
            self.summary.executed += 1;
            self.say(Event::StepFinished { step, artifact, seconds, warnings: record.warnings });
        }
    }

    fn failed(&mut self, index: NodeIndex, failure: Failure) {
        let step = self.plan.graph[index].id.clone();
        self.lost.insert(index, step.clone());
        if let Error::Signal(_) = failure.error {
            self.stopping = true;
            self.skip(index, "the run was stopped".to_owned());
            return;
        }
        let folder = self.folder.step(&step);
        let log = folder.join("log.txt");
        if std::fs::create_dir_all(&folder).is_ok() {
            let _ = std::fs::write(&log, &failure.log);
        }
        let (mut error, hint) = match &failure.error {
            Error::Other(error) => (format!("{error:#}"), hint_of(error).map(str::to_owned)),
            other => (other.to_string(), None),
        };
        let tail = tail(&failure.log);
        if self.plan.graph[index].kind.name == "command" && !tail.is_empty() {
            error = format!("{error}\n{tail}");
        }
        self.summary.failed += 1;
        self.summary.steps.push(StepSummary::without_result(&step, "failed"));
        self.say(Event::StepFailed { step, error, hint, log: log.display().to_string() });
        if matches!(failure.error, Error::LockTimeout(_) | Error::Defect(_)) && self.fatal.is_none() {
            self.fatal = Some(failure.error);
        }
        if !self.options.keep_going {
            self.stopping = true;
        }
    }

    fn skip(&mut self, index: NodeIndex, because: String) {
        let step = self.plan.graph[index].id.clone();
        self.lost.insert(index, because.clone());
        self.summary.skipped += 1;
        self.summary.steps.push(StepSummary::without_result(&step, "skipped"));
        self.say(Event::StepSkipped { step, because });
    }

    /// Passes signals on, and ends steps that took too long.
    fn watch(&mut self, cancel: &Cancel) {
        if let Some(signal) = cancel.signal() {
            self.stopping = true;
            self.running.values().for_each(|running| running.cancel.set(signal));
        }
        let now = Instant::now();
        for running in self.running.values() {
            if running.deadline.is_some_and(|deadline| now >= deadline) && running.cancel.signal().is_none() {
                running.cancel.set(TIMED_OUT);
            }
        }
    }

    fn finish(mut self, start: Instant, cancel: &Cancel) -> Result<RunSummary, Error> {
        self.reports.sort_by_key(|(index, _)| *index);
        let single = self.reports.len() == 1;
        for (_, report) in std::mem::take(&mut self.reports) {
            let below = if single { String::new() } else { report.node.clone() };
            self.folder.copy_report(&report.path, &below)?;
            let folder = self.summary.folder.join(&below);
            let main =
                std::fs::read_dir(&folder).ok().into_iter().flatten().flatten().map(|entry| entry.path());
            let main = main.filter(|path| {
                // The document itself, not its data and its plot.
                path.file_stem().is_some_and(|stem| stem == "report")
                    && !path.extension().is_some_and(|ending| ending == "json" || ending == "svg")
            });
            self.summary.reports.extend(main);
        }
        self.summary.seconds = start.elapsed().as_secs_f64();
        let order: HashMap<&str, usize> = self
            .plan
            .graph
            .node_indices()
            .map(|index| (self.plan.graph[index].id.as_str(), index.index()))
            .collect();
        self.summary.steps.sort_by_key(|step| order.get(step.step.as_str()).copied());
        self.folder.json("run.json", &self.summary)?;
        let summary = self.summary.clone();
        self.say(Event::RunFinished {
            executed: summary.executed,
            cached: summary.cached,
            failed: summary.failed,
            skipped: summary.skipped,
            seconds: summary.seconds,
            folder: summary.folder.display().to_string(),
        });
        if let Some(signal) = cancel.signal() {
            return Err(Error::Signal(signal));
        }
        match self.fatal {
            Some(error) => Err(error),
            None if summary.failed > 0 => Err(Error::StepFailed(match summary.failed {
                1 => "1 step failed; what finished is kept, run the same command to go on".to_owned(),
                n => format!("{n} steps failed; what finished is kept, run the same command to go on"),
            })),
            None => Ok(summary),
        }
    }
}
