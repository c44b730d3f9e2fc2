//! The program that a step runs, written into the step's process lock: where the runner and the worker are
//! killed at once, nobody is left to end it but whoever runs that step next.

use std::{
    fmt,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use crate::steps::{self, Signal};

/// How long a killed program is waited for: one that the kernel holds in a call ends later.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// A living process, as no other is named on any machine.
#[derive(PartialEq)]
struct Identity {
    boot: String,
    pid: u32,
    /// In clock ticks since the boot.
    start: u64,
}

impl Identity {
    /// None where the process has ended, or the system does not tell.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in brackets, which may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start = fields.nth(18)?.parse().ok()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self { boot: boot.trim().to_owned(), pid, start })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let boot = words.next()?.to_owned();
        let (pid, start) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { boot, pid, start })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.boot, self.pid, self.start)
    }
}

/// Writes down the leader of the process group that a step's program is. Where that fails, a kill of both
/// processes leaves the program running.
pub(super) fn note(lock: &File, group: u32) {
    if let Some(program) = Identity::of(group) {
        let _ = lock.set_len(0).and_then(|()| lock.write_all_at(program.to_string().as_bytes(), 0));
    }
}

/// Ends the group that was written down if its leader still lives; whether it did. The caller has the lock.
pub(super) fn end(lock: &File) -> bool {
    let mut text = String::new();
    let read = lock.take(200).read_to_string(&mut text);
    let Some(program) = read.ok().and_then(|_| Identity::parse(&text)) else { return false };
    let lives = || Identity::of(program.pid).as_ref() == Some(&program);
    if !lives() {
        return false;
    }
    steps::signal_group(program.pid, Signal::KILL);
    let start = Instant::now();
    while lives() && start.elapsed() < LAST_BREATH {
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn only_the_program_that_was_written_down_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            || File::options().create(true).append(true).read(true).open(dir.path().join("l")).unwrap();
        assert!(!end(&open()), "nothing was");
        let mut program = std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        note(&open(), program.id());
        let noted = fs::read_to_string(dir.path().join("l")).unwrap();
        let other = Identity { start: 1, ..Identity::parse(&noted).unwrap() };
        for text in [other.to_string(), String::new(), "a b c\n".to_owned(), noted.replacen('-', "+", 1)] {
            fs::write(dir.path().join("l"), text).unwrap();
            assert!(!end(&open()));
        }
        assert!(program.try_wait().unwrap().is_none());
        fs::write(dir.path().join("l"), noted).unwrap();
        assert!(end(&open()));
        assert!(!program.wait().unwrap().success());
        assert!(!end(&open()));
    }
}
