//! What happens in a run, as lines of `events.jsonl` and as `run --format json` prints it.

use serde::Serialize;

use super::Progress;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run begins.
    RunStarted {
        /// The recipe's name.
        recipe: String,
        /// Steps that the run is about.
        steps: usize,
        /// The run's folder.
        folder: String,
    },
    /// A step runs.
    StepStarted {
        /// Node id.
        step: String,
        /// Why it was not found in the cache.
        why: String,
        /// The graphics cards that it was given.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<String>,
    },
    /// Something is wrong that does not stop the step.
    StepWarned {
        /// Node id.
        step: String,
        /// What.
        message: String,
    },
    /// A running step says how far it is, at most every few seconds.
    StepProgress {
        /// Node id.
        step: String,
        /// Units done.
        done: u64,
        /// Units in all, where that is known.
        total: Option<u64>,
        /// What is counted, e.g. `steps`.
        unit: String,
        /// Seconds until the end at the speed so far.
        eta_seconds: Option<f64>,
        /// The newest figures.
        message: String,
    },
    /// The run waits for another process.
    RunWaiting {
        /// For what.
        message: String,
    },
    /// A signal came: nothing new begins, and what runs is asked to stop.
    RunStopping {
        /// Its number.
        signal: i32,
    },
    /// A step waits for another process.
    StepWaiting {
        /// Node id.
        step: String,
        /// For what.
        message: String,
    },
    /// A result was found.
    StepCached {
        /// Node id.
        step: String,
        /// Digest of the artifact.
        artifact: String,
        /// Warnings of the run that made it.
        warnings: Vec<String>,
    },
    /// A step ran and its result is committed.
    StepFinished {
        /// Node id.
        step: String,
        /// Digest of the artifact.
        artifact: String,
        /// Run time.
        seconds: f64,
        /// Lines that the user should see.
        warnings: Vec<String>,
    },
    /// A failed step is tried again.
    StepRetried {
        /// Node id.
        step: String,
        /// What went wrong.
        error: String,
        /// Which try comes now, from 2.
        attempt: u32,
    },
    /// A step failed.
    StepFailed {
        /// Node id.
        step: String,
        /// What went wrong.
        error: String,
        /// How to mend it.
        hint: Option<String>,
        /// Its log, kept in the run's folder.
        log: String,
    },
    /// A step did not run because one before it has no result.
    StepSkipped {
        /// Node id.
        step: String,
        /// The step that has none.
        because: String,
    },
    /// The run is over.
    RunFinished {
        /// Steps that ran.
        executed: usize,
        /// Steps found in the cache.
        cached: usize,
        /// Steps that failed.
        failed: usize,
        /// Steps that did not run.
        skipped: usize,
        /// Wall time.
        seconds: f64,
        /// The steps that took longest, with their seconds.
        slowest: Vec<(String, f64)>,
        /// The run's folder.
        folder: String,
    },
}

/// Shows events to somebody.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: &Event);
    /// Where a running step reports how far it is.
    fn progress(&self, step: &str) -> Box<dyn Progress>;
}
