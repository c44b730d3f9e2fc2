//! The dispatcher: one thread owns all state and reacts to what it is told.
//!
//! A step is *open* until all that it needs is there, then it is *looked up*, which takes no slots; if it
//! has no result it *waits* for slots, by priority, and *runs*.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, mpsc},
    thread::Scope,
    time::{Duration, Instant},
};

use petgraph::graph::NodeIndex;

use super::{
    Capacity, RunFolder, RunSummary, StepSummary,
    keys::{Keys, inputs_of},
    pool::Pool,
    priority::priorities,
    runner::{Failure, Job, Looked, MemoryEstimate, Message, Runner, Success, TIMED_OUT, tail},
    slots::{Demand, Grant, Reserved, Slots},
    status::{State, status},
};
use crate::{
    cache::{Cache, LockOptions, Record},
    cancel::Cancel,
    error::{Error, hint_of},
    key::StepKey,
    plan::{Plan, Selection, StepNode},
    progress::{Event, Observer},
    steps::Input,
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
    /// What there is to hand out.
    pub capacity: Capacity,
    /// What a step takes that does not say so.
    pub memory: MemoryEstimate,
    /// Go on with what does not need a failed step.
    pub keep_going: bool,
    /// Longest wait for a lock.
    pub lock_timeout: Option<Duration>,
    /// Parent of run folders.
    pub outputs: PathBuf,
}

/// Why a step did not run whose turn never came.
const ENDED_EARLY: &str = "the run ended early";

/// Lower goes first.
type Rank = (Reverse<Duration>, NodeIndex);

/// A step that has no result and waits for slots.
struct Waiting<'a> {
    job: Job<'a>,
    key: StepKey,
    demand: Demand,
}

struct Running {
    grant: Grant,
    timeout: Option<Duration>,
    /// Once it really runs: the wait for a lock does not count.
    deadline: Option<Instant>,
    cancel: Cancel,
}

struct Dispatcher<'a> {
    plan: &'a Plan,
    options: &'a RunOptions,
    observer: &'a dyn Observer,
    cache: &'a Cache,
    folder: RunFolder,
    summary: RunSummary,
    selected: BTreeSet<NodeIndex>,
    /// What the run is about, each step after those that it needs.
    order: Vec<NodeIndex>,
    /// Places in `order`.
    places: HashMap<NodeIndex, usize>,
    /// Places of those that are not looked up yet.
    open: BTreeSet<usize>,
    /// How many steps an open one still needs.
    missing: HashMap<NodeIndex, usize>,
    /// To be looked up next.
    ready: VecDeque<NodeIndex>,
    looking: BTreeMap<Rank, Job<'a>>,
    waiting: BTreeMap<Rank, Waiting<'a>>,
    running: HashMap<NodeIndex, Running>,
    /// Those that have run, and whose results are saved while others run; with their slots, as long as they
    /// keep them.
    saving: BTreeMap<NodeIndex, Option<Grant>>,
    slots: Slots<'a>,
    /// Time to the end of the run from each step on; known once one has to run.
    times: Option<HashMap<NodeIndex, Duration>>,
    done: HashMap<NodeIndex, Arc<Input>>,
    reports: Vec<(NodeIndex, Arc<Input>)>,
    /// The first failure that is not an ordinary step failure.
    fatal: Option<Error>,
    stopping: bool,
    /// By a signal.
    told_to_stop: bool,
}

