//! Plain lines on stderr: for logs, pipes and `EVERGRAFT_NO_PROGRESS`.

use std::{sync::Mutex, time::Duration};

use super::{Event, Observer, Progress, pace::Pace, say};
use crate::error::count;

/// Time between two lines of a running step.
const PAUSE: Duration = Duration::from_secs(30);

/// Prints a line for each event.
#[derive(Debug)]
pub struct Plain {
    /// Failures and warnings only.
    pub quiet: bool,
}

/// The lines that an event deserves; cached steps are summed up at the end.
pub(super) fn lines(event: &Event) -> Vec<String> {
    let warn = |step: &str, warnings: &[String]| -> Vec<String> {
        warnings.iter().map(|warning| format!("warning: {step}: {warning}")).collect()
    };
    match event {
        Event::RunStarted { recipe, steps, .. } => vec![format!("{recipe}: {}", count(*steps, "step"))],
        Event::StepStarted { step, why, gpus } if !gpus.is_empty() => {
            vec![format!("run      {step}  ({why}; gpu {})", gpus.join(","))]
        }
        Event::StepStarted { step, why, .. } => vec![format!("run      {step}  ({why})")],
        Event::StepProgress { .. } => Vec::new(),
        Event::StepWarned { step, message } => warn(step, std::slice::from_ref(message)),
        Event::RunWaiting { message } => vec![format!("wait     {message}")],
        Event::RunStopping { .. } => {
            vec!["stop     running steps save what they have; the same again ends them at once".to_owned()]
        }
        Event::StepWaiting { step, message } => vec![format!("wait     {step}  {message}")],
        Event::StepCached { step, warnings, .. } => warn(step, warnings),
        Event::StepFinished { step, seconds, warnings, .. } => {
            let mut lines = warn(step, warnings);
            lines.push(format!("done     {step}  in {seconds:.1} s"));
            lines
        }
        Event::StepRetried { step, error, attempt } => {
            vec![format!("warning: {step}: {error}"), format!("retry    {step}  (try {attempt})")]
        }
        Event::StepFailed { step, error, hint, log } => {
            let mut lines = vec![format!("error: step `{step}` failed: {error}")];
            lines.extend(hint.iter().map(|hint| format!("hint: {hint}")));
            lines.push(format!("  log: {log}"));
            lines
        }
        Event::StepSkipped { step, because } => vec![format!("skipped  {step}  ({because})")],
        Event::RunFinished { executed, cached, failed, skipped, seconds, slowest, folder } => {
            let mut parts = vec![format!("{executed} run"), format!("{cached} cached")];
            parts.extend((*failed > 0).then(|| format!("{failed} failed")));
            parts.extend((*skipped > 0).then(|| format!("{skipped} skipped")));
            let mut lines = vec![format!("{} in {seconds:.1} s; {folder}", parts.join(", "))];
            // Of a single step, its own line has said it.
            if slowest.len() > 1 {
                let steps: Vec<String> =
                    slowest.iter().map(|(step, seconds)| format!("{step} {seconds:.1} s")).collect();
                lines.insert(0, format!("slowest  {}", steps.join(", ")));
            }
            lines
        }
    }
}

/// Whether an event is worth a line under `--quiet`.
pub(super) fn is_loud(line: &str) -> bool {
    line.starts_with("error:")
        || line.starts_with("warning:")
        || line.starts_with("hint:")
        || line.starts_with("  log:")
}

impl Observer for Plain {
    fn event(&self, event: &Event) {
        for line in lines(event) {
            if !self.quiet || is_loud(&line) {
                say(&line);
            }
        }
    }

    fn progress(&self, step: &str) -> Box<dyn Progress> {
        let pace = Mutex::new(Pace::new(None, ""));
        Box::new(Lines { step: step.to_owned(), quiet: self.quiet, pace })
    }
}

struct Lines {
    step: String,
    quiet: bool,
    pace: Mutex<Pace>,
}

impl Progress for Lines {
    fn begin(&self, total: Option<u64>, unit: &str) {
        if let Ok(mut pace) = self.pace.lock() {
            *pace = Pace::new(total, unit);
        }
    }

    fn update(&self, done: u64, message: &str) {
        let Ok(mut pace) = self.pace.lock() else { return };
        if !pace.is_due(done, PAUSE) || self.quiet {
            return;
        }
        let total = pace.total.map(|total| format!("/{total}")).unwrap_or_default();
        let left = pace.left(done).map(|left| format!(", {} left", Pace::brief(left))).unwrap_or_default();
        say(&format!("         {}  {done}{total} {} {message}{left}", self.step, pace.unit));
    }

    fn note(&self, message: &str) {
        if !self.quiet {
            say(&format!("         {}  {message}", self.step));
        }
    }

    fn warn(&self, message: &str) {
        say(&format!("warning: {}: {message}", self.step));
    }
}
