//! Places of the commit protocol where a test can end the process, as a kill or a power cut would.
//! A release build has none of it.

/// Kills this process where `EVERGRAFT_FAULT` is `place:n` and it comes to this place for the n-th time.
#[cfg(debug_assertions)]
pub(crate) fn point(place: &str) {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let wanted = crate::env::text(crate::env::FAULT);
    if let Some((name, nth)) = wanted.as_deref().and_then(|wanted| wanted.split_once(':'))
        && name == place
        && nth.parse() == Ok(PASSED.fetch_add(1, Ordering::Relaxed) + 1)
    {
        // A signal instead of a panic: nothing may tidy up.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn point(_place: &str) {}