/// Runs a plan. Everything that finished is committed, whatever happens to the rest.
///
/// # Errors
/// [`Error::StepFailed`], [`Error::Signal`], [`Error::LockTimeout`], [`Error::NoMatch`],
/// [`Error::Usage`] when a step can never run here, or a broken disk.
pub fn run(
    plan: &Plan,
    cache: Cache,
    options: &RunOptions,
    cancel: &Cancel,
    observer: &dyn Observer,
) -> Result<RunSummary, Error> {
    let start = Instant::now();
    let selected = plan.select(&options.selection)?;
    check_cards(plan, &cache, options, &selected)?;
    let on_wait = |message: &str| observer.event(&Event::RunWaiting { message: message.to_owned() });
    let lock = LockOptions { timeout: options.lock_timeout, cancel, on_wait: &on_wait };
    let _in_use = cache.lock_shared(&lock)?;
    let folder = RunFolder::create(&options.outputs, &plan.recipe_name)?;
    let cache = &cache.of_run(folder.path())?;
    folder.json("plan.json", &plan.to_json())?;
    folder.prepare_links(cache.shown().as_deref());
    let keys = Keys::new(cache);
    let runner = Runner {
        plan,
        cache,
        keys: &keys,
        observer,
        lock_timeout: options.lock_timeout,
        tensorboard: folder.path().join("tensorboard"),
        steps: folder.steps(),
        memory: options.memory,
        pool: Pool::default(),
        orders: AtomicU64::new(0),
    };
    let mut dispatcher = Dispatcher::new(plan, cache, options, observer, folder, selected);
    dispatcher.say(Event::RunStarted {
        recipe: plan.recipe_name.clone(),
        steps: dispatcher.order.len(),
        folder: dispatcher.summary.folder.display().to_string(),
    });
    std::thread::scope(|scope| {
        let (sender, messages) = mpsc::channel();
        let (to_share, committed) = mpsc::channel();
        // Thousands of short steps would wake it for nothing.
        let sharer = cache.has_remote().then(|| scope.spawn(move || share(cache, &committed, cancel)));
        let (looks, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..lookers(dispatcher.open.len()) {
            let (queue, sender, runner) = (Arc::clone(&queue), sender.clone(), &runner);
            scope.spawn(move || {
                // Taken in a statement of its own, so that the queue is free while this one looks.
                while let Ok(job) = next(&queue) {
                    runner.look(&job, &sender);
                }
            });
        }
        loop {
            dispatcher.look(&looks);
            dispatcher.start(scope, &runner, &sender);
            if dispatcher.is_idle() {
                break;
            }
            // A short wait keeps ctrl-C and timeouts prompt.
            if let Ok(message) = messages.recv_timeout(Duration::from_millis(100)) {
                if sharer.is_some()
                    && let Message::Done(_, result) = &message
                    && let Ok(Success { record, cached: false, .. }) = &**result
                {
                    let _ = to_share.send(record.clone());
                }
                dispatcher.react(message);
            }
            dispatcher.watch(cancel);
        }
        drop(to_share);
        for (step, message) in sharer.and_then(|sharer| sharer.join().ok()).unwrap_or_default() {
            dispatcher.say(Event::StepWarned { step, message });
        }
    });
    dispatcher.finish(start, cancel)
}

/// Threads that look results up.
fn lookers(steps: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(steps)
}

fn next<'a>(queue: &Mutex<mpsc::Receiver<Job<'a>>>) -> Result<Job<'a>, mpsc::RecvError> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

/// A step that asks for more cards than there are can never run: better said before hours of others.
fn check_cards(
    plan: &Plan,
    cache: &Cache,
    options: &RunOptions,
    selected: &BTreeSet<NodeIndex>,
) -> Result<(), Error> {
    let impossible = |index: &NodeIndex| options.capacity.check_cards(&plan.graph[*index]).err();
    if selected.iter().all(|index| impossible(index).is_none()) {
        return Ok(());
    }
    for (index, node) in status(plan, cache, &options.forced)? {
        if selected.contains(&index)
            && node.state != State::Cached
            && let Some(error) = impossible(&index)
        {
            return Err(Error::Usage(error));
        }
    }
    Ok(())
}

