//! The inside of a worker process: runs the steps that the runner orders, and ends with the runner.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io::{BufRead as _, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rustix::process::{Signal, getpgrp, getpid, kill_process_group};

use super::{
    Place, leftover, place,
    protocol::{Envelope, Order, Outcome, Reply, Request},
    tuning::give_back_memory,
};
use crate::{
    cache::open_lock,
    cancel::{Cancel, Cancelled},
    device,
    digest::Digest,
    error::{hint_of, hinted, panic_text},
    params::DeviceName,
    progress::Progress,
    steps::{self, Bases, StepContext},
};

/// Shortest time between two updates of a job; a step may count faster than anybody reads.
const UPDATE_PAUSE: Duration = Duration::from_millis(100);

/// A wait for a process that is shorter needs no words.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Takes orders on stdin until the runner closes it or dies.
///
/// # Errors
/// When the streams are not the runner's.
pub fn serve() -> anyhow::Result<()> {
    // Where memory runs out, the kernel should end a step and not the runner.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let worker = Arc::new(Worker {
        replies: Mutex::new(replies().context("cannot keep the pipe to the runner")?),
        bases: Bases::default(),
        jobs: Mutex::default(),
    });
    let served = listen(&worker);
    // No process may outlive the runner. The kernel closes the pipe however it ends.
    steps::kill_running();
    if served.is_ok() && getpgrp() == getpid() {
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    }
    served
}

fn listen(worker: &Arc<Worker>) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().split(b'\n') {
        match serde_json::from_slice(&line?) {
            Ok(request) => worker.take(request),
            // A runner that was killed while it wrote.
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(error).context("this verb takes orders of `evergraft run` only"),
        }
    }
    Ok(())
}

/// Stdout, kept for replies alone: what else is printed goes to stderr from now on.
fn replies() -> std::io::Result<File> {
    use std::os::fd::AsFd as _;
    let pipe = std::io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(pipe.into())
}

struct Worker {
    replies: Mutex<File>,
    bases: Bases,
    jobs: Mutex<HashMap<u64, Job>>,
}

/// How a running job is reached.
struct Job {
    cancel: Cancel,
    digests: mpsc::Sender<Result<Digest, String>>,
}

impl Worker {
    fn take(self: &Arc<Self>, request: Request) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            Request::Run(order) => {
                let (digests, answers) = mpsc::channel();
                let cancel = Cancel::default();
                jobs.insert(order.id, Job { cancel: cancel.clone(), digests });
                let worker = Arc::clone(self);
                std::thread::spawn(move || worker.work(*order, &cancel, answers));
            }
            Request::Stop { id, signal } => {
                if let Some(job) = jobs.get(&id) {
                    job.cancel.set(signal);
                }
            }
            Request::Digest { id, digest } => {
                if let Some(job) = jobs.get(&id) {
                    let _ = job.digests.send(digest);
                }
            }
        }
    }

    fn work(&self, order: Order, cancel: &Cancel, answers: mpsc::Receiver<Result<Digest, String>>) {
        let id = order.id;
        let alone = matches!(place(&order.kind), Place::Own);
        let ran = catch_unwind(AssertUnwindSafe(|| self.run(order, cancel, answers)));
        let outcome = match ran {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) if error.is::<Cancelled>() => Outcome::Cancelled,
            Ok(Err(error)) => {
                Outcome::Failed { error: format!("{error:#}"), hint: hint_of(&error).map(str::to_owned) }
            }
            Err(panic) => Outcome::Defect(panic_text(panic.as_ref())),
        };
        if alone {
            // The log moves into the cache now.
            let _ = capture(Path::new("/dev/null"));
            give_back_memory();
        }
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.reply(id, Reply::Ended { outcome, kept: self.bases.kept() });
    }

    fn run(
        &self,
        order: Order,
        cancel: &Cancel,
        answers: mpsc::Receiver<Result<Digest, String>>,
    ) -> anyhow::Result<()> {
        if matches!(place(&order.kind), Place::Own) {
            capture(&order.log).context("cannot write the log")?;
        }
        let progress = Distant { worker: self, id: order.id, said: Mutex::new(None) };
        let lock = hold(&order.lock, cancel, &|message| progress.note(message))?;
        if leftover::end(&lock) {
            progress.warn("a killed run had left its program running, which was ended");
        }
        check_device(&order)?;
        let log = File::options().create(true).append(true).open(&order.log);
        let log = Mutex::new(log.context("cannot make the log")?);
        let answers = Mutex::new(answers);
        let inputs = order.inputs.restore()?;
        let context = StepContext {
            node: &order.node,
            key: &order.key,
            out: &order.out,
            checkpoints: &order.checkpoints,
            inputs: &inputs,
            bases: &self.bases,
            downloads: &order.downloads,
            tensorboard: &order.tensorboard,
            gpus: order.gpus.as_deref(),
            progress: &progress,
            cancel,
            log: &log,
            on_program: &|group| {
                self.reply(order.id, Reply::Program(group));
                leftover::note(&lock, group);
            },
            source_digest: &|path| {
                let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                self.reply(order.id, Reply::AskDigest(path.to_owned()));
                answers.recv().context("the runner is gone")?.map_err(|error| anyhow!(error))
            },
        };
        steps::run(&order.kind, &order.params, &context)
    }

    fn reply(&self, id: u64, reply: Reply) {
        let line = serde_json::to_string(&Envelope { id, reply }).expect("a reply is plain data");
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a runner there is nobody to tell, and stdin ends this process.
        let _ = replies.write_all((line + "\n").as_bytes());
    }
}

