//! A child process in a group of its own, so that everything it starts can be stopped with it.

use std::{
    collections::BTreeSet,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
pub(crate) use rustix::process::Signal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, kill_process_group},
};

use super::StepContext;
use crate::env;

static RUNNING: Running = Running(Mutex::new(Groups { ids: BTreeSet::new(), closed: false }));

/// Kills the process groups of all running children. None can be started from now on.
pub(crate) fn kill_running() {
    RUNNING.close();
}

/// Sends a signal to every process of a group.
pub(crate) fn signal_group(id: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(id as i32) {
        let _ = kill_process_group(pid, signal);
    }
}

/// Groups that run now, for those who end this process at once.
struct Running(Mutex<Groups>);

struct Groups {
    ids: BTreeSet<u32>,
    /// This process is about to end.
    closed: bool,
}

impl Running {
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child is known from the moment it exists, so none slips through [`Self::close`].
    fn start(&self, command: &mut Command) -> std::io::Result<Child> {
        let mut groups = self.groups();
        if groups.closed {
            return Err(std::io::Error::other("evergraft is about to end"));
        }
        let child = command.process_group(0).spawn()?;
        groups.ids.insert(child.id());
        Ok(child)
    }

    fn close(&self) {
        let mut groups = self.groups();
        groups.closed = true;
        groups.ids.iter().for_each(|id| signal_group(*id, Signal::KILL));
    }
}

/// A child that leads a process group. Killed with its group when dropped while it still runs.
#[derive(Debug)]
pub(crate) struct Group(pub(crate) Child);

impl Group {
    /// Starts it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        RUNNING.start(command).map(Self)
    }

    /// To every process of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_group(self.0.id(), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.0.wait();
        }
        RUNNING.groups().ids.remove(&self.0.id());
    }
}

/// Runs a command to its end, or stops it when asked to: SIGTERM, and SIGKILL if that does not help.
///
/// # Errors
/// When it cannot be started, or [`crate::cancel::Cancelled`].
pub(super) fn run(command: &mut Command, ctx: &StepContext) -> anyhow::Result<ExitStatus> {
    let mut group = Group::start(command).context("cannot start the shell")?;
    (ctx.on_program)(group.0.id());
    let mut asked: Option<Instant> = None;
    let end = End::of(&group.0);
    loop {
        if let Some(status) = group.0.try_wait()? {
            // What it left running in the background would write into a folder that is about to move
            // or to go.
            group.signal(Signal::KILL);
            // One that ended before it was asked to is as good as any.
            if asked.is_some() {
                ctx.cancel.check()?;
            }
            return Ok(status);
        }
        match asked {
            None if ctx.cancel.signal().is_some() => {
                group.signal(Signal::TERM);
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() > env::stop_grace() => group.signal(Signal::KILL),
            _ => {}
        }
        end.wait(LOOK);
    }
}

/// How long a program runs unseen: it may be asked to stop at any time.
const LOOK: Duration = Duration::from_millis(20);

/// Tells at once when a process ends, where the system can.
struct End(Option<OwnedFd>);

impl End {
    #[cfg(target_os = "linux")]
    fn of(child: &Child) -> Self {
        use rustix::process::{PidfdFlags, pidfd_open};
        // The child is not waited for yet, so its number is still its own.
        Self(Pid::from_raw(child.id() as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()))
    }

    #[cfg(not(target_os = "linux"))]
    fn of(_: &Child) -> Self {
        Self(None)
    }

    /// Until the process ends, or so long. A signal may cut it short.
    fn wait(&self, longest: Duration) {
        let Some(end) = &self.0 else { return std::thread::sleep(longest) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_starts_once_everything_was_killed() {
        let running = Running(Mutex::new(Groups { ids: BTreeSet::new(), closed: false }));
        let mut child = running.start(Command::new("sleep").arg("1000")).unwrap();
        running.close();
        assert!(!child.wait().unwrap().success());
        running.start(&mut Command::new("true")).unwrap_err();
    }
}
