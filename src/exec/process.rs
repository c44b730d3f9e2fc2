//! One worker process, seen from the runner.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
};

use anyhow::Context as _;

use super::{
    protocol::{Envelope, Order, Reply, Request},
    tuning::tune,
};
use crate::{
    env,
    error::hinted,
    steps::{Group, Signal},
};

/// The hidden verb that [`super::serve`] stands behind.
pub const VERB: &str = "__step-worker";

/// Where a worker's replies go, by job; none once it is dead.
type Routes = Arc<Mutex<Option<HashMap<u64, Sender<Reply>>>>>;

/// A worker process. Dropping it ends it.
pub(super) struct Process {
    /// Closed first: the process ends with it, and what it has started too.
    orders: Option<Mutex<ChildStdin>>,
    routes: Routes,
    child: Mutex<Owned>,
}

/// How a process ends that is not needed any more.
enum Owned {
    /// With a signal to its group.
    Killed(Group),
    /// By itself: what it started runs in groups that only it knows.
    Asked(Child),
}

impl Process {
    /// For one step at a time, which has the process to itself. `early` takes what it prints before
    /// its first step begins.
    pub(super) fn own(gpus: Option<&str>, early: File) -> anyhow::Result<Self> {
        let mut command = command()?;
        tune(&mut command);
        if let Some(gpus) = gpus {
            command.env(env::CUDA_VISIBLE_DEVICES, gpus);
        }
        let group = Group::start(command.stderr(early)).context("cannot start a process for the step")?;
        Self::connect(Owned::Killed(group))
    }

    /// For any number of commands at a time.
    pub(super) fn shared() -> anyhow::Result<Self> {
        let child = command()?.process_group(0).spawn().context("cannot start a process for commands")?;
        Self::connect(Owned::Asked(child))
    }

    fn connect(mut child: Owned) -> anyhow::Result<Self> {
        let streams = child.get();
        let orders = streams.stdin.take().context("a worker process without stdin")?;
        let replies = streams.stdout.take().context("a worker process without stdout")?;
        let routes = Routes::new(Mutex::new(Some(HashMap::new())));
        let theirs = Arc::clone(&routes);
        std::thread::spawn(move || route(replies, &theirs));
        Ok(Self { orders: Some(Mutex::new(orders)), routes, child: Mutex::new(child) })
    }

    /// Orders a job; gives what will be said of it. The channel closes early when the process dies.
    ///
    /// # Errors
    /// When the order cannot be written as JSON.
    pub(super) fn begin(&self, order: Order) -> anyhow::Result<Receiver<Reply>> {
        let (sender, replies) = mpsc::channel();
        if let Some(routes) = &mut *self.routes.lock().unwrap_or_else(PoisonError::into_inner) {
            routes.insert(order.id, sender);
        }
        self.tell(&Request::Run(Box::new(order)))?;
        Ok(replies)
    }

    /// Nobody hears it where the process is dead, which its channels tell.
    ///
    /// # Errors
    /// When the request cannot be written as JSON.
    pub(super) fn tell(&self, request: &Request) -> anyhow::Result<()> {
        let line =
            serde_json::to_string(request).context("cannot tell the step's process what to do")? + "\n";
        if let Some(orders) = &self.orders {
            let _ = orders.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        }
        Ok(())
    }

    /// Whether it can take another job.
    pub(super) fn is_alive(&self) -> bool {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Kills it with its group.
    pub(super) fn kill(&self) {
        if let Owned::Killed(group) = &*self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            group.signal(Signal::KILL);
        }
    }

    /// Why its channels closed.
    pub(super) fn crash(&self) -> anyhow::Error {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        match child.get().wait() {
            Ok(status) => crash(status),
            Err(error) => anyhow::Error::new(error).context("cannot tell how the step's process ended"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orders = None;
        if let Owned::Asked(child) = self.child.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.wait();
        }
    }
}

impl Owned {
    fn get(&mut self) -> &mut Child {
        match self {
            Self::Killed(group) => &mut group.0,
            Self::Asked(child) => child,
        }
    }
}

fn command() -> anyhow::Result<Command> {
    // The same program even where its file has been replaced since.
    let program = std::env::current_exe().context("cannot tell where evergraft lies")?;
    let program = if program.exists() { program } else { PathBuf::from("/proc/self/exe") };
    let mut command = Command::new(program);
    command.arg0("evergraft").arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

fn route(replies: ChildStdout, routes: &Routes) {
    for line in BufReader::new(replies).split(b'\n').map_while(Result::ok) {
        // Half a line is the last that a dying process wrote.
        let Ok(Envelope { id, reply }) = serde_json::from_slice(&line) else { continue };
        let mut routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(routes) = &mut *routes else { break };
        let last = matches!(reply, Reply::Ended { .. });
        if let Some(job) = routes.get(&id) {
            let _ = job.send(reply);
        }
        if last {
            routes.remove(&id);
        }
    }
    // Closes the channels of those who wait.
    *routes.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Of a process that ended before its step did. The text says how.
#[derive(Debug)]
pub(super) struct Crash(String);

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn crash(status: ExitStatus) -> anyhow::Error {
    if status.signal() == Some(Signal::KILL.as_raw()) {
        let why = "evergraft did not do that, so most likely the system was out of memory";
        let hint = "`evergraft plan` estimates what a step takes; a smaller batch size needs less, and \
                    `resources: { mem: 20G }` keeps other steps away; `dmesg` tells who was killed";
        return hinted(why, hint).context(Crash("its process was killed by SIGKILL".to_owned()));
    }
    let hint = "its log may say more; `retries: 1` tries it once more, and `run -k` goes on with others";
    let (how, why) = match status.signal() {
        Some(number @ (1 | 2 | 15)) => {
            (format!("its process was ended by {}", signal_name(number)), "evergraft did not do that")
        }
        Some(number) => {
            let why = "a fault of evergraft or of a library below it";
            (format!("its process crashed with {}", signal_name(number)), why)
        }
        None => (format!("its process ended early with {status}"), "its last words are in the log"),
    };
    hinted(why, hint).context(Crash(how))
}

fn signal_name(number: i32) -> String {
    signal_hook::low_level::signal_name(number).map_or_else(|| format!("signal {number}"), str::to_owned)
}