/// Gives results to the remote cache while other steps run; what went wrong, by step.
fn share(cache: &Cache, committed: &mpsc::Receiver<Record>, cancel: &Cancel) -> Vec<(String, String)> {
    let mut warnings = Vec::new();
    for record in committed {
        if cancel.signal().is_none() {
            cache.share(&record, cancel);
            warnings.extend(cache.take_warnings().into_iter().map(|warning| (record.node.clone(), warning)));
        }
    }
    warnings
}

impl<'a> Dispatcher<'a> {
    fn new(
        plan: &'a Plan,
        cache: &'a Cache,
        options: &'a RunOptions,
        observer: &'a dyn Observer,
        folder: RunFolder,
        selected: BTreeSet<NodeIndex>,
    ) -> Self {
        let relevant = plan.with_ancestors(selected.iter().copied());
        let order: Vec<_> = plan.order().into_iter().filter(|index| relevant.contains(index)).collect();
        let places = order.iter().enumerate().map(|(place, index)| (*index, place)).collect();
        let missing: HashMap<NodeIndex, usize> =
            relevant.iter().map(|index| (*index, plan.upstream(*index).len())).collect();
        let ready = order.iter().copied().filter(|index| missing[index] == 0).collect();
        let summary = RunSummary {
            recipe: plan.recipe_name.clone(),
            evergraft: env!("CARGO_PKG_VERSION").to_owned(),
            started: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            folder: folder.path().to_owned(),
            ..RunSummary::default()
        };
        Self {
            plan,
            options,
            observer,
            cache,
            folder,
            summary,
            selected,
            open: (0..order.len()).collect(),
            order,
            places,
            missing,
            ready,
            looking: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: HashMap::new(),
            saving: BTreeMap::new(),
            slots: Slots::new(&options.capacity),
            times: None,
            done: HashMap::new(),
            reports: Vec::new(),
            fatal: None,
            stopping: false,
            told_to_stop: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.looking.is_empty() && self.running.is_empty() && self.saving.is_empty()
    }

    fn say(&mut self, event: Event) {
        self.folder.event(&event);
        self.observer.event(&event);
    }

    /// Has everything looked up that is ready.
    fn look(&mut self, looks: &mpsc::Sender<Job<'a>>) {
        if self.stopping {
            self.skip_the_rest();
        }
        while let Some(index) = self.ready.pop_front() {
            self.open.remove(&self.places[&index]);
            let node: &'a StepNode = &self.plan.graph[index];
            let Ok(inputs) = inputs_of(self.plan, index, &self.done) else {
                unreachable!("a step is ready when all that it needs is done")
            };
            let job = Job {
                index,
                node,
                inputs,
                forced: self.options.forced.contains(&index),
                only_cached: !self.selected.contains(&index),
                cancel: Cancel::default(),
            };
            self.looking.insert(self.rank(index), job.clone());
            let _ = looks.send(job);
        }
    }

    /// Starts what has no result, is first by priority and finds its slots free.
    fn start<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        runner: &'scope Runner<'scope>,
        messages: &mpsc::Sender<Message>,
    ) where
        'a: 'scope,
    {
        self.give_back_slots_of_saved();
        // One that is still looked up may turn out to come first, if it has to run.
        let first = self.looking.first_key_value().map(|(rank, _)| *rank);
        let jobs = self.options.jobs.max(1);
        let taken = self.running.len() + self.saving.values().flatten().count();
        let mut reserved = Reserved::default();
        let mut granted = Vec::new();
        for (rank, Waiting { demand, .. }) in &self.waiting {
            // Where the disk does not keep up, steps wait for it.
            let full = taken + granted.len() >= jobs || self.saving.len() > jobs;
            if full || reserved.all() || first.is_some_and(|first| first < *rank) {
                break;
            }
            if let Some(grant) = self.slots.take(demand, &mut reserved) {
                granted.push((*rank, grant));
            }
        }
        for (rank, grant) in granted {
            let Some(Waiting { job, key, demand }) = self.waiting.remove(&rank) else { continue };
            if let Some(what) = demand.alone {
                let message = format!("it asks for {what}; it runs alone");
                self.say(Event::StepWarned { step: job.node.id.clone(), message });
            }
            let cards = grant.cards.clone();
            let (timeout, cancel) = (job.node.timeout, job.cancel.clone());
            self.running.insert(job.index, Running { grant, timeout, deadline: None, cancel });
            let sender = messages.clone();
            scope.spawn(move || runner.run(&job, &key, &cards, &sender));
        }
    }

