//! Trying again: exponential backoff with jitter, and what a server asks for.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use super::{Retry, Work};

/// Why a try failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Trying again cannot help.
    Fatal(anyhow::Error),
    /// The next try may succeed.
    Again {
        error: anyhow::Error,
        /// How long the server asks to wait.
        wait: Option<Duration>,
        /// Whether this try brought something: then the count starts anew.
        progress: bool,
    },
}

impl Fault {
    pub(super) fn again(error: anyhow::Error) -> Self {
        Self::Again { error, wait: None, progress: false }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Fatal(error)
    }
}

/// Runs `attempt` until it succeeds, fails for good, or has failed too often in a row.
///
/// # Errors
/// The last error, or that the work was stopped.
pub(super) fn retry<T>(
    policy: &Retry,
    work: &Work,
    mut attempt: impl FnMut() -> Result<T, Fault>,
) -> anyhow::Result<T> {
    let mut failed = 0;
    loop {
        work.check()?;
        let (error, wait, progress) = match attempt() {
            Ok(value) => return Ok(value),
            Err(Fault::Fatal(error)) => {
                // A stop cuts connections; that is not the error to report.
                work.check()?;
                return Err(error);
            }
            Err(Fault::Again { error, wait, progress }) => (error, wait, progress),
        };
        work.check()?;
        failed = if progress { 1 } else { failed + 1 };
        if failed >= policy.attempts {
            return Err(error.context(format!("gave up after {} tries", policy.attempts)));
        }
        let pause = pause(policy, failed, wait);
        work.log(&format!("{error:#}; again in {:.1} s", pause.as_secs_f64()));
        sleep(pause, work)?;
    }
}

/// What the server asks for, within limits, or a doubling pause; never the same for two clients.
fn pause(policy: &Retry, failed: u32, wait: Option<Duration>) -> Duration {
    let random = RandomState::new().hash_one(failed) as f64 / u64::MAX as f64;
    let doubled = policy.first.saturating_mul(2u32.saturating_pow(failed.saturating_sub(1).min(16)));
    match wait {
        Some(wait) => wait.min(policy.obey) + policy.first.mul_f64(random),
        None => doubled.min(policy.longest).mul_f64(0.5 + random / 2.0),
    }
}

fn sleep(pause: Duration, work: &Work) -> anyhow::Result<()> {
    let until = Instant::now() + pause;
    loop {
        work.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}
