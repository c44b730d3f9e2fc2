//! What can end a run, and the exit code of each.

use std::fmt::{self, Write as _};

/// Documented exit codes. They are a promise to scripts: never renumber one.
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// A step failed.
    pub const STEP_FAILED: i32 = 1;
    /// The command line or the recipe is wrong; nothing ran.
    pub const BAD_INPUT: i32 = 2;
    /// Another process held a lock for longer than `--lock-timeout`.
    pub const LOCK_TIMEOUT: i32 = 3;
    /// A selection matched no step.
    pub const NO_MATCH: i32 = 4;
    /// `plan --check` found steps that would run.
    pub const STALE: i32 = 5;
    /// The cache holds something else than it should.
    pub const INTEGRITY: i32 = 6;
    /// A defect of evergraft itself.
    pub const BUG: i32 = 70;
    /// Stopped by SIGHUP after committing what was finished.
    pub const HANGUP: i32 = 129;
    /// Stopped by SIGINT after committing what was finished.
    pub const INTERRUPTED: i32 = 130;
    /// Stopped by SIGTERM after committing what was finished.
    pub const TERMINATED: i32 = 143;
}

/// An error with its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recipe is wrong; the text holds every diagnostic, ready to print.
    #[error("{0}")]
    Recipe(String),
    /// The command line is wrong, or names something that is not there.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// A lock was not free in time.
    #[error("{0}")]
    LockTimeout(String),
    /// A selection matched no step.
    #[error("{0}")]
    NoMatch(String),
    /// At least one step failed; each failure was already printed.
    #[error("{0}")]
    StepFailed(String),
    /// `plan --check` found work to do.
    #[error("{0}")]
    Stale(String),
    /// The cache is damaged.
    #[error("{0}")]
    Integrity(String),
    /// Stopped by a signal (its number).
    #[error("stopped by signal {0}; finished steps are kept, run the same command to go on")]
    Signal(i32),
    /// A step panicked.
    #[error("a defect of evergraft ended a step: {0}")]
    Defect(String),
    /// Anything else that went wrong outside a step (disk, permissions).
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Recipe(_) | Self::Usage(_) => exit::BAD_INPUT,
            Self::LockTimeout(_) => exit::LOCK_TIMEOUT,
            Self::NoMatch(_) => exit::NO_MATCH,
            Self::StepFailed(_) | Self::Other(_) => exit::STEP_FAILED,
            Self::Stale(_) => exit::STALE,
            Self::Integrity(_) => exit::INTEGRITY,
            Self::Defect(_) => exit::BUG,
            Self::Signal(1) => exit::HANGUP,
            Self::Signal(2) => exit::INTERRUPTED,
            Self::Signal(_) => exit::TERMINATED,
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// `1 step`, `2 steps`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Longest piece of a file's content in a message, in characters.
const MOST_SHOWN: usize = 120;

/// Something that a file says, as part of a message: cut where it is long, without control
/// characters. A file must neither fill nor steer the terminal.
pub(crate) fn excerpt(value: impl fmt::Display) -> String {
    excerpt_of(MOST_SHOWN, value)
}

/// As [`excerpt`], of so many characters.
pub(crate) fn excerpt_of(most: usize, value: impl fmt::Display) -> String {
    let mut short = Short { text: String::new(), room: most };
    if write!(short, "{value}").is_err() {
        short.text.push('…');
    }
    short.text
}

/// Stops taking text when it is full.
struct Short {
    text: String,
    room: usize,
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.room = self.room.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(if c.is_control() { ' ' } else { c });
        }
        Ok(())
    }
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An [`anyhow`] error that carries a `hint:` line; find it with [`hint_of`].
#[derive(Debug)]
pub struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// An error that says what is wrong and how to mend it.
pub fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { message: message.into(), hint: hint.into() })
}

/// The hint of the innermost hinted error of a chain.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    error.chain().filter_map(|cause| cause.downcast_ref::<Hinted>()).last().map(|hinted| hinted.hint.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_cut_and_cannot_steer_the_terminal() {
        assert_eq!(excerpt("a\u{1b}[2Jb"), "a [2Jb");
        assert_eq!(excerpt("x".repeat(MOST_SHOWN)), "x".repeat(MOST_SHOWN));
        assert_eq!(excerpt("é".repeat(9_999)), format!("{}…", "é".repeat(MOST_SHOWN)));
    }
}