    /// Steps that are being saved need no slots; they keep them where a step that only waits for them comes
    /// before all others.
    fn give_back_slots_of_saved(&mut self) {
        let Some(first) = self.waiting.first_key_value().map(|(rank, _)| *rank) else { return };
        if self.saving.values().all(Option::is_none) {
            return;
        }
        let mut saved: HashMap<NodeIndex, usize> = HashMap::new();
        for next in self.saving.keys().flat_map(|index| self.plan.downstream(*index)) {
            *saved.entry(next).or_default() += 1;
        }
        // Those that need nothing more but what is being saved.
        saved.retain(|next, saved| self.missing.get(next) == Some(saved) && self.rank(*next) < first);
        for (index, grant) in &mut self.saving {
            if !self.plan.downstream(*index).iter().any(|next| saved.contains_key(next))
                && let Some(grant) = grant.take()
            {
                self.slots.give_back(grant);
            }
        }
    }

    fn rank(&self, index: NodeIndex) -> Rank {
        let time = self.times.as_ref().and_then(|times| times.get(&index)).copied();
        (Reverse(time.unwrap_or_default()), index)
    }

    fn react(&mut self, message: Message) {
        let id = |index: NodeIndex| self.plan.graph[index].id.clone();
        match message {
            Message::Looked(index, result) => self.looked(index, *result),
            Message::Waiting(index, message) => self.say(Event::StepWaiting { step: id(index), message }),
            Message::Started(index, why) => {
                let mut gpus = Vec::new();
                if let Some(running) = self.running.get_mut(&index) {
                    running.deadline = running.timeout.map(|timeout| Instant::now() + timeout);
                    gpus = running.grant.card_names(&self.options.capacity);
                }
                self.say(Event::StepStarted { step: id(index), why, gpus });
            }
            Message::Warned(index, message) => self.say(Event::StepWarned { step: id(index), message }),
            Message::Retrying(index, error, attempt) => {
                self.say(Event::StepRetried { step: id(index), error, attempt });
            }
            Message::Saving(index) => {
                let grant = self.running.remove(&index).map(|running| running.grant);
                self.saving.insert(index, grant);
            }
            Message::Done(index, result) => {
                let running = self.running.remove(&index).map(|running| running.grant);
                let saving = self.saving.remove(&index).flatten();
                running.into_iter().chain(saving).for_each(|grant| self.slots.give_back(grant));
                match *result {
                    Ok(success) => self.succeeded(index, success),
                    Err(failure) => self.failed(index, failure),
                }
            }
        }
    }

    fn looked(&mut self, index: NodeIndex, result: Result<Looked, Failure>) {
        let Some(job) = self.looking.remove(&self.rank(index)) else { return };
        let (key, memory) = match result {
            Ok(Looked::Hit(success)) => return self.succeeded(index, success),
            Err(failure) => return self.failed(index, failure),
            Ok(Looked::Miss(key, memory)) => (key, memory),
        };
        if self.stopping {
            return self.skip(index, ENDED_EARLY.to_owned());
        }
        match self.options.capacity.demand(job.node, &key, memory) {
            Ok(demand) => self.enqueue(Waiting { job, key, demand }),
            Err(error) => {
                let failure = Failure { error: error.into(), log: Vec::new(), log_explains: false };
                self.failed(index, failure);
            }
        }
    }

