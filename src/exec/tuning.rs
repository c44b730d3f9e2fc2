//! How the libraries in a process that computes behave; they read it when they are loaded.

use std::process::Command;

use crate::env;

/// LibTorch's threads spin while they wait for each other. Beside other work, be it another step, our own
/// threads or another program, that is many times slower than sleeping (seen: three training steps in 25 s
/// instead of more than 340 s). Sleeping at once makes many small operations slow, so they spin a moment first.
const THREADS: [(&str, &str); 2] = [(env::OMP_WAIT_POLICY, "passive"), (env::GOMP_SPINCOUNT, "2000")];

/// The C library has a heap for each thread, and gives what is freed back to the system, which clears it before
/// the next tensor gets it. One heap that keeps its memory takes a third less (seen: 2.5 GB instead of 3.8 GB)
/// and a twentieth less time.
const MEMORY: [(&str, &str); 3] = [
    (env::MALLOC_ARENA_MAX, "1"),
    (env::MALLOC_TRIM_THRESHOLD, "1099511627776"),
    // The most that it takes; larger pieces go back when they are freed.
    (env::MALLOC_MMAP_THRESHOLD, "33554432"),
];

/// Sets what is not set already.
pub(super) fn tune(command: &mut Command) {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    for settings in [&THREADS[..], &MEMORY[..]] {
        // Who chooses one chooses them all.
        if !settings.iter().any(|(name, _)| is_set(name)) {
            command.envs(settings.iter().copied());
        }
    }
}

/// Gives free memory back to the system: the process may wait long for its next step.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a call of the C library")]
pub(super) fn give_back_memory() {
    // SAFETY: it takes a number and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back_memory() {}
