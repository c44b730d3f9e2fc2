//! Processes that a run has started, as the kernel lists them.

use std::{
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::space::Space;

/// Every living process that works on the space's cache, whoever is its parent by now.
pub(crate) fn of_space(space: &Space) -> Vec<u32> {
    let marker = format!("EVERGRAFT_CACHE_DIR={}", space.path().join("cache").display());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        // A zombie has no environment any more.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
    })
    .collect()
}

/// Those that steps run in, once there are some.
pub(crate) fn workers(space: &Space) -> Vec<u32> {
    let is_worker = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"__step-worker")
    };
    of_space(space).into_iter().filter(is_worker).collect()
}

/// Kills a runner, and waits for the processes of its steps, which end a moment later.
pub(crate) fn kill(runner: &mut Child, space: &Space) {
    runner.kill().unwrap();
    assert!(!runner.wait().unwrap().success(), "it was done before it was killed");
    wait_until("all processes are gone", || of_space(space).is_empty());
}

/// Waits for something that other processes bring about.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(120), "not in two minutes: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a running step to have written this into its log.
pub(crate) fn wait_until_a_log_says(space: &Space, words: &str) {
    let tmp = space.path().join("cache/steps-v1/tmp");
    wait_until(&format!("a log says {words:?}"), || {
        let Ok(entries) = std::fs::read_dir(&tmp) else { return false };
        let says = |log: &Path| std::fs::read_to_string(log).is_ok_and(|log| log.contains(words));
        entries.flatten().any(|entry| says(&entry.path().join("log.txt")))
    });
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "cannot send {name} to {pid}");
}

/// Sends a signal until the process is gone: Rust passes over the first SIGSEGV that is not its own.
pub(crate) fn end(pid: u32, name: &str) {
    wait_until("a process is gone", || {
        let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output();
        !status.unwrap().status.success()
    });
}

/// Sends a signal again and again until the process ends; gives its exit code.
pub(crate) fn insist(child: &mut Child, name: &str) -> Option<i32> {
    loop {
        let _ = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
        std::thread::sleep(Duration::from_millis(100));
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
    }
}