/// Everything that is printed goes into the step's log, whoever prints it.
fn capture(log: &Path) -> std::io::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}

/// Takes the lock as soon as the process of a killed runner is gone. A wait that lasts is told.
fn hold(path: &Path, cancel: &Cancel, tell: &dyn Fn(&str)) -> anyhow::Result<File> {
    let file = open_lock(path)?;
    let (start, mut told) = (Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => cancel.check()?,
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock `{}`", path.display()));
            }
        }
        if !told && start.elapsed() > TELL_AFTER {
            told = true;
            tell("waiting for the process that a killed run left at this step");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The result is kept under the key's device class, so this process must have the same.
fn check_device(order: &Order) -> anyhow::Result<()> {
    let Some(wanted) = &order.device_class else { return Ok(()) };
    let field = |name: &str| order.params.get(name).cloned().unwrap_or_default();
    let name: DeviceName = serde_json::from_value(field("device"))?;
    let dtype = serde_json::from_value(field("dtype")).unwrap_or_default();
    let found = device::class(name, dtype);
    if found != wanted {
        let message = format!("the step's process finds a device of class `{found}`, the runner `{wanted}`");
        return Err(hinted(message, "a card may have come or gone since the run began; run it again"));
    }
    Ok(())
}

/// Progress that is told to the runner.
struct Distant<'w> {
    worker: &'w Worker,
    id: u64,
    said: Mutex<Option<Instant>>,
}

impl Progress for Distant<'_> {
    fn begin(&self, total: Option<u64>, unit: &str) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.worker.reply(self.id, Reply::Begin { total, unit: unit.to_owned() });
    }

    fn update(&self, done: u64, message: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= UPDATE_PAUSE) {
            *said = Some(Instant::now());
            self.worker.reply(self.id, Reply::Update { done, message: message.to_owned() });
        }
    }

    fn note(&self, message: &str) {
        self.worker.reply(self.id, Reply::Note(message.to_owned()));
    }

    fn warn(&self, message: &str) {
        self.worker.reply(self.id, Reply::Warn(message.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_for_another_process_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let other = open_lock(&path).unwrap();
        other.lock().unwrap();
        let (told, words) = mpsc::channel();
        let waiter = std::thread::spawn(move || {
            hold(&path, &Cancel::default(), &|message| drop(told.send(message.to_owned())))
        });
        assert!(words.recv().unwrap().starts_with("waiting for the process"));
        other.unlock().unwrap();
        waiter.join().unwrap().unwrap();
    }
}