    fn enqueue(&mut self, step: Waiting<'a>) {
        if self.times.is_none() {
            let nodes = self.order.iter().copied().collect();
            self.times = Some(priorities(self.plan, self.cache, &nodes));
            let looking = std::mem::take(&mut self.looking).into_values();
            self.looking = looking.map(|job| (self.rank(job.index), job)).collect();
        }
        self.waiting.insert(self.rank(step.job.index), step);
    }

    fn succeeded(&mut self, index: NodeIndex, success: Success) {
        let Success { input, record, cached } = success;
        let (step, artifact) = (input.node.clone(), record.artifact.to_string());
        let seconds = record.duration_ms as f64 / 1000.0;
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
        for next in self.plan.downstream(index) {
            // Those that the run is not about have no count.
            if let Some(missing) = self.missing.get_mut(&next) {
                *missing -= 1;
                if *missing == 0 {
                    self.ready.push_back(next);
                }
            }
        }
        if cached {
            self.summary.cached += 1;
            self.say(Event::StepCached { step, artifact, warnings: record.warnings });
        } else {
            self.summary.executed += 1;
            self.say(Event::StepFinished { step, artifact, seconds, warnings: record.warnings });
        }
    }

    fn failed(&mut self, index: NodeIndex, failure: Failure) {
        if let Error::Signal(_) = failure.error {
            self.stopping = true;
            self.skip(index, "the run was stopped".to_owned());
            return;
        }
        let step = self.plan.graph[index].id.clone();
        let folder = self.folder.steps().of(&step);
        let log = folder.join("log.txt");
        if std::fs::create_dir_all(&folder).is_ok() {
            let _ = std::fs::write(&log, &failure.log);
        }
        let (mut error, hint) = match &failure.error {
            Error::Other(error) => (format!("{error:#}"), hint_of(error).map(str::to_owned)),
            other => (other.to_string(), None),
        };
        let tail = tail(&failure.log);
        if failure.log_explains && !tail.is_empty() {
            error = format!("{error}\n{tail}");
        }
        self.summary.failed += 1;
        self.summary.steps.push(StepSummary::without_result(&step, "failed"));
        self.say(Event::StepFailed { step: step.clone(), error, hint, log: log.display().to_string() });
        if matches!(failure.error, Error::LockTimeout(_) | Error::Defect(_)) && self.fatal.is_none() {
            self.fatal = Some(failure.error);
        }
        if !self.options.keep_going {
            self.stopping = true;
        }
        self.lose_those_after(index, &step);
    }

    /// Nothing that needs a lost step can run.
    fn lose_those_after(&mut self, index: NodeIndex, because: &str) {
        let after = self.plan.with_descendants([index]);
        let places: BTreeSet<usize> =
            after.iter().filter_map(|next| self.places.get(next)).copied().collect();
        for place in places {
            if self.open.remove(&place) {
                self.skip(self.order[place], because.to_owned());
            }
        }
    }

    /// Nothing new is begun.
    fn skip_the_rest(&mut self) {
        self.ready.clear();
        let mut rest = std::mem::take(&mut self.open);
        rest.extend(std::mem::take(&mut self.waiting).into_values().map(|step| self.places[&step.job.index]));
        for place in rest {
            self.skip(self.order[place], ENDED_EARLY.to_owned());
        }
    }

    fn skip(&mut self, index: NodeIndex, because: String) {
        let step = self.plan.graph[index].id.clone();
        self.summary.skipped += 1;
        self.summary.steps.push(StepSummary::without_result(&step, "skipped"));
        self.say(Event::StepSkipped { step, because });
    }

    /// Passes signals on, and ends steps that took too long.
    fn watch(&mut self, cancel: &Cancel) {
        if let Some(signal) = cancel.signal() {
            if !std::mem::replace(&mut self.told_to_stop, true) {
                self.say(Event::RunStopping { signal });
            }
            self.stopping = true;
            self.running.values().for_each(|running| running.cancel.set(signal));
            self.looking.values().for_each(|job| job.cancel.set(signal));
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
            slowest: summary.slowest(),
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
